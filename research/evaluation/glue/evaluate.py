"""Evaluates a checkpoint on GLUE into a workdir: runs, results.md, submission files."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Sequence

import ml_collections

from research.config.parse import plain
from research.evaluation.glue import config as config_lib
from research.evaluation.glue import sources, submission, tables
from research.evaluation.glue import summary as summary_lib
from research.evaluation.glue import tasks as tasks_lib
from research.evaluation.glue.results import RunRow
from research.evaluation.glue.run import AX_SPLIT, PRETRAINED, GlueRun
from research.evaluation.glue.tasks import DIAGNOSTIC, TASKS
from research.machine import compilation_cache, files
from research.machine.run_store import RunStore
from research.training import trained_run as backbone_lib


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
    compilation_cache.enable()
    parsed = config_lib.parse(config)
    source = sources.load(parsed.source, tasks_lib.resolve(tasks))
    missing = sources.skipped(source)
    for line in missing:
        print(f"skipped: {line}")
    sources.check_trainable(source)
    backbone = backbone_lib.load(checkpoint, which=parsed.which)
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / "config.json", json.dumps(plain(config), indent=2))
    evaluation = GlueRun(
        config=parsed,
        source=source,
        checkpoint=checkpoint,
        backbone=backbone,
        store=RunStore(folder, RunRow),
        say=functools.partial(print, flush=True),
    )
    rows = evaluation.run()
    if parsed.submission:
        missing = [*missing, *write_submission(evaluation, rows)]
    text = tables.write(evaluation, rows, missing)
    files.write(folder / "results.md", text)
    print(f"\n{text}\n{folder / 'results.md'}")


def write_submission(
    evaluation: GlueRun, rows: dict[tuple[str, str], list[RunRow]]
) -> list[str]:
    """Writes the leaderboard's files; returns what is missing for a submission."""
    folder = evaluation.store.workdir / "submission"
    for (name, init), found in rows.items():
        if init != PRETRAINED:
            continue
        task = TASKS[name]
        best = summary_lib.summarise(task, found).best
        predictions = evaluation.store.predictions(best.key)
        for split in task.test:
            if split in predictions:
                submission.write(folder, task, split, predictions[split])
        if AX_SPLIT in predictions:
            submission.write(folder, DIAGNOSTIC, "test", predictions[AX_SPLIT])
    lacking = submission.missing(folder, (*TASKS.values(), DIAGNOSTIC))
    if not lacking:
        return []
    return [f"submission: the leaderboard also wants {', '.join(lacking)}"]
