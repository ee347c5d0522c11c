"""AdamW whose hyperparameters are data: one compiled step serves every setting."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from models.pytree import pytree
from research.evaluation.finetuning.layer_depths import last_name

SCHEDULES = ("linear", "cosine", "constant")
# Parameters without weight decay, by their last name.
_NOT_DECAYED = ("bias", "scale", "relative_bias")


@pytree
class Hyperparameters:
    """Traced scalars, but for the multipliers.

    Attributes:
      learning_rate: at its peak.
      schedule: index into SCHEDULES.
      warmup_steps, num_steps: of the whole run.
      final_fraction: of the peak, at the end of 'cosine' and 'linear'.
      weight_decay: decoupled, times the learning rate.
      beta1, beta2, epsilon: Adam's.
      clip_norm: of the gradient's global norm; infinity = none.
      multipliers: factor on each parameter's learning rate; 0 = frozen.
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
    """Adam's moments, the step, and the hyperparameters that come along."""

    count: Int[Array, ""]
    mean: Any
    square: Any
    hyperparameters: Hyperparameters


def init(params: Any, hyperparameters: Hyperparameters) -> OptimizerState:
    """The state before the first step."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return OptimizerState(
        count=jnp.zeros((), jnp.int32),
        mean=zeros,
        square=jax.tree.map(jnp.zeros_like, params),
        hyperparameters=hyperparameters,
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


def update(
    grads: Any, state: OptimizerState, params: Any
) -> tuple[Any, OptimizerState]:
    """AdamW (Loshchilov and Hutter 2019) with clipping and a factor a parameter.

    The updates have the learning rate in them and are to be added.
    Frozen parameters neither move nor count in the gradient's norm.
    """
    h = state.hyperparameters
    grads = jax.tree.map(lambda g, m: g * (m > 0), grads, h.multipliers)
    norm = optax.global_norm(grads)
    scale = jnp.minimum(1.0, h.clip_norm / jnp.maximum(norm, 1e-12))
    grads = jax.tree.map(lambda g: g * scale, grads)
    count = state.count + 1
    mean = jax.tree.map(lambda m, g: h.beta1 * m + (1 - h.beta1) * g, state.mean, grads)
    square = jax.tree.map(
        lambda v, g: h.beta2 * v + (1 - h.beta2) * jnp.square(g), state.square, grads
    )
    correct1 = 1 - h.beta1 ** count.astype(jnp.float32)
    correct2 = 1 - h.beta2 ** count.astype(jnp.float32)
    rate = learning_rate(h, state.count)

    def delta(path, m, v, p, multiplier):
        step = (m / correct1) / (jnp.sqrt(v / correct2) + h.epsilon)
        if last_name(path) not in _NOT_DECAYED:
            step = step + h.weight_decay * p
        return (-rate * multiplier * step).astype(p.dtype)

    updates = jax.tree_util.tree_map_with_path(
        delta, mean, square, params, h.multipliers
    )
    return updates, dataclasses.replace(state, count=count, mean=mean, square=square)
