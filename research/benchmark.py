"""Measures this machine: ratios against peers, shares of measured limits.

    python -m research.benchmark --suite=cpu [--rounds=8] [--json=benchmark.json]

Suites: cpu (training steps beside transformers + torch, then corruption, generation,
input, start-up and finetuning), each of these alone, gpu (base size on one GPU, with
peers), scaling (all meshes over the devices there are, made up on a CPU). finetuning is
RTE and MRPC beside transformers' Trainer; of the folder --glue, or made-up sentences
without it. Speeds are never tests: machines differ and are noisy.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import flags

from research.config import command_line
from research.errors import UserError, nearest
from research.machine import files, host_memory

_SUITE = flags.DEFINE_string(
    "suite",
    "cpu",
    "cpu, training, corruption, generation, input, startup, finetuning, gpu, scaling",
)
_ROUNDS = flags.DEFINE_integer("rounds", 8, "Alternating rounds of each measurement.")
_PEERS = flags.DEFINE_bool("peers", True, "Measure transformers + torch side by side.")
_GLUE = flags.DEFINE_string(
    "glue", "", "Folder of GLUE's official TSVs, for the suite finetuning."
)
_JSON = flags.DEFINE_string("json", None, "File to write the figures to as well.")


def main(argv: Sequence[str]) -> int:
    """Prints the tables of a suite."""
    del argv
    # As the entry points do that are measured; peers in this process have it as well.
    host_memory.keep_freed()
    import rich.console

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

    root = pathlib.Path(__file__).parent.parent
    rounds = _ROUNDS.value
    if rounds < 1:
        raise UserError(f"--rounds={rounds}: must be >= 1.")
    suites: dict[str, Callable[[], table.Table]] = {
        "training": lambda: training.measure(rounds=rounds, with_peers=_PEERS.value),
        "corruption": lambda: training.measure_corruption(rounds=rounds),
        "generation": lambda: generation.measure(
            rounds=rounds, with_peers=_PEERS.value
        ),
        "input": inputs.measure,
        "startup": lambda: inputs.startup(root),
        "finetuning": lambda: finetuning.measure(
            # A turn is an epoch, not a step.
            rounds=max(1, rounds // 4),
            with_peers=_PEERS.value,
            source=_GLUE.value,
        ),
    }
    names = list(suites) if _SUITE.value == "cpu" else [_SUITE.value]
    suites |= {
        "gpu": lambda: gpu.measure(rounds=rounds, with_peers=_PEERS.value),
        "scaling": lambda: scaling.measure(rounds=rounds),
    }
    if names[0] not in suites:
        valid = ("cpu", *suites)
        raise UserError(
            f"there is no suite {_SUITE.value!r}.{nearest(_SUITE.value, valid)} "
            f"Valid: {', '.join(valid)}."
        )
    if "finetuning" in names:
        finetuning.check(_GLUE.value)
    if {"training", "generation", "finetuning"} & set(names) and _PEERS.value:
        peers.libraries()
    if names == ["scaling"]:
        scaling.prepare()
    console = rich.console.Console(width=None if sys.stdout.isatty() else 120)
    file = pathlib.Path(_JSON.value) if _JSON.value else None
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    tables = []
    for name in names:
        tables.append(suites[name]())
        tables[-1].show(console)
        if file is not None:  # After each: a later suite may fail.
            files.write(file, table.to_json(tables))
    return 0


if __name__ == "__main__":
    command_line.run(main)
