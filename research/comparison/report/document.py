"""A report as blocks of Markdown and figures."""

from __future__ import annotations

import dataclasses
import html
import textwrap
from collections.abc import Callable, Sequence

import matplotlib.figure

from research.evaluation import markdown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Callout:
    """Something to be read first: 'verdict' or 'warning'."""

    kind: str
    title: str
    items: Sequence[str]

    def to_markdown(self) -> str:
        text = f"**{self.title}**\n\n{markdown.bullets(self.items)}"
        return textwrap.indent(text, "> ", lambda line: True).replace("> \n", ">\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """A strip of key figures: (value, what it is)."""

    items: Sequence[tuple[str, str]]

    def to_markdown(self) -> str:
        return " · ".join(f"**{value}** {label}" for value, label in self.items)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a caption; a row whose first cell is *italic* is shown in grey.

    Attributes:
      aligns: 'l' or 'r' per column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    aligns: str
    caption: str

    def to_markdown(self) -> str:
        text = markdown.table(self.columns, self.rows, self.aligns)
        return f"{text}\n\n*{self.caption}*" if self.caption else text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure that lies in figures/ and, as SVG, in the page itself.

    Attributes:
      name: of the files, without suffix.
      caption: what is seen, with units.
      plot: draws it.
    """

    name: str
    caption: str
    plot: Callable[[], matplotlib.figure.Figure]

    def to_markdown(self) -> str:
        alternative = self.caption.replace("[", "(").replace("]", ")")
        return f"![{alternative}](figures/{self.name}.png)\n\n*{self.caption}*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Details:
    """Long plain text that is folded away on screen."""

    title: str
    text: str

    def to_markdown(self) -> str:
        title, text = html.escape(self.title), html.escape(self.text)
        return f"<details><summary>{title}</summary>\n\n<pre>\n{text}\n</pre>\n\n</details>"


# A str is Markdown: headings, paragraphs, lists.
Block = str | Callout | Facts | Table | Figure | Details


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """A titled sequence of blocks; the title is plain text, all else Markdown."""

    title: str
    subtitle: str
    blocks: Sequence[Block]

    def to_markdown(self) -> str:
        """The whole document; figures are links to figures/NAME.png."""
        parts = [f"# {markdown.escape(self.title)}", self.subtitle]
        parts += [b if isinstance(b, str) else b.to_markdown() for b in self.blocks]
        return "\n\n".join(parts) + "\n"
