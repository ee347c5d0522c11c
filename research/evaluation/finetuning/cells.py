"""Cells of the tables of results.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

DASH = "–"


def percent(value: float) -> str:
    """A share in percent with one digit; with a true minus sign, never -0.0."""
    text = f"{100 * value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "\u2212")


def seeds(values: Sequence[float]) -> list[str]:
    """Mean, sample deviation and median over seeds, as cells."""
    deviation = percent(statistics.stdev(values)) if len(values) > 1 else DASH
    mean, median = statistics.fmean(values), statistics.median(values)
    return [percent(mean), deviation, percent(median)]


def floor(values: Sequence[float], num_failed: int) -> str:
    """One cell for the floor: mean, deviation, number of seeds and of failed ones."""
    if not values:
        return DASH
    mean, deviation, _ = seeds(values)
    score = f"{mean} ± {deviation}" if len(values) > 1 else mean
    failed = f", {num_failed} failed" if num_failed else ""
    return f"{score} ({len(values)}{failed})"
