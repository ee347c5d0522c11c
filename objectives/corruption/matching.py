"""Partners among the rows of a batch, and labels for exactly half of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Farther than any two lengths.
_FAR = 2**30


def match_rows(
    lengths: Int[Array, " B"], documents: Int[Array, " B"], exists: Bool[Array, " B"]
) -> Int[Array, " B"]:
    """For each row another one, of a different document and of similar length.

    Rows are paired off by length, so that partners are mutual wherever possible. A
    row that is left over (of an odd batch, or of a document that has more than half of
    the rows) borrows the nearest row of another document, which stays with its own
    partner.

        row        0   1   2   3   4
        length     9   40  38  11  25
        document   a   b   b   b   c
        partners   3   4   4   0   1     (2 would suit 1, but is of its document)

    Args:
      lengths: what partners should have in common.
      documents: what they must not.
      exists: rows that take part.

    Returns:
      The partner's index; a row's own index where there is none, which happens to all
      rows or to none of those that take part.
    """
    own = jnp.arange(lengths.shape[0], dtype=jnp.int32)
    order = jnp.argsort(jnp.where(exists, lengths, _FAR)).astype(jnp.int32)
    pairs = order[: order.shape[0] // 2 * 2].reshape(-1, 2)
    left, right = _separate(pairs[:, 0], pairs[:, 1], documents, exists)
    matched = exists[left] & exists[right] & (documents[left] != documents[right])
    left = jnp.where(matched, left, own.shape[0])
    partners = own.at[left].set(right, mode="drop")
    partners = partners.at[jnp.where(matched, right, own.shape[0])].set(
        jnp.where(matched, left, 0), mode="drop"
    )
    allowed = (documents[:, None] != documents[None]) & exists[:, None] & exists[None]
    distance = jnp.abs(lengths[:, None] - lengths[None])
    distance = jnp.where(allowed, distance, _FAR)
    nearest = jnp.where(allowed.any(1), distance.argmin(1).astype(jnp.int32), own)
    return jnp.where(partners == own, nearest, partners)


def _separate(
    left: Int[Array, " P"],
    right: Int[Array, " P"],
    documents: Int[Array, " B"],
    exists: Bool[Array, " B"],
) -> tuple[Int[Array, " P"], Int[Array, " P"]]:
    """Exchanges rows between pairs until no pair is of one document, if that can be.

    A pair of one document exchanges a row with the nearest pair that has none of that
    document, which mends both. There is such a pair unless every pair has a row of
    the document. Rows of one document rarely meet, so there is rarely anything to do.
    """
    if left.shape[0] == 0:
        return left, right
    index = jnp.arange(left.shape[0])

    def conflicts(state):
        left, right = state[:2]
        return exists[right] & exists[left] & (documents[left] == documents[right])

    def exchange(state):
        left, right, _ = state
        pair = conflicts(state).argmax()
        document = documents[left[pair]]
        free = (documents[left] != document) & (documents[right] != document)
        free &= exists[left] & exists[right]
        other = jnp.where(free, jnp.abs(index - pair), _FAR).argmin()
        possible = free.any()
        moved, taken = right[pair], left[other]
        right = right.at[pair].set(jnp.where(possible, taken, moved))
        left = left.at[other].set(jnp.where(possible, moved, taken))
        return left, right, ~possible

    def unfinished(state):
        return conflicts(state).any() & ~state[2]

    state = (left, right, jnp.zeros((), bool))
    return jax.lax.while_loop(unfinished, exchange, state)[:2]


def choose_half(
    rng: Array,
    scores: Float[Array, " B"],
    partners: Int[Array, " B"],
    counts: Bool[Array, " B"],
) -> Bool[Array, " B"]:
    """Exactly half of the rows that count, mutual partners alike.

    One pair of partners is divided where half is an odd number. Of an odd number of
    rows, half is rounded up or down at random.

    Args:
      rng: key of the batch, for the odd row.
      scores: [B], uniform and independent of everything else.
      partners: index of each row's partner; its own for none.
      counts: rows to choose from.
    """
    own = jnp.arange(scores.shape[0], dtype=jnp.int32)
    mutual = partners[partners] == own
    leader = jnp.where(mutual, jnp.minimum(own, partners), own)
    order = jnp.lexsort((scores, scores[leader], ~counts))
    rank = jnp.zeros_like(own).at[order].set(own)
    total = counts.sum(dtype=jnp.int32)
    up = jax.random.bernoulli(rng).astype(jnp.int32)
    return counts & (rank < total // 2 + total % 2 * up)
