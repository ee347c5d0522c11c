r"""Fine-tunes a pretrained run on GLUE and scores it.

    python -m research.glue --config=experiments/glue.py --checkpoint=runs/mlm \
        --workdir=runs/mlm-glue --config.source=FOLDER_OF_THE_OFFICIAL_TSVS \
        [--tasks=cola,mrpc,rte] [--config.protocol=bert]

The workdir gets results.jsonl (one line a run), results.md, predictions/, submission/ and
config.json. A second start skips finished runs and continues an unfinished one.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from research.config import command_line
from research.config.parse import plain
from research.errors import UserError
from research.evaluation.glue import config as config_lib
from research.evaluation.glue import sources, submission, tables, tasks
from research.evaluation.glue import summary as summary_lib
from research.evaluation.glue.results import RunRow, RunStore
from research.evaluation.glue.run import AX_SPLIT, PRETRAINED, GlueRun
from research.evaluation.glue.tasks import DIAGNOSTIC, TASKS
from research.machine import compilation_cache, files, host_memory
from research.training import trained_run as backbone_lib

config_flags.DEFINE_config_file("config", None, "experiments/glue.py")
flags.DEFINE_string("checkpoint", None, "workdir of a pretraining run")
flags.DEFINE_string("workdir", None, "where results go")
_TASKS = flags.DEFINE_list("tasks", [*TASKS, DIAGNOSTIC.name], "tasks to run")


def main(argv: Sequence[str]) -> None:
    """Loads everything, runs what is not finished, writes the tables."""
    del argv
    given, checkpoint, workdir = command_line.required(
        config="experiments/glue.py",
        checkpoint="WORKDIR_OF_A_RUN",
        workdir="FOLDER_FOR_RESULTS",
    )
    workdir = pathlib.Path(workdir)
    host_memory.keep_freed()
    compilation_cache.enable()
    config = config_lib.parse(given)
    wanted = tasks.resolve(_TASKS.value)
    source = sources.load(config.source, wanted)
    missing = skipped(source)
    for line in missing:
        print(f"skipped: {line}")
    check_trainable(source)
    backbone = backbone_lib.load(checkpoint, which=config.which)
    workdir.mkdir(parents=True, exist_ok=True)
    files.write(workdir / "config.json", json.dumps(plain(given), indent=2))
    evaluation = GlueRun(
        config=config,
        source=source,
        checkpoint=checkpoint,
        backbone=backbone,
        store=RunStore(workdir, RunRow),
        say=functools.partial(print, flush=True),
    )
    rows = evaluation.run()
    if config.submission:
        missing = [*missing, *write_submission(evaluation, rows)]
    text = tables.write(evaluation, rows, missing)
    files.write(workdir / "results.md", text)
    print(f"\n{text}\n{workdir / 'results.md'}")


def skipped(source: sources.Source) -> list[str]:
    """Why tasks that were asked for do not run."""
    reasons = list(source.missing.values())
    for name, data in source.tasks.items():
        if name != DIAGNOSTIC.name and data.untrainable:
            reasons.append(data.untrainable)
    if DIAGNOSTIC.name in source.tasks and "mnli" not in source.tasks:
        reasons.append("diagnostic: its rows are answered by MNLI's model; add mnli")
    return reasons


def check_trainable(source: sources.Source) -> None:
    """Refuses to begin when nothing can be trained.

    Raises:
      UserError: if no task but the diagnostic has a labelled train set.
    """
    tasks_at_hand = [d for n, d in source.tasks.items() if n != DIAGNOSTIC.name]
    if all(data.untrainable for data in tasks_at_hand):
        raise UserError(
            f"nothing of {source.name} can be trained, for the reasons above. --tasks "
            f"takes {', '.join(TASKS)}, and {DIAGNOSTIC.name} beside mnli."
        )


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


if __name__ == "__main__":
    command_line.run(main)
