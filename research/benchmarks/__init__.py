"""Peers side by side."""
