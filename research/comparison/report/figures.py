"""The figures of a report, drawn from plain data.

Arms are told apart by colour, marker and line style together: the palette is Okabe and
Ito's, which people with colour-blindness can read, and prints in grey still differ.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: reports are built where there is no screen

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from research.machine import files

INK = "#1f2933"
MUTED = "#66727f"
GRID = "#e4e8ec"
WIDTH = 7.6  # inches; a column of the report
_COLOURS = (
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
# Blue for better, orange for worse; neither is red or green.
_DELTAS = LinearSegmentedColormap.from_list(
    "deltas", ["#b35806", "#f1a340", "#f7f7f7", "#74add1", "#2166ac"]
)
_STYLE: Any = {
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
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossCurves:
    """Losses of one arm, a curve per seed.

    Attributes:
      tokens: clean tokens seen, per held-out evaluation. [points]
      heldout: one array per seed. [points]
      train_tokens, train: the same of the training loss.
      unigram: entropy of the arm's own targets, in nats; None until known.
    """

    tokens: Sequence[np.ndarray]
    heldout: Sequence[np.ndarray]
    train_tokens: Sequence[np.ndarray]
    train: Sequence[np.ndarray]
    unigram: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A score with its interval; limits None without one."""

    value: float
    low: float | None
    high: float | None


def arm_styles(labels: Mapping[str, str]) -> dict[str, ArmStyle]:
    """A look for each arm, by name: colour, marker and line differ between any two."""
    return {
        name: ArmStyle(
            label=label,
            colour=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            line=_LINES[(index + index // len(_COLOURS)) % len(_LINES)],
        )
        for index, (name, label) in enumerate(labels.items())
    }


def loss_curves(
    curves: Mapping[str, LossCurves], styles: Mapping[str, ArmStyle]
) -> Figure:
    """A panel per arm: losses of different objectives have nothing in common."""
    with plt.rc_context(_STYLE):
        columns = min(3, len(curves))
        rows = -(-len(curves) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(WIDTH, 2.55 * rows + 0.3), squeeze=False
        )
        for axis in axes.flat[len(curves) :]:
            axis.set_visible(False)
        for axis, (arm, curve) in zip(axes.flat, curves.items()):
            _loss_panel(axis, curve, styles[arm])
        for axis in axes[:, 0]:
            axis.set_ylabel("loss (nats per target)")
        for axis in axes[-1]:
            axis.set_xlabel("clean tokens seen (millions)")
        _shared_legend(figure, axes.flat[0])
        return figure


def _loss_panel(axis: Axes, curve: LossCurves, style: ArmStyle) -> None:
    for tokens, losses in zip(curve.train_tokens, curve.train):
        axis.plot(tokens / 1e6, losses, color=style.colour, alpha=0.3, linewidth=1)
    for index, (tokens, losses) in enumerate(zip(curve.tokens, curve.heldout)):
        axis.plot(
            tokens / 1e6,
            losses,
            color=style.colour,
            marker=style.marker,
            linestyle=style.line,
            alpha=1.0 if index == 0 else 0.55,
        )
    # What the legend shows is neutral: every panel has its own colour.
    axis.plot([], [], color=MUTED, alpha=0.45, linewidth=1, label="training loss")
    axis.plot([], [], color=MUTED, marker="o", label="held-out loss")
    axis.plot(
        [],
        [],
        color=INK,
        linestyle=":",
        label="unigram entropy of the arm's own targets",
    )
    axis.set_title(style.label)
    ends = [losses[-1] for losses in curve.heldout if len(losses)]
    if curve.unigram is not None:
        axis.axhline(curve.unigram, color=INK, linestyle=":", linewidth=1.4)
    if ends:
        axis.annotate(
            f"{np.mean(ends):.2f}",
            (1, np.mean(ends)),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 7),
            textcoords="offset points",
            ha="right",
            color=style.colour,
            fontweight="bold",
        )
    _loss_limits(axis, curve)
    axis.xaxis.set_major_locator(MaxNLocator(4))


def _loss_limits(axis: Axes, curve: LossCurves) -> None:
    """Leaves out the first steps' losses, which would flatten everything else."""
    shown = [losses for losses in curve.heldout if len(losses)]
    values = np.concatenate(shown) if shown else np.zeros(0)
    values = values[np.isfinite(values)]
    if curve.unigram is not None:
        values = np.append(values, curve.unigram)
    if len(values) < 2:
        return
    low, high = values.min(), values.max()
    room = 0.12 * max(high - low, 0.05)
    axis.set_ylim(low - room, high + room)


def scores(
    arms: Mapping[str, Point],
    floors: Mapping[str, Point],
    styles: Mapping[str, ArmStyle],
    *,
    axis_label: str,
    chance: float | None,
    chance_label: str,
) -> Figure:
    """A row per arm: its score, its random-initialisation floor, chance."""
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH, 0.55 * len(arms) + 1.25))
        names = list(arms)
        for row, arm in enumerate(names):
            style = styles[arm]
            if arm in floors:
                _score_point(axis, row + 0.16, floors[arm], style, is_floor=True)
            _score_point(axis, row - 0.1, arms[arm], style, is_floor=False)
        axis.plot([], [], "o", color=MUTED, label="pretrained")
        axis.plot(
            [], [], "o", color=MUTED, fillstyle="none", label="random initialisation"
        )
        if chance is not None:
            axis.axvline(chance, color=INK, linestyle=":", label=chance_label)
        axis.set_yticks(range(len(names)), [styles[arm].label for arm in names])
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.set_ylim(len(names) - 0.45, -0.55)
        axis.grid(axis="y", visible=False)
        axis.spines["left"].set_visible(False)
        axis.set_xlabel(axis_label)
        _shared_legend(figure, axis)
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


