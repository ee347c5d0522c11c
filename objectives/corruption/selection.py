"""Which tokens of one row are corrupted, and what stands in for them.

Functions of a single row [L]; objectives map them over the batch. Budgets are integer
arithmetic: in float32, ceil(n * 0.15) is one too many at n = 100, 180, 200, ...
"""

from __future__ import annotations

import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from objectives.vocabulary import Vocabulary

# Rates are fractions of at most this denominator, so that n * numerator fits 32 bits.
_MAX_DENOMINATOR = 10_000


def fraction(rate: float) -> tuple[int, int]:
    """`rate` as numerator and denominator: 0.15 is (3, 20)."""
    value = fractions.Fraction(rate).limit_denominator(_MAX_DENOMINATOR)
    return value.numerator, value.denominator


def round_share(n, rate: float):
    """rate * n rounded half to even, for Python ints and integer arrays alike.

    n = 10, 20, 30, 50, 190 at 0.15 gives 2, 3, 4, 8, 28, as Python's `round` does.
    """
    numerator, denominator = fraction(rate)
    q, r = divmod(n * numerator, denominator)
    return q + ((2 * r > denominator) | ((2 * r == denominator) & (q % 2 == 1)))


def floor_share(n, rate: float):
    """floor(rate * n), for Python ints and integer arrays alike."""
    numerator, denominator = fraction(rate)
    return n * numerator // denominator


