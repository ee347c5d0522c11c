"""What a decoder has seen: an argument and a result of every step, never a state."""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Float, Int

from models.pytree import pytree


@pytree
class LayerCache:
    """Keys and values that one block has seen.

    Attributes:
      keys, values: of self-attention, S slots.
      cross_keys, cross_values: of the encoder's output, for an encoder-decoder.
    """

    keys: Float[Array, "B S K H"]
    values: Float[Array, "B S K H"]
    cross_keys: Float[Array, "B E K H"] | None = None
    cross_values: Float[Array, "B E K H"] | None = None

    def append(self, keys: Array, values: Array, index: Int[Array, ""]) -> LayerCache:
        """A copy with new keys and values written from slot `index` on."""
        start = (0, index, 0, 0)
        return LayerCache(
            keys=jax.lax.dynamic_update_slice(self.keys, keys, start),
            values=jax.lax.dynamic_update_slice(self.values, values, start),
            cross_keys=self.cross_keys,
            cross_values=self.cross_values,
        )


@pytree
class Cache:
    """What a decoder has seen, for decoding token by token.

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
