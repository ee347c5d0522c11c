"""Objectives over labelled batches."""