def budget_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, Point]]]],
    styles: Mapping[str, ArmStyle],
    *,
    score_label: str,
    chance: float | None,
) -> Figure:
    """Score against what was spent: a panel per axis, [(spent, score)] per arm."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(WIDTH, 2.9), sharey=True, squeeze=False
        )
        for axis, (label, arms) in zip(axes[0], panels.items()):
            for arm, values in arms.items():
                style = styles[arm]
                spent = [x for x, _ in values]
                axis.plot(
                    spent,
                    [point.value for _, point in values],
                    color=style.colour,
                    marker=style.marker,
                    linestyle=style.line,
                    label=style.label,
                )
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
        _shared_legend(figure, axes[0, 0])
        return figure


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    deltas: np.ndarray,
    texts: Sequence[Sequence[str]],
    clear: np.ndarray,
    *,
    label: str,
) -> Figure:
    """Differences to the reference; cells whose interval contains 0 stand in brackets.

    Args:
      deltas: [rows, columns], NaN where there is none.
      texts: what each cell says.
      clear: whether the cell's interval excludes 0. [rows, columns]
      label: of the colour bar, with its unit.
    """
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(
            figsize=(
                max(4.2, min(WIDTH, 3.2 + 1.1 * len(columns))),
                1.3 + 0.32 * len(rows),
            )
        )
        limit = max(float(np.nanmax(np.abs(deltas), initial=0.0)), 1e-9)
        image = axis.imshow(
            deltas, cmap=_DELTAS, norm=Normalize(-limit, limit), aspect="auto"
        )
        for i, j in np.ndindex(deltas.shape):
            strong = (
                abs(deltas[i, j]) > 0.7 * limit if np.isfinite(deltas[i, j]) else False
            )
            axis.text(
                j,
                i,
                texts[i][j] if clear[i, j] else f"({texts[i][j]})",
                ha="center",
                va="center",
                color="white" if strong else INK,
                fontsize=8.5,
                fontweight="bold" if clear[i, j] else "normal",
            )
        axis.set_xticks(range(len(columns)), columns, rotation=20, ha="right")
        axis.set_yticks(range(len(rows)), rows)
        axis.tick_params(length=0, labelcolor=INK)
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(image, ax=axis, label=label, shrink=0.9, ticks=[])
        bar.outline.set_visible(False)
        return figure


def win_matrix(names: Sequence[str], counts: np.ndarray) -> Figure:
    """Wins, ties and losses of each row's arm against each column's.

    Args:
      counts: [arms, arms, 3].
    """
    with plt.rc_context(_STYLE):
        size = 1.9 + 0.85 * len(names)
        figure, axis = plt.subplots(figsize=(min(WIDTH, size + 0.8), size * 0.62 + 0.7))
        total = np.maximum(counts.sum(-1), 1)
        balance = (counts[..., 0] - counts[..., 2]) / total
        axis.imshow(balance, cmap=_DELTAS, norm=Normalize(-1, 1), aspect="auto")
        for i, j in np.ndindex(balance.shape):
            wins, ties, losses = counts[i, j]
            text = f"{wins} / {ties} / {losses}"
            if not counts[i, j].any():
                text = "·" if i == j else "\N{EM DASH}"
            colour = "white" if abs(balance[i, j]) > 0.7 else INK
            axis.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)
        axis.set_xticks(range(len(names)), names, rotation=20, ha="right")
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(length=0, labelcolor=INK)
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.set_xlabel("against")
        return figure


def pareto(
    arms: Mapping[str, tuple[float, Point]],
    styles: Mapping[str, ArmStyle],
    *,
    cost_label: str,
    score_label: str,
    higher_is_better: bool,
) -> Figure:
    """Score against cost; the line joins the arms that no other arm beats on both."""
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH * 0.72, 3.2))
        for arm, (cost, point) in arms.items():
            style = styles[arm]
            if point.low is not None and point.high is not None:
                axis.plot([cost, cost], [point.low, point.high], color=style.colour)
            axis.plot(
                cost,
                point.value,
                marker=style.marker,
                color=style.colour,
                markersize=8,
                linestyle="none",
                label=style.label,
            )
        front = pareto_front(
            {arm: (cost, point.value) for arm, (cost, point) in arms.items()},
            higher_is_better=higher_is_better,
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
        _shared_legend(figure, axis)
        return figure


def pareto_front(
    arms: Mapping[str, tuple[float, float]], *, higher_is_better: bool
) -> list[str]:
    """Arms that no other is both cheaper and better than, by cost."""
    sign = 1.0 if higher_is_better else -1.0
    front: list[str] = []
    best = -np.inf
    for arm in sorted(arms, key=lambda name: (arms[name][0], -sign * arms[name][1])):
        if sign * arms[arm][1] > best:
            best = sign * arms[arm][1]
            front.append(arm)
    return front


def learning_rates(
    arms: Mapping[str, Mapping[float, Sequence[float]]],
    chosen: Mapping[str, float],
    styles: Mapping[str, ArmStyle],
) -> Figure:
    """Held-out loss above the arm's best, against the learning rate."""
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH * 0.72, 3.0))
        for arm, losses in arms.items():
            style = styles[arm]
            rates = sorted(losses)
            means = np.array([np.mean(losses[rate]) for rate in rates])
            finite = np.isfinite(means)
            best = means[finite].min() if finite.any() else 0.0
            above = means - best
            axis.plot(
                rates,
                above,
                color=style.colour,
                marker=style.marker,
                linestyle=style.line,
                label=style.label,
            )
            if arm in chosen:
                index = rates.index(chosen[arm])
                axis.plot(
                    rates[index],
                    above[index],
                    marker="o",
                    markersize=12,
                    fillstyle="none",
                    color=style.colour,
                    linestyle="none",
                )
        axis.plot(
            [], [], "o", markersize=11, fillstyle="none", color=MUTED, label="chosen"
        )
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.set_xlabel("peak learning rate")
        axis.set_ylabel("held-out loss above best (nats)")
        _shared_legend(figure, axis)
        return figure


