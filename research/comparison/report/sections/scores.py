"""Loss curves and scores: tables and figures of what was measured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from research.comparison import verdicts
from research.comparison.report import figures, formats
from research.comparison.report.document import Block, Heading, Table
from research.comparison.report.figures import LossCurves, Point
from research.comparison.report.sections import common
from research.comparison.report.sections.common import Draw
from research.comparison.results import Results
from research.evaluation.interface import Metric

# More columns with intervals do not fit on a page.
_MAX_METRICS = 5


def losses(results: Results, draw: Draw) -> list[Block]:
    """Loss curves, each arm beside the entropy of its own targets."""
    curves = {}
    for arm in results.config.arms:
        runs = [run for run in results.arm_runs(arm.name) if len(run.heldout.steps)]
        if not runs:
            continue
        per_step = arm.config["train"]["batch_size"] * arm.config["data"]["row_length"]
        learnt = verdicts.learning(results, arm.name)
        curves[arm.name] = LossCurves(
            tokens=[run.heldout.steps * per_step for run in runs],
            heldout=[run.heldout.losses for run in runs],
            train_tokens=[run.train.steps * per_step for run in runs],
            train=[run.train.losses for run in runs],
            unigram=None if learnt is None else learnt.unigram,
        )
    if not curves:
        return []
    caption = (
        "Loss against clean tokens seen. Dotted: the entropy of the arm's own targets, "
        "the loss of knowing their frequencies and nothing else; an arm has learnt as "
        "much as it is below. The number is the final held-out loss. Panels have their "
        "own scales: objectives predict different things, and their losses do not "
        "compare."
    )
    return [
        Heading(text="Loss curves", level=2),
        draw(
            figures.loss_curves(curves, common.styles(results)), "loss_curves", caption
        ),
    ]


def scores(results: Results, draw: Draw) -> list[Block]:
    """A table and a figure per evaluation."""
    blocks: list[Block] = []
    meanings = results.metrics()
    for name in results.config.evaluations:
        metrics = {
            metric: meaning
            for metric, meaning in meanings.items()
            if metric.startswith(f"{name}/")
        }
        if metrics:
            blocks += _evaluation(results, name, metrics, draw)
    if blocks:
        blocks.insert(0, Heading(text="Evaluations", level=2))
    return blocks


def _evaluation(
    results: Results, name: str, metrics: Mapping[str, Metric], draw: Draw
) -> list[Block]:
    rows, muted = [], []
    for arm in results.config.arms:
        rows.append(
            [arm.label]
            + [
                common.score_cell(results, m, arm.name, 1.0, x)
                for m, x in metrics.items()
            ]
        )
    for arm_name in dict.fromkeys(common.floors(results).values()):
        cells = [
            common.score_cell(results, m, arm_name, None, x) for m, x in metrics.items()
        ]
        if any(cell != formats.DASH for cell in cells):
            muted.append(len(rows))
            shared = [
                a for a, floor in common.floors(results).items() if floor == arm_name
            ]
            names = formats.listed([common.label(results, a) for a in shared])
            rows.append([f"random initialisation of {names}", *cells])
    if any(meaning.floor is not None for meaning in metrics.values()):
        muted.append(len(rows))
        rows.append(
            [next(iter(metrics.values())).floor_label]
            + [
                formats.number(
                    None if x.floor is None else formats.scale(x) * x.floor,
                    formats.digits(x),
                )
                for x in metrics.values()
            ]
        )
    notes = _notes(results, name)
    caption = f"{notes}{common.interval_note(results)}{_example_note(results, metrics)}"
    columns = ["arm", *(f"{x.label} ({x.unit})" for x in metrics.values())]
    blocks: list[Block] = [Heading(text=name, level=3)]
    for start in range(1, len(columns), _MAX_METRICS):
        part = slice(start, start + _MAX_METRICS)
        is_last = start + _MAX_METRICS >= len(columns)
        blocks.append(
            Table(
                columns=[columns[0], *columns[part]],
                rows=[[row[0], *row[part]] for row in rows],
                aligns="l" + "r" * len(columns[part]),
                caption=caption if is_last else "",
                muted=muted,
            )
        )
    first, meaning = next(iter(metrics.items()))
    chart = _score_chart(results, name, first, meaning, draw)
    return blocks + chart


def _example_note(results: Results, metrics: Mapping[str, Metric]) -> str:
    if len(results.config.seeds) > 1:
        return ""
    for metric in metrics:
        for arm in results.config.arms:
            found = results.arm_scores(metric, arm.name, 1.0)
            if found is not None and found.examples is not None:
                return (
                    " ± is the standard error over test examples of these very weights; "
                    "it says nothing about another seed."
                )
    return ""


def _notes(results: Results, name: str) -> str:
    """What the results say of themselves; what only some say, with whose they are."""
    sources: dict[str, list[str]] = {}
    num_results = 0
    for (evaluation, arm, point), by_seed in results.scores.items():
        if evaluation == name:
            for seed, result in by_seed.items():
                num_results += 1
                for note in result.notes:
                    place = _place(results, arm, seed, point)
                    sources.setdefault(note, []).append(place)
    text = "; ".join(
        note if len(places) == num_results else f"{note}: {', '.join(places)}"
        for note, places in sources.items()
    )
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _place(results: Results, arm: str, seed: int, point: float | None) -> str:
    """'Masked LM seed 1', with the point where it is not the end of the budget."""
    label = f"{common.label(results, arm)} seed {seed}"
    if point is None:
        return f"random initialisation of {label}"
    return label if point == 1.0 else f"{label} at {point:.0%}"


def _score_chart(
    results: Results, name: str, metric: str, meaning: Metric, draw: Draw
) -> list[Block]:
    points = common.points(results, metric, meaning, 1.0)
    if not points:
        return []
    floors = (
        common.points(results, metric, meaning, None) if results.config.floor else {}
    )
    chance = None if meaning.floor is None else formats.scale(meaning) * meaning.floor
    figure = figures.scores(
        points,
        floors,
        common.styles(results),
        axis_label=f"{meaning.label} ({meaning.unit})",
        chance=chance,
        chance_label=meaning.floor_label,
    )
    bars = "" if len(results.config.seeds) < 2 else " Bars: intervals over seeds."
    caption = (
        f"{name}: {meaning.label} at the end of the budget (filled) and from random "
        f"initialisation (hollow).{bars}{_within_note(meaning)}"
    )
    return [draw(figure, f"scores_{name}", caption)]


def _within_note(meaning: Metric) -> str:
    if not meaning.within_architecture:
        return ""
    return " Only arms of one architecture compare: the others are asked other things."


def over_budget(results: Results, draw: Draw) -> list[Block]:
    """Scores along the budget, where they were taken more than once."""
    config = results.config
    if len(config.points) < 2:
        return []
    blocks: list[Block] = []
    meanings = results.metrics()
    for name in config.evaluations:
        metric = next((m for m in meanings if m.startswith(f"{name}/")), None)
        if metric is None:
            continue
        meaning = meanings[metric]
        axes = {
            "tokens": "clean tokens (millions)",
            "flops": "training FLOPs (×10¹²)",
            "seconds": "training time (min)",
        }
        units = {"tokens": 1e6, "flops": 1e12, "seconds": 60.0}
        panels: dict[str, dict[str, list[tuple[float, Point]]]] = {}
        for key, axis in axes.items():
            panels[axis] = {}
            for arm in config.arms:
                runs = results.finished_runs(arm.name)
                if not runs:
                    continue
                total = float(np.mean([run.summary[key] for run in runs]))
                values = []
                for share in config.points:
                    point = common.points(results, metric, meaning, share).get(arm.name)
                    if point is not None:
                        values.append((share * total / units[key], point))
                if values:
                    panels[axis][arm.name] = values
        if any(panels.values()):
            chance = meaning.floor
            figure = figures.budget_curves(
                panels,
                common.styles(results),
                score_label=f"{meaning.label} ({meaning.unit})",
                chance=None if chance is None else formats.scale(meaning) * chance,
            )
            dotted = f" Dotted: {meaning.floor_label}." if meaning.floor_label else ""
            bands = " Bands: intervals." if len(config.seeds) > 1 else ""
            caption = (
                f"{name}: {meaning.label} against what was spent, means over seeds.{bands}"
                f" The learning rate is fitted to the whole budget, so points before its "
                f"end are those of unfinished runs.{dotted}{_within_note(meaning)}"
            )
            blocks.append(draw(figure, f"budget_{name}", caption))
    if blocks:
        blocks.insert(0, Heading(text="Score against budget", level=2))
    return blocks
