"""Learning rates over the steps.

All but 'rsqrt' rise linearly over the warmup: step t, counted from 0, of w has the share
(t + 1) / w of the peak. So the peak is reached, and no step has a rate of zero.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from research.config.sections import OptimizerConfig

# Of the steps, where the configured warmup does not fit into them.
SHORT_WARMUP = 0.1
Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]


def warmup_steps(config: OptimizerConfig, num_train_steps: int) -> int:
    """The configured ones, or a tenth of the steps before a decay if there are fewer."""
    if config.schedule == "rsqrt":
        return config.warmup_steps
    decay = round(config.decay_fraction * num_train_steps)
    steps = num_train_steps - (decay if config.schedule == "wsd" else 0)
    fits = config.warmup_steps <= steps
    return config.warmup_steps if fits else int(SHORT_WARMUP * steps)


def create(config: OptimizerConfig, num_train_steps: int) -> Schedule:
    """The learning rate as a function of the step, counted from 0.

    'wsd' is warmup, stable, decay (Hu et al. 2024): linear over the last steps. 'rsqrt'
    is the inverse square root of T5 (Raffel et al. 2020), flat over the warmup.
    """
    peak, final = config.learning_rate, config.final_learning_rate
    warmup = warmup_steps(config, num_train_steps)
    decay = round(config.decay_fraction * num_train_steps)
    left = num_train_steps - warmup
    flat = float(max(warmup, 1))
    if config.schedule == "rsqrt":
        return lambda step: peak * jnp.sqrt(flat / jnp.maximum(step + 1.0, flat))
    rise = optax.linear_schedule(peak / flat, peak, warmup - 1)
    # The step at which each begins to fall, and how it falls.
    falls: dict[str, tuple[int, optax.Schedule]] = {
        "constant": (warmup, optax.constant_schedule(peak)),
        "linear": (warmup, optax.linear_schedule(peak, final, left)),
        "cosine": (
            warmup,
            optax.cosine_decay_schedule(peak, max(left, 1), final / peak),
        ),
        "wsd": (num_train_steps - decay, optax.linear_schedule(peak, final, decay)),
    }
    start, fall = falls[config.schedule]
    rate = optax.join_schedules([rise, fall], [start])
    return lambda step: jnp.asarray(rate(step), jnp.float32)
