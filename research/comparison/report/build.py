"""Builds report.html, report.md, results.csv and figures/ from a workdir.

The workdir may be of a comparison that is running, was stopped, or lacks results: the
report then says what is missing.
"""

from __future__ import annotations

import csv
import io
import pathlib

from research.comparison import findings, results
from research.comparison.findings import Findings
from research.comparison.report import formats, html
from research.comparison.report.document import Document
from research.comparison.report.figures import style
from research.comparison.report.sections import (
    costs,
    differences,
    published,
    record,
    scores,
    summary,
)
from research.machine import files

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"
CSV_FILE = "results.csv"
FIGURES_FOLDER = "figures"


def build(workdir: pathlib.Path) -> Findings:
    """Writes the report of a workdir, and returns what it shows.

    Raises:
      UserError: if the workdir holds no comparison, or its config was edited.
    """
    found = findings.find(results.load(workdir))
    doc = compose(found)
    drawings = {
        figure.name: style.draw(figure.plot, workdir / FIGURES_FOLDER, figure.name)
        for figure in doc.figures
    }
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(record.as_csv(found))
    files.write(workdir / HTML_FILE, html.render(doc, drawings))
    files.write(workdir / MARKDOWN_FILE, doc.to_markdown())
    files.write(workdir / CSV_FILE, table.getvalue())
    return found


def compose(found: Findings) -> Document:
    """The report as a document, nothing drawn yet."""
    return Document(
        title=found.config.title,
        subtitle=(
            f"Palimpsest comparison `{found.config.name}` · the same rows of clean "
            f"tokens for every arm, one declared budget, one evaluation."
        ),
        blocks=[
            *summary.state(found),
            *summary.facts(found),
            *summary.verdict(found),
            *summary.overview(found),
            *published.published(found),
            *scores.losses(found),
            *scores.scores(found),
            *scores.over_budget(found),
            *differences.differences(found),
            *costs.costs(found),
            *costs.sensitivity(found),
            *record.design(found),
            *record.method(found),
            *record.appendix(found),
        ],
    )


def closing(found: Findings, workdir: pathlib.Path) -> str:
    """What the command line says at the end."""
    lines = []
    for arm in found.arms.values():
        learnt = arm.learning
        if learnt is not None:
            state = ", still on its plateau" if learnt.on_plateau else ""
            margin = formats.number(learnt.margin, 3, plus=True)
            lines.append(
                f"{arm.label}: held-out loss {learnt.loss:.3f} nats, unigram "
                f"{learnt.unigram:.3f}, margin {margin}{state}"
            )
    if found.problems:
        lines.append(f"{len(found.problems)} of {found.num_jobs} jobs are not done")
    lines.append(f"report: {workdir / HTML_FILE} and {workdir / MARKDOWN_FILE}")
    return "\n".join(lines)
