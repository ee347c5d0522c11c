"""Training FLOPs of an objective on a backbone, counted from an abstract trace.

`losses` and its gradient are traced over shapes, and their matrix products added up: a
product of [m, k] and [k, n] is 2 m k n. So whatever runs is counted, whatever the
backbone: further networks, frozen ones (forward only), heads, several passes. Causal
attention counts as full attention, as dense kernels compute it. Recomputation
(rematerialised blocks, fused kernels) is the implementation's affair and left out, as
in MFU.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jax_core

from models import platform
from models.backbone import BackboneConfig
from objectives.base import Objective
from objectives.types import Example, TokenBatch
from research.training import adaptation, state

_TRACED_ROWS = 4  # Objectives that look at other rows need some.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flops:
    """FLOPs of one row, means over the rows of a mixture and the steps of phases.

    Attributes:
      forward: of the forward pass.
      training: of the forward and backward pass.
      tokens: clean tokens the row consumes.
      targets: slots for targets of the row, dead ones included.
    """

    forward: float
    training: float
    tokens: int
    targets: float


@functools.lru_cache(maxsize=32)
def count(config: BackboneConfig, objective: Objective, trainable: str = ".*") -> Flops:
    """FLOPs of one row.

    Args:
      config: of the backbone, with the vocabulary's size.
      objective: what is traced, part by part.
      trainable: which parameters have gradients; see `adaptation.learns`.
    """
    config = dataclasses.replace(config, remat="none")
    forward, training, targets = 0.0, 0.0, 0.0
    for _, part, share in objective.parts():
        own_forward, own_training = _traced(config, part, trainable)
        forward += share * own_forward
        training += share * own_training
        targets += share * sum(part.lengths.targets.values())
    return Flops(
        forward=forward,
        training=training,
        tokens=objective.row_length,
        targets=targets,
    )


def executed(
    config: BackboneConfig, objective: Objective, trainable: str = ".*"
) -> float:
    """FLOPs of one row's forward and backward pass with the config's rematerialisation."""
    return sum(
        share * _traced(config, part, trainable)[1]
        for _, part, share in objective.parts()
    )


def _traced(
    config: BackboneConfig, objective: Objective, trainable: str
) -> tuple[float, float]:
    """FLOPs of a row: of the forward pass, and of both passes."""
    modules = state.create_modules(config, objective)
    is_learned = adaptation.learns(trainable, objective.frozen)
    params, constants = adaptation.split(modules.params, is_learned)
    example = abstract_example(objective, _TRACED_ROWS)

    def loss(params: Any, constants: Any, example: Example) -> jax.Array:
        weights = adaptation.join(params, constants, jnp.int32(0))
        terms, _ = objective.losses(
            modules.merge(weights), example, rng=jax.random.key(0), deterministic=False
        )
        return sum((value for value, _ in terms.values()), jnp.float32(0))

    arguments = (params, constants, example)
    passes = (loss, jax.grad(loss))
    with platform.planned_for("cpu"):  # Fused kernels hide their products.
        forward, both = (
            traced_dot_flops(jax.make_jaxpr(function)(*arguments).jaxpr) / _TRACED_ROWS
            for function in passes
        )
    return forward, both


def abstract_example(objective: Objective, batch_size: int) -> Example:
    """Shapes of what `corrupt` makes of a batch."""
    batch = TokenBatch(
        tokens=jax.ShapeDtypeStruct((batch_size, objective.row_length), jnp.int32),
        row_ids=jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        first_document=jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    )
    return jax.eval_shape(
        lambda batch: objective.corrupt(jax.random.key(0), batch), batch
    )


def traced_dot_flops(jaxpr: jax_core.Jaxpr) -> float:
    """FLOPs of the matrix products of a traced function; scans count every turn."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = (
                variable.aval.shape  # type: ignore[attr-defined]
                for variable in (equation.invars[0], equation.outvars[0])
            )
            total += 2.0 * math.prod(out) * math.prod(left[dim] for dim in contracted)
            continue
        turns = equation.params.get("length", 1)
        turns = turns if equation.primitive.name == "scan" else 1
        for inner in _inner_jaxprs(equation.params):
            total += turns * traced_dot_flops(inner)
    return total


def _inner_jaxprs(params: dict) -> list[jax_core.Jaxpr]:
    found = []
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr"):
        inner = params.get(name)
        if inner is not None:
            found.append(getattr(inner, "jaxpr", inner))
    return found
