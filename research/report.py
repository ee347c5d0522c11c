"""Builds the report of a comparison again, also of one that is not finished.

python -m research.report --workdir=runs/q
"""

from __future__ import annotations

import pathlib

from absl import flags

from research.comparison.report import build
from research.config import command_line


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", None, "folder of the comparison")


def main(given: flags.FlagValues) -> None:
    """Builds the report and prints where it is."""
    command_line.require(given, workdir="FOLDER_OF_A_COMPARISON")
    workdir = pathlib.Path(given.workdir)
    print(build.closing(build.build(workdir), workdir))


if __name__ == "__main__":
    command_line.run(main, define_flags)
