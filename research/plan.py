r"""Says what a run will need, before it is run.

    python -m research.plan --config=experiments/bert_base.py --device=h200 \
        [--devices=8] [--compile] [--parse.parallel.fsdp=8]

Parameters, memory per device by kind, FLOPs, expected time and the largest batch that
fits, from the config alone: no text is read, no parameter is allocated. `--compile` has
XLA compile the train step for as many devices, made up on a CPU, and adds what it
allocates.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags
from rich.console import Console

from research.config import command_line, parse
from research.errors import UserError
from research.planning import compiled, plan
from research.planning.show import show

_WIDTH = 100

_CONFIG = config_flags.DEFINE_config_file("config", None, "experiments/NAME.py")
_DEVICE = flags.DEFINE_string(
    "device", None, "a100, h100, h200, tpu-v4, ..., cpu; default: this machine's"
)
_DEVICES = flags.DEFINE_integer(
    "devices", None, "how many; default: the fewest that parse.parallel asks for"
)
_COMPILE = flags.DEFINE_bool("compile", False, "also compile, and show XLA's account")


def main(argv: Sequence[str]) -> None:
    """Prints the plan of a config."""
    del argv
    if _CONFIG.value is None:
        raise UserError("--config is missing: --config=experiments/NAME.py")
    if _DEVICES.value is not None and _DEVICES.value < 1:
        raise UserError(f"--devices={_DEVICES.value}: must be >= 1.")
    run = parse.parse(_CONFIG.value)
    count = _DEVICES.value or plan.fewest_devices(run.parallel)
    if _COMPILE.value:
        compiled.make_up_devices(count)
    made = plan.create(run, _DEVICE.value, count)
    found = compiled.compile_step(run, count) if _COMPILE.value else None
    wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    show(made, found, Console(width=None if wide else _WIDTH))


if __name__ == "__main__":
    command_line.run(main)
