r"""Says what a run will need, before it is run.

    python -m research.plan --config=bert_base --device=h200 \
        [--devices=8] [--compile] [--config.parallel.fsdp=8]

Parameters, memory per device by kind, FLOPs, expected time and the largest batch that
fits, from the config alone: no text is read, no parameter is allocated. `--compile` has
XLA compile the train step for as many devices, made up on a CPU, and adds what it
allocates.
"""

from __future__ import annotations

from absl import flags

from research.config import command_line, parse
from research.planning import show


def define_flags() -> None:
    """Defines the flags of this command."""
    command_line.define_config()
    flags.DEFINE_string(
        "device", None, "a100, h100, h200, tpu-v4, ..., cpu; default: this machine's"
    )
    flags.DEFINE_integer(
        "devices",
        None,
        "how many; default: the fewest that config.parallel asks for",
        lower_bound=1,
    )
    flags.DEFINE_bool("compile", False, "also compile, and show XLA's account")


def main(given: flags.FlagValues) -> None:
    """Prints the plan of a config."""
    command_line.require(given, config="NAME")
    show.plan_and_show(
        parse.parse(given.config),
        device=given.device,
        num_devices=given.devices,
        compile_too=given.compile,
    )


if __name__ == "__main__":
    command_line.run(main, define_flags)
