"""Hugging Face checkpoints to workdirs, and workdirs to Hugging Face checkpoints.

    python -m research.convert --from=FOLDER_OR_HUB_ID --workdir=runs/bert
    python -m research.convert --from=runs/bert --to=exported [--results=runs/bert-glue]

A converted workdir is an ordinary one: train.init_from, GLUE, BLiMP and generation read
it. Families and their tensors are tables in research/conversion/families/.
"""

from __future__ import annotations

import pathlib

from absl import flags

from research.config import command_line
from research.conversion import run
from research.errors import UserError, user_errors


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string(
        "from", None, "a Hugging Face folder or hub id to import, a workdir to export"
    )
    flags.DEFINE_string("workdir", None, "where an imported checkpoint goes")
    flags.DEFINE_string("to", None, "where an exported checkpoint goes")
    flags.DEFINE_string(
        "experiment",
        None,
        "experiment whose objective and data settings an imported run takes; default: "
        "the one of the heads that the checkpoint holds",
    )
    flags.DEFINE_string("which", "last", "checkpoint to export: last, best or a step")
    flags.DEFINE_multi_string(
        "results", [], "workdir of an evaluation for the model card; may be repeated"
    )


def main(given: flags.FlagValues) -> None:
    """Imports or exports, as the flags say."""
    source = given["from"].value
    if source is None or bool(given.workdir) == bool(given.to):
        raise UserError(
            "give --from=FOLDER --workdir=W to import a Hugging Face checkpoint, or "
            "--from=W --to=FOLDER to export a run."
        )
    with user_errors():
        if given.workdir:
            run.import_checkpoint(
                source, pathlib.Path(given.workdir), experiment=given.experiment
            )
        else:
            run.export_workdir(
                pathlib.Path(source),
                pathlib.Path(given.to),
                which=given.which,
                results=[pathlib.Path(folder) for folder in given.results],
            )


if __name__ == "__main__":
    command_line.run(main, define_flags)
