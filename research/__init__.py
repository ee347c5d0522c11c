"""How it runs: entry points, data, training, evaluation, comparison."""
