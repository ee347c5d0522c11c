"""Configs: sections, parsing, checks, overrides, experiment files, command line."""
