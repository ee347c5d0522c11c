"""Reads the TSV files of GLUE: cells end at tabs and newlines, quotes are text."""

from __future__ import annotations

import dataclasses
import pathlib

from research.errors import UserError


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of a TSV file.

    Attributes:
      path: the file.
      columns: names of the columns.
      rows: (line number from 1, cells) of every whole row.
      broken: line numbers of rows that were left out.
    """

    path: pathlib.Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    broken: tuple[int, ...]

    def column(self, name: str) -> tuple[str, ...]:
        """The cells of a column.

        Raises:
          UserError: the file has no such column.
        """
        if name not in self.columns:
            raise UserError(
                f"{self.path}, line 1: no column {name!r}; the columns are "
                f"{', '.join(map(repr, self.columns))}."
            )
        index = self.columns.index(name)
        return tuple(cells[index] for _, cells in self.rows)

    def where(self, row: int) -> str:
        """'file, line n' of a row, for messages."""
        return f"{self.path}, line {self.rows[row][0]}"


def read(
    path: pathlib.Path, *, columns: tuple[str, ...] | None, max_broken: int
) -> Table:
    """Reads a file; quotation marks are text and only '\\n' ends a line.

    A byte order mark, a missing final newline and '\\r\\n' are accepted. U+0085 and
    U+2028, which `str.splitlines` would break at, occur inside sentences.

    Args:
      path: the file.
      columns: names of the columns of a file without header; None = the first line.
      max_broken: rows with another number of cells that are left out rather than
        refused.

    Raises:
      UserError: the file is empty, is not UTF-8 or has too many broken rows; the
        message names file, line and what was expected.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}).") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines[-1] == "":
        lines.pop()
    first = 1
    if columns is None and lines:
        columns, lines, first = tuple(lines[0].split("\t")), lines[1:], 2
    if not lines or columns is None:
        raise UserError(f"{path}: no rows.")
    rows, broken = [], []
    for number, line in enumerate(lines, start=first):
        cells = tuple(line.split("\t"))
        if len(cells) == len(columns):
            rows.append((number, cells))
            continue
        broken.append(number)
        if len(broken) > max_broken:
            raise UserError(
                f"{path}, line {number}: {len(cells)} cells, but {len(columns)} were "
                f"expected ({', '.join(columns)}), separated by tabs."
            )
    return Table(path, columns, tuple(rows), tuple(broken))
