"""What a step changes: parameters, the optimizer's state and two counters."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int, Key, UInt32

import models
from models.backbone import BackboneConfig
from models.pytree import pytree
from objectives.base import Objective
from research.training.optimizer import Optimizer

# {'model': {...}, 'heads': {...}}: nested dicts of arrays under the modules' own names.
Params = dict[str, Any]


@pytree
class TrainState:
    """The whole state of a run besides its config and its data.

    Attributes:
      seed: uint32, of the run; all randomness follows from it, the step and the rows.
        Data and not a constant, so that one compiled step serves every seed.
      step: optimizer steps taken, skipped ones included.
      skipped: how many of them were skipped because they were not finite.
      params: {'model', 'heads'}, nested dicts of arrays.
      opt_state: the optimizer's.
    """

    seed: UInt32[Array, ""]
    step: Int[Array, ""]
    skipped: Int[Array, ""]
    params: Params
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Modules:
    """The backbone and the heads without their parameters.

    Attributes:
      model, heads: graph definitions; `merge` makes modules of them again.
      params: shapes and dtypes of the parameters.
    """

    model: nnx.GraphDef
    heads: nnx.GraphDef
    params: Params

    def merge(self, params: Params) -> tuple[Any, Any]:
        """Backbone and heads with these parameters."""
        return (
            nnx.merge(self.model, params["model"]),
            nnx.merge(self.heads, params["heads"]),
        )


def create_modules(config: BackboneConfig, objective: Objective) -> Modules:
    """The modules of a run, built without computing anything."""

    def build() -> tuple[nnx.Module, nnx.Module]:
        return _build(config, objective, nnx.Rngs(0))

    model, heads = nnx.eval_shape(build)
    model_graph, model_params = nnx.split(model)
    heads_graph, heads_params = nnx.split(heads)
    return Modules(
        model=model_graph,
        heads=heads_graph,
        params={
            "model": nnx.to_pure_dict(model_params),
            "heads": nnx.to_pure_dict(heads_params),
        },
    )


def init_params(
    config: BackboneConfig, objective: Objective, rng: Key[Array, ""]
) -> Params:
    """Freshly drawn parameters; pure and jittable."""
    model, heads = _build(config, objective, nnx.Rngs(rng))
    return {
        "model": nnx.to_pure_dict(nnx.state(model)),
        "heads": nnx.to_pure_dict(nnx.state(heads)),
    }


def _build(config: BackboneConfig, objective: Objective, rngs: nnx.Rngs):
    return models.create(config, rngs=rngs), objective.init_heads(config, rngs=rngs)


def init_state(
    params: Params, optimizer: Optimizer, seed: int | UInt32[Array, ""]
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        seed=jnp.asarray(seed, jnp.uint32),
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.transformation.init(params),
    )


def count_params(params: Any) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
