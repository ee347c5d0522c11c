"""Numbers and names as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from research.comparison.statistics import Difference, Interval
from research.evaluation import markdown
from research.evaluation.interface import Metric
from research.training import memory, metrics

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EM DASH}"
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def number(value: float | None, digits: int, *, plus: bool = False) -> str:
    """Fixed digits with a true minus; a dash for None."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{abs(value):.{digits}f}"
    if value < 0 and float(text) != 0:
        return f"{MINUS}{text}"
    return f"+{text}" if plus else text


def large(value: float | None) -> str:
    """1234567 -> '1.23 M', 12345 -> '12.3 k', 1234 -> '1,234'; a dash for None."""
    if value is None or not math.isfinite(value):
        return DASH
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g} k"
    whole = value == int(value) or abs(value) >= 1e3
    return f"{value:,.0f}" if whole else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """'3m12s'; a dash for None."""
    return DASH if seconds is None else metrics.duration(seconds)


def size(num_bytes: float | None) -> str:
    """'1.5 GiB'; a dash where it was not measured."""
    return memory.gib(num_bytes) if num_bytes else DASH


def percent(share: float | None) -> str:
    """'40%'; a dash for None."""
    return DASH if share is None else f"{share:.0%}"


def short(value: float | None) -> str:
    """A few significant digits, such as '0.001'; a dash for None."""
    return DASH if value is None else f"{value:g}"


def p_value(value: float | None) -> str:
    """'0.013', '< 0.001'; a dash for None."""
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def scale(metric: Metric) -> float:
    """What saved scores are multiplied by for people."""
    return 100.0 if metric.unit == "%" else 1.0


def score(value: float | None, metric: Metric, *, plus: bool = False) -> str:
    """A score in the metric's unit; a dash for None."""
    if value is None:
        return DASH
    digits = 1 if metric.unit == "%" else 3
    return number(scale(metric) * value, digits, plus=plus)


def unit_of_difference(metric: Metric) -> str:
    """'points' for percentages, otherwise the unit itself, as Markdown."""
    return "points" if metric.unit == "%" else markdown.escape(metric.unit)


def interval(value: Interval, metric: Metric) -> str:
    """'83.1 [81.0, 85.2]', or the mean alone.

    An interval of no width, of seeds with equal scores, is left out: constant
    predictions are no certainty.
    """
    text = score(value.mean, metric)
    if not value.stddev:
        return text
    return f"{text} [{score(value.low, metric)}, {score(value.high, metric)}]"


def difference(value: Difference, metric: Metric) -> str:
    """'+3.1 [+1.0, +5.2]', or the mean alone."""
    text = score(value.mean, metric, plus=True)
    if value.low is None:
        return text
    low, high = (score(x, metric, plus=True) for x in (value.low, value.high))
    return f"{text} [{low}, {high}]"


def plural(count: int, word: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def setting(value: object) -> str:
    """A config value as plain text."""
    if isinstance(value, tuple | list):
        return ", ".join(setting(item) for item in value) or "()"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else "''"


def evaluation_of(metric: str) -> str:
    """'evaluation/metric' -> its evaluation, as Markdown."""
    return markdown.escape(metric.partition("/")[0])
