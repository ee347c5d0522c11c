"""Compares pretraining objectives: arms, seeds and a budget to a report.

    python -m research.compare --config=experiments/quickstart.py --workdir=runs/q

The same command goes on where it stopped. Started several times over a shared workdir,
on one machine or many, it divides the work.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from research.comparison import runner

# Pretraining has the same two flags, and a flag is defined once.
from research.config import command_line
from research.errors import UserError
from research.machine import host_memory

flags.declare_key_flag("config")
flags.declare_key_flag("workdir")
# Pretraining's other flags, which are defined here with those two.
_IGNORED = ("profile_steps", "coordinator", "num_processes", "process_id")


def main(argv: Sequence[str]) -> int:
    """Compares as the flags say; returns the exit code."""
    del argv
    host_memory.keep_freed()
    ignored = [name for name in _IGNORED if flags.FLAGS[name].present]
    if ignored:
        raise UserError(
            f"--{', --'.join(ignored)}: a flag of research.pretrain, which a comparison "
            f"does not take. Start the same command on several machines to divide its "
            f"work."
        )
    config, workdir = command_line.required(
        config="experiments/NAME.py", workdir="FOLDER"
    )
    return runner.run(config, pathlib.Path(workdir))


if __name__ == "__main__":
    command_line.run(main)
