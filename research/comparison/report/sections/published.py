"""Published differences beside the measured ones, whether or not they agree."""

from __future__ import annotations

from research.comparison import verdicts
from research.comparison.config import FLOOR, Contrast
from research.comparison.report import figures, formats
from research.comparison.report.document import Block, Heading, Paragraph, Table
from research.comparison.report.figures import Point
from research.comparison.report.sections import common
from research.comparison.report.sections.common import Draw
from research.comparison.results import Results
from research.comparison.statistics import Difference

# How a measured difference relates to a published one.
AGREES = "agrees"
OPPOSITE = "opposite"
NOT_SHOWN = "not shown"
UNTESTED = "no test"
NOT_TESTABLE = "not testable at this budget"
MISSING = "no scores yet"


def contrasts(results: Results, draw: Draw) -> list[Block]:
    """A row and a line in a figure for every contrast of the config."""
    if not results.config.contrasts:
        return []
    rows, points = [], {}
    for contrast in results.config.contrasts.values():
        found = measured(results, contrast)
        meaning = results.metrics().get(contrast.metric)
        state = relation(results, contrast, found)
        name = title(results, contrast)
        shown, unit = formats.DASH, ""
        if found is not None and meaning is not None:
            shown = formats.difference(found, meaning)
            unit = f" {formats.points(meaning)} of {contrast.metric}"
            if state != NOT_TESTABLE:
                factor = formats.scale(meaning)
                points[name] = (contrast.published, _point(found, factor))
        rows.append(
            [
                name,
                f"{formats.signed(contrast.published, 1)} {contrast.published_metric}",
                f"{shown}{unit}",
                ""
                if found is None
                else f"{found.num_seeds} of {len(results.config.seeds)}",
                state,
                contrast.source,
            ]
        )
    blocks: list[Block] = [
        Heading(text="Published differences", level=2),
        Paragraph(
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
            rows=rows,
            aligns="llllll",
            caption=(
                "Intervals are uncorrected. An arm on its unigram plateau makes a "
                "contrast not testable."
            ),
        ),
    ]
    if points:
        caption = (
            "Published differences (hollow diamonds) and measured ones (filled, with "
            "intervals), in points of each contrast's own metric."
        )
        blocks.append(draw(figures.contrasts(points), "published", caption))
    return blocks


def title(results: Results, contrast: Contrast) -> str:
    """'Masked LM against Causal LM'."""
    reference = "random initialisation"
    if contrast.reference != FLOOR:
        reference = common.label(results, contrast.reference)
    return f"{common.label(results, contrast.arm)} against {reference}"


def measured(results: Results, contrast: Contrast) -> Difference | None:
    """Arm minus reference; None without scores of both."""
    if contrast.reference == FLOOR:
        return verdicts.above_floor(results, contrast.metric, contrast.arm)
    alpha = results.config.statistics.alpha
    return verdicts.compare(
        results, contrast.metric, contrast.arm, contrast.reference, alpha=alpha
    )


def relation(results: Results, contrast: Contrast, found: Difference | None) -> str:
    """How the measured difference relates to the published one."""
    if found is None:
        return MISSING
    for arm in {contrast.arm, contrast.reference} - {FLOOR}:
        learnt = verdicts.learning(results, arm)
        if learnt is not None and learnt.on_plateau:
            return NOT_TESTABLE
    if not found.tested:
        return UNTESTED
    if not found.excludes_zero:
        return NOT_SHOWN
    meaning = results.metrics()[contrast.metric]
    better = found.mean if meaning.higher_is_better else -found.mean
    return AGREES if better * contrast.published > 0 else OPPOSITE


def _point(found: Difference, factor: float) -> Point:
    low = None if found.low is None else factor * found.low
    high = None if found.high is None else factor * found.high
    return Point(value=factor * found.mean, low=low, high=high)
