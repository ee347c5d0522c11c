"""A document as one HTML file that needs nothing else: no script, no network."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from research.comparison.report import document
from research.comparison.report.document import Block, Document

_CSS = """
:root { --ink:#1f2933; --muted:#5f6b78; --line:#e1e6eb; --soft:#f6f8fa;
  --accent:#0072b2; --warn:#b35806; --page:#ffffff; }
* { box-sizing:border-box; }
html { -webkit-text-size-adjust:100%; }
body { margin:0; background:#eef1f4; color:var(--ink);
  font:15.5px/1.6 "Source Serif 4","Iowan Old Style",Charter,Georgia,serif; }
main { max-width:960px; margin:2.2rem auto; background:var(--page);
  padding:3rem clamp(1.2rem,5vw,4.2rem) 3.4rem; border-radius:6px;
  box-shadow:0 1px 3px rgba(31,41,51,.12),0 8px 32px rgba(31,41,51,.06); }
h1,h2,h3,th,.facts,figcaption,caption,nav,summary,.callout strong,.sub {
  font-family:Inter,"Helvetica Neue",Helvetica,Arial,"DejaVu Sans",sans-serif; }
h1 { font-size:1.95rem; line-height:1.2; letter-spacing:-.015em; margin:0 0 .35rem; }
h2 { font-size:1.22rem; letter-spacing:-.005em; margin:2.7rem 0 .7rem;
  padding-top:1.1rem; border-top:1px solid var(--line); }
h3 { font-size:1rem; margin:1.7rem 0 .4rem; }
p { margin:.55rem 0 .9rem; max-width:44rem; }
ul { margin:.4rem 0 1rem; padding-left:1.25rem; max-width:44rem; }
li { margin:.2rem 0; }
.sub { color:var(--muted); font-size:.9rem; margin:0 0 1.4rem; max-width:none; }
code,pre { font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",
  monospace; font-size:.82em; }
code { background:var(--soft); padding:.08em .32em; border-radius:3px; }
nav { font-size:.82rem; margin:1.3rem 0 0; display:flex; flex-wrap:wrap;
  gap:.25rem 1.1rem; }
nav a, a { color:var(--accent); text-decoration:none; }
nav a:hover { text-decoration:underline; }
.facts { display:flex; flex-wrap:wrap; gap:.9rem 2.3rem; margin:1.3rem 0;
  padding:1rem 0; border-top:1px solid var(--line); border-bottom:1px solid var(--line); }
.facts div { line-height:1.25; }
.facts b { display:block; font-size:1.28rem; font-weight:650; letter-spacing:-.01em; }
.facts span { color:var(--muted); font-size:.78rem; }
.callout { border-left:4px solid var(--accent); background:var(--soft);
  padding:.85rem 1.2rem .75rem; margin:1.2rem 0; border-radius:0 5px 5px 0; }
.callout.warning { border-color:var(--warn); background:#fdf6ee; }
.callout.note { border-color:#9aa5b1; }
.callout ul { margin:.35rem 0 0; max-width:none; }
.callout strong:first-child { font-size:.95rem; }
.scroll { overflow-x:auto; margin:1rem 0 1.3rem; }
table { border-collapse:collapse; width:100%; font-size:.84rem; line-height:1.4;
  font-variant-numeric:tabular-nums;
  font-family:Inter,"Helvetica Neue",Helvetica,Arial,"DejaVu Sans",sans-serif; }
caption { caption-side:bottom; text-align:left; color:var(--muted); font-size:.8rem;
  padding-top:.55rem; line-height:1.45; }
th { text-align:left; font-weight:600; color:var(--muted); font-size:.76rem;
  border-bottom:1.5px solid #b8c2cc; padding:.4rem .65rem .4rem 0; vertical-align:bottom; }
td { border-bottom:1px solid var(--line); padding:.42rem .65rem .42rem 0;
  vertical-align:top; }
th:last-child,td:last-child { padding-right:0; }
.r { text-align:right; }
td.r { white-space:nowrap; }
tr.muted td { color:var(--muted); font-style:italic; }
figure { margin:1.3rem 0 1.6rem; }
figure svg { width:100%; height:auto; display:block; }
figure.narrow svg { max-width:560px; }
figcaption { color:var(--muted); font-size:.82rem; line-height:1.5; margin-top:.5rem; }
details { border:1px solid var(--line); border-radius:5px; margin:.5rem 0; }
summary { cursor:pointer; padding:.5rem .85rem; font-size:.84rem; }
details pre { margin:0; padding:.8rem 1rem; border-top:1px solid var(--line);
  background:var(--soft); overflow:auto; max-height:26rem; line-height:1.45; }
@media (max-width:640px) { main { margin:0; border-radius:0; } body { font-size:15px; } }
@media print {
  @page { margin:16mm 15mm; }
  body { background:#fff; font-size:10.2pt; }
  main { box-shadow:none; margin:0; padding:0; max-width:none; }
  h2,h3,caption { break-after:avoid; } figure,tr,.callout,.facts { break-inside:avoid; }
  nav { display:none; } .scroll { overflow:visible; }
  table { font-size:.72rem; } th,td { padding-right:.5rem; }
  details { break-inside:avoid; } details pre { max-height:none; overflow:visible;
    white-space:pre-wrap; }
}
"""


def render(doc: Document) -> str:
    """The whole page."""
    headings = [
        block.text
        for block in doc.blocks
        if isinstance(block, document.Heading) and block.level == 2
    ]
    links = "".join(f'<a href="#{_anchor(t)}">{html.escape(t)}</a>' for t in headings)
    body = "\n".join(_BLOCKS[type(block)](block) for block in doc.blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # An empty icon: browsers ask the server for one otherwise.
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(doc.title)}</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n<main>\n<header>\n<h1>{html.escape(doc.title)}</h1>\n"
        f'<p class="sub">{_inline(doc.subtitle)}</p>\n<nav>{links}</nav>\n</header>\n'
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _inline(text: str) -> str:
    text = html.escape(text, quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", text)


def _heading(block: document.Heading) -> str:
    level, anchor = block.level, _anchor(block.text)
    return f'<h{level} id="{anchor}">{_inline(block.text)}</h{level}>'


def _paragraph(block: document.Paragraph) -> str:
    return f"<p>{_inline(block.text)}</p>"


def _items(items) -> str:
    return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>"


def _bullets(block: document.Bullets) -> str:
    return _items(block.items)


def _callout(block: document.Callout) -> str:
    return (
        f'<div class="callout {block.kind}"><strong>{_inline(block.title)}</strong>'
        f"{_items(block.items)}</div>"
    )


def _facts(block: document.Facts) -> str:
    items = "".join(
        f"<div><b>{_inline(value)}</b><span>{_inline(label)}</span></div>"
        for value, label in block.items
    )
    return f'<div class="facts">{items}</div>'


def _table(block: document.Table) -> str:
    def cells(tag: str, values) -> str:
        return "".join(
            f"<{tag}{' class=r' if align == 'r' else ''}>{_inline(value)}</{tag}>"
            for value, align in zip(values, block.aligns, strict=True)
        )

    rows = "\n".join(
        f"<tr{' class=muted' if index in block.muted else ''}>{cells('td', row)}</tr>"
        for index, row in enumerate(block.rows)
    )
    caption = f"<caption>{_inline(block.caption)}</caption>" if block.caption else ""
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{cells("th", block.columns)}'
        f"</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def _figure(block: document.FigureBlock) -> str:
    label = html.escape(block.caption, quote=True)
    svg = block.svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    width = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    narrow = ' class="narrow"' if width and float(width[1]) < 450 else ""
    return f"<figure{narrow}>{svg}<figcaption>{_inline(block.caption)}</figcaption></figure>"


def _details(block: document.Details) -> str:
    return (
        f"<details><summary>{_inline(block.title)}</summary>"
        f"<pre>{html.escape(block.text)}</pre></details>"
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
