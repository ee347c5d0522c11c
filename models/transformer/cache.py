"""The cache of keys and values that decoding steps take and return."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models.pytree import pytree


@pytree
class LayerCache:
    """Keys and values of the tokens that one block has read, by head.

    Attributes:
      keys, values: of self-attention, S slots.
      cross_keys, cross_values: of the encoder's output, for an encoder-decoder.
    """

    keys: Float[Array, "B K S H"]
    values: Float[Array, "B K S H"]
    cross_keys: Float[Array, "B K E H"] | None = None
    cross_values: Float[Array, "B K E H"] | None = None

    def append(
        self,
        keys: Float[Array, "B T K H"],
        values: Float[Array, "B T K H"],
        index: Int[Array, ""],
    ) -> LayerCache:
        """A copy with new keys and values written from slot `index` on."""
        start = (0, 0, index, 0)
        return LayerCache(
            keys=jax.lax.dynamic_update_slice(self.keys, by_head(keys), start),
            values=jax.lax.dynamic_update_slice(self.values, by_head(values), start),
            cross_keys=self.cross_keys,
            cross_values=self.cross_values,
        )


def by_head(x: Float[Array, "B T K H"]) -> Float[Array, "B K T H"]:
    """Keys or values as a cache holds them."""
    return jnp.transpose(x, (0, 2, 1, 3))


@pytree
class Cache:
    """The tokens that a decoder has read, for decoding token by token.

    Attributes:
      layers: keys and values of every block.
      segment_ids: of the tokens in the slots.
      bidirectional: slots that every query of their segment may see.
      positions: of the tokens in the slots.
      index: number of slots written.
      encoder_segment_ids: of an encoder-decoder's encoder side.
    """

    layers: tuple[LayerCache, ...]
    segment_ids: Int[Array, "B S"]
    bidirectional: Bool[Array, "B S"]
    positions: Int[Array, "B S"]
    index: Int[Array, ""]
    encoder_segment_ids: Int[Array, "B E"] | None = None

    def take(self, rows: Int[Array, " B"]) -> Cache:
        """The cache of other rows with the same prompts, for beam search.

        Only keys and values of self-attention differ between them, so no others move.
        """
        layers = tuple(
            dataclasses.replace(x, keys=x.keys[rows], values=x.values[rows])
            for x in self.layers
        )
        return dataclasses.replace(self, layers=layers)
