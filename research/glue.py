r"""Fine-tunes a pretrained run on GLUE and scores it.

    python -m research.glue --config=glue --checkpoint=runs/mlm \
        --workdir=runs/mlm-glue --config.source=FOLDER_OF_THE_OFFICIAL_TSVS \
        [--tasks=cola,mrpc,rte] [--config.protocol=bert]

The workdir gets results.jsonl (one line a run), results.md, predictions/, submission/ and
config.json. A second start skips finished runs and continues an unfinished one.
"""

from __future__ import annotations

import pathlib

from absl import flags

from research.config import command_line
from research.evaluation.glue import evaluate
from research.evaluation.glue.tasks import DIAGNOSTIC, TASKS
from research.machine import host_memory


def define_flags() -> None:
    """Defines the flags of this command."""
    command_line.define_config()
    flags.DEFINE_string("checkpoint", None, "workdir of a pretraining run")
    flags.DEFINE_string("workdir", None, "where results go")
    flags.DEFINE_list("tasks", [*TASKS, DIAGNOSTIC.name], "tasks to run")


def main(given: flags.FlagValues) -> None:
    """Evaluates as the flags say."""
    command_line.require(
        given,
        config="glue",
        checkpoint="WORKDIR_OF_A_RUN",
        workdir="FOLDER_FOR_RESULTS",
    )
    host_memory.keep_freed()
    evaluate.evaluate(
        given.config,
        checkpoint=given.checkpoint,
        folder=pathlib.Path(given.workdir),
        tasks=given.tasks,
    )


if __name__ == "__main__":
    command_line.run(main, define_flags)
