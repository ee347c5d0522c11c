"""Draws one row of an example: clean text beside inputs, and each token with its target.

This needs the Example alone, not the objective. A target is shown under the position
that it is read at, with its weight where that is neither 0 nor 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from models.inputs import ModelInputs
from objectives.types import Example, Target, Term
from research.previewing.pieces import STYLES, Pieces, parts_of

# Names of lines about the inputs; all others are targets.
_FACTS = ("position", "segment", "type", "both ways", "index", "span")


@dataclasses.dataclass(frozen=True)
class Side:
    """The tokens of one stack, without padding.

    Attributes:
      name: 'inputs', or 'encoder' and 'decoder'.
      tokens: ids.
      parts: keys of STYLES.
      padding: number of padding tokens cut off.
      lines: name -> text under each position.
    """

    name: str
    tokens: np.ndarray
    parts: list[str]
    padding: int
    lines: dict[str, dict[int, str]]


def take_row(example: Example, row: int) -> Example:
    """One row as NumPy arrays without the leading axis."""
    return jax.tree.map(lambda x: np.asarray(x)[row], example)


def show_row(
    pieces: Pieces,
    clean: np.ndarray,
    example: Example,
    terms: Mapping[str, Term],
    *,
    in_place: bool,
) -> RenderableType:
    """Clean text beside inputs, then each side token by token, then labels.

    Args:
      pieces: writes ids.
      clean: the row's clean ids [R].
      example: the row, see `take_row`.
      terms: the loss terms that the row has targets of.
      in_place: whether a target is the token at the position that it is read at, as
        for an encoder, or the next token.
    """
    token_targets = {
        term: target
        for term, target in example.targets.items()
        if terms[term].predicts == "tokens"
    }
    sides = []
    if example.inputs.encoder is not None:
        sides.append(_side("encoder", example.inputs.encoder, {}, pieces, in_place))
    name = "decoder" if sides else "inputs"
    sides.append(_side(name, example.inputs, token_targets, pieces, in_place))
    written = {} if in_place else token_targets
    parts: list[RenderableType] = [_side_by_side(pieces, clean, sides, written)]
    for side in sides:
        # Without lines the running text shows everything already.
        if side.lines:
            parts += [Text(), Gloss(pieces, side)]
    labels = _labels(example, terms, pieces)
    if labels:
        parts += [Text(), *labels]
    parts += [Text(), _legend([part for side in sides for part in side.parts])]
    return Group(*parts)


def _legend(parts: Sequence[str]) -> Text:
    """The meaning of the colours that occur."""
    text = Text()
    for part, (style, meaning) in STYLES.items():
        if part in parts and meaning:
            text.append("  " if text else "")
            text.append(f" {meaning} ", style)
    return text


def _side(
    name: str,
    inputs: ModelInputs,
    targets: Mapping[str, Target],
    pieces: Pieces,
    in_place: bool,
) -> Side:
    real = int((inputs.segment_ids > 0).sum())
    tokens = np.asarray(inputs.tokens)
    hidden: dict[int, int] = {}
    lines = _facts(inputs, real)
    for term, target in targets.items():
        lines[term] = _target_line(target, pieces)
        if target.span_starts is not None and target.span_ends is not None:
            lines["index"] = _line(np.arange(real))
            lines["span"] = {
                place: f"{target.span_starts[slot]}-{target.span_ends[slot]}"
                for place, _, _, slot in _live(target)
            } | lines.get("span", {})
        if in_place:
            hidden |= {place: value for place, value, *_ in _live(target)}
    parts = parts_of(
        tokens[:real],
        pieces.vocabulary,
        token_types=_array(inputs.token_type_ids),
        bidirectional=_array(inputs.bidirectional),
        hidden=hidden,
    )
    return Side(
        name=name,
        tokens=tokens[:real],
        parts=parts,
        padding=len(tokens) - real,
        lines=lines,
    )


def _array(values: Any) -> np.ndarray | None:
    return None if values is None else np.asarray(values)


def _facts(inputs: ModelInputs, real: int) -> dict[str, dict[int, str]]:
    """Lines about segments and positions, where they differ from the plain ones."""
    lines = {}
    positions = np.asarray(inputs.positions)[:real]
    segments = np.asarray(inputs.segment_ids)[:real]
    types, seen = _array(inputs.token_type_ids), _array(inputs.bidirectional)
    if (positions != np.arange(real)).any():
        lines["position"] = _line(positions)
    if len(np.unique(segments)) > 1:
        lines["segment"] = _line(segments)
    if types is not None and types[:real].any():
        lines["type"] = _line(types[:real])
    if seen is not None and not seen[:real].all():
        lines["both ways"] = {int(place): "•" for place in np.flatnonzero(seen[:real])}
    return lines


def _line(values: np.ndarray) -> dict[int, str]:
    return {place: str(value) for place, value in enumerate(values.tolist())}


def _live(target: Target) -> list[tuple[int, int, float, int]]:
    """(position, value, weight, slot) of the slots that count."""
    slots = np.flatnonzero(target.loss_weights > 0)
    positions = _array(target.positions)
    if positions is None:
        positions = np.arange(len(target.values))
    return [
        (
            int(positions[slot]),
            int(target.values[slot]),
            float(target.loss_weights[slot]),
            int(slot),
        )
        for slot in slots
    ]


def _target_line(target: Target, pieces: Pieces) -> dict[int, str]:
    line = {}
    for position, value, weight, _ in _live(target):
        text = pieces.cell(value)
        line[position] = text if weight == 1.0 else f"{text} ×{weight:.3g}"
    return line


def _side_by_side(
    pieces: Pieces,
    clean: np.ndarray,
    sides: Sequence[Side],
    targets: Mapping[str, Target],
) -> Table:
    """Running text in columns: the clean row, each stack's tokens, the targets."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    columns = {"clean row": pieces.flow(clean, parts_of(clean, pieces.vocabulary))}
    for side in sides:
        # A decoder reads its own targets: they are shown instead.
        if side.name != "decoder":
            columns[side.name] = pieces.flow(side.tokens, side.parts)
    for term, target in targets.items():
        values = np.array([value for _, value, *_ in _live(target)], np.int32)
        columns[f"targets of {term}"] = pieces.flow(
            values, parts_of(values, pieces.vocabulary)
        )
    for name in columns:
        table.add_column(Text(name, "bold"), ratio=1, overflow="fold")
    table.add_row(*columns.values())
    return table