def ceil_share(n, rate: float):
    """ceil(rate * n), for Python ints and integer arrays alike."""
    numerator, denominator = fraction(rate)
    return -(-n * numerator // denominator)


def stochastic_share(rng: Array, n: Int[Array, ""], rate: float) -> Int[Array, ""]:
    """floor(rate * n + u) with u uniform in [0, 1): rate * n in expectation.

    512 at 0.15 is 76.8: 76 one time in five, else 77 (fairseq's mask_tokens_dataset).
    """
    numerator, denominator = fraction(rate)
    q, r = jnp.divmod(n * numerator, denominator)
    u = jax.random.randint(rng, (), 0, denominator)
    return q + (u < r)


def choose(
    rng: Array, eligible: Bool[Array, " L"], count: Int[Array, ""], size: int
) -> Int[Array, " {size}"]:
    """Positions of exactly `count` tokens, each set of eligible ones equally likely.

    Ascending, dead slots at the end hold L, where a scatter with mode='drop' writes
    nothing. `count` may be at most `size` and the number of eligible tokens.

        eligible  0 1 1 1 1 0, count 2, size 3  ->  [1 4 6]  or  [2 3 6], ...
    """
    length = eligible.shape[0]
    scores = jnp.where(eligible, jax.random.uniform(rng, (length,)), -1.0)
    # The first `count` of the ranking, not those above a threshold: ties would add one.
    _, order = jax.lax.top_k(scores, size)
    live = jnp.arange(size) < count
    return jnp.sort(jnp.where(live, order, length))


def positions_of(mask: Bool[Array, " L"], size: int) -> Int[Array, " {size}"]:
    """Positions of the first `size` True values, ascending; dead slots hold L.

    mask  0 1 0 1 1 0, size 4  ->  [1 3 4 6]
    """
    length = mask.shape[0]
    slots = jnp.where(mask, jnp.cumsum(mask) - 1, size)
    empty = jnp.full(size, length, jnp.int32)
    return empty.at[slots].set(jnp.arange(length, dtype=jnp.int32), mode="drop")


def fill_in_order(sizes: Int[Array, " W"], budget: Int[Array, ""]) -> Bool[Array, " W"]:
    """Takes items from the left while they fit, skipping those that would overshoot.

    Items of size 0 are never taken. Each round takes all items up to the first that
    overshoots among those that still fit, so a few rounds suffice, where visiting the
    items one by one would need W.

        sizes  2 3 4 2 1, budget 8  ->  1 1 0 1 1  (2 + 3, not 4, + 2 + 1)
    """

    def fitting(state):
        taken, left = state
        return ~taken & (sizes > 0) & (sizes <= left)

    def take(state):
        taken, left = state
        fits = fitting(state)
        total = jnp.cumsum(jnp.where(fits, sizes, 0))
        new = fits & (total <= left)
        return taken | new, left - jnp.where(new, sizes, 0).sum(dtype=left.dtype)

    start = (jnp.zeros(sizes.shape, bool), jnp.asarray(budget, jnp.int32))
    return jax.lax.while_loop(lambda state: fitting(state).any(), take, start)[0]


def choose_words(
    rng: Array, word_ids: Int[Array, " L"], budget: Int[Array, ""]
) -> Bool[Array, " L"]:
    """Whole words in random order until `budget` tokens are masked.

    A word that would overshoot is passed over for the next one (BERT's whole word
    masking), so the budget is met exactly wherever short words are left.

    Args:
      rng: key of the row.
      word_ids: number of each token's word, -1 = not eligible.
      budget: number of tokens.
    """
    sizes = word_sizes(word_ids)
    order = jnp.argsort(jax.random.uniform(rng, sizes.shape))
    taken = jnp.zeros(sizes.shape, bool)
    taken = taken.at[order].set(fill_in_order(sizes[order], budget))
    return taken[word_ids] & (word_ids >= 0)


def choose_ngrams(
    rng: Array, word_ids: Int[Array, " L"], budget: Int[Array, ""], max_words: int
) -> Int[Array, " L"]:
    """N-grams of whole words until `budget` tokens are masked (Lan et al. 2020, 3.1).

    Words are visited in random order. At each, n <= max_words is drawn with
    p(n) ~ 1 / n among the lengths that fit before the next token that is not eligible;
    an n-gram that would overshoot is tried shorter, one that meets masked tokens is
    passed over.

    Returns:
      For each token the visit that masked it, shared by the tokens of an n-gram; -1
      for tokens left alone.
    """
    length = word_ids.shape[0]
    sizes = word_sizes(word_ids)
    exists = sizes > 0
    order_rng, length_rng = jax.random.split(rng)
    scores = jnp.where(exists, jax.random.uniform(order_rng, (length,)), -1.0)
    order = jnp.argsort(-scores)
    u = jax.random.uniform(length_rng, (length,))
    ends, available = _ngram_ends(word_ids, sizes, max_words)
    prior = np.cumsum(1.0 / np.arange(1, max_words + 1)).astype(np.float32)
    index = jnp.arange(length)

    def visit(state):
        step, left, visits = state
        word = order[step]
        scaled = u[step] * jnp.asarray(prior)[available[word] - 1]
        drawn = 1 + (scaled >= jnp.asarray(prior)).sum()
        start = ends[word, 0] - sizes[word]
        tokens = ends[word] - start
        fits = (jnp.arange(1, max_words + 1) <= drawn) & (tokens <= left)
        size = jnp.where(fits, tokens, 0).max()
        span = (index >= start) & (index < start + size)
        free = ~(span & (visits >= 0)).any()
        visits = jnp.where(span & free, step, visits)
        return step + 1, left - jnp.where(free, size, 0), visits

    def unfinished(state):
        step, left, _ = state
        return (left > 0) & (step < exists.sum())

    state = (jnp.int32(0), budget.astype(jnp.int32), jnp.full(length, -1, jnp.int32))
    return jax.lax.while_loop(unfinished, visit, state)[2]


def _ngram_ends(
    word_ids: Int[Array, " L"], sizes: Int[Array, " L"], max_words: int
) -> tuple[Int[Array, "L {max_words}"], Int[Array, " L"]]:
    """Of each word: where its 1-, 2-, ..-gram ends (exclusive), and how many exist.

    N-grams end before the next token that is not eligible; those that would not are
    given the end of the longest that does.
    """
    length = word_ids.shape[0]
    slots = jnp.where(word_ids >= 0, word_ids, length)
    first = jnp.full(length, length, jnp.int32)
    first = first.at[slots].min(jnp.arange(length, dtype=jnp.int32), mode="drop")
    end = first + sizes
    # A word continues its predecessor's run when it begins where that one ends.
    joins = jnp.concatenate([jnp.zeros(1, bool), first[1:] == end[:-1]]) & (sizes > 0)
    ends, available = [end], jnp.ones(length, jnp.int32)
    for n in range(1, max_words):
        more = jnp.pad(joins[n:], (0, n)) & (available == n)
        available += more
        ends.append(jnp.where(more, jnp.pad(end[n:], (0, n)), ends[-1]))
    return jnp.stack(ends, axis=1), available


def word_sizes(word_ids: Int[Array, " L"]) -> Int[Array, " L"]:
    """Number of tokens of word 0, 1, ..; zero beyond the last word."""
    length = word_ids.shape[0]
    slots = jnp.where(word_ids >= 0, word_ids, length)
    return jnp.zeros(length, jnp.int32).at[slots].add(1, mode="drop")


def token_thresholds(counts: np.ndarray) -> np.ndarray:
    """Upper ends, in 2^-32, of the interval of [0, 1) that stands for each token.

    Args:
      counts: [V], how often each token is to be drawn; 0 = never.
    """
    total = np.cumsum(counts.astype(np.float64))
    ends = np.floor(total / total[-1] * 2.0**32)
    return np.minimum(ends, 2**32 - 1).astype(np.uint32)


def replacement_thresholds(vocabulary: Vocabulary, replacement: str) -> np.ndarray:
    """`token_thresholds` of the random tokens that stand in for others; none special.

    Args:
      replacement: 'unigram' draws by the corpus' counts, anything else uniformly.
    """
    counts = np.ones(vocabulary.vocab_size)
    if replacement == "unigram":
        counts = vocabulary.unigram_counts
    return token_thresholds(np.where(vocabulary.is_special, 0, counts))


def draw_tokens(
    rng: Array, thresholds: UInt32[np.ndarray, " V"], size: int
) -> Int[Array, " {size}"]:
    """Token ids drawn independently from the distribution of `token_thresholds`."""
    bits = jax.random.bits(rng, (size,), jnp.uint32)
    # 2^32 - 1 is below no threshold; it would name a token past the last.
    bits = jnp.minimum(bits, jnp.uint32(2**32 - 2))
    table = jnp.asarray(thresholds)
    found = jnp.searchsorted(table, bits, side="right", method="scan_unrolled")
    return found.astype(jnp.int32)


def capacity(length: int, rate: float, cluster: int = 1) -> int:
    """Slots that hold a random number of selected tokens, six deviations over its mean.

    Args:
      length: L.
      rate: probability that a token is selected.
      cluster: how many tokens are selected together, mean square over mean.
    """
    deviation = math.sqrt(length * rate * (1.0 - rate) * cluster)
    return min(length, math.ceil(length * rate + 6.0 * deviation))
