"""Memory of a train step on one device, estimated by kind.

Weights, optimizer state and gradients follow exactly from shapes and shardings.
Activations are an estimate, see `activations`; tests hold the sum against what XLA
allocates.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from research.planning.activations import Activations
from research.training.memory import shard_bytes
from research.training.program import Program


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
      activations: kept from the forward to the backward pass.
      working: one block's backward pass and a chunk of logits.
    """

    weights: float
    optimizer: float
    gradients: float
    summed: float
    gathered: float
    activations: float
    working: float

    @property
    def exact(self) -> float:
        """What is known exactly."""
        return self.weights + self.optimizer + self.gradients

    @property
    def fixed(self) -> float:
        """All that does not grow with the rows."""
        return self.exact + self.summed + self.gathered

    @property
    def total(self) -> float:
        """All kinds."""
        return self.fixed + self.activations + self.working


def estimate(program: Program, kept: Activations, rows: int | None = None) -> Memory:
    """Memory of a train step.

    Args:
      program: its state, mesh and model.
      kept: activations on one device of its mesh.
      rows: on one device at a time; None = those of one microbatch of the config.
    """
    rows = rows_at_a_time(program) if rows is None else rows
    gradients = shard_bytes(program.state.params, jnp.float32)
    return Memory(
        weights=shard_bytes(program.weights),
        optimizer=shard_bytes(program.state.opt_state),
        gradients=gradients,
        summed=gradients if program.parallel.num_row_shards > 1 else 0,
        gathered=_gathered_bytes(program),
        activations=kept.saved_bytes(rows),
        working=kept.working_bytes(rows),
    )


def rows_at_a_time(program: Program) -> int:
    """Rows that one device computes at a time."""
    train = program.config.train
    return train.batch_size // (
        program.parallel.num_row_shards * train.num_microbatches
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
