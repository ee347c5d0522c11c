"""Builds report.html, report.md, results.csv and figures/ from a workdir.

The workdir may be of a comparison that is running, was stopped, or lacks results: the
report then says what is missing.
"""

from __future__ import annotations

import csv
import io
import pathlib
import traceback
from collections.abc import Callable

from research.comparison import findings, results
from research.comparison.findings import Findings
from research.comparison.report import formats, html
from research.comparison.report.document import Block, Callout, Document, Figure
from research.comparison.report.figures import style
from research.comparison.report.sections import (
    costs,
    differences,
    published,
    record,
    scores,
    summary,
)
from research.evaluation import markdown
from research.machine import files

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"
CSV_FILE = "results.csv"
FIGURES_FOLDER = "figures"


SECTIONS: tuple[Callable[[Findings], list[Block]], ...] = (
    summary.state,
    summary.facts,
    summary.cautions,
    summary.verdict,
    summary.overview,
    published.published,
    scores.losses,
    scores.scores,
    scores.over_budget,
    differences.differences,
    costs.costs,
    costs.sensitivity,
    record.design,
    record.method,
    record.appendix,
)


def build(workdir: pathlib.Path) -> Findings:
    """Writes the report of a workdir, and returns what it shows.

    Raises:
      UserError: if the workdir holds no comparison, or its config was edited.
    """
    found = findings.find(results.load(workdir))
    blocks: list[Block] = []
    drawings: dict[str, str] = {}
    # A fault in one section or figure must not cost the rest of the report.
    for section in SECTIONS:
        name = section.__name__.replace("_", " ")
        try:
            made = section(found)
        except Exception as error:  # noqa: BLE001
            made = [_fault(f"section on {name}", error)]
        for block in made:
            if isinstance(block, Figure):
                folder = workdir / FIGURES_FOLDER
                try:
                    drawings[block.name] = style.draw(block.plot, folder, block.name)
                except Exception as error:  # noqa: BLE001
                    block = _fault(f"figure {block.name}", error)
            blocks.append(block)
    doc = Document(
        title=found.config.title,
        subtitle=(
            f"Palimpsest · {markdown.escape(found.config.name)} · the same rows "
            f"of clean tokens for every arm, one declared budget, one evaluation."
        ),
        blocks=blocks,
    )
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(record.as_csv(found))
    files.write(workdir / HTML_FILE, html.render(doc, drawings))
    files.write(workdir / MARKDOWN_FILE, doc.to_markdown())
    files.write(workdir / CSV_FILE, table.getvalue())
    return found


def _fault(what: str, error: Exception) -> Block:
    traceback.print_exception(error)
    text = markdown.escape(f"{type(error).__name__}: {error}")
    return Callout(kind="warning", title=f"The {what} could not be made", items=[text])


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
        if arm.next_rate is not None:
            lines.append(
                f"{arm.label}: the best learning rate tried, {arm.chosen_rate:g}, is at "
                f"the edge of the grid; try {arm.next_rate:.2g} as well"
            )
    if found.problems:
        lines.append(f"{len(found.problems)} of {found.num_jobs} jobs are not done")
    lines.append(f"report: {workdir / HTML_FILE} and {workdir / MARKDOWN_FILE}")
    return "\n".join(lines)