def contrasts(pairs: Mapping[str, tuple[float, Point]]) -> Figure:
    """A row per contrast: the published difference and the measured one."""
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH, 0.5 * len(pairs) + 1.3))
        axis.axvline(0, color=INK, linewidth=1)
        for row, (published, point) in enumerate(pairs.values()):
            if point.low is not None and point.high is not None:
                limits = [point.low, point.high]
                axis.plot(limits, [row, row], color=_COLOURS[0], linewidth=1.6)
            axis.plot(point.value, row, "o", color=_COLOURS[0], markersize=8)
            axis.plot(
                published,
                row - 0.22,
                "D",
                color=_COLOURS[1],
                fillstyle="none",
                markersize=7,
            )
        axis.plot([], [], "o-", color=_COLOURS[0], label="measured")
        axis.plot([], [], "D", color=_COLOURS[1], fillstyle="none", label="published")
        axis.set_yticks(range(len(pairs)), list(pairs))
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.set_ylim(len(pairs) - 0.45, -0.65)
        axis.grid(axis="y", visible=False)
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("difference (points)")
        _shared_legend(figure, axis)
        return figure


def _shared_legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=min(4, max(1, len(labels)))
    )


def save(figure: Figure, folder: pathlib.Path, name: str) -> str:
    """Writes NAME.svg and NAME.png, and returns the SVG to be put into a page."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    with plt.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", dpi=160, metadata={"Software": None})
    plt.close(figure)
    text = _renumbered(buffer.getvalue(), name)
    files.write(folder / f"{name}.svg", text)
    text = text[text.index("<svg") :]
    return re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)


def _renumbered(svg: str, name: str) -> str:
    """Ids NAME-1, NAME-2, ..: unique in a page of several figures, alike every time.

    Matplotlib derives some of its ids from addresses in memory.
    """
    ids = list(dict.fromkeys(re.findall(r'\bid="([^"]+)"', svg)))
    numbers = {old: f"{name}-{number}" for number, old in enumerate(ids)}

    def renamed(found: re.Match) -> str:
        return f"{found[1]}{numbers[found[2]]}{found[3]}"

    return re.sub(r'(\bid="|href="#|url\(#)([^")]+)("|\))', renamed, svg)
