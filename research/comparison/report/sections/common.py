"""What the sections share: labels, looks, cells and points."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from research.comparison import jobs, statistics
from research.comparison.report import figures, formats
from research.comparison.report.document import FigureBlock
from research.comparison.report.figures import ArmStyle, Point
from research.comparison.results import Results
from research.comparison.statistics import Scores
from research.evaluation.interface import Metric

# Turns a figure, its name and its caption into a block, and saves it.
Draw = Callable[[Figure, str, str], FigureBlock]


def styles(results: Results) -> dict[str, ArmStyle]:
    """One look per arm for the whole report."""
    return figures.arm_styles({arm.name: arm.label for arm in results.config.arms})


def label(results: Results, arm: str) -> str:
    """What people read for an arm."""
    return results.config.arm(arm).label


def floors(results: Results) -> dict[str, str]:
    return jobs.floor_arms(results.config) if results.config.floor else {}


def seeds(results: Results, count: int) -> str:
    """'3 seeds', or '2 of 3 seeds' where some are missing or failed."""
    planned = len(results.config.seeds)
    if count == planned:
        return formats.plural(count, "seed")
    return f"{count} of {formats.plural(planned, 'seed')}"


def interval_note(results: Results) -> str:
    if len(results.config.seeds) < 2:
        return f" {formats.plural(len(results.config.seeds), 'seed')}: no intervals."
    level = f"{1 - results.config.statistics.alpha:.0%}"
    return f" Brackets: {level} t intervals over pretraining seeds."


def score_cell(
    results: Results,
    metric: str,
    arm: str,
    point: float | None,
    meaning: Metric | None,
) -> str:
    scores = results.arm_scores(metric, arm, point)
    if scores is None or meaning is None:
        return formats.DASH
    alpha = results.config.statistics.alpha
    text = formats.interval(
        statistics.mean_interval(scores.means, alpha=alpha), meaning
    )
    if len(scores.means) == 1 and scores.examples is not None:
        text = f"{text} ± {formats.scale(meaning) * example_error(scores):.1f}"
    return text


def example_error(scores: Scores) -> float:
    """Standard error of one seed's score over its examples, the seed held fixed."""
    assert scores.examples is not None
    values = scores.examples[0]
    return float(values.std(ddof=1) / len(values) ** 0.5)


def point(scores: Scores | None, meaning: Metric, alpha: float) -> Point | None:
    if scores is None:
        return None
    found = statistics.mean_interval(scores.means, alpha=alpha)
    factor = formats.scale(meaning)
    limits = [
        None if limit is None else factor * limit for limit in (found.low, found.high)
    ]
    return Point(value=factor * found.mean, low=limits[0], high=limits[1])


def points(
    results: Results, metric: str, meaning: Metric, share: float | None
) -> dict[str, Point]:
    alpha = results.config.statistics.alpha
    found = {
        arm.name: point(results.arm_scores(metric, arm.name, share), meaning, alpha)
        for arm in results.config.arms
    }
    return {arm: value for arm, value in found.items() if value is not None}
