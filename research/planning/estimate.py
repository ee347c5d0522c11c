"""Memory of a train step on one device, estimated by kind.

Weights, optimizer state and gradients follow exactly from shapes and shardings.
Activations are an estimate, see `activations`; tests hold the sum against what XLA
allocates.
"""

from __future__ import annotations

import dataclasses

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
      gathered: parameters of blocks as computations use them, where fsdp splits them.
      activations: kept from the forward to the backward pass.
      working: beside them, a chunk of logits with whole embeddings and heads, or one
        block's backward pass.
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
    def total(self) -> float:
        """The peak: gradients are summed after the backward pass."""
        backward = self.gathered + self.activations + self.working
        return self.exact + max(backward, self.summed)


def estimate(program: Program, kept: Activations, rows: int | None = None) -> Memory:
    """Memory of a train step.

    Args:
      program: its state, mesh and model.
      kept: activations on one device of its mesh.
      rows: on one device at a time; None = those of one microbatch of the config.
    """
    rows = rows_at_a_time(program) if rows is None else rows
    gradients = shard_bytes(program.state.params, jnp.float32)
    all_blocks, block, others = _gathered_bytes(program)
    rematerialised = program.model_config.remat != "none" and not kept.undone
    return Memory(
        weights=shard_bytes(program.weights),
        optimizer=shard_bytes(program.state.opt_state),
        gradients=gradients,
        summed=gradients if program.parallel.num_row_shards > 1 else 0,
        gathered=block if rematerialised else all_blocks,
        activations=kept.saved_bytes(rows),
        working=max(kept.logit_bytes(rows) + others, kept.block_bytes(rows)),
    )


def rows_at_a_time(program: Program) -> int:
    """Rows that one device computes at a time."""
    train = program.config.train
    return train.batch_size // (
        program.parallel.num_row_shards * train.num_microbatches
    )


def _gathered_bytes(program: Program) -> tuple[float, float, float]:
    """Whole parameters beside their shards: of all blocks, of one, and of the rest.

    Those of the rest come with their gradients, before these are split.
    """
    shape = program.parallel.mesh.shape
    if shape.get("fsdp", 1) == 1:
        return 0.0, 0.0, 0.0
    blocks = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(program.weights)
        if any(getattr(part, "key", None) == "layers" for part in path)
    )
    everything = sum(leaf.size for leaf in jax.tree.leaves(program.weights))
    config, tensor = program.model_config, shape["tensor"]
    gathered = blocks * config.compute_dtype.itemsize / tensor
    others = 2 * 4 * (everything - blocks) / tensor  # In float32.
    return gathered, gathered / config.num_blocks, others
