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
import numpy as np
from jax.extend import core

from models import platform as platforms
from objectives import cross_entropy
from objectives.base import Objective
from objectives.types import Example
from research.training import adaptation, flops
from research.training.program import Program

# Rows of the two traces whose difference is the cost of a row: even, for objectives that
# pair rows, and no number of heads, by which axes are told apart.
_FEW, _MORE = 34, 38
# Float32 arrays of the size of a chunk of logits that are alive at a time.
_LOGITS_ALIVE = 2
# Gradients that are alive in a block's backward pass, as a share of all that its forward
# pass can keep. This and the next number were measured on CPUs.
_GRADIENTS_ALIVE = 0.5
# XLA on CPUs keeps copies of residuals in other layouts, unless a scan stacks them.
_CPU_COPIES = 0.3

Line = np.ndarray  # Bytes for each row, and constant ones.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes on one device as linear functions of its rows: (per row, constant).

    Attributes:
      saved: kept from the forward to the backward pass under the remat policy.
      block: what the backward pass of one block needs beside it, its gradients and
        what it computes again.
      logit_elements: logits of a row, of all terms together.
      max_logits: logits that are alive at a time, at most.
      undone: whether XLA keeps everything although the config rematerialises blocks.
    """

    saved: Line
    block: Line
    logit_elements: int
    max_logits: int
    undone: bool

    def saved_bytes(self, rows: int) -> float:
        """Kept for the backward pass, for so many rows at a time."""
        return float(self.saved @ (rows, 1))

    def block_bytes(self, rows: int) -> float:
        """Alive in one block's backward pass."""
        return float(self.block @ (rows, 1))

    def logit_bytes(self, rows: int) -> float:
        """Alive while a chunk of logits is computed, before any block's backward pass."""
        return 4 * _LOGITS_ALIVE * min(self.logit_elements * rows, self.max_logits)


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
    tensor = program.parallel.mesh.shape.get("tensor", 1)
    rows = [number * objective.denominator for number in (_FEW, _MORE)]
    with platforms.planned_for(platform):
        few, more = (
            _traced_bytes(program, objective, number, platform) for number in rows
        )
    per_row = (more - few) / (rows[1] - rows[0])
    # What does not grow with rows are gradients of tables, split like their parameters.
    split = program.parallel.mesh.shape.get("fsdp", 1) * tensor
    constant = (few - per_row * rows[0]) / split
    saved, alone, everything = np.stack([per_row, constant], axis=1)
    copies = _CPU_COPIES * alone if platform == "cpu" else 0.0
    limit = cross_entropy.chunk_elements(platform)
    logits = sum(objective.lengths.targets.values()) * (config.vocab_size or 0)
    return Activations(
        saved=saved + copies,
        block=((1 + _GRADIENTS_ALIVE) * everything - saved) / config.num_blocks,
        logit_elements=logits // tensor,
        max_logits=limit // (program.parallel.num_row_shards * tensor),
        undone=config.remat != "none" and np.array_equal(saved, everything),
    )


def _traced_bytes(
    program: Program, objective: Objective, rows: int, platform: str
) -> np.ndarray:
    """Bytes of so many rows' residuals on one device.

    Returns:
      Three numbers: under the config's rematerialisation, those of them that no scan
      stacks, and if nothing were rematerialised.
    """

    def loss(params: Any, constants: Any, example: Example) -> jax.Array:
        weights = adaptation.join(params, constants, jnp.int32(0))
        networks = program.modules.merge(weights)
        terms, _ = objective.losses(
            networks, example, rng=jax.random.key(0), deterministic=False
        )
        return sum((terms[name][0] for name in objective.terms), jnp.float32(0))

    params = program.state.params
    others = (program.constants, flops.abstract_example(objective, rows))
    forward = jax.make_jaxpr(loss)(params, *others)
    leaves = [jax.tree.leaves(tree) for tree in (params, others)]
    everything, _ = _residuals(_keeping(forward, in_scans=True), *leaves)
    # XLA on CPUs merges what jax.checkpoint computes again with the forward pass, unless
    # it stands in a loop of its own.
    if platform == "cpu":
        forward = _keeping(forward, in_scans=False)
    saved, alone = _residuals(forward, *leaves)
    sizes = frozenset(program.model_config.tensor_sizes.values())
    tensor = program.parallel.mesh.shape.get("tensor", 1)
    kinds = (saved, alone, everything)
    return np.array([_num_bytes(arrays, sizes, tensor) for arrays in kinds])


def _keeping(closed: core.ClosedJaxpr, *, in_scans: bool) -> core.ClosedJaxpr:
    """The same function without rematerialisation, in scans only if asked for."""

    def keep(equation: core.JaxprEqn) -> core.JaxprEqn:
        name, params = equation.primitive.name, dict(equation.params)
        if name == "remat2":
            params["policy"] = jax.checkpoint_policies.everything_saveable
        elif name == "scan" and in_scans:
            params["jaxpr"] = _keeping(params["jaxpr"], in_scans=True)
        return equation.replace(params=params)

    jaxpr = closed.jaxpr
    return closed.replace(jaxpr=jaxpr.replace(eqns=[keep(e) for e in jaxpr.eqns]))


def _residuals(
    forward: core.ClosedJaxpr, params: list[Any], others: list[Any]
) -> tuple[list[Any], list[Any]]:
    """Arrays that pass to the backward pass, and those of them that no scan stacks.

    Parameters and inputs, which exist anyway, do not count, nor do slices of them.
    """
    function = core.jaxpr_as_fun(forward)

    def residuals(params: list[Any], others: list[Any]) -> list[jax.Array]:
        return jax.tree.leaves(jax.vjp(lambda *p: function(*p, *others), *params)[1])

    jaxpr = jax.make_jaxpr(residuals)(params, others).jaxpr
    exist = {id(variable) for variable in (*jaxpr.invars, *jaxpr.constvars)}
    stacked = set()
    for equation in jaxpr.eqns:
        outputs = {id(variable) for variable in equation.outvars}
        if equation.primitive.name == "scan":
            stacked |= outputs
        elif equation.primitive.name in ("slice", "squeeze") and (
            id(equation.invars[0]) in exist
        ):
            exist |= outputs
    kept = {id(v): v.aval for v in jaxpr.outvars if hasattr(v.aval, "dtype")}
    found = {name: aval for name, aval in kept.items() if name not in exist}
    alone = [aval for name, aval in found.items() if name not in stacked]
    return list(found.values()), alone


def _num_bytes(arrays: list[Any], sizes: frozenset[int], tensor: int) -> float:
    """Bytes on one device, where features of these `sizes` are split `tensor` ways."""

    def share(shape: tuple[int, ...]) -> float:
        # Heads are one of the two axes before the last in queries, keys and values
        # [B, T, N, H] and in pairs [B, N, T, S]; features are the last axis.
        features = {*shape[-1:], *shape[-3:-1]} if len(shape) > 3 else {*shape[-1:]}
        return 1.0 / tensor if len(shape) > 2 and features & sizes else 1.0

    return sum(share(x.shape) * math.prod(x.shape) * x.dtype.itemsize for x in arrays)
