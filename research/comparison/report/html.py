"""A document as one HTML file without scripts and without anything to fetch."""

from __future__ import annotations

import html
import pathlib
import re
from collections.abc import Mapping

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore

from research.comparison.report.document import (
    Block,
    Callout,
    Details,
    Document,
    Facts,
    Figure,
    Table,
)
from research.evaluation import markdown

_STYLE = pathlib.Path(__file__).with_name("report.css")


def _anchors(state: StateCore) -> None:
    """Gives each heading an id, for links to it."""
    for opening, text in zip(state.tokens, state.tokens[1:]):
        if opening.type == "heading_open":
            opening.attrSet("id", _anchor(text.content))


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


# Neither HTML nor links nor images: what a config or an error message says is text.
_MARKDOWN = MarkdownIt("zero").enable(
    ["heading", "list", "table", "emphasis", "backticks", "escape", "entity"]
)
_MARKDOWN.core.ruler.push("anchors", _anchors)


def render(doc: Document, drawings: Mapping[str, str]) -> str:
    """The whole page.

    Args:
      drawings: name of a figure -> SVG.
    """
    body = "\n".join(_block(block, drawings) for block in doc.blocks)
    titles = re.findall(r'<h2 id="([^"]*)">(.*)</h2>', body)
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in titles)
    title = html.escape(doc.title)
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<!-- An empty icon: browsers ask the server for one otherwise. -->
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{_STYLE.read_text()}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
<p class="sub">{_inline(doc.subtitle)}</p>
<nav>{links}</nav>
</header>
{body}
</main>
</body>
</html>
"""


def _inline(text: str) -> str:
    return _MARKDOWN.renderInline(text)


def _block(block: Block, drawings: Mapping[str, str]) -> str:
    match block:
        case str():
            return _MARKDOWN.render(block)
        case Callout():
            items = _MARKDOWN.render(markdown.bullets(block.items))
            title = f"<strong>{_inline(block.title)}</strong>"
            return f'<div class="callout {block.kind}">{title}{items}</div>'
        case Facts():
            items = "".join(
                f"<div><b>{_inline(value)}</b><span>{_inline(label)}</span></div>"
                for value, label in block.items
            )
            return f'<div class="facts">{items}</div>'
        case Table():
            text = markdown.table(block.columns, block.rows, block.aligns)
            table = f'<div class="scroll">{_MARKDOWN.render(text)}</div>'
            # Beside the table and not in it: wide tables scroll, captions do not.
            return f'{table}<p class="caption">{_inline(block.caption)}</p>'
        case Figure():
            return _figure(block, drawings[block.name])
        case Details():
            return (
                f"<details><summary>{html.escape(block.title)}</summary>"
                f"<pre>{html.escape(block.text)}</pre></details>"
            )


def _figure(block: Figure, svg: str) -> str:
    label = html.escape(block.caption)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    caption = f"<figcaption>{_inline(block.caption)}</figcaption>"
    return f'<figure><div class="scroll">{svg}</div>{caption}</figure>'
