"""Configs: sections, parsing, checks, overrides, the command line."""
