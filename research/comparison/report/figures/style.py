"""How figures look, and saving them.

Arms differ in colour, marker and line style together: the palette is Okabe and Ito's,
which people with colour-blindness can read, and arms still differ in grey print.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: reports are built where there is no screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

INK = "#1f2933"
MUTED = "#66727f"
WIDTH = 7.6  # inches; a column of the report
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#000000",
    "#8c6bb1",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))
_SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e8ec",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a label is a $
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmStyle:
    """How an arm looks in every figure."""

    label: str
    colour: str
    marker: str
    line: str | tuple

    def plot(self, axis: Axes, xs: ArrayLike, ys: ArrayLike, **changes):
        """The arm's line with its markers."""
        look: dict[str, Any] = {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.line,
        }
        axis.plot(xs, ys, **look | changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A score with the limits of its interval, None without one."""

    value: float
    low: float | None
    high: float | None


def arm_styles(labels: Mapping[str, str]) -> dict[str, ArmStyle]:
    """A look for each arm, by name: colour, marker and line differ between any two."""
    return {
        name: ArmStyle(
            label=label,
            colour=COLOURS[index % len(COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            line=_LINES[(index + index // len(COLOURS)) % len(_LINES)],
        )
        for index, (name, label) in enumerate(labels.items())
    }


def legend(figure: Figure, axis: Axes) -> None:
    """One legend above the whole figure, of what an axis shows."""
    handles, labels = axis.get_legend_handles_labels()
    columns = min(4, max(1, len(labels)))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def row_labels(axis: Axes, labels: Sequence[str], *, above: float) -> None:
    """One labelled row per entry, from the top; `above` is the room over the first."""
    axis.set_yticks(range(len(labels)), labels)
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.set_ylim(len(labels) - 0.45, -above)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)


def draw(plot: Callable[[], Figure], folder: pathlib.Path, name: str) -> str:
    """Draws a figure to NAME.svg and NAME.png; returns the SVG as a part of a page."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    with plt.rc_context(_SETTINGS):
        figure = plot()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", dpi=160, metadata={"Software": None})
        plt.close(figure)
    text = _renumbered(buffer.getvalue(), name)
    (folder / f"{name}.svg").write_text(text)
    return text[text.index("<svg") :]


def _renumbered(svg: str, name: str) -> str:
    """Ids NAME-1, NAME-2, ..: unique in a page of several figures, alike every time.

    Matplotlib derives some of its ids from addresses in memory.
    """
    ids = list(dict.fromkeys(re.findall(r'\bid="([^"]+)"', svg)))
    numbers = {old: f"{name}-{number}" for number, old in enumerate(ids)}

    def renamed(found: re.Match) -> str:
        return f"{found[1]}{numbers[found[2]]}{found[3]}"

    return re.sub(r'(\bid="|href="#|url\(#)([^")]+)("|\))', renamed, svg)
