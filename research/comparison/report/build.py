"""Builds report.html, report.md, results.csv and figures/ from a workdir.

The workdir may be of a comparison that is running, was stopped, or lacks results: the
report then says what is missing.
"""

from __future__ import annotations

import csv
import io
import pathlib

from matplotlib.figure import Figure

from research.comparison import results, verdicts
from research.comparison.report import figures, formats, html, markdown
from research.comparison.report.document import Block, Document, FigureBlock
from research.comparison.report.sections import (
    costs,
    differences,
    published,
    record,
    scores,
    summary,
)
from research.comparison.results import Results
from research.machine import files

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"
CSV_FILE = "results.csv"
FIGURES_FOLDER = "figures"


def build(workdir: pathlib.Path) -> Results:
    """Writes the report of a workdir, and returns what it shows.

    Raises:
      UserError: if the workdir holds no comparison, or its config was edited.
    """
    found = results.load(workdir)
    doc = compose(found, workdir / FIGURES_FOLDER)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(record.as_csv(found))
    files.write(workdir / HTML_FILE, html.render(doc))
    files.write(workdir / MARKDOWN_FILE, markdown.render(doc))
    files.write(workdir / CSV_FILE, table.getvalue())
    return found


def compose(found: Results, figures_folder: pathlib.Path) -> Document:
    """The report as a document; its figures are saved on the way."""

    def draw(figure: Figure, name: str, caption: str) -> FigureBlock:
        svg = figures.save(figure, figures_folder, name)
        return FigureBlock(name=name, svg=svg, caption=caption)

    blocks: list[Block] = [
        *summary.state(found),
        *summary.facts(found),
        *summary.verdict(found),
        *summary.overview(found),
        *published.contrasts(found, draw),
        *scores.losses(found, draw),
        *scores.scores(found, draw),
        *scores.over_budget(found, draw),
        *differences.differences(found, draw),
        *costs.cost(found, draw),
        *costs.sensitivity(found, draw),
        *record.design(found),
        *record.method(found),
        *record.appendix(found),
    ]
    config = found.config
    return Document(
        title=config.title,
        subtitle=(
            f"Palimpsest comparison `{config.name}` · the same rows of clean tokens for "
            f"every arm, one declared budget, one evaluation."
        ),
        blocks=blocks,
    )


def closing(found: Results) -> str:
    """What the command line says at the end."""
    folder = found.workdir
    lines = []
    for arm in found.config.arms:
        learnt = verdicts.learning(found, arm.name)
        if learnt is not None:
            state = ", still on its plateau" if learnt.on_plateau else ""
            lines.append(
                f"{arm.label}: held-out loss {learnt.loss:.3f} nats, unigram "
                f"{learnt.unigram:.3f}, margin {formats.signed(learnt.margin, 3)}{state}"
            )
    if not found.is_complete:
        lines.append(f"{len(found.problems)} of {found.num_jobs} jobs are not done")
    lines.append(f"report: {folder / HTML_FILE} and {folder / MARKDOWN_FILE}")
    return "\n".join(lines)
