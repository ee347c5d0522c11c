"""Coloured matrices: differences from the reference, and wins."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from research.comparison.report.figures.style import INK, WIDTH

# Blue for better, orange for worse; neither is red or green.
_COLOURS = LinearSegmentedColormap.from_list(
    "differences", ["#b35806", "#f1a340", "#f7f7f7", "#74add1", "#2166ac"]
)


def differences(
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    clear: np.ndarray,
) -> Figure:
    """Differences from the reference, metrics by arms.

    Args:
      values: from -1 (orange) to 1 (blue); NaN where there is none. [rows, columns]
      texts: what each cell says.
      clear: whether the cell's interval excludes 0, shown in bold; others stand in
        brackets. [rows, columns]
    """
    width = max(4.2, min(WIDTH, 3.2 + 1.1 * len(columns)))
    figure, axis = plt.subplots(figsize=(width, 1.3 + 0.32 * len(rows)))
    image = _matrix(axis, values, rows, columns)
    for i, j in np.ndindex(values.shape):
        text = texts[i][j] if clear[i, j] else f"({texts[i][j]})"
        _cell(axis, i, j, text, float(values[i, j]), bold=bool(clear[i, j]))
    label = "worse \N{LEFT RIGHT ARROW} better"
    bar = figure.colorbar(image, ax=axis, label=label, shrink=0.9, ticks=[])
    bar.outline.set_visible(False)
    return figure


def wins(names: Sequence[str], counts: np.ndarray) -> Figure:
    """Wins, ties and losses of each row's arm against each column's.

    Args:
      counts: [arms, arms, 3].
    """
    size = 1.9 + 0.85 * len(names)
    figure, axis = plt.subplots(figsize=(min(WIDTH, size + 0.8), size * 0.62 + 0.7))
    balance = (counts[..., 0] - counts[..., 2]) / np.maximum(counts.sum(-1), 1)
    _matrix(axis, balance, names, names)
    for i, j in np.ndindex(balance.shape):
        text = " / ".join(map(str, counts[i, j]))
        if not counts[i, j].any():
            text = "·" if i == j else "\N{EM DASH}"
        _cell(axis, i, j, text, balance[i, j], bold=False)
    axis.set_xlabel("against")
    return figure


def _matrix(
    axis: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> AxesImage:
    image = axis.imshow(values, cmap=_COLOURS, norm=Normalize(-1, 1), aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=20, ha="right")
    axis.set_yticks(range(len(rows)), rows)
    axis.tick_params(length=0, labelcolor=INK)
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image


def _cell(axis: Axes, i: int, j: int, text: str, value: float, *, bold: bool) -> None:
    axis.text(
        j,
        i,
        text,
        ha="center",
        va="center",
        # White on the dark ends of the scale; NaN compares as not dark.
        color="white" if abs(value) > 0.7 else INK,
        fontsize=8.5,
        fontweight="bold" if bold else "normal",
    )
