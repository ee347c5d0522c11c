"""Builds networks, optimizer, mesh and steps of a run from config and vocabulary."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.backbone import BackboneConfig
from objectives.base import Objective
from objectives.types import TokenBatch
from objectives.vocabulary import Vocabulary
from research.config import checks, objective_section
from research.config.sections import RunConfig
from research.errors import UserError, user_errors
from research.training import (
    adaptation,
    optimizer,
    parallelism,
    rngs,
    state,
    step,
)
from research.training.adaptation import Params
from research.training.optimizer import Optimizer
from research.training.parallelism import Parallel
from research.training.state import Modules, TrainState


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A run as functions and shapes: what is compiled and on which mesh.

    Attributes:
      config: of the run.
      model_config: `config.model` with the vocabulary's size.
      objective: over the run's vocabulary.
      modules: the networks without parameters.
      optimizer: update rule and schedule.
      parallel: the mesh.
      state: shapes and shardings of the TrainState.
      constants: shapes and shardings of the parameters that are not learned.
    """

    config: RunConfig
    model_config: BackboneConfig
    objective: Objective
    modules: Modules
    optimizer: Optimizer
    parallel: Parallel
    state: TrainState
    constants: Params

    @property
    def weights(self) -> Params:
        """Shapes and shardings of the parameters of all networks."""
        return adaptation.join(self.state.params, self.constants, self.state.step)

    @property
    def seed(self) -> jax.Array:
        """The run's seed on all devices."""
        seed = np.uint32(self.config.train.seed)
        return jax.device_put(seed, self.parallel.replicated)

    def init_weights(self) -> Params:
        """Freshly drawn parameters of all networks, each made where it stays."""

        def init(seed: jax.Array) -> Params:
            rng = rngs.stream(seed, "params")
            return state.init_params(self.model_config, self.objective, rng)

        shardings = self.parallel.shardings(self.modules.params)
        return jax.jit(init, out_shardings=shardings)(self.seed)

    def start(self, weights: Params) -> tuple[TrainState, Params]:
        """The state before the first step and the constants, of weights given away."""

        def init(params: Params, seed: jax.Array) -> TrainState:
            return state.init_state(params, self.optimizer, seed)

        params, constants = _split(self.config, self.objective, weights)
        shardings = jax.tree.map(lambda x: x.sharding, self.state)
        jitted = jax.jit(init, out_shardings=shardings, donate_argnums=0)
        return jitted(params, self.seed), constants

    def constants_of(self, weights: Params) -> Params:
        """What of the weights of all networks is not learned."""
        return _split(self.config, self.objective, weights)[1]

    def init(self) -> tuple[TrainState, Params]:
        """The state before the first step and the constants, freshly drawn."""
        return self.start(self.init_weights())

    def lower_train_step(self, objective: Objective) -> jax.stages.Lowered:
        """The train step of an objective for XLA, from shapes and shardings alone."""
        trained: tuple[str, ...] = ()
        if self.optimizer.units:
            own = state.create_modules(self.model_config, objective)
            trained = state.trained_units(own, objective)
        train_step = step.make_train_step(
            objective,
            self.modules,
            self.optimizer,
            num_microbatches=self.config.train.num_microbatches,
            distribution=self.parallel.distribution,
            trained=trained,
        )
        batch = self.batch_shapes(self.config.train.batch_size)
        return self.parallel.lower(
            train_step,
            (self.state, self.constants, batch),
            row_arguments=(2,),
            donate=(0,),
        )

    def lower_eval_step(self) -> jax.stages.Lowered:
        """The evaluation step for XLA; see `training.step.EvalStep`."""
        eval_step = step.make_eval_step(
            self.objective, self.modules, distribution=self.parallel.distribution
        )
        batch = self.batch_shapes(self.config.eval.batch_size)
        state = self.state
        arguments = (
            state.params,
            self.constants,
            state.step,
            batch,
            state.seed,
            state.step,
        )
        return self.parallel.lower(eval_step, arguments, row_arguments=(3,))

    def batch_shapes(self, batch_size: int) -> TokenBatch:
        """Shapes and shardings of a global batch."""
        row_length = self.config.data.row_length
        batch = TokenBatch(
            tokens=jax.ShapeDtypeStruct((batch_size, row_length), jnp.int32),
            row_ids=jax.ShapeDtypeStruct((batch_size,), jnp.int32),
            first_document=jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        )
        return self.parallel.global_shapes(batch)


def create(
    config: RunConfig,
    vocabulary: Vocabulary,
    *,
    devices: list[jax.Device] | None = None,
    parallel: Parallel | None = None,
) -> Program:
    """Puts a run together; nothing is computed or allocated yet.

    Args:
      config: of the run.
      vocabulary: of its tokenizer.
      devices: None = all there are.
      parallel: a mesh, perhaps an abstract one, instead of the devices'.

    Raises:
      UserError: if the objective does not fit the vocabulary, or batch, model and
        devices do not fit each other.
    """
    model_config = resolve_model(config.model, vocabulary)
    with user_errors():
        objective = objective_section.create(config, vocabulary)
    if parallel is None:
        parallel = parallelism.create(config.parallel, devices)
    problems = checks.length_problems(model_config, objective)
    problems += parallelism.batch_problems(config, objective, parallel)
    if problems:
        raise UserError("\n".join(problems))
    with user_errors():
        modules = state.create_modules(model_config, objective)
    rule = optimizer.create(
        config.optimizer,
        config.train.num_train_steps,
        state.trained_units(modules, objective) if objective.switches else (),
    )
    params, constants = _split(config, objective, modules.params)
    shapes = jax.eval_shape(
        functools.partial(state.init_state, optimizer=rule, seed=0), params
    )
    return Program(
        config=config,
        model_config=model_config,
        objective=objective,
        modules=modules,
        optimizer=rule,
        parallel=parallel,
        state=_with_shardings(shapes, parallel.shardings(shapes)),
        constants=_with_shardings(constants, parallel.shardings(constants)),
    )


def _split(
    config: RunConfig, objective: Objective, weights: Params
) -> tuple[Params, Params]:
    """Weights of all networks, or their shapes, as (params, constants).

    Raises:
      UserError: if nothing is left to learn.
    """
    is_learned = adaptation.learns(config.train.trainable, objective.frozen)
    params, constants = adaptation.split(weights, is_learned)
    if not jax.tree.leaves(params):
        names = ", ".join(list(adaptation.paths(weights))[:5])
        raise UserError(
            f"config.train.trainable = {config.train.trainable!r} matches no parameter: "
            f"it must match whole paths such as {names}; '.*' is all of them."
        )
    return params, constants


def resolve_model(config: BackboneConfig, vocabulary: Vocabulary) -> BackboneConfig:
    """The model's config with the number of embedding rows the vocabulary needs.

    Raises:
      UserError: if a size was given that does not hold the vocabulary.
    """
    if config.vocab_size is None:
        return dataclasses.replace(config, vocab_size=vocabulary.vocab_size)
    if config.vocab_size < vocabulary.vocab_size:
        raise UserError(
            f"config.model.vocab_size = {config.vocab_size} is smaller than the "
            f"tokenizer's vocabulary of {vocabulary.vocab_size}: leave it None or "
            f"raise it."
        )
    return config


def _with_shardings(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        shardings,
    )
