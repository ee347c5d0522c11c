"""Whether a run fits into a device's memory, and what to change if it does not."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import jax

from research.config import RunConfig
from research.errors import UserError

GIB = 2**30


def state_bytes(state: Any) -> int:
    """Bytes of a state on one device, from shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(state)
    )


def device_bytes(device: jax.Device) -> int | None:
    """Bytes a device offers to programs; None where it does not say (CPUs)."""
    stats = device.memory_stats()
    return stats.get("bytes_limit") if stats else None


def step_bytes(step: Any) -> int | None:
    """Peak of a compiled step's buffers on one device: state, batch and what is between.

    By the compiler's own plan, so whatever else the process holds does not count; None
    where the backend does not say.
    """
    analysis = getattr(step, "memory_analysis", lambda: None)()
    if analysis is None:
        return None
    whole = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )
    # Not every backend plans a peak; the sum of all buffers is never below it.
    return getattr(analysis, "peak_memory_in_bytes", 0) or whole or None


@contextlib.contextmanager
def explained(config: RunConfig, state: Any) -> Iterator[None]:
    """Refuses what cannot fit before compiling, and explains what did not fit.

    Raises:
      UserError: with what is needed, what there is and which settings to change.
    """
    there_is = device_bytes(jax.local_devices()[0])
    # Gradients are as large as the parameters.
    needed = state_bytes(state) + state_bytes(state.params)
    if there_is is not None and needed > there_is:
        raise UserError(
            f"parameters, optimizer and gradients need {needed / GIB:.1f} GiB on each "
            f"device, which has {there_is / GIB:.1f} GiB. {_advice(config)}"
        )
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        has = "" if there_is is None else f" of {there_is / GIB:.1f} GiB"
        raise UserError(
            f"the step does not fit into a device's memory{has}: "
            f"{_first_line(error)} {_advice(config)}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _advice(config: RunConfig) -> str:
    return (
        f"Change one of: config.train.num_microbatches = "
        f"{config.train.num_microbatches} (more parts need less memory), "
        f"config.model.remat = {config.model.remat!r} ('full' keeps least), "
        f"config.parallel.fsdp = {config.parallel.fsdp} (more devices share the "
        f"parameters)."
    )
