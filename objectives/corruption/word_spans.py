"""Spans of whole words, drawn until a budget of tokens is met (SpanBERT).

Joshi et al. 2020 (arXiv:1907.10529), section 3.1, with the semantics of the reference
implementation (PairWithSpanMaskingScheme). Functions of a single row [L].
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from objectives.corruption.runs import runs


class Spans(NamedTuple):
    """Spans drawn in a row.

    Attributes:
      mask: tokens inside a span.
      draws: number of spans drawn; fewer remain once they are merged.
      lengths: [S], words of each span as drawn; of these the first `draws` were used.
    """

    mask: Bool[Array, " L"]
    draws: Int[Array, ""]
    lengths: Int[Array, " S"]


def geometric(p: float, longest: int) -> Float[np.ndarray, " {longest}"]:
    """P(length = 1 .. longest) of a geometric distribution, renormalised.

    p = 0.2, longest = 10:  .224 .179 .143 .115 .092 .073 .059 .047 .038 .030, mean 3.80
    """
    mass = (1.0 - p) ** np.arange(longest)
    return mass / mass.sum()


def place_spans(
    rng: Array,
    word_ids: Int[Array, " L"],
    budget: Int[Array, ""],
    pmf: Float[np.ndarray, " W"],
    max_draws: int,
) -> Spans:
    """Draws spans until exactly `budget` tokens are masked.

    Each time an anchor is drawn among the tokens not masked yet, and a length in
    words. The span begins with the anchor's word and goes to the right, at most to the
    next token that is not eligible. Tokens masked before cost nothing; the last span
    is cut, within a word if need be, where the budget ends.

        tokens   the un ##like ##ly mat  .  [SEP]  it  sat     budget 4
        words    0   1  1      1    2    3  -1     4   5
        draw 1   .   #  #      #    .    .  .      .   .       anchor ##ly, 1 word
        draw 2   .   #  #      #    .    #  .      .   .       anchor ., 3 words

    Args:
      rng: key of the row.
      word_ids: number of each token's word, -1 = not eligible.
      budget: tokens to mask, at most `max_draws` and the number of eligible tokens.
      pmf: P(1), P(2), .. of the lengths in words.
      max_draws: static bound; every draw masks at least one token.
    """
    anchor_rng, length_rng = jax.random.split(rng)
    eligible = word_ids >= 0
    _, end = runs(eligible)
    last_word = word_ids[jnp.maximum(end - 1, 0)]
    # The first unmasked token in a random order is uniform among the unmasked ones.
    order = jax.random.uniform(anchor_rng, word_ids.shape)
    u = jax.random.uniform(length_rng, (max_draws,))
    steps = jnp.asarray(np.cumsum(pmf)[:-1].astype(np.float32))
    lengths = 1 + (u[:, None] >= steps[None]).sum(1, dtype=jnp.int32)

    def draw(state):
        visits, step, total = state
        free = eligible & (visits < 0)
        anchor = jnp.where(free, order, 2.0).argmin()
        first = word_ids[anchor]
        last = jnp.minimum(first + lengths[step] - 1, last_word[anchor])
        new = free & (word_ids >= first) & (word_ids <= last)
        visits = jnp.where(new, step, visits)
        return visits, step + 1, total + new.sum(dtype=jnp.int32)

    start = (jnp.full(word_ids.shape, -1, jnp.int32), jnp.int32(0), jnp.int32(0))
    visits, draws, total = jax.lax.while_loop(
        lambda state: state[2] < budget, draw, start
    )
    in_last = visits == draws - 1
    surplus = total - budget
    kept = jnp.cumsum(in_last) <= in_last.sum() - surplus
    return Spans(mask=(visits >= 0) & (~in_last | kept), draws=draws, lengths=lengths)
