"""What a step changes: parameters, the optimizer's state and two counters."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int, Key, UInt32

from models.backbone import BackboneConfig
from models.pytree import pytree
from objectives.base import Objective
from research.training.adaptation import Params
from research.training.optimizer import Optimizer


@pytree
class TrainState:
    """The whole state of a run besides its config, its data and its constants.

    Attributes:
      seed: uint32, of the run; all randomness follows from it, the step and the rows.
        Data and not a constant, so that one compiled step serves every seed.
      step: optimizer steps taken, skipped ones included.
      skipped: how many of them were skipped because they were not finite.
      params: what is learned: a nested dict of arrays for each network.
      opt_state: the optimizer's.
    """

    seed: UInt32[Array, ""]
    step: Int[Array, ""]
    skipped: Int[Array, ""]
    params: Params
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Modules:
    """The networks of a run without their parameters.

    Attributes:
      graphs: a graph definition for each network; `merge` makes modules of them again.
      params: shapes and dtypes of all parameters: a nested dict for each network.
    """

    graphs: dict[str, nnx.GraphDef]
    params: Params

    def merge(self, weights: Params) -> dict[str, Any]:
        """The networks, by name, with these weights."""
        return {
            name: nnx.merge(graph, weights.get(name, {}))
            for name, graph in self.graphs.items()
        }


def create_modules(config: BackboneConfig, objective: Objective) -> Modules:
    """The networks of an objective, built without computing anything."""
    networks = nnx.eval_shape(lambda: objective.networks(config, rngs=nnx.Rngs(0)))
    parts = {name: nnx.split(network) for name, network in networks.items()}
    return Modules(
        graphs={name: graph for name, (graph, _) in parts.items()},
        params={name: nnx.to_pure_dict(state) for name, (_, state) in parts.items()},
    )


def trained_units(modules: Modules, objective: Objective) -> tuple[str, ...]:
    """Path prefixes of the parameters that an objective's steps move."""
    networks = [n for n in modules.graphs if n not in ("heads", *objective.frozen)]
    return (*networks, *(f"heads/{name}" for name in objective.head_names))


def init_params(
    config: BackboneConfig, objective: Objective, rng: Key[Array, ""]
) -> Params:
    """Freshly drawn parameters of all networks; pure and jittable."""
    networks = objective.networks(config, rngs=nnx.Rngs(rng))
    return {
        name: nnx.to_pure_dict(nnx.state(network)) for name, network in networks.items()
    }


def init_state(
    params: Params, optimizer: Optimizer, seed: int | UInt32[Array, ""]
) -> TrainState:
    """The state before the first step, of what is learned."""
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
