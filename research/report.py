"""Builds the report of a comparison again, also of one that is not finished.

python -m research.report --workdir=runs/q
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from research.comparison.report import build
from research.config import command_line
from research.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the comparison")


def main(argv: Sequence[str]) -> int:
    """Builds the report; returns the exit code."""
    del argv
    if not _WORKDIR.value:
        raise UserError("needed: --workdir=FOLDER, of a comparison.")
    print(build.closing(build.build(pathlib.Path(_WORKDIR.value))))
    return 0


if __name__ == "__main__":
    command_line.run(main)
