"""Published differences beside the measured ones, whether or not they agree."""

from __future__ import annotations

from research.comparison.config import FLOOR
from research.comparison.findings import Findings, PublishedDifference
from research.comparison.report import formats
from research.comparison.report.document import Block, Table
from research.evaluation import markdown


def published(found: Findings) -> list[Block]:
    """A row for every contrast of the config."""
    if not found.published:
        return []
    return [
        "## Published differences",
        (
            "Sizes, corpora and metrics differ from the papers', so only direction and "
            "rough size can be compared. A contrast **agrees** if its interval lies on "
            "the published side of 0, is **opposite** if it lies on the other side, and "
            "is **not shown** if it contains 0."
        ),
        Table(
            columns=[
                "contrast",
                "published",
                "measured",
                "seeds",
                "relation",
                "source",
            ],
            rows=[_row(found, row) for row in found.published],
            aligns="llllll",
            caption=(
                "Intervals are uncorrected. An arm on its unigram plateau makes a "
                "contrast not testable."
            ),
        ),
    ]


def _row(found: Findings, row: PublishedDifference) -> list[str]:
    contrast, measured = row.contrast, row.measured
    shown, seeds = formats.DASH, ""
    if measured is not None:
        metric = found.metrics[contrast.metric]
        shown = (
            f"{formats.difference(measured, metric)} "
            f"{formats.unit_of_difference(metric)} of {markdown.escape(contrast.metric)}"
        )
        seeds = f"{measured.num_seeds} of {len(found.config.seeds)}"
    value = formats.number(contrast.published, 1, plus=True)
    return [
        markdown.escape(_title(found, row)),
        f"{value} {markdown.escape(contrast.published_metric)}",
        shown,
        seeds,
        row.relation,
        markdown.escape(contrast.source),
    ]


def _title(found: Findings, row: PublishedDifference) -> str:
    """'Masked LM against Causal LM', as plain text."""
    reference = row.contrast.reference
    other = (
        "random initialisation" if reference == FLOOR else found.arms[reference].label
    )
    return f"{found.arms[row.contrast.arm].label} against {other}"
