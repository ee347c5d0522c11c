"""A report as plain blocks, which Markdown and HTML both render."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heading:
    """A section's title; `level` 2 or 3."""

    text: str
    level: int


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Prose; **bold** and `code` are the only markup."""

    text: str


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list of short paragraphs."""

    items: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Callout:
    """Something to be read first: 'verdict', 'warning' or 'note'."""

    kind: str
    title: str
    items: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """A strip of key figures: (value, what it is)."""

    items: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under columns, with a caption.

    Attributes:
      aligns: 'l' or 'r' per column.
      muted: numbers of rows that are there for reference, such as floors.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    aligns: str
    caption: str
    muted: Sequence[int] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FigureBlock:
    """A figure that lies in figures/ and, as SVG, in the page itself.

    Attributes:
      name: of the files, without suffix.
      svg: the drawing.
      caption: what is seen, with units.
    """

    name: str
    svg: str
    caption: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Details:
    """Long material that is folded away on screen."""

    title: str
    text: str


Block = Heading | Paragraph | Bullets | Callout | Facts | Table | FigureBlock | Details


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """A titled sequence of blocks."""

    title: str
    subtitle: str
    blocks: Sequence[Block]
