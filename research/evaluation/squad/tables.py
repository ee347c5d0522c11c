"""results.md of SQuAD, and predictions as SQuAD's own script reads them."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from research.evaluation import markdown
from research.evaluation.finetuning import cells
from research.evaluation.finetuning.cells import DASH, percent
from research.evaluation.squad import data, scoring
from research.evaluation.squad.data import Question
from research.evaluation.squad.run import SquadRow
from research.evaluation.squad.scoring import TITLES
from research.machine import files

_HEADER = (
    "metric",
    "no answer",
    "random init",
    "mean",
    "sd",
    "median",
    "seeds",
    "failed",
    "best threshold",
)


def write(
    checkpoint: str,
    dev: Sequence[Question],
    rows: Sequence[SquadRow],
    floor: Sequence[SquadRow],
) -> str:
    """The whole file: scores of all seeds beside the floor and no answer at all."""
    row = rows[0]
    facts = [
        f"data: {markdown.escape(row.source)}",
        (
            f"{row.train_questions:,} train questions in {row.train_rows:,} windows; "
            f"answers of {row.cut_answers:,} lie whole in none"
        ),
        (
            f"checkpoint: {markdown.escape(row.checkpoint)}, step "
            f"{row.checkpoint_step:,}, {row.objective}, {row.architecture}"
        ),
        (
            f"batch {row.settings['batch_size']}, rate {row.settings['learning_rate']:g}, "
            f"{row.settings['num_epochs']} epochs, last step"
        ),
        f"code: {row.commit or 'no commit'}",
        (
            "best threshold: refusing where it is best for F1 on these very questions, as "
            "SQuAD 2.0's script reports it; the other columns refuse where no answer is "
            "likelier than the span, or never where every question has an answer"
        ),
    ]
    scores = "The dev file has no answers: nothing scored."
    if row.scores:
        scores = markdown.table(_HEADER, _scores(dev, rows, floor))
    title = f"# SQuAD: {markdown.escape(checkpoint)}"
    return f"{title}\n\n{markdown.bullets(facts)}\n\n{scores}\n"


def _scores(
    dev: Sequence[Question], rows: Sequence[SquadRow], floor: Sequence[SquadRow]
) -> list[list[str]]:
    golds = data.golds_of(dev)
    silence = scoring.score(dict.fromkeys(golds, ""), golds)
    lines = []
    for metric in rows[0].scores:
        tuned = [row.tuned[metric] for row in rows if row.tuned]
        lines.append(
            [
                TITLES[metric],
                percent(silence[metric]),
                cells.floor([row.scores[metric] for row in floor], _failed(floor)),
                *cells.seeds([row.scores[metric] for row in rows]),
                str(len(rows)),
                str(_failed(rows)),
                percent(statistics.fmean(tuned)) if tuned else DASH,
            ]
        )
    return lines


def _failed(rows: Sequence[SquadRow]) -> int:
    return sum(bool(row.failed) for row in rows)


def write_predictions(
    folder: pathlib.Path,
    seed: int,
    answers: Mapping[str, np.ndarray],
    dev: Sequence[Question],
) -> None:
    """Writes predictions-SEED.json and null_odds-SEED.json.

    Args:
      answers: names of the questions, texts and null_odds of their answers.
      dev: if a question has no answer, answers less likely than none become ''.
    """
    names, texts = answers["names"].tolist(), answers["texts"].tolist()
    odds = answers["null_odds"].tolist()
    if any(not question.answers for question in dev):
        texts = ["" if odd > 0 else t for t, odd in zip(texts, odds, strict=True)]
    for name, values in (("predictions", texts), ("null_odds", odds)):
        content = json.dumps(dict(zip(names, values, strict=True)))
        files.write(folder / f"{name}-{seed}.json", content)
