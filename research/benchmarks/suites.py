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
from research.config import experiments
from research.errors import UserError, nearest
from research.machine import files, terminal


def run(
    suite: str,
    *,
    rounds: int,
    with_peers: bool,
    glue: str,
    file: pathlib.Path | None,
) -> None:
    """Runs a suite and prints its tables.

    Args:
      suite: its name; 'cpu' = all that need no accelerator.
      rounds: alternating rounds of each measurement.
      with_peers: measure transformers + torch side by side.
      glue: folder of GLUE's TSVs for the suite 'finetuning'; '' = made-up sentences.
      file: takes the figures as JSON.

    Raises:
      UserError: for an unknown suite, data that is missing, or a peer that is not
        installed.
    """
    suites: dict[str, Callable[[], table.Table]] = {
        "training": lambda: training.measure(rounds=rounds, with_peers=with_peers),
        "corruption": lambda: training.measure_corruption(rounds=rounds),
        "generation": lambda: generation.measure(rounds=rounds, with_peers=with_peers),
        "input": inputs.measure,
        "startup": lambda: inputs.startup(experiments.FOLDER.parent),
        "finetuning": lambda: finetuning.measure(
            # A turn is an epoch, not a step.
            rounds=max(1, rounds // 4),
            with_peers=with_peers,
            source=glue,
        ),
    }
    names = list(suites) if suite == "cpu" else [suite]
    suites |= {
        "gpu": lambda: gpu.measure(rounds=rounds, with_peers=with_peers),
        "scaling": lambda: scaling.measure(rounds=rounds),
    }
    if names[0] not in suites:
        valid = ("cpu", *suites)
        raise UserError(
            f"there is no suite {suite!r}.{nearest(suite, valid)} "
            f"Valid: {', '.join(valid)}."
        )
    if "finetuning" in names:
        finetuning.check(glue)
    if {"training", "generation", "finetuning"} & set(names) and with_peers:
        peers.libraries()
    if names == ["scaling"]:
        scaling.prepare()
    console = terminal.console(120)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    tables = []
    for name in names:
        tables.append(suites[name]())
        tables[-1].show(console)
        if file is not None:  # After each: a later suite may fail.
            files.write(file, table.to_json(tables))
