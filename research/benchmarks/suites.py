"""The suites of benchmarks by name."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from research.benchmarks import (
    finetuning,
    generation,
    gpu,
    inputs,
    peers,
    scaling,
    table,
    training,
)
from research.errors import UserError, nearest
from research.machine import files, terminal

SUITES: dict[str, Callable[[table.Options], table.Table]] = {
    "training": training.measure,
    "corruption": training.measure_corruption,
    "generation": generation.measure,
    "input": inputs.measure,
    "startup": inputs.startup,
    "finetuning": finetuning.measure,
    "gpu": gpu.measure,
    "scaling": scaling.measure,
}
CPU = ("training", "corruption", "generation", "input", "startup", "finetuning")
WITH_PEERS = {"training", "generation", "finetuning"}


def run(suite: str, options: table.Options, file: pathlib.Path | None) -> None:
    """Runs a suite and prints its tables.

    Args:
      suite: a name in SUITES; 'cpu' = all that need no accelerator.
      options: of all suites.
      file: takes the figures as JSON.

    Raises:
      UserError: for an unknown suite, data that is missing, or a peer that is not
        installed.
    """
    valid = ("cpu", *SUITES)
    if suite not in valid:
        raise UserError(
            f"there is no suite {suite!r}.{nearest(suite, valid)} "
            f"Valid: {', '.join(valid)}."
        )
    names = CPU if suite == "cpu" else (suite,)
    # What is missing is said before anything is measured.
    if "finetuning" in names:
        finetuning.check(options.glue)
    if options.peers and WITH_PEERS & set(names):
        peers.libraries()
    console = terminal.console(120)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    tables = []
    for name in names:
        tables.append(SUITES[name](options))
        tables[-1].show(console)
        if file is not None:  # After each: a later suite may fail.
            files.write(file, table.to_json(tables))
