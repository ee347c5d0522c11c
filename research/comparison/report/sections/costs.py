"""What arms spent, and how they took to learning rates."""

from __future__ import annotations

import functools

from research.comparison import budgets
from research.comparison.findings import Cost, Findings
from research.comparison.report import formats
from research.comparison.report.document import Block, Figure, Table
from research.comparison.report.figures import curves
from research.comparison.report.figures import scores as score_figures
from research.comparison.report.sections import common

# Column -> cell.
_COLUMNS = {
    "parameters": lambda cost: formats.large(cost.num_params),
    "steps": lambda cost: formats.large(cost.num_steps),
    "tokens": lambda cost: formats.large(cost.tokens),
    "targets": lambda cost: formats.large(cost.targets),
    "FLOPs": lambda cost: formats.large(cost.flops),
    "tokens/s": lambda cost: formats.large(cost.tokens_per_second),
    "time": lambda cost: formats.duration(cost.seconds),
    "memory": lambda cost: formats.size(cost.peak_memory_bytes),
    "utilisation": lambda cost: formats.percent(cost.utilisation),
    "learning rate": lambda cost: formats.short(cost.learning_rate),
}


def costs(found: Findings) -> list[Block]:
    """What every arm spent, whatever the budget's axis, and score against it."""

    def cells(cost: Cost | None) -> list[str]:
        if cost is None:
            return [formats.DASH] * len(_COLUMNS)
        return [cell(cost) for cell in _COLUMNS.values()]

    table = Table(
        columns=["arm", *_COLUMNS],
        rows=[
            [common.label(found, name), *cells(arm.cost)]
            for name, arm in found.arms.items()
        ],
        aligns="l" + "r" * len(_COLUMNS),
        caption=(
            f"Per run, means over seeds; held equal: "
            f"{budgets.AXES[found.config.budget.axis]}. Targets are the positions that "
            f"bear a loss. FLOPs are the matrix products of forward and backward pass, "
            f"counted analytically. Time is of training steps alone, without compilation "
            f"and evaluation; memory is that of all buffers of the compiled train step "
            f"on a device (state, batch, gradients, activations). Utilisation is the "
            f"share of the device's matrix-product rate."
        ),
    )
    return ["## Cost", table, *_pareto(found)]


def _pareto(found: Findings) -> list[Block]:
    if not found.pareto_front:
        return []
    metric = found.config.primary.metric
    scores = common.points(found, metric, 1.0)
    spent = {
        arm: (cost.flops / 1e12, scores[arm])
        for arm in scores
        if (cost := found.arms[arm].cost) is not None and cost.flops is not None
    }
    if len(spent) < 2:
        return []
    plot = functools.partial(
        score_figures.pareto,
        spent,
        found.pareto_front,
        common.styles(found),
        cost_label="training FLOPs of a run (×10¹²)",
        score_label=common.axis_label(found.metrics[metric]),
    )
    caption = (
        f"{formats.evaluation_of(metric)} against training FLOPs. The line joins arms "
        f"that no other arm beats on both; where bars overlap, that order is not "
        f"certain."
    )
    return [Figure(name="pareto", caption=caption, plot=plot)]


def sensitivity(found: Findings) -> list[Block]:
    """Held-out loss over the learning rates tried, if any were."""
    tried = {
        name: arm.trial_losses for name, arm in found.arms.items() if arm.trial_losses
    }
    if not tried:
        return []
    caption = (
        "Held-out loss of the tuning runs above each arm's best, against the peak "
        "learning rate: every arm had the same rates and seeds of their own "
        f"({formats.setting(found.config.tuning.seeds)}). A flat curve means that the "
        "choice hardly matters; a rate without a point diverged."
    )
    plot = functools.partial(
        curves.learning_rates,
        tried,
        {arm: found.arms[arm].chosen_rate for arm in tried},
        common.styles(found),
    )
    figure = Figure(name="learning_rates", caption=caption, plot=plot)
    return ["## Learning-rate sensitivity", figure]
