"""Evaluates a pretrained run on SQuAD into a workdir: rows, results.md, predictions."""

from __future__ import annotations

import functools
import pathlib

import ml_collections

from research.config import kinds
from research.evaluation.finetuning import fits as fits_lib
from research.evaluation.finetuning.fits import PRETRAINED, RANDOM
from research.evaluation.squad import tables
from research.evaluation.squad.run import SquadFits, SquadRow, load_questions, parse
from research.machine.run_store import RunStore


def evaluate(
    config: ml_collections.ConfigDict, *, checkpoint: str, folder: pathlib.Path
) -> None:
    """Runs what is not finished, then writes and prints the table.

    Args:
      config: as experiments/squad.py gives it.
      checkpoint: workdir of a pretraining run.
      folder: workdir of the results.

    Raises:
      UserError: before any work, for a mistake in the config, data or checkpoint.
    """
    parsed = parse(config)
    train, dev = load_questions(parsed)
    fits = SquadFits(
        config=parsed,
        checkpoint=checkpoint,
        trained=fits_lib.open_workdir(config, kinds.SQUAD, checkpoint, folder),
        train=train,
        dev=dev,
        store=RunStore(folder, SquadRow),
        say=functools.partial(print, flush=True),
    )
    rows = fits.run()
    for row in rows[PRETRAINED]:
        tables.write_predictions(folder, row.seed, fits.store.predictions(row.key), dev)
    text = tables.write(checkpoint, dev, rows[PRETRAINED], rows[RANDOM])
    fits_lib.write_results(folder, text)
