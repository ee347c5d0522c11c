"""Hugging Face checkpoints to workdirs, and workdirs to Hugging Face checkpoints.

    python -m research.convert --from=FOLDER_OR_HUB_ID --workdir=runs/bert
    python -m research.convert --from=runs/bert --to=exported [--results=runs/bert-glue]

A converted workdir is an ordinary one: train.init_from, GLUE, BLiMP and generation read
it. Families and their tensors are tables in research/conversion/families/.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from research.config import command_line
from research.errors import UserError, user_errors

_FROM = flags.DEFINE_string(
    "from", None, "A Hugging Face folder or hub id to import, or a workdir to export."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where an imported checkpoint goes.")
_TO = flags.DEFINE_string("to", None, "Where an exported checkpoint goes.")
_EXPERIMENT = flags.DEFINE_string(
    "experiment",
    None,
    "Experiment whose objective and data settings an imported run takes; by default "
    "the one of the heads that the checkpoint holds.",
)
_WHICH = flags.DEFINE_string("which", "last", "Checkpoint to export: last, best, step.")
_RESULTS = flags.DEFINE_multi_string(
    "results", [], "Workdir of an evaluation for the model card; may be repeated."
)


def main(argv: Sequence[str]) -> int:
    """Imports or exports, as the flags say."""
    del argv
    source, workdir, to = _FROM.value, _WORKDIR.value or "", _TO.value or ""
    if source is None or bool(workdir) == bool(to):
        raise UserError(
            "give --from=FOLDER --workdir=W to import a Hugging Face checkpoint, or "
            "--from=W --to=FOLDER to export a run."
        )
    # Imported here, so that a mistake in the flags is answered at once.
    from research.conversion import run

    with user_errors():
        if workdir:
            return run.import_checkpoint(
                source, pathlib.Path(workdir), experiment=_EXPERIMENT.value
            )
        return run.export_workdir(
            pathlib.Path(source),
            pathlib.Path(to),
            which=_WHICH.value,
            results=[pathlib.Path(folder) for folder in _RESULTS.value],
        )


if __name__ == "__main__":
    command_line.run(main)
