"""Memory that XLA allocates for a train step, from compiling it ahead of time.

Parameters exist as shapes with shardings only, so a model that no single device could
hold compiles as well.
"""

from __future__ import annotations

import dataclasses
import os

import jax

from research.config import checks
from research.config.sections import RunConfig
from research.errors import UserError
from research.planning import activations, estimate
from research.planning.estimate import Memory
from research.training import memory
from research.training import program as program_lib
from research.training.memory import gib

_DEVICE_COUNT_FLAG = "xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A train step as compiled on the devices of this machine.

    Attributes:
      devices: what it was compiled for, e.g. '8 x cpu'.
      allocated: bytes on each device by XLA's account.
      estimated: our estimate for the same devices.
    """

    devices: str
    allocated: int
    estimated: Memory

    def line(self) -> str:
        """One line for a person."""
        return (
            f"compiled for {self.devices}: XLA allocates {gib(self.allocated)} on each, "
            f"estimated for these {gib(self.estimated.total)}"
        )


def make_up_devices(count: int) -> None:
    """Lets this process see so many CPU devices, before it has looked at any.

    Whoever sets their number by XLA_FLAGS has already chosen.
    """
    if _DEVICE_COUNT_FLAG not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)


def compile_step(config: RunConfig, num_devices: int) -> Compiled:
    """Compiles the train step for `num_devices` of this machine's devices.

    Raises:
      UserError: if there are fewer.
    """
    devices = jax.devices()
    if len(devices) < num_devices:
        raise UserError(
            f"--compile needs the {num_devices} devices of the mesh, and there are "
            f"{len(devices)} {devices[0].platform}: JAX_PLATFORMS=cpu compiles for as "
            f"many CPU devices as it takes."
        )
    program = program_lib.create(
        config,
        checks.provisional_vocabulary(config.data.tokenizer),
        devices=devices[:num_devices],
    )
    kept = activations.count(program, devices[0].platform)
    starts = (0, *program.objective.switches)
    phases = dict.fromkeys(program.objective.at(start) for start in starts)
    sizes = [
        memory.allocated_bytes(program.lower_train_step(phase).compile())
        for phase in phases
    ]
    if None in sizes:
        raise UserError(f"XLA gives no account of memory on {devices[0].platform}.")
    return Compiled(
        devices=f"{num_devices} x {devices[0].device_kind}",
        allocated=max(size for size in sizes if size is not None),
        estimated=estimate.estimate(program, kept),
    )
