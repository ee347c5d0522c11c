"""Learning rates over the steps, as shares of their peak.

All but 'rsqrt' rise linearly over the warmup: step t, counted from 0, of w has the
share (t + 1) / w. What follows is a function of

    p = (t - start) / (stop - start)   in [0, 1)

so the peak is reached and no step has a rate of zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from research.config.sections import OptimizerConfig

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Of a schedule, in steps; `final` is the last rate over the peak."""

    warmup: int
    decay: int
    total: int
    final: float


def _rise(t: Array, timing: Timing) -> Array:
    return jnp.minimum((t + 1.0) / max(timing.warmup, 1), 1.0)


def _progress(t: Array, start: int, stop: int) -> Array:
    return jnp.clip((t - start) / max(stop - start, 1), 0.0, 1.0)


def _linear(t: Array, timing: Timing) -> Array:
    p = _progress(t, timing.warmup, timing.total)
    return _rise(t, timing) * (1.0 - p * (1.0 - timing.final))


def _cosine(t: Array, timing: Timing) -> Array:
    p = _progress(t, timing.warmup, timing.total)
    fall = 0.5 * (1.0 + jnp.cos(jnp.pi * p))
    return _rise(t, timing) * (timing.final + (1.0 - timing.final) * fall)


def _constant(t: Array, timing: Timing) -> Array:
    return _rise(t, timing)


def _wsd(t: Array, timing: Timing) -> Array:
    """Warmup, stable, decay (Hu et al. 2024): linear over the last `decay` steps."""
    p = _progress(t, timing.total - timing.decay, timing.total)
    return _rise(t, timing) * (1.0 - p * (1.0 - timing.final))


def _rsqrt(t: Array, timing: Timing) -> Array:
    """Inverse square root (Raffel et al. 2020): flat over the first `warmup` steps."""
    warmup = float(max(timing.warmup, 1))
    return jnp.sqrt(warmup / jnp.maximum(t + 1.0, warmup))


SCHEDULES: dict[str, Callable[[Array, Timing], Array]] = {
    "linear": _linear,
    "cosine": _cosine,
    "constant": _constant,
    "wsd": _wsd,
    "rsqrt": _rsqrt,
}


def create(config: OptimizerConfig, num_train_steps: int) -> Schedule:
    """The learning rate as a function of the step, counted from 0."""
    timing = Timing(
        warmup=config.warmup_steps,
        decay=round(config.decay_fraction * num_train_steps),
        total=num_train_steps,
        final=config.final_learning_rate / config.learning_rate,
    )
    share = SCHEDULES[config.schedule]

    def schedule(step: Int[Array, ""]) -> Float[Array, ""]:
        t = jnp.asarray(step, jnp.float32)
        return config.learning_rate * share(t, timing)

    return schedule
