"""What arms spent, and how they took to learning rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from research.comparison import budgets, tuning
from research.comparison.report import figures, formats
from research.comparison.report.document import Block, Heading, Table
from research.comparison.report.sections import common
from research.comparison.report.sections.common import Draw
from research.comparison.results import Results, Run


def cost(results: Results, draw: Draw) -> list[Block]:
    """What every arm spent, whatever the budget's axis, and score against it."""
    rows = []
    for arm in results.config.arms:
        runs = results.finished_runs(arm.name)
        if not runs:
            rows.append([arm.label] + [formats.DASH] * 10)
            continue

        def mean(key: str, runs: Sequence[Run] = runs) -> float | None:
            values = [run.summary.get(key) for run in runs]
            if any(value is None for value in values):
                return None
            return float(np.mean(np.array(values, np.float64)))

        utilisation = mean("utilisation")
        rows.append(
            [
                arm.label,
                formats.large(mean("num_params")),
                formats.large(mean("num_steps")),
                formats.large(mean("tokens")),
                formats.large(mean("targets")),
                formats.large(mean("flops")),
                formats.large(mean("tokens_per_second")),
                formats.duration(mean("seconds")),
                formats.size(mean("peak_memory_bytes")),
                formats.DASH if utilisation is None else f"{utilisation:.0%}",
                f"{mean('learning_rate') or 0:g}",
            ]
        )
    axis = budgets.AXES[results.config.budget.axis]
    blocks: list[Block] = [
        Heading(text="Cost", level=2),
        Table(
            columns=[
                "arm",
                "parameters",
                "steps",
                "tokens",
                "targets",
                "FLOPs",
                "tokens/s",
                "time",
                "memory",
                "utilisation",
                "learning rate",
            ],
            rows=rows,
            aligns="lrrrrrrrrrr",
            caption=(
                f"Per run, means over seeds; held equal: {axis}. Targets are the "
                "positions that bear a loss. FLOPs are the matrix products of forward and "
                "backward pass, counted analytically. Time is of training steps alone, "
                "without compilation and evaluation; memory is that of all buffers of "
                "the compiled train step on a device (state, batch, gradients, "
                "activations). Utilisation is the share of the "
                "device's matrix-product rate."
            ),
        ),
    ]
    return blocks + _pareto(results, draw)


def _pareto(results: Results, draw: Draw) -> list[Block]:
    metric = results.config.primary.metric
    meaning = results.metrics().get(metric)
    if meaning is None or meaning.within_architecture:
        return []
    points = common.points(results, metric, meaning, 1.0)
    spent = {
        arm: float(np.mean([run.summary["flops"] for run in runs])) / 1e12
        for arm in points
        if (runs := results.finished_runs(arm))
    }
    if len(spent) < 2:
        return []
    figure = figures.pareto(
        {arm: (spent[arm], points[arm]) for arm in spent},
        common.styles(results),
        cost_label="training FLOPs of a run (×10¹²)",
        score_label=f"{meaning.label} ({meaning.unit})",
        higher_is_better=meaning.higher_is_better,
    )
    caption = (
        f"{metric.partition('/')[0]} against training FLOPs. The line joins arms that "
        "no other arm beats on both; where bars overlap, that order is not certain."
    )
    return [draw(figure, "pareto", caption)]


def sensitivity(results: Results, draw: Draw) -> list[Block]:
    """Held-out loss over the learning rates tried, if any were."""
    config = results.config
    if not config.tuning.learning_rates:
        return []
    tried = {arm.name: tuning.losses(results, arm.name) for arm in config.arms}
    tried = {arm: values for arm, values in tried.items() if values}
    if not tried:
        return []
    chosen = {
        arm: rate for arm in tried if (rate := tuning.best(results, arm)) is not None
    }
    caption = (
        "Held-out loss of the tuning runs above each arm's best, against the peak "
        "learning rate: every arm had the same rates and seeds of their own "
        f"({formats.setting(config.tuning.seeds)}). A flat curve means that the choice "
        "hardly matters; a rate without a point diverged."
    )
    figure = figures.learning_rates(tried, chosen, common.styles(results))
    return [
        Heading(text="Learning-rate sensitivity", level=2),
        draw(figure, "learning_rates", caption),
    ]
