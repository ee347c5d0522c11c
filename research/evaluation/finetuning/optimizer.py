"""AdamW of optax, with its hyperparameters in the state.

They are data to the compiled step, so one program serves every rate, schedule and decay.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from models.pytree import pytree
from research.training.optimizer import decay_mask

SCHEDULES = ("linear", "cosine", "constant")


@pytree
class Hyperparameters:
    """Scalars of a run, and a factor for each parameter.

    Attributes:
      learning_rate: at its peak.
      schedule: index into SCHEDULES.
      warmup_steps, num_steps: of the whole run.
      final_fraction: of the peak, at the end of 'cosine' and 'linear'.
      weight_decay: decoupled, times the learning rate.
      beta1, beta2, epsilon: Adam's.
      clip_norm: limit of the gradient's global norm; infinity = none.
      multipliers: factor on each parameter's learning rate.
    """

    learning_rate: Float[Array, ""]
    schedule: Int[Array, ""]
    warmup_steps: Float[Array, ""]
    num_steps: Float[Array, ""]
    final_fraction: Float[Array, ""]
    weight_decay: Float[Array, ""]
    beta1: Float[Array, ""]
    beta2: Float[Array, ""]
    epsilon: Float[Array, ""]
    clip_norm: Float[Array, ""]
    multipliers: Any


@pytree
class OptimizerState:
    """The hyperparameters, and the state of the chain that they define."""

    hyperparameters: Hyperparameters
    chain: Any


def init(params: Any, hyperparameters: Hyperparameters) -> OptimizerState:
    """The state before the first step."""
    chain = adamw(hyperparameters).init(params)
    return OptimizerState(hyperparameters=hyperparameters, chain=chain)


def update(
    grads: Any, state: OptimizerState, params: Any
) -> tuple[Any, OptimizerState]:
    """Updates to be added to the parameters: the learning rate is in them."""
    chain = adamw(state.hyperparameters)
    updates, new = chain.update(grads, state.chain, params)
    return updates, dataclasses.replace(state, chain=new)


def adamw(h: Hyperparameters) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) with clipping and layer-wise rates."""

    def scale_each(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(jnp.multiply, updates, h.multipliers)

    return optax.chain(
        optax.clip_by_global_norm(h.clip_norm),
        optax.scale_by_adam(h.beta1, h.beta2, h.epsilon),
        optax.add_decayed_weights(h.weight_decay, decay_mask),
        optax.scale_by_learning_rate(lambda step: learning_rate(h, step)),
        optax.stateless(scale_each),
    )


def learning_rate(
    hyperparameters: Hyperparameters, step: Int[Array, ""]
) -> Float[Array, ""]:
    """Linear from 0 over the warm-up, then the schedule's decay to the last step."""
    h = hyperparameters
    step = step.astype(jnp.float32)
    warmup = jnp.minimum(step / jnp.maximum(h.warmup_steps, 1.0), 1.0)
    decay_steps = jnp.maximum(h.num_steps - h.warmup_steps, 1.0)
    progress = jnp.clip((step - h.warmup_steps) / decay_steps, 0.0, 1.0)
    shapes = jnp.stack(
        [1.0 - progress, 0.5 * (1.0 + jnp.cos(jnp.pi * progress)), jnp.ones(())]
    )
    shape = h.final_fraction + (1.0 - h.final_fraction) * shapes[h.schedule]
    return h.learning_rate * jnp.where(step < h.warmup_steps, warmup, shape)
