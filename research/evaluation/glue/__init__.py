"""GLUE: tasks, sources, protocols, metrics, submissions and tables."""
