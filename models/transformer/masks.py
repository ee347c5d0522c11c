"""Attention masks: bool [B, 1, T, S], True = may attend.

Built from segment ids, positions in the sequence and the `bidirectional` flags, never
from token ids. Padding (segment 0) may attend to padding: its rows of the softmax are
then not empty, and no other segment sees it.
"""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Bool, Int

from models.pytree import pytree

# The splash kernel cuts a sequence evenly into blocks of a multiple of these positions.
SPLASH_BLOCK = 128


@pytree
class SegmentMask:
    """A self-attention mask by its segment ids, for kernels that never hold the mask.

    Attributes:
      ids: a query sees the keys of its own segment.
      causal: a query sees no keys that come after it.
    """

    ids: Int[Array, "B T"]
    causal: bool = dataclasses.field(metadata={"static": True})


def segment_mask(
    query_segments: Int[Array, "B T"], key_segments: Int[Array, "B S"]
) -> Bool[Array, "B 1 T S"]:
    """Pairs of the same segment: an encoder's mask, and cross-attention's."""
    return query_segments[:, None, :, None] == key_segments[:, None, None, :]


def causal_mask(
    query_index: Int[Array, " T"], key_index: Int[Array, " S"]
) -> Bool[Array, "1 1 T S"]:
    """Keys that do not come after the query in the sequence."""
    return query_index[None, None, :, None] >= key_index[None, None, None, :]


def prefix_mask(bidirectional: Bool[Array, "B S"]) -> Bool[Array, "B 1 1 S"]:
    """Keys that every query may see, on top of the causal ones."""
    return bidirectional[:, None, None, :]


def decoder_mask(
    query_segments: Int[Array, "B T"],
    key_segments: Int[Array, "B S"],
    query_index: Int[Array, " T"],
    key_index: Int[Array, " S"],
    bidirectional: Bool[Array, "B S"] | None,
) -> Bool[Array, "B 1 T S"]:
    """Same segment, and earlier in the sequence or marked bidirectional."""
    order = causal_mask(query_index, key_index)
    if bidirectional is not None:
        order = order | prefix_mask(bidirectional)
    return segment_mask(query_segments, key_segments) & order
