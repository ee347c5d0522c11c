"""What arms spent, and how they took to learning rates."""

from __future__ import annotations

import numpy as np

from research.comparison import budgets
from research.comparison.findings import Cost, Findings
from research.comparison.report import formats
from research.comparison.report.document import Block, Table
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
    """What every arm spent, whatever the budget's axis."""

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
    return ["## Cost", table]


def sensitivity(found: Findings) -> list[Block]:
    """Held-out loss by learning rate, if several were tried."""
    tuning = found.config.tuning
    if not any(arm.trial_losses for arm in found.arms.values()):
        return []
    rows = []
    for name, arm in found.arms.items():
        row = [common.label(found, name)]
        for rate in tuning.learning_rates:
            losses = arm.trial_losses.get(rate, ())
            cell = formats.number(float(np.mean(losses)) if losses else None, 3)
            row.append(f"**{cell}**" if rate == arm.chosen_rate else cell)
        rows.append(row)
    caption = (
        "Held-out loss of the tuning runs, against the peak learning rate; the chosen one "
        "is bold. Every arm had the same rates, and seeds of their own "
        f"({formats.setting(tuning.seeds)}). A dash: not finished, or diverged."
    )
    columns = ["arm", *(formats.short(rate) for rate in tuning.learning_rates)]
    aligns = "l" + "r" * len(tuning.learning_rates)
    table = Table(columns=columns, rows=rows, aligns=aligns, caption=caption)
    return ["## Learning-rate sensitivity", table]
