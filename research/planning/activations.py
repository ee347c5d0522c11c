"""What the forward pass keeps for the backward pass, counted from an abstract trace.

JAX hands residuals from the forward to the backward pass as arrays. Their shapes are
known without computing anything, for every objective, backbone and remat policy, so no
formula has to follow the code. XLA then fuses, reorders and reuses buffers, so the
count is an estimate: tests hold it against what XLA allocates.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from models import platform as platforms
from objectives import cross_entropy
from objectives.base import Objective
from objectives.types import Example
from research.training import flops, state
from research.training.program import Program
from research.training.state import Modules

# Rows of the two traces whose difference is the cost of a row: even, for objectives that
# pair rows, and no number of heads, by which axes are told apart.
_FEW, _MORE = 34, 38
# Float32 arrays of the size of a chunk of logits that are alive at a time.
_LOGITS_ALIVE = 2

Line = tuple[float, float]  # Bytes for each row, and constant ones.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes on one device as linear functions of its rows: (per row, constant).

    Attributes:
      saved: kept from the forward to the backward pass under the remat policy.
      block: what the backward pass of one block needs beside it, its gradients or
        what it computes again.
      sliced: copies of parts of stacked parameters, and of their gradients.
      logit_elements: logits of a row, of all terms together.
      max_logits: logits that are alive at a time, at most.
    """

    saved: Line
    block: Line
    sliced: float
    logit_elements: int
    max_logits: int

    def saved_bytes(self, rows: int) -> float:
        """Kept for the backward pass, for so many rows at a time."""
        return self.saved[0] * rows + self.saved[1]

    def working_bytes(self, rows: int) -> float:
        """Alive only for a moment: a chunk of logits, then one block's backward pass."""
        logits = min(self.logit_elements * rows, self.max_logits)
        return max(self.block[0] * rows + self.block[1], 4 * _LOGITS_ALIVE * logits)


def count(program: Program, platform: str) -> Activations:
    """Activations of a program on one device of its mesh, in its largest phase.

    Args:
      program: its model, objective and mesh.
      platform: 'gpu', 'tpu' or 'cpu': what attention keeps depends on it.
    """
    starts = (0, *program.objective.switches)
    phases = dict.fromkeys(program.objective.at(step) for step in starts)
    found = [_count(program, objective, platform) for objective in phases]
    return max(found, key=lambda activations: activations.saved_bytes(_FEW))


def _count(program: Program, objective: Objective, platform: str) -> Activations:
    config = program.model_config
    rows = tuple(number * objective.denominator for number in (_FEW, _MORE))
    tensor = program.parallel.mesh.shape.get("tensor", 1)
    sizes = frozenset(config.tensor_sizes.values())

    def line(remat: str) -> tuple[Line, Kept]:
        changed = dataclasses.replace(config, remat=remat)
        modules = state.create_modules(changed, program.objective)
        with platforms.planned_for(platform):
            few, more = (trace(objective, modules, number) for number in rows)
        less = few.num_bytes(sizes, tensor)
        per_row = (more.num_bytes(sizes, tensor) - less) / (rows[1] - rows[0])
        return (per_row, less - per_row * rows[0]), few

    saved, kept = line(config.remat)
    everything = saved if config.remat == "none" else line("none")[0]
    # The last block keeps the keys and values of all positions, and the rest of those
    # whose hidden states are read.
    read = max(_share_read(part) for _, part, _ in objective.parts())
    blocks = config.num_blocks - (1.0 - read) / 2
    limit = cross_entropy.chunk_elements(platform)
    logits = sum(objective.lengths.targets.values()) * (config.vocab_size or 0)
    return Activations(
        saved=saved,
        block=(everything[0] / blocks, everything[1] / blocks),
        sliced=kept.sliced_bytes(program.weights),
        logit_elements=logits // tensor,
        max_logits=limit // (program.parallel.num_row_shards * tensor),
    )


def _share_read(objective: Objective) -> float:
    """Share of the positions whose last hidden states a loss term reads."""
    example = flops.abstract_example(objective, _FEW)
    at = jax.eval_shape(objective.read_positions, example)
    return 1.0 if at is None else min(at.shape[1] / objective.lengths.inputs, 1.0)


@dataclasses.dataclass(frozen=True)
class Kept:
    """What the trace of a forward pass shows.

    Attributes:
      arrays: shapes and dtypes that pass to the backward pass. Parameters and inputs,
        which exist anyway, do not count.
      sliced: of each parameter, the share of it that is copied by slices.
    """

    arrays: list[Any]
    sliced: list[float]

    def num_bytes(self, sizes: frozenset[int] = frozenset(), tensor: int = 1) -> float:
        """Bytes on one device, where features of these `sizes` are split `tensor`ways."""

        def share(shape: tuple[int, ...]) -> float:
            # Heads are one of the two axes before the last in queries, keys and values
            # [B, T, N, H] and in pairs [B, N, T, S]; features are the last axis.
            features = {*shape[-1:], *shape[-3:-1]} if len(shape) > 3 else {*shape[-1:]}
            return 1.0 / tensor if len(shape) > 2 and features & sizes else 1.0

        return sum(
            share(x.shape) * math.prod(x.shape) * x.dtype.itemsize for x in self.arrays
        )

    def sliced_bytes(self, params: Any) -> float:
        """Bytes of the slices of parameters with shardings, and of their gradients."""
        return sum(
            share
            * math.prod(leaf.sharding.shard_shape(leaf.shape))
            * (leaf.dtype.itemsize + 4)
            for share, leaf in zip(self.sliced, jax.tree.leaves(params), strict=True)
        )


def trace(objective: Objective, modules: Modules, rows: int) -> Kept:
    """Traces the forward pass of so many rows."""

    def loss(params: Any, example: Example) -> jax.Array:
        terms, _ = objective.losses(
            modules.merge(params), example, rng=jax.random.key(0), deterministic=False
        )
        return sum((terms[name][0] for name in objective.terms), jnp.float32(0))

    def residuals(params: Any, example: Example) -> list[jax.Array]:
        return jax.tree.leaves(jax.vjp(lambda p: loss(p, example), params)[1])

    example = flops.abstract_example(objective, rows)
    jaxpr = jax.make_jaxpr(residuals)(modules.params, example).jaxpr
    exist = {id(variable) for variable in (*jaxpr.invars, *jaxpr.constvars)}
    number = {id(variable): index for index, variable in enumerate(jaxpr.invars)}
    sliced = [0.0] * len(jax.tree.leaves(modules.params))
    for equation in jaxpr.eqns:
        # Parameters of some of the stacked blocks. Slices exist beside the whole for as
        # long as the blocks need them.
        if equation.primitive.name not in ("slice", "squeeze"):
            continue
        source, (out,) = equation.invars[0], equation.outvars
        if id(source) not in exist:
            continue
        exist.add(id(out))
        share = math.prod(out.aval.shape) / math.prod(source.aval.shape)
        if number.get(id(source), len(sliced)) < len(sliced) and share < 1.0:
            sliced[number[id(source)]] += share
    kept = {id(v): v.aval for v in jaxpr.outvars if id(v) not in exist}
    return Kept([x for x in kept.values() if hasattr(x, "dtype")], sliced)
