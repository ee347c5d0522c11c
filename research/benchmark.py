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

from absl import flags

from research.benchmarks import suites
from research.benchmarks.table import Options
from research.config import command_line
from research.machine import host_memory


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string(
        "suite",
        "cpu",
        f"cpu, {', '.join(suites.SUITES)}",
    )
    flags.DEFINE_integer(
        "rounds", 8, "alternating rounds of each measurement", lower_bound=1
    )
    flags.DEFINE_bool("peers", True, "measure transformers + torch side by side")
    flags.DEFINE_string(
        "glue", "", "folder of GLUE's official TSVs, for the suite finetuning"
    )
    flags.DEFINE_string("json", None, "file to write the figures to as well")


def main(given: flags.FlagValues) -> None:
    """Prints the tables of a suite."""
    # The measured entry points do this too; peers in this process have it as well.
    host_memory.keep_freed()
    options = Options(rounds=given.rounds, peers=given.peers, glue=given.glue)
    suites.run(given.suite, options, pathlib.Path(given.json) if given.json else None)


if __name__ == "__main__":
    command_line.run(main, define_flags)
