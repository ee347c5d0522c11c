"""Arms against the reference, on every metric."""

from __future__ import annotations

from research.comparison.findings import ArmDifference, Findings
from research.comparison.report import formats
from research.comparison.report.document import Block, Table
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
    power = found.config.statistics.power
    table = Table(
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
        rows=[_row(found, row) for row in found.differences],
        aligns="llrrrlll",
        caption=(
            f"Shares in percentage points; bold: the interval excludes 0. Detectable: the "
            f"smallest true difference that this many seeds find {power:.0%} of the time "
            f"at the observed spread, each in a test of its own. Examples: whether the "
            f"test speaks of new ones ('sampled') or of these alone ('fixed'). Only the "
            f"primary metric was declared before the runs; everything exploratory is to "
            f"be confirmed on new seeds."
        ),
    )
    return ["## Differences", table]


def _row(found: Findings, row: ArmDifference) -> list[str]:
    compared, metric = row.compared, found.metrics[row.metric]
    shown = formats.difference(compared, metric)
    is_clear = compared.excludes_zero and row.status != "plateau"
    return [
        markdown.escape(row.metric),
        common.label(found, row.arm),
        f"**{shown}**" if is_clear else shown,
        formats.p_value(compared.p_value),
        formats.score(compared.detectable, metric),
        compared.method,
        compared.examples if compared.tested else formats.DASH,
        _STATUS[row.status],
    ]
