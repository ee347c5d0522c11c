"""Compares pretraining objectives: arms, seeds and a budget to a report.

    python -m research.compare --config=quickstart --workdir=runs/q

The same command goes on where it stopped. Started several times over a shared workdir,
on one machine or many, it divides the work.
"""

from __future__ import annotations

import pathlib

from absl import flags

from research.comparison import runner
from research.config import command_line
from research.machine import host_memory


def define_flags() -> None:
    """Defines the flags of this command."""
    command_line.define_config()
    flags.DEFINE_string("workdir", None, "folder of the comparison")


def main(given: flags.FlagValues) -> int:
    """Compares as the flags say; returns the exit code."""
    command_line.require(given, config="NAME", workdir="FOLDER")
    host_memory.keep_freed()
    return runner.run(given.config, pathlib.Path(given.workdir))


if __name__ == "__main__":
    command_line.run(main, define_flags)
