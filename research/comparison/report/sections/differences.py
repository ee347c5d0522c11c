"""Arms against the reference: differences, heat map, wins."""

from __future__ import annotations

import numpy as np

from research.comparison import verdicts
from research.comparison.report import figures, formats
from research.comparison.report.document import Block, Heading, Table
from research.comparison.report.sections import common
from research.comparison.report.sections.common import Draw
from research.comparison.results import Results
from research.comparison.statistics import Difference
from research.evaluation.interface import Metric


def differences(results: Results, draw: Draw) -> list[Block]:
    """Every metric against the reference, all but the primary exploratory."""
    found = verdicts.against_reference(results)
    if not found:
        return []
    blocks = [Heading(text="Differences", level=2), _table(results, found)]
    blocks += _heat_map(results, found, draw)
    counts = verdicts.win_counts(results, list(results.metrics()))
    if counts.any():
        caption = (
            "Wins / ties / losses of the row against the column, counted over all metrics "
            "that both have, each at the level of a single test: exploratory. Blue: more "
            "wins, orange: more losses. A dash: no test, or an arm on its plateau."
        )
        names = [arm.label for arm in results.config.arms]
        blocks.append(draw(figures.win_matrix(names, counts), "wins", caption))
    return blocks


def _table(results: Results, found: dict[tuple[str, str], Difference]) -> Block:
    primary = results.config.primary
    meanings = results.metrics()
    return Table(
        columns=[
            "metric",
            f"arm minus {common.label(results, primary.reference)}",
            "difference",
            "p (uncorrected)",
            "detectable",
            "method",
            "examples",
            "status",
        ],
        rows=[
            [
                metric,
                common.label(results, arm),
                formats.difference(compared, meanings[metric]),
                formats.p_value(compared.p_value),
                _detectable(compared, meanings[metric]),
                compared.method,
                compared.examples if compared.tested else formats.DASH,
                _status(results, arm, metric),
            ]
            for (arm, metric), compared in found.items()
        ],
        aligns="llrrrlll",
        caption=(
            "Shares in percentage points. Detectable: the smallest true difference that "
            f"this many seeds find {results.config.statistics.power:.0%} of the time at "
            "the observed spread, each in a test of its own. Examples: whether the test speaks "
            "of new ones ('sampled') or of these alone ('fixed'). Only the primary metric was declared before the runs; "
            "everything exploratory is to be confirmed on new seeds."
        ),
    )


def _status(results: Results, arm: str, metric: str) -> str:
    primary = results.config.primary
    if not verdicts.testable(results, arm, primary.reference):
        return "not testable (plateau)"
    return "primary" if metric == primary.metric else "exploratory"


def _detectable(compared: Difference, meaning: Metric) -> str:
    if compared.detectable is None:
        return formats.DASH
    value = formats.scale(meaning) * compared.detectable
    return formats.number(value, formats.digits(meaning))


def _heat_map(
    results: Results, found: dict[tuple[str, str], Difference], draw: Draw
) -> list[Block]:
    """Only of several metrics: a single column says what the table does."""
    meanings = results.metrics()
    reference = results.config.primary.reference
    found = {
        (arm, metric): compared
        for (arm, metric), compared in found.items()
        if verdicts.testable(results, arm, reference)
    }
    arms = list(dict.fromkeys(arm for arm, _ in found))
    metrics = [name for name in meanings if any(name == m for _, m in found)]
    if len(metrics) < 2:
        return []
    shape = (len(metrics), len(arms))
    deltas, clear = np.full(shape, np.nan), np.zeros(shape, bool)
    texts = [[formats.DASH] * shape[1] for _ in metrics]
    for (arm, metric), compared in found.items():
        i, j = metrics.index(metric), arms.index(arm)
        meaning = meanings[metric]
        deltas[i, j] = compared.mean if meaning.higher_is_better else -compared.mean
        clear[i, j] = compared.excludes_zero
        value = formats.scale(meaning) * compared.mean
        texts[i][j] = formats.signed(value, formats.digits(meaning))
    # Metrics differ in their units, so each row has its own scale.
    largest = np.nanmax(np.abs(deltas), axis=1, initial=1e-9)
    figure = figures.heat_map(
        [metric.replace("/", ": ").replace("_", " ") for metric in metrics],
        [common.label(results, arm) for arm in arms],
        deltas / largest[:, None],
        texts,
        clear,
        label="worse \N{LEFT RIGHT ARROW} better",
    )
    caption = (
        f"Each arm minus {common.label(results, reference)}, in points or the metric's unit; blue is better, "
        "orange worse, strength relative to the largest of a row. Bold: the interval "
        "excludes 0. In brackets: it does not, or there is none. Arms on their plateau "
        "are left out."
    )
    return [draw(figure, "differences", caption)]
