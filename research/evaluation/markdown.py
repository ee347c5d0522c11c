"""Markdown as text: tables, lists, and words that are shown as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ALIGNMENTS = {"l": ":--", "r": "--:"}
# Underscores inside a word are no markup.
_MARKUP = re.compile(r"[\\`*\[\]~]|&(?=#?\w+;)|(?<!\w)_|_(?!\w)")


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], aligns: str = ""
) -> str:
    """A table of cells that are Markdown themselves.

    Args:
      aligns: 'l' or 'r' for each column; '' is left everywhere.
    """
    marks = [_ALIGNMENTS[align] for align in aligns or "l" * len(columns)]
    lines = [[_cell(text) for text in row] for row in (columns, *rows)]
    lines.insert(1, marks)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def bullets(items: Sequence[str]) -> str:
    """A list of lines that are Markdown themselves."""
    return "\n".join(f"- {item}" for item in items)


def escape(text: str) -> str:
    """Plain text, for one line of Markdown."""
    text = _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
    # An entity and no backslash: not every reader of Markdown knows `\<`.
    return text.replace("<", "&lt;")
