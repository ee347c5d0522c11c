"""Curves: losses, and scores along the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from research.comparison.findings import LearningCurve
from research.comparison.report.figures.style import (
    INK,
    MUTED,
    WIDTH,
    ArmStyle,
    Point,
    legend,
)


def losses(
    curves: Mapping[str, Sequence[LearningCurve]],
    unigram: Mapping[str, float],
    styles: Mapping[str, ArmStyle],
) -> Figure:
    """A panel per arm, as losses of different objectives have nothing in common.

    Args:
      curves: arm -> a curve per seed.
      unigram: arm -> entropy of its own targets in nats, where it is known.
    """
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, 2.55 * rows + 0.3), squeeze=False
    )
    for axis in axes.flat[len(curves) :]:
        axis.set_visible(False)
    for axis, (arm, of_seeds) in zip(axes.flat, curves.items()):
        _loss_panel(axis, of_seeds, unigram.get(arm), styles[arm])
    for axis in axes[:, 0]:
        axis.set_ylabel("loss (nats per target)")
    for axis in axes[-1]:
        axis.set_xlabel("clean tokens seen (millions)")
    legend(figure, axes.flat[0])
    return figure


def _loss_panel(
    axis: Axes,
    curves: Sequence[LearningCurve],
    unigram: float | None,
    style: ArmStyle,
) -> None:
    for index, curve in enumerate(curves):
        millions = np.array(curve.train_tokens) / 1e6
        axis.plot(millions, curve.train, color=style.colour, alpha=0.3, linewidth=1)
        millions = np.array(curve.heldout_tokens) / 1e6
        style.plot(axis, millions, curve.heldout, alpha=0.55 if index else 1.0)
    # The legend is neutral, because every panel has its own colour.
    axis.plot([], [], color=MUTED, alpha=0.45, linewidth=1, label="training loss")
    axis.plot([], [], color=MUTED, marker="o", label="held-out loss")
    label = "unigram entropy of the arm's own targets"
    axis.plot([], [], color=INK, linestyle=":", label=label)
    if unigram is not None:
        axis.axhline(unigram, color=INK, linestyle=":", linewidth=1.4)
    end = float(np.mean([curve.heldout[-1] for curve in curves]))
    axis.annotate(
        f"{end:.2f}",
        (1, end),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 7),
        textcoords="offset points",
        ha="right",
        color=style.colour,
        fontweight="bold",
    )
    axis.set_title(style.label)
    _loss_limits(axis, curves, unigram)
    axis.xaxis.set_major_locator(MaxNLocator(4))


def _loss_limits(
    axis: Axes, curves: Sequence[LearningCurve], unigram: float | None
) -> None:
    """Leaves out the first steps' training losses, which would flatten all else."""
    values = np.concatenate([curve.heldout for curve in curves])
    values = np.append(values[np.isfinite(values)], [] if unigram is None else unigram)
    if len(values) < 2:
        return
    low, high = values.min(), values.max()
    room = 0.12 * max(high - low, 0.05)
    axis.set_ylim(low - room, high + room)


def scores_over_budget(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, Point]]]],
    styles: Mapping[str, ArmStyle],
    *,
    score_label: str,
    chance: float | None,
) -> Figure:
    """Score against what was spent.

    Args:
      panels: label of the axis -> arm -> (spent, score) at each point.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, 2.9), sharey=True, squeeze=False
    )
    for axis, (label, arms) in zip(axes[0], panels.items()):
        for arm, values in arms.items():
            style = styles[arm]
            scores = [(x, point.value) for x, point in values]
            style.plot(axis, *zip(*scores), label=style.label)
            limits = [(x, p.low, p.high) for x, p in values if p.low is not None]
            if limits:
                xs, lows, highs = zip(*limits)
                axis.fill_between(
                    xs, lows, highs, color=style.colour, alpha=0.15, linewidth=0
                )
        if chance is not None:
            axis.axhline(chance, color=INK, linestyle=":")
        axis.set_xlabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axes[0, 0].set_ylabel(score_label)
    legend(figure, axes[0, 0])
    return figure
