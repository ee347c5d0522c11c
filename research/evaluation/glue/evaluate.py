"""Evaluates a pretrained run on GLUE into a workdir: rows, results.md, submission."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

import ml_collections

from research.config import kinds
from research.evaluation.finetuning import fits as fits_lib
from research.evaluation.finetuning.fits import PRETRAINED
from research.evaluation.glue import config as config_lib
from research.evaluation.glue import sources, submission, summary, tables
from research.evaluation.glue import tasks as tasks_lib
from research.evaluation.glue.run import AX_SPLIT, GlueFits, GlueRow, Rows
from research.evaluation.glue.tasks import DIAGNOSTIC, TASKS
from research.machine.run_store import RunStore


def evaluate(
    config: ml_collections.ConfigDict,
    *,
    checkpoint: str,
    folder: pathlib.Path,
    tasks: Sequence[str],
) -> None:
    """Runs what is not finished, then writes and prints the tables.

    Args:
      config: as experiments/glue.py gives it.
      checkpoint: workdir of a pretraining run.
      folder: workdir of the results.
      tasks: names of tasks.

    Raises:
      UserError: before any work, for a mistake in the config, data or checkpoint.
    """
    parsed = config_lib.parse(config)
    source = sources.load(parsed.source, tasks_lib.resolve(tasks))
    missing = sources.skipped(source)
    for line in missing:
        print(f"skipped: {line}")
    sources.check_trainable(source)
    fits = GlueFits(
        config=parsed,
        source=source,
        checkpoint=checkpoint,
        trained=fits_lib.open_workdir(config, kinds.GLUE, checkpoint, folder),
        store=RunStore(folder, GlueRow),
        say=functools.partial(print, flush=True),
    )
    rows = fits.run()
    if parsed.submission:
        missing = [*missing, *write_submission(fits, rows)]
    fits_lib.write_results(folder, tables.write(fits, rows, missing))


def write_submission(fits: GlueFits, rows: Rows) -> list[str]:
    """Writes the leaderboard's files; returns what is missing for a submission."""
    folder = fits.store.workdir / "submission"
    for (name, init), found in rows.items():
        if init != PRETRAINED:
            continue
        task = TASKS[name]
        best = summary.summarise(task, found).best
        predictions = fits.store.predictions(best.key)
        for split in task.test:
            if split in predictions:
                submission.write(folder, task, split, predictions[split])
        if AX_SPLIT in predictions:
            submission.write(folder, DIAGNOSTIC, "test", predictions[AX_SPLIT])
    lacking = submission.missing(folder, (*TASKS.values(), DIAGNOSTIC))
    if not lacking:
        return []
    return [f"submission: the leaderboard also wants {', '.join(lacking)}"]
