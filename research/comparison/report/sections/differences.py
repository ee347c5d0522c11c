"""Arms against the reference: differences, coloured matrix, wins."""

from __future__ import annotations

import functools

import numpy as np

from research.comparison.findings import Findings
from research.comparison.report import formats
from research.comparison.report.document import Block, Figure, Table
from research.comparison.report.figures import matrices
from research.comparison.report.sections import common
from research.evaluation import markdown

_STATUS = {
    "primary": "primary",
    "exploratory": "exploratory",
    "plateau": "not testable (plateau)",
}


def differences(found: Findings) -> list[Block]:
    """Every metric against the reference, all but the primary exploratory."""
    if not found.differences:
        return []
    return ["## Differences", _table(found), *_matrix(found), *_wins(found)]


def _table(found: Findings) -> Block:
    return Table(
        columns=[
            "metric",
            f"arm minus {common.label(found, found.config.primary.reference)}",
            "difference",
            "p (uncorrected)",
            "detectable",
            "method",
            "examples",
            "status",
        ],
        rows=[
            [
                markdown.escape(row.metric),
                common.label(found, row.arm),
                formats.difference(row.compared, found.metrics[row.metric]),
                formats.p_value(row.compared.p_value),
                formats.score(row.compared.detectable, found.metrics[row.metric]),
                row.compared.method,
                row.compared.examples if row.compared.tested else formats.DASH,
                _STATUS[row.status],
            ]
            for row in found.differences
        ],
        aligns="llrrrlll",
        caption=(
            f"Shares in percentage points. Detectable: the smallest true difference that "
            f"this many seeds find {found.config.statistics.power:.0%} of the time at "
            f"the observed spread, each in a test of its own. Examples: whether the test "
            f"speaks of new ones ('sampled') or of these alone ('fixed'). Only the "
            f"primary metric was declared before the runs; everything exploratory is to "
            f"be confirmed on new seeds."
        ),
    )


def _matrix(found: Findings) -> list[Block]:
    """Only of several metrics: a single one says what the table does."""
    shown = {(x.metric, x.arm): x for x in found.differences if x.status != "plateau"}
    metrics = list(dict.fromkeys(metric for metric, _ in shown))
    arms = list(dict.fromkeys(arm for _, arm in shown))
    if len(metrics) < 2:
        return []
    values = np.full((len(metrics), len(arms)), np.nan)
    clear = np.zeros(values.shape, bool)
    texts = [[formats.DASH] * len(arms) for _ in metrics]
    for (metric, arm), row in shown.items():
        i, j = metrics.index(metric), arms.index(arm)
        meaning = found.metrics[metric]
        values[i, j] = row.compared.mean * (1 if meaning.higher_is_better else -1)
        clear[i, j] = row.compared.excludes_zero
        texts[i][j] = formats.score(row.compared.mean, meaning, plus=True)
    # Metrics differ in their units, so each row has its own scale.
    values /= np.nanmax(np.abs(values), axis=1, initial=1e-9, keepdims=True)
    plot = functools.partial(
        matrices.differences,
        [metric.replace("/", ": ").replace("_", " ") for metric in metrics],
        [found.arms[arm].label for arm in arms],
        values,
        texts,
        clear,
    )
    caption = (
        f"Each arm minus {common.label(found, found.config.primary.reference)}, in "
        f"points or the metric's unit; blue is better, orange worse, strength relative "
        f"to the largest of a row. Bold: the interval excludes 0. In brackets: it does "
        f"not, or there is none. Arms on their plateau are left out."
    )
    return [Figure(name="differences", caption=caption, plot=plot)]


def _wins(found: Findings) -> list[Block]:
    counts = np.array([list(row.values()) for row in found.wins.values()])
    if not counts.any():
        return []
    caption = (
        "Wins / ties / losses of the row against the column, counted over all metrics "
        "that both have, each at the level of a single test: exploratory. Blue: more "
        "wins, orange: more losses. A dash: no test, or an arm on its plateau."
    )
    names = [arm.label for arm in found.arms.values()]
    plot = functools.partial(matrices.wins, names, counts)
    return [Figure(name="wins", caption=caption, plot=plot)]
