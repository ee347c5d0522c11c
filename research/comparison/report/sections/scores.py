"""Loss curves and scores: tables and figures of what was measured."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from research.comparison.findings import Findings, Record
from research.comparison.report import formats
from research.comparison.report.document import Block, Figure, Table
from research.comparison.report.figures import curves
from research.comparison.report.figures import scores as score_figures
from research.comparison.report.sections import common
from research.evaluation import markdown
from research.evaluation.interface import Metric

# More columns with intervals do not fit on a page.
_MAX_METRICS = 5
# Field of an arm's cost -> label of the axis, and its unit.
_SPENT = {
    "tokens": ("clean tokens (millions)", 1e6),
    "flops": ("training FLOPs (×10¹²)", 1e12),
    "seconds": ("training time (min)", 60.0),
}


def losses(found: Findings) -> list[Block]:
    """Loss curves, each arm beside the entropy of its own targets."""
    started = {name: arm.curves for name, arm in found.arms.items() if arm.curves}
    if not started:
        return []
    unigram = {
        name: arm.learning.unigram
        for name, arm in found.arms.items()
        if arm.learning is not None
    }
    caption = (
        "Loss against clean tokens seen. Dotted: the entropy of the arm's own targets, "
        "the loss of knowing their frequencies and nothing else; an arm has learnt as "
        "much as it is below. The number is the final held-out loss. Panels have their "
        "own scales: objectives predict different things, and their losses do not "
        "compare."
    )
    plot = functools.partial(curves.losses, started, unigram, common.styles(found))
    return ["## Loss curves", Figure(name="loss_curves", caption=caption, plot=plot)]


def _metrics_of(found: Findings, evaluation: str) -> dict[str, Metric]:
    return {
        metric: meaning
        for metric, meaning in found.metrics.items()
        if metric.startswith(f"{evaluation}/")
    }


def scores(found: Findings) -> list[Block]:
    """A table and a figure per evaluation."""
    blocks: list[Block] = []
    for name in found.config.evaluations:
        metrics = _metrics_of(found, name)
        if metrics:
            blocks.append(f"### {markdown.escape(name)}")
            blocks += _tables(found, name, metrics)
            blocks += _chart(found, name, *next(iter(metrics.items())))
    return ["## Evaluations", *blocks] if blocks else []


def _tables(found: Findings, name: str, metrics: Mapping[str, Metric]) -> list[Block]:
    """Arms, floors and chance on all metrics, a few metrics a table."""
    rows = [
        [
            common.label(found, arm),
            *(common.score_cell(found, metric, arm, 1.0) for metric in metrics),
        ]
        for arm in found.arms
    ]
    rows += _floor_rows(found, metrics)
    if any(meaning.floor is not None for meaning in metrics.values()):
        label = next(iter(metrics.values())).floor_label
        cells = [formats.score(x.floor, x) for x in metrics.values()]
        rows.append([f"*{markdown.escape(label)}*", *cells])
    caption = f"{_notes(found, name)}{common.interval_note(found)}"
    if any(
        score.example_error is not None and score.metric in metrics
        for score in found.scores
    ):
        caption += (
            " ± is the standard error over test examples of these very weights; it says "
            "nothing about another seed."
        )
    columns = [
        "arm",
        *(markdown.escape(common.axis_label(x)) for x in metrics.values()),
    ]
    starts = range(1, len(columns), _MAX_METRICS)
    return [
        Table(
            columns=[columns[0], *columns[start : start + _MAX_METRICS]],
            rows=[[row[0], *row[start : start + _MAX_METRICS]] for row in rows],
            aligns="l" + "r" * len(columns[start : start + _MAX_METRICS]),
            caption=caption if start == starts[-1] else "",
        )
        for start in starts
    ]


def _floor_rows(found: Findings, metrics: Mapping[str, Metric]) -> list[list[str]]:
    """A row for each random initialisation, with the arms that share it."""
    sharing: dict[str, list[str]] = {}
    for arm in found.arms.values():
        if arm.floor is not None:
            sharing.setdefault(arm.floor, []).append(common.label(found, arm.name))
    rows = []
    for floor, labels in sharing.items():
        cells = [common.score_cell(found, metric, floor, None) for metric in metrics]
        if any(cell != formats.DASH for cell in cells):
            rows.append(
                [f"*random initialisation of {formats.listed(labels)}*", *cells]
            )
    return rows


def _notes(found: Findings, name: str) -> str:
    """Notes of the results; those of only some results, with the names of these."""
    records = [record for record in found.records if record.evaluation == name]
    places: dict[str, list[str]] = {}
    for record in records:
        for note in record.result.notes:
            places.setdefault(note, []).append(_place(found, record))
    text = "; ".join(
        markdown.escape(note)
        if len(where) == len(records)
        else f"{markdown.escape(note)}: {', '.join(where)}"
        for note, where in places.items()
    )
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _place(found: Findings, record: Record) -> str:
    """'Masked LM seed 1', with the point where it is not the end of the budget."""
    text = f"{common.label(found, record.arm)} seed {record.seed}"
    if record.point is None:
        return f"random initialisation of {text}"
    return text if record.point == 1.0 else f"{text} at {record.point:.0%}"


def _chart(found: Findings, name: str, metric: str, meaning: Metric) -> list[Block]:
    points = common.points(found, metric, 1.0)
    if not points:
        return []
    plot = functools.partial(
        score_figures.scores,
        points,
        common.points(found, metric, None),
        common.styles(found),
        axis_label=common.axis_label(meaning),
        chance=common.chance(meaning),
        chance_label=meaning.floor_label,
    )
    bars = "" if len(found.config.seeds) < 2 else " Bars: intervals over seeds."
    caption = (
        f"{name}: {markdown.escape(meaning.label)} at the end of the budget (filled) and "
        f"from random initialisation (hollow).{bars}{_within_note(meaning)}"
    )
    return [Figure(name=f"scores_{name}", caption=caption, plot=plot)]


def _within_note(meaning: Metric) -> str:
    if not meaning.within_architecture:
        return ""
    return " Only arms of one architecture compare: the others are asked other things."


def over_budget(found: Findings) -> list[Block]:
    """Scores along the budget, where they were taken more than once."""
    shares = found.config.points
    if len(shares) < 2:
        return []
    blocks: list[Block] = []
    for name in found.config.evaluations:
        metric, meaning = next(iter(_metrics_of(found, name).items()), ("", None))
        if meaning is None:
            continue
        panels = {
            label: _spent_and_scored(found, metric, field, unit, shares)
            for field, (label, unit) in _SPENT.items()
        }
        if not any(panels.values()):
            continue
        plot = functools.partial(
            curves.scores_over_budget,
            panels,
            common.styles(found),
            score_label=common.axis_label(meaning),
            chance=common.chance(meaning),
        )
        floor = markdown.escape(meaning.floor_label)
        dotted = f" Dotted: {floor}." if floor else ""
        bands = " Bands: intervals." if len(found.config.seeds) > 1 else ""
        caption = (
            f"{name}: {markdown.escape(meaning.label)} against what was spent, means "
            f"over seeds.{bands} The learning rate is fitted to the whole budget, so "
            f"points before its end are those of unfinished runs.{dotted}"
            f"{_within_note(meaning)}"
        )
        blocks.append(Figure(name=f"budget_{name}", caption=caption, plot=plot))
    return ["## Score against budget", *blocks] if blocks else []


def _spent_and_scored(
    found: Findings, metric: str, field: str, unit: float, shares: Sequence[float]
) -> dict[str, list]:
    """arm -> [(spent at a share of the budget, score there)]"""
    panel = {}
    for name, arm in found.arms.items():
        if arm.cost is None:
            continue
        total = getattr(arm.cost, field) / unit
        values = [
            (share * total, points[name])
            for share in shares
            if name in (points := common.points(found, metric, share))
        ]
        if values:
            panel[name] = values
    return panel
