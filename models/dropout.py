"""Dropout whose masks are a hash of (seed of the row, site, index in the row).

Masks are therefore the same on every mesh, for every number of microbatches and in both
passes, and need no state. The hash costs two integer multiplications an element, a
fraction of a threefry block.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

from models.pytree import pytree

# Odd multipliers: two with good avalanche (Wellons 2018, 'hash prospector', lowbias32)
# and the golden ratio, which spreads neighbouring integers.
_MIX_A = np.uint32(0x7FEB352D)
_MIX_B = np.uint32(0x846CA68B)
_GOLDEN = np.uint32(0x9E3779B9)


def _mix(x: UInt32[Array, " ..."]) -> UInt32[Array, " ..."]:
    """A bijection of 32-bit integers that changes half of the bits for any change."""
    x = (x ^ (x >> 16)) * _MIX_A
    x = (x ^ (x >> 15)) * _MIX_B
    return x ^ (x >> 16)


@pytree
class DropoutRngs:
    """Seeds of one site of the network, one for each row.

    Attributes:
      seeds: uint32 [B].
    """

    seeds: UInt32[Array, " B"]

    @classmethod
    def from_key(
        cls, rng: Key[Array, ""] | UInt32[Array, " 2"], row_ids: Int[Array, " B"]
    ) -> DropoutRngs:
        """Seeds of a step's rows, from the step's key and the rows' global numbers."""
        word = jax.random.bits(rng, (), jnp.uint32)
        return cls(seeds=_mix(_mix(row_ids.astype(jnp.uint32) * _GOLDEN + word)))

    def fold(self, site: int | Int[Array, ""]) -> DropoutRngs:
        """Seeds of a site below this one: a layer, a sublayer, a head."""
        offset = (jnp.asarray(site, jnp.uint32) + np.uint32(1)) * _GOLDEN
        return DropoutRngs(seeds=_mix(self.seeds + offset))

    def of(self, rows: slice) -> DropoutRngs:
        """Seeds of some of the rows."""
        return DropoutRngs(seeds=self.seeds[rows])


def random_bits(rngs: DropoutRngs, shape: tuple[int, ...]) -> UInt32[Array, "B ..."]:
    """Uniform bits [B, ...], one word an element, from each row's seed and a counter."""
    size = math.prod(shape[1:])
    index = jnp.arange(size, dtype=jnp.uint32).reshape((1, *shape[1:]))
    seeds = rngs.seeds.reshape((-1,) + (1,) * (len(shape) - 1))
    # The seed enters twice, before and between the multiplications: two rows whose
    # first words meet at some pair of indices do not stay in step after it.
    x = (index ^ seeds) * _MIX_A
    x = (x ^ (x >> 15)) + seeds
    x = x * _MIX_B
    return x ^ (x >> 16)


def keep_mask(rngs: DropoutRngs, shape: tuple[int, ...], rate: float):
    """True with probability 1 - rate, bool of `shape` [B, ...]."""
    threshold = np.uint32(min(round((1.0 - rate) * 2**32), 2**32 - 1))
    return random_bits(rngs, shape) < threshold


def dropout(
    x: Float[Array, "B ..."], rate: float, rngs: DropoutRngs | None
) -> Float[Array, "B ..."]:
    """Zeroes a share `rate` of x and scales the rest by 1 / (1 - rate).

    Args:
      x: values, the leading axis the rows of `rngs`.
      rate: probability of a zero, in [0, 1).
      rngs: the site's seeds; None = deterministic, x as it is.
    """
    if rngs is None or rate == 0.0:
        return x
    if x.shape[0] != rngs.seeds.shape[0]:
        raise ValueError(
            f"dropout of {x.shape[0]} rows with the seeds of {rngs.seeds.shape[0]}: "
            f"make DropoutRngs from the row_ids of these rows."
        )
    keep = keep_mask(rngs, x.shape, rate)
    return jnp.where(keep, x * np.asarray(1.0 / (1.0 - rate), x.dtype), 0)


def fold(rngs: DropoutRngs | None, site: int | Int[Array, ""]) -> DropoutRngs | None:
    """`rngs.fold(site)`, or None where there is no dropout."""
    return None if rngs is None else rngs.fold(site)
