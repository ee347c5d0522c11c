"""Streams of tokens with their segments: packing, counting, shifting, shuffling.

Everything acts on one row (`jax.vmap` it) and has static shapes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from models.pytree import pytree


@pytree
class Stream:
    """One packed side of an example: an encoder's inputs or a decoder's targets.

    Attributes:
      tokens: token ids, padded at the end.
      segment_ids: document of the row, 1.., that a token belongs to; 0 = padding.
      document_ids: its corpus-wide number; -1 for tokens the corpus does not hold.
    """

    tokens: Int[Array, "*B L"]
    segment_ids: Int[Array, "*B L"]
    document_ids: Int[Array, "*B L"]


def pack(slots: Stream, keep: Bool[Array, " S"], length: int, pad_id: int) -> Stream:
    """The kept slots moved to the front, then padding, `length` in all.

    slots  a b c d e    keep  # . # . #    length 4   ->   a c e 0
    """
    size = keep.shape[0]
    places = jnp.where(keep, jnp.cumsum(keep) - 1, length)
    source = jnp.full(length, size, jnp.int32)
    source = source.at[places].set(jnp.arange(size, dtype=jnp.int32), mode="drop")

    def take(values, fill):
        return values.at[source].get(mode="fill", fill_value=fill)

    return Stream(
        tokens=take(slots.tokens, pad_id),
        segment_ids=take(slots.segment_ids, 0),
        document_ids=take(slots.document_ids, -1),
    )


def first_of_segment(segment_ids: Int[Array, " L"]) -> Bool[Array, " L"]:
    """Where another segment begins, the padding after the last one included."""
    return jnp.diff(segment_ids, prepend=-1) != 0


def count_in_segment(
    flags: Bool[Array, " L"], segment_ids: Int[Array, " L"]
) -> Int[Array, " L"]:
    """How many flags were seen in the segment so far, this token's included.

    segment_ids   1 1 1 2 2 2
    flags         # . # . # #
    count         1 1 2 0 1 2
    """
    count = jnp.cumsum(flags, dtype=jnp.int32)
    before = jnp.where(first_of_segment(segment_ids), count - flags, 0)
    return count - jax.lax.cummax(before)


def positions_in_segment(segment_ids: Int[Array, " L"]) -> Int[Array, " L"]:
    """0, 1, .. from the beginning of each segment."""
    index = jnp.arange(segment_ids.shape[0], dtype=jnp.int32)
    return index - jax.lax.cummax(jnp.where(first_of_segment(segment_ids), index, 0))


def shift_right(
    tokens: Int[Array, " L"], segment_ids: Int[Array, " L"], start_id: int
) -> Int[Array, " L"]:
    """A decoder's inputs: the previous target, at a segment's first place `start_id`.

    segment_ids   1 1 1 2 2 0
    targets       a b c d e _
    inputs        ^ a b ^ d ^
    """
    previous = jnp.roll(tokens, 1)
    return jnp.where(first_of_segment(segment_ids), start_id, previous)


def segment_lengths(
    segment_ids: Int[Array, " L"], num_segments: int
) -> Int[Array, " num_segments"]:
    """Tokens of segment 0, 1, .. num_segments - 1."""
    return jnp.zeros(num_segments, jnp.int32).at[segment_ids].add(1, mode="drop")


def shuffle_places(rng: Array, groups: Int[Array, " L"]) -> Int[Array, " L"]:
    """Where each element goes when every group is shuffled over its own places.

        groups   1 1 2 1 2      elements  a b c d e
        places   3 0 4 1 2      ->        b d e a c

    An element alone in its group stays where it is.
    """
    size = groups.shape[0]
    index = jnp.arange(size, dtype=jnp.int32)
    order = jax.random.bits(rng, (size,))
    _, places = jax.lax.sort((groups, index), num_keys=2)
    _, _, shuffled = jax.lax.sort((groups, order, index), num_keys=2)
    return jnp.zeros(size, jnp.int32).at[shuffled].set(places)


def append(row: Stream, token_id: int, pad_id: int) -> Stream:
    """The stream with a special token behind its last one, of the same segment.

    a b c _   ->   a b c $ _
    """
    slots = Stream(
        tokens=jnp.append(row.tokens, jnp.int32(token_id)),
        segment_ids=jnp.append(row.segment_ids, row.segment_ids.max()),
        document_ids=jnp.append(row.document_ids, jnp.int32(-1)),
    )
    length = slots.tokens.shape[0]
    return pack(slots, slots.segment_ids > 0, length, pad_id)


def prepend(row: Stream, token_id: int) -> Stream:
    """The stream with a special token before its first one, of the same segment."""
    return Stream(
        tokens=jnp.append(jnp.int32(token_id), row.tokens),
        segment_ids=jnp.append(row.segment_ids[0], row.segment_ids),
        document_ids=jnp.append(jnp.int32(-1), row.document_ids),
    )
