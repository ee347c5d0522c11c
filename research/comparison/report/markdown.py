"""A document as Markdown."""

from __future__ import annotations

from collections.abc import Callable

from research.comparison.report import document
from research.comparison.report.document import Block, Document


def render(doc: Document) -> str:
    """The whole document; figures are links to figures/NAME.png."""
    parts = [f"# {doc.title}", doc.subtitle]
    parts += [_BLOCKS[type(block)](block) for block in doc.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(block: document.Heading) -> str:
    return f"{'#' * block.level} {block.text}"


def _paragraph(block: document.Paragraph) -> str:
    return block.text


def _bullets(block: document.Bullets) -> str:
    return "\n".join(f"- {item}" for item in block.items)


def _callout(block: document.Callout) -> str:
    lines = [f"**{block.title}**", ""]
    lines += [f"- {item}" for item in block.items]
    return "\n".join(f"> {line}".rstrip() for line in lines)


def _facts(block: document.Facts) -> str:
    return " · ".join(f"**{value}** {label}" for value, label in block.items)


def _table(block: document.Table) -> str:
    marks = {"l": ":--", "r": "--:"}
    lines = [
        [_cell(column) for column in block.columns],
        [marks[align] for align in block.aligns],
        *[[_cell(value) for value in row] for row in block.rows],
    ]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\n*{block.caption}*" if block.caption else text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _figure(block: document.FigureBlock) -> str:
    alt = block.caption.replace("[", "(").replace("]", ")")
    return f"![{alt}](figures/{block.name}.png)\n\n*{block.caption}*"


def _details(block: document.Details) -> str:
    return (
        f"<details><summary>{block.title}</summary>\n\n```\n{block.text}\n```\n\n"
        f"</details>"
    )


_BLOCKS: dict[type[Block], Callable[..., str]] = {
    document.Heading: _heading,
    document.Paragraph: _paragraph,
    document.Bullets: _bullets,
    document.Callout: _callout,
    document.Facts: _facts,
    document.Table: _table,
    document.FigureBlock: _figure,
    document.Details: _details,
}