def _labels(example: Example, terms: Mapping[str, Term], pieces: Pieces) -> list[Text]:
    lines = []
    for term in example.targets:
        if terms[term].predicts != "labels":
            continue
        target = example.targets[term]
        for slot, value in enumerate(target.values.tolist()):
            weight = target.loss_weights[slot]
            text = Text.assemble(
                (f"{term}  ", "bold"),
                (
                    f"{terms[term].label_names[value]}",
                    "bold green" if weight else "dim",
                ),
                f"  label {value}, weight {weight:g}"
                + ("" if weight else ": not in the loss"),
            )
            if target.positions is not None:
                place = int(target.positions[slot])
                name = pieces.cell(int(example.inputs.tokens[place]))
                text.append(f", read at position {place}, {name}")
            lines.append(text)
    return lines


@dataclasses.dataclass(frozen=True)
class Gloss:
    """Tokens in columns as wide as they need, their lines under them, folded.

    inputs  [CLS]  the  [MASK]  sat  on  run  mat  [SEP]
    mlm                 cat              the
    """

    pieces: Pieces
    side: Side

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        side = self.side
        names = [side.name, *side.lines]
        indent = max(map(cell_len, names)) + 2
        cells = [self.pieces.cell(int(number)) for number in side.tokens]
        widths = [
            2 + max(cell_len(text) for text in (cell, *self._under(place)))
            for place, cell in enumerate(cells)
        ]
        for number, block in enumerate(_fold(widths, options.max_width - indent)):
            if number:
                yield Text()
            yield self._text_line(cells, widths, block, indent)
            for name, line in side.lines.items():
                if not any(place in line for place in block):
                    continue
                text = Text(name.ljust(indent), "dim", no_wrap=True)
                for place in block:
                    cell = line.get(place, "")
                    text.append(
                        _pad(cell, widths[place]), "dim" if name in _FACTS else "bold"
                    )
                text.rstrip()
                yield text
        if side.padding:
            yield Text(f"{'':{indent}}then {side.padding} x padding", "dim")

    def _under(self, place: int) -> list[str]:
        return [line.get(place, "") for line in self.side.lines.values()]

    def _text_line(
        self, cells: Sequence[str], widths: Sequence[int], block: range, indent: int
    ) -> Text:
        text = Text(self.side.name.ljust(indent), "bold", no_wrap=True)
        for place in block:
            style = STYLES[self.side.parts[place]][0]
            text.append(cells[place], style or "not bold")
            text.append(" " * (widths[place] - cell_len(cells[place])), "not bold")
        text.rstrip()
        return text


def _pad(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _fold(widths: Sequence[int], limit: int) -> list[range]:
    """Ranges of columns that fit into lines of `limit` cells."""
    blocks, start, used = [], 0, 0
    for place, width in enumerate(widths):
        if used + width > limit and place > start:
            blocks.append(range(start, place))
            start, used = place, 0
        used += width
    if start < len(widths):
        blocks.append(range(start, len(widths)))
    return blocks
