r"""Fine-tunes a pretrained run on SQuAD and answers a dev set.

    python -m research.squad --config=experiments/squad.py --checkpoint=runs/mlm \
        --workdir=runs/mlm-squad --config.train_file=train.json --config.dev_file=dev.json

The workdir gets results.jsonl (one line a run), results.md, predictions-SEED.json and
null_odds-SEED.json. A second start skips finished runs and continues an unfinished one.
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
from research.evaluation.glue.results import RunStore
from research.evaluation.squad import run
from research.evaluation.squad.run import SquadRow, SquadRun
from research.machine import compilation_cache, files, host_memory
from research.training import trained_run as backbone_lib

config_flags.DEFINE_config_file("config", None, "experiments/squad.py")
flags.DEFINE_string("checkpoint", None, "workdir of a pretraining run")
flags.DEFINE_string("workdir", None, "where results go")


def main(argv: Sequence[str]) -> None:
    """Loads everything, runs what is not finished, writes the table."""
    del argv
    given, checkpoint, workdir = command_line.required(
        config="experiments/squad.py",
        checkpoint="WORKDIR_OF_A_RUN",
        workdir="FOLDER_FOR_RESULTS",
    )
    workdir = pathlib.Path(workdir)
    host_memory.keep_freed()
    compilation_cache.enable()
    config = run.parse(given)
    train, dev = run.load_questions(config)
    backbone = backbone_lib.load(checkpoint, which=config.which)
    workdir.mkdir(parents=True, exist_ok=True)
    files.write(workdir / "config.json", json.dumps(plain(given), indent=2))
    evaluation = SquadRun(
        config=config,
        checkpoint=checkpoint,
        backbone=backbone,
        train=train,
        dev=dev,
        store=RunStore(workdir, SquadRow),
        say=functools.partial(print, flush=True),
    )
    rows = evaluation.run()
    run.write_predictions(evaluation, rows)
    text = run.write_table(evaluation, rows)
    files.write(workdir / "results.md", text)
    print(f"\n{text}\n{workdir / 'results.md'}")


if __name__ == "__main__":
    command_line.run(main)
