"""What the sections share: labels, looks, cells and points."""

from __future__ import annotations

from research.comparison.findings import Findings
from research.comparison.report import formats
from research.comparison.report.figures import style
from research.comparison.report.figures.style import ArmStyle, Point
from research.comparison.statistics import Difference, Interval
from research.evaluation import markdown
from research.evaluation.interface import Metric


def styles(found: Findings) -> dict[str, ArmStyle]:
    """One look per arm for the whole report."""
    return style.arm_styles({arm.name: arm.label for arm in found.arms.values()})


def label(found: Findings, arm: str) -> str:
    """An arm's label, as Markdown."""
    return markdown.escape(found.arms[arm].label)


def seeds(found: Findings, count: int) -> str:
    """'3 seeds', or '2 of 3 seeds' where some are missing or failed."""
    planned = len(found.config.seeds)
    of_planned = formats.plural(planned, "seed")
    return of_planned if count == planned else f"{count} of {of_planned}"


def interval_note(found: Findings) -> str:
    """The sentence of a caption that says what brackets are."""
    if len(found.config.seeds) < 2:
        return " 1 seed: no intervals."
    level = f"{1 - found.config.statistics.alpha:.0%}"
    return f" Brackets: {level} t intervals over pretraining seeds."


def score_cell(found: Findings, metric: str, arm: str, point: float | None) -> str:
    """A score with its interval, or ± its error over examples; a dash without one."""
    score = found.score(metric, arm, point)
    if score is None or not score.interval.num_seeds:
        return formats.DASH
    meaning = found.metrics[metric]
    text = formats.interval(score.interval, meaning)
    if score.example_error is not None:
        text = f"{text} ± {formats.scale(meaning) * score.example_error:.1f}"
    return text


def point(value: Interval | Difference, metric: Metric) -> Point:
    """A score or difference with its limits, in the metric's unit."""
    factor = formats.scale(metric)
    low = None if value.low is None else factor * value.low
    high = None if value.high is None else factor * value.high
    return Point(value=factor * value.mean, low=low, high=high)


def points(found: Findings, metric: str, share: float | None) -> dict[str, Point]:
    """arm -> its score at a share of the budget, of the arms that have a finite one."""
    return {
        arm: point(score.interval, found.metrics[metric])
        for arm in found.arms
        if (score := found.score(metric, arm, share)) is not None
        and score.interval.num_seeds
    }


def axis_label(metric: Metric) -> str:
    """'accuracy (%)'."""
    return f"{metric.label} ({metric.unit})"


def chance(metric: Metric) -> float | None:
    """The metric's floor in its unit."""
    return None if metric.floor is None else formats.scale(metric) * metric.floor
