r"""Fine-tunes a pretrained run on SQuAD and answers a dev set.

    python -m research.squad --config=squad --checkpoint=runs/mlm \
        --workdir=runs/mlm-squad --config.train_file=train.json --config.dev_file=dev.json

The workdir gets results.jsonl (one line a run), results.md, predictions-SEED.json and
null_odds-SEED.json. A second start skips finished runs and continues an unfinished one.
"""

from __future__ import annotations

import pathlib

from absl import flags

from research.config import command_line
from research.evaluation.squad import evaluate
from research.machine import host_memory


def define_flags() -> None:
    """Defines the flags of this command."""
    command_line.define_config()
    flags.DEFINE_string("checkpoint", None, "workdir of a pretraining run")
    flags.DEFINE_string("workdir", None, "where results go")


def main(given: flags.FlagValues) -> None:
    """Evaluates as the flags say."""
    command_line.require(
        given,
        config="squad",
        checkpoint="WORKDIR_OF_A_RUN",
        workdir="FOLDER_FOR_RESULTS",
    )
    host_memory.keep_freed()
    evaluate.evaluate(
        given.config, checkpoint=given.checkpoint, folder=pathlib.Path(given.workdir)
    )


if __name__ == "__main__":
    command_line.run(main, define_flags)
