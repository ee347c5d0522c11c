"""Scores beside their floors, beside what was published, and against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.comparison.report.figures.style import (
    COLOURS,
    INK,
    MUTED,
    WIDTH,
    ArmStyle,
    Point,
    legend,
    row_labels,
)


def scores(
    arms: Mapping[str, Point],
    floors: Mapping[str, Point],
    styles: Mapping[str, ArmStyle],
    *,
    axis_label: str,
    chance: float | None,
    chance_label: str,
) -> Figure:
    """A row per arm: its score, that of random initialisation, chance."""
    figure, axis = plt.subplots(figsize=(WIDTH, 0.55 * len(arms) + 1.25))
    for row, arm in enumerate(arms):
        if arm in floors:
            _score_point(axis, row + 0.16, floors[arm], styles[arm], is_floor=True)
        _score_point(axis, row - 0.1, arms[arm], styles[arm], is_floor=False)
    axis.plot([], [], "o", color=MUTED, label="pretrained")
    label = "random initialisation"
    axis.plot([], [], "o", color=MUTED, fillstyle="none", label=label)
    if chance is not None:
        axis.axvline(chance, color=INK, linestyle=":", label=chance_label)
    row_labels(axis, [styles[arm].label for arm in arms], above=0.55)
    axis.set_xlabel(axis_label)
    legend(figure, axis)
    return figure


def _score_point(
    axis: Axes, row: float, point: Point, style: ArmStyle, *, is_floor: bool
) -> None:
    if point.low is not None and point.high is not None:
        axis.plot(
            [point.low, point.high],
            [row, row],
            color=style.colour,
            alpha=0.5 if is_floor else 1.0,
            linewidth=1.4,
        )
    axis.plot(
        point.value,
        row,
        marker=style.marker,
        color=style.colour,
        fillstyle="none" if is_floor else "full",
        markersize=6 if is_floor else 8,
        linestyle="none",
    )


def published(pairs: Mapping[str, tuple[float, Point]]) -> Figure:
    """A row per contrast: the published difference and the measured one."""
    figure, axis = plt.subplots(figsize=(WIDTH, 0.5 * len(pairs) + 1.3))
    axis.axvline(0, color=INK, linewidth=1)
    measured, reported = COLOURS[:2]
    hollow: Any = {"color": reported, "fillstyle": "none"}
    for row, (value, point) in enumerate(pairs.values()):
        if point.low is not None and point.high is not None:
            limits = [point.low, point.high]
            axis.plot(limits, [row, row], color=measured, linewidth=1.6)
        axis.plot(point.value, row, "o", color=measured, markersize=8)
        axis.plot(value, row - 0.22, "D", markersize=7, **hollow)
    axis.plot([], [], "o-", color=measured, label="measured")
    axis.plot([], [], "D", label="published", **hollow)
    row_labels(axis, list(pairs), above=0.65)
    axis.set_xlabel("difference (points)")
    legend(figure, axis)
    return figure


def pareto(
    arms: Mapping[str, tuple[float, Point]],
    front: Sequence[str],
    styles: Mapping[str, ArmStyle],
    *,
    cost_label: str,
    score_label: str,
) -> Figure:
    """Score against cost; a line joins the arms of `front`."""
    figure, axis = plt.subplots(figsize=(WIDTH * 0.72, 3.2))
    for arm, (cost, point) in arms.items():
        style = styles[arm]
        if point.low is not None and point.high is not None:
            axis.plot([cost, cost], [point.low, point.high], color=style.colour)
        style.plot(
            axis,
            [cost],
            [point.value],
            markersize=8,
            linestyle="none",
            label=style.label,
        )
    if len(front) > 1:
        axis.plot(
            [arms[arm][0] for arm in front],
            [arms[arm][1].value for arm in front],
            color=MUTED,
            linewidth=1,
            zorder=0,
            label="not beaten on both",
        )
    axis.margins(0.12)
    axis.set_xlabel(cost_label)
    axis.set_ylabel(score_label)
    legend(figure, axis)
    return figure
