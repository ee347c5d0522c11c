r"""Pretrains one model.

    python -m research.pretrain --config=masked_lm --workdir=runs/mlm \
        [--config.optimizer.learning_rate=3e-4] [--profile_steps=10:15]

The same command goes on where the run stopped. Several hosts run it together under
Slurm, Open MPI or a TPU launcher, or with --coordinator, --num_processes and
--process_id.
"""

from __future__ import annotations

import jax
from absl import flags

from research.config import command_line
from research.config.parse import parse
from research.conversion import exporter
from research.errors import UserError
from research.machine import host_memory, hosts, peers
from research.training import pretraining


def define_flags() -> None:
    """Defines the flags of this command."""
    command_line.define_config()
    flags.DEFINE_string("workdir", None, "folder of the run")
    flags.DEFINE_string(
        "profile_steps",
        None,
        "FIRST:LAST, steps to trace into workdir/plugins/profile, counted from 0",
    )
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0")
    flags.DEFINE_integer("num_processes", None, "of the whole run", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "of this process, from 0", lower_bound=0)


def main(given: flags.FlagValues) -> int:
    """Pretrains as the flags say; returns the exit code."""
    command_line.require(given, config="NAME", workdir="FOLDER")
    host_memory.keep_freed()
    hosts.initialise(given.coordinator, given.num_processes, given.process_id)
    steps = _parse_steps(given.profile_steps)
    if jax.process_index() == 0:
        print(exporter.outlook(parse(given.config).model))
    result = pretraining.pretrain(given.config, given.workdir, profile_steps=steps)
    peers.leave()
    return result.exit_code


def _parse_steps(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise UserError(f"--profile_steps={text}: must be FIRST:LAST, such as 10:15.")
    return int(first), int(last)


if __name__ == "__main__":
    command_line.run(main, define_flags)
