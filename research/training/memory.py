"""Memory of devices and of compiled steps, and which settings to change if it is short."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import psutil

from research.config.sections import RunConfig
from research.errors import UserError
from research.machine import cgroup
from research.training.state import TrainState

GIB = 2**30


class TooLittleMemory(UserError):
    """A step does not fit into a device."""


def shard_bytes(tree: Any, dtype: Any = None) -> int:
    """Bytes on one device, from shapes with shardings; as if of `dtype` if given."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape))
        * (leaf.dtype if dtype is None else jnp.dtype(dtype)).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def device_bytes(device: jax.Device) -> int | None:
    """Bytes that a device offers to programs; None if the backend does not report it.

    A CPU device has its share of the machine's memory.
    """
    if device.platform == "cpu":
        return host_bytes() // jax.local_device_count()
    stats = device.memory_stats()
    return stats.get("bytes_limit") if stats else None


def host_bytes() -> int:
    """The machine's memory, or the part that a container or batch system allows."""
    total, limit = psutil.virtual_memory().total, cgroup.memory_limit()
    return total if limit is None else min(total, limit)


@contextlib.contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Turns running out of memory inside into an error with the advice.

    Raises:
      TooLittleMemory: with what XLA says.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        there_is = device_bytes(jax.local_devices()[0])
        raise TooLittleMemory(
            f"{what} does not fit into a device's memory"
            f"{'' if there_is is None else f' of {gib(there_is)}'}: "
            f"{str(error).strip().splitlines()[0]} {advice}"
        ) from error


def check(weights: Any, state: TrainState, there_is: float, advice: str) -> None:
    """Refuses, before compiling, a step whose state cannot fit into a device.

    Raises:
      TooLittleMemory: with what is needed, what there is and the advice.
    """
    used, optimizer = shard_bytes(weights), shard_bytes(state.opt_state)
    gradients = shard_bytes(state.params, jnp.float32)
    if used + gradients + optimizer > there_is:
        raise TooLittleMemory(
            f"the step needs more than {gib(used + gradients + optimizer)} on each "
            f"device, which has {gib(there_is)}: parameters {gib(used)}, optimizer "
            f"{gib(optimizer)}, gradients {gib(gradients)}, and activations. {advice}"
        )


def check_compiled(
    compiled: jax.stages.Compiled, what: str, advice: str, *, beside: int = 0
) -> None:
    """Refuses a compiled step that needs more than a device has, before it runs.

    CPUs would hand out memory that does not exist, and end the process when it is used.
    `beside` are bytes that a device holds meanwhile and the step does not take.

    Raises:
      TooLittleMemory: with what is needed, what there is and the advice.
    """
    there_is = device_bytes(jax.local_devices()[0])
    needed = allocated_bytes(compiled)
    if there_is is not None and needed is not None and needed + beside > there_is:
        raise TooLittleMemory(
            f"{what} needs {gib(needed + beside)} on each device, which has "
            f"{gib(there_is)}. {advice}"
        )


def allocated_bytes(compiled: Any) -> int | None:
    """Bytes that XLA allocates for a compiled step on one device.

    State, batch and temporaries, from the compiler's own plan, without what else the process holds; None if the
    backend does not report it. The 'peak' that some backends report as well is that of
    the arguments alone on CPUs.
    """
    found = getattr(compiled, "memory_analysis", lambda: None)()
    if found is None:
        return None
    return (
        found.argument_size_in_bytes
        + found.temp_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
    )


def gib(size: float) -> str:
    """'1.5 GiB', '310 MiB'."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def advice(config: RunConfig) -> str:
    """Which settings to change."""
    return (
        f"Change one of: config.train.num_microbatches = "
        f"{config.train.num_microbatches} (more parts need less memory), "
        f"config.model.remat = {config.model.remat!r} ('full' keeps least), "
        f"config.parallel.fsdp = {config.parallel.fsdp} (more devices share the "
        f"parameters)."
    )


def evaluation_advice(config: RunConfig) -> str:
    """Which settings to change if an evaluation does not fit; a run may go on so."""
    return (
        f"Change one of: config.eval.batch_size = {config.eval.batch_size} (an "
        f"evaluation takes its rows at once: fewer need less memory), "
        f"config.parallel.fsdp = {config.parallel.fsdp} (more devices share the "
        f"parameters)."
    )
