"""Scores beside their floors."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.comparison.report.figures.style import (
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
