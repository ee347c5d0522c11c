"""Budgets, FLOPs, statistics, report."""
