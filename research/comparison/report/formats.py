"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from research.comparison.statistics import Difference, Interval
from research.evaluation.interface import Metric
from research.training import metrics

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EM DASH}"


def number(value: float | None, digits: int) -> str:
    """Fixed digits with a true minus; a dash for None."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{abs(value):.{digits}f}"
    is_negative = value < 0 and float(text) != 0
    return f"{MINUS}{text}" if is_negative else text


def signed(value: float | None, digits: int) -> str:
    """With a plus for what is not negative."""
    text = number(value, digits)
    return text if text[0] in (MINUS, DASH) else f"+{text}"


def large(value: float | None) -> str:
    """1234567 -> '1.23 M'; with a space, so that a unit may follow."""
    if value is None or not math.isfinite(value):
        return DASH
    for limit, suffix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {suffix}"
    for limit, suffix in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = 1e6 if suffix == "M" else 1e3
            return f"{value / scale:.3g} {suffix}"
    whole = value == int(value) or abs(value) >= 1e3
    return f"{value:,.0f}" if whole else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """'45s', '3m20s', '2h05m'."""
    return DASH if seconds is None else metrics.duration(seconds)


def size(num_bytes: float | None) -> str:
    """Bytes in GiB or MiB."""
    if not num_bytes:
        return DASH
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.2f} GiB"
    return f"{num_bytes / 2**20:.0f} MiB"


def scale(metric: Metric) -> float:
    """What stored scores are multiplied by for people."""
    return 100.0 if metric.unit == "%" else 1.0


def digits(metric: Metric) -> int:
    """Decimals of the metric's scores."""
    return 1 if metric.unit == "%" else 3


def points(metric: Metric) -> str:
    """Unit of a difference."""
    return "points" if metric.unit == "%" else metric.unit


def interval(value: Interval, metric: Metric) -> str:
    """'83.1 [81.0, 85.2]', or the mean alone.

    Seeds without any spread (constant predictions) are no certainty, so they have none.
    """
    factor, places = scale(metric), digits(metric)
    text = number(factor * value.mean, places)
    if value.low is None or value.high is None or not value.stddev:
        return text
    low = number(factor * value.low, places)
    high = number(factor * value.high, places)
    return f"{text} [{low}, {high}]"


def difference(value: Difference, metric: Metric) -> str:
    """'+3.1 [1.0, 5.2]', or the mean alone."""
    factor, places = scale(metric), digits(metric)
    text = signed(factor * value.mean, places)
    if value.low is None or value.high is None:
        return text
    low = signed(factor * value.low, places)
    high = signed(factor * value.high, places)
    return f"{text} [{low}, {high}]"


def p_value(value: float | None) -> str:
    """'0.013', '< 0.001'."""
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def plural(count: int, word: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def setting(value: object) -> str:
    """A config value in a table."""
    if isinstance(value, tuple | list):
        return ", ".join(setting(item) for item in value) or "()"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else "''"
