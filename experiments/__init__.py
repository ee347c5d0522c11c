"""Which run: experiment configs, plain data."""
