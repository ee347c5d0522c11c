"""The tables of a suite, for people and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import rich.console
import rich.table

from research.machine.timing import Seconds

_SHARES = ("of limit", "share", "MFU", "corruption", "input", "efficiency")
_RATIOS = ("ratio", "at its best", "gathered", "grouped", "padded")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a person chooses for all suites.

    Attributes:
      rounds: alternating rounds of each measurement.
      peers: measure transformers + torch side by side.
      glue: folder of GLUE's TSVs for fine-tuning; '' = made-up sentences.
    """

    rounds: int
    peers: bool
    glue: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of a suite.

    Attributes:
      title: what was measured.
      rows: name of the column -> value.
      notes: what the columns mean.
    """

    title: str
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()

    def show(self, console: rich.console.Console) -> None:
        """Prints the table."""
        table = rich.table.Table(title=self.title, title_justify="left")
        columns = list(self.rows[0])
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*(_text(column, row.get(column)) for column in columns))
        console.print(table)
        for note in self.notes:
            console.print(f"  {note}", highlight=False)
        console.print()


def _text(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if column in _SHARES:
        return f"{100 * value:.2f}%" if value < 0.1 else f"{100 * value:.0f}%"
    if column in _RATIOS:
        return f"{value:.2f}x"
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def ratios(ours: Seconds, peer: Seconds) -> dict[str, float]:
    """How many times as long the peer takes: its median and its fastest round."""
    return {
        "ratio": peer.median / ours.median,
        "at its best": peer.best / ours.median,
    }


def to_json(tables: Sequence[Table]) -> str:
    """The tables as JSON."""
    return json.dumps([dataclasses.asdict(table) for table in tables], indent=1) + "\n"
