"""Runs of neighbouring tokens with something in common."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def runs(
    mask: Bool[Array, "*B L"],
) -> tuple[Int[Array, "*B L"], Int[Array, "*B L"]]:
    """Start and end (exclusive) of the run of True that each token lies in.

    mask    0 1 1 0 1        outside of runs both are 0
    start   0 1 1 0 4
    end     0 3 3 0 5
    """
    length = mask.shape[-1]
    index = jax.lax.broadcasted_iota(jnp.int32, mask.shape, mask.ndim - 1)
    axis = mask.ndim - 1
    # The nearest token outside of the run, on either side.
    before = jax.lax.cummax(jnp.where(mask, -1, index), axis=axis)
    after = jax.lax.cummin(jnp.where(mask, length, index), axis=axis, reverse=True)
    return jnp.where(mask, before + 1, 0), jnp.where(mask, after, 0)
