"""Memory of a train step on one device, and which settings to change if it is short.

Weights, optimizer state and gradients follow exactly from shapes and shardings.
Activations are an estimate, see `activations`; tests hold the sum against what XLA
allocates.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import psutil

from research.config.sections import RunConfig
from research.errors import UserError
from research.machine import cgroup
from research.training.activations import Activations

if TYPE_CHECKING:
    from research.training.program import Program

GIB = 2**30


class TooLittleMemory(UserError):
    """A step does not fit into a device."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device at the peak of a train step, by kind.

    Attributes:
      weights: parameters.
      optimizer: its state: two moments a parameter for AdamW.
      gradients: float32, summed over microbatches.
      summed: the gradients once more, while they are summed over devices.
      gathered: parameters as computations use them, where fsdp splits them, and the
        gradients of those outside the blocks before they are split.
      sliced: stacked layers once more and their gradients once more, where the last
        one computes less than those that are scanned.
      activations: kept from the forward to the backward pass.
      working: one block's backward pass and a chunk of logits.
    """

    weights: float
    optimizer: float
    gradients: float
    summed: float
    gathered: float
    sliced: float
    activations: float
    working: float

    @property
    def exact(self) -> float:
        """What is known exactly."""
        return self.weights + self.optimizer + self.gradients

    @property
    def fixed(self) -> float:
        """All that does not grow with the rows."""
        return self.exact + self.summed + self.gathered + self.sliced

    @property
    def total(self) -> float:
        """All kinds."""
        return self.fixed + self.activations + self.working


def estimate(program: Program, kept: Activations, *, rows: int) -> Memory:
    """Memory of a train step.

    Args:
      program: its state, mesh and model.
      kept: activations on one device of its mesh.
      rows: on one device at a time: of one microbatch.
    """
    gradients = shard_bytes(program.state.params, jnp.float32)
    return Memory(
        weights=shard_bytes(program.weights),
        optimizer=shard_bytes(program.state.opt_state),
        gradients=gradients,
        summed=gradients if program.parallel.num_row_shards > 1 else 0,
        gathered=_gathered_bytes(program),
        sliced=kept.sliced,
        activations=kept.saved_bytes(rows),
        working=kept.working_bytes(rows),
    )


def rows_at_a_time(program: Program) -> int:
    """Rows that one device computes at a time."""
    train = program.config.train
    return train.batch_size // (
        program.parallel.num_row_shards * train.num_microbatches
    )


def shard_bytes(tree: Any, dtype: Any = None) -> int:
    """Bytes on one device, from shapes with shardings; as if of `dtype` if given."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape))
        * (leaf.dtype if dtype is None else jnp.dtype(dtype)).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _gathered_bytes(program: Program) -> float:
    """Whole parameters beside their shards: all, or under remat one block's.

    Outside the blocks nothing is scanned, so whole gradients stand beside them.
    """
    shape = program.parallel.mesh.shape
    if shape.get("fsdp", 1) == 1:
        return 0.0
    blocks = sum(leaf.size for leaf in _layer_params(program))
    everything = sum(leaf.size for leaf in jax.tree.leaves(program.weights))
    config = program.model_config
    alive = blocks if config.remat == "none" else blocks / config.num_blocks
    others = 2 * 4 * (everything - blocks)  # Embeddings and heads, in float32.
    return (others + alive * config.compute_dtype.itemsize) / shape["tensor"]


def _layer_params(program: Program) -> list[Any]:
    """Parameters of the blocks, as shapes."""
    return [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(program.weights)
        if any(getattr(part, "key", None) == "layers" for part in path)
    ]


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
    """Turns running out of memory inside into an error that names settings to change.

    Args:
      what: does not fit: 'the step'.
      advice: which settings to change.

    Raises:
      TooLittleMemory: with what XLA says and which settings to change.
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


def check(program: Program, there_is: float) -> None:
    """Refuses, before compiling, a state that cannot fit into `there_is` bytes a device.

    Raises:
      TooLittleMemory: with what is needed, what there is and which settings to change.
    """
    weights = shard_bytes(program.weights)
    gradients = shard_bytes(program.state.params, jnp.float32)
    optimizer = shard_bytes(program.state.opt_state)
    if weights + gradients + optimizer > there_is:
        raise TooLittleMemory(
            f"the step needs more than {gib(weights + gradients + optimizer)} on each "
            f"device, which has {gib(there_is)}: parameters {gib(weights)}, optimizer "
            f"{gib(optimizer)}, gradients {gib(gradients)}, and activations. "
            f"{advice(program.config)}"
        )


def check_compiled(
    compiled: jax.stages.Compiled, what: str, advice: str, *, beside: int = 0
) -> None:
    """Refuses a compiled step that needs more than a device has, before it runs.

    CPUs would hand out memory that does not exist, and end the process when it is used.

    Args:
      compiled: the step.
      what: it is: 'the compiled step'.
      advice: which settings to change.
      beside: bytes that a device holds meanwhile and the step does not take.

    Raises:
      TooLittleMemory: with what is needed, what there is and which settings to change.
    """
    there_is = device_bytes(jax.local_devices()[0])
    needed = allocated_bytes(compiled)
    if there_is is not None and needed is not None and needed + beside > there_is:
        raise TooLittleMemory(
            f"{what} needs {gib(needed + beside)} on each device, which has "
            f"{gib(there_is)}. {advice}"
        )


def allocated_bytes(compiled: Any) -> int | None:
    """Bytes that XLA allocates for a compiled step on one device: state, batch, temporaries.

    From the compiler's own plan, without what else the process holds; None if the
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
