"""Budgets and selections against Python's integers and loops over one row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from objectives.corruption import selection
from tests.helpers import quick_jit

LENGTH = 48


def keys(count: int, seed: int = 0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize(
    ("n", "expected"),
    [(10, 2), (20, 3), (30, 4), (50, 8), (70, 10), (190, 28), (350, 52), (390, 58)]
    + [(128, 19), (512, 77)],
)
def test_round_share_is_half_to_even_on_exact_fractions(n, expected):
    assert selection.round_share(n, 0.15) == expected
    assert int(selection.round_share(jnp.int32(n), 0.15)) == expected


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.4, 0.5, 0.123])
def test_shares_equal_exact_arithmetic_for_all_lengths(rate):
    n = np.arange(1, 4097)
    numerator, denominator = selection.fraction(rate)
    assert numerator / denominator == pytest.approx(rate, abs=1e-12)
    twice = 2 * n * numerator
    nearest = (twice + denominator) // (2 * denominator)
    tie = (twice + denominator) % (2 * denominator) == 0
    expected = nearest - (tie & (nearest % 2 == 1))
    shares = selection.round_share(jnp.asarray(n, jnp.int32), rate)
    np.testing.assert_array_equal(np.asarray(shares), expected)
    ceilings = selection.ceil_share(jnp.asarray(n, jnp.int32), rate)
    np.testing.assert_array_equal(
        np.asarray(ceilings), (n * numerator + denominator - 1) // denominator
    )
    assert [selection.round_share(int(i), rate) for i in n[:200]] == list(
        expected[:200]
    )


@pytest.mark.parametrize(("n_el", "expected"), [(510, 77), (509, 77), (126, 19)])
def test_ceil_share_is_span_berts_budget(n_el, expected):
    assert selection.ceil_share(n_el, 0.15) == expected


def test_stochastic_share_of_512_is_76_one_time_in_five():
    draw = quick_jit(
        jax.vmap(lambda key: selection.stochastic_share(key, jnp.int32(512), 0.15))
    )
    counts = np.asarray(draw(keys(20_000)))
    assert set(counts.tolist()) == {76, 77}
    assert (counts == 76).mean() == pytest.approx(0.2, abs=4 * 0.4 / 20_000**0.5)


def test_choose_is_exact_sorted_and_uniform():
    # A pair of 509 tokens in 512 places: [CLS] at 0, [SEP] in the middle and at the end.
    eligible = np.ones(512, bool)
    eligible[[0, 200, 511]] = False
    choose = quick_jit(
        jax.vmap(
            lambda key: selection.choose(key, jnp.asarray(eligible), jnp.int32(77), 80)
        )
    )
    positions = np.asarray(choose(keys(3000)))
    assert (positions[:, 77:] == 512).all()
    live = positions[:, :77]
    assert (np.diff(live, axis=1) > 0).all()
    assert eligible[live].all()
    hits = np.bincount(live.ravel(), minlength=512)[eligible]
    assert hits.mean() / 3000 == pytest.approx(0.1513, abs=1e-4)
    # Without replacement within a row, so counts vary less than a multinomial's.
    rate = 77 / 509
    statistic = ((hits - 3000 * rate) ** 2 / (3000 * rate * (1 - rate))).sum()
    assert 0.001 < stats.chi2.cdf(statistic * 508 / 509, 508) < 0.999


def test_choose_of_nothing_and_of_everything():
    eligible = jnp.asarray([False, True, True, False])
    key = jax.random.key(0)
    assert selection.choose(key, eligible, jnp.int32(0), 2).tolist() == [4, 4]
    assert selection.choose(key, eligible, jnp.int32(2), 3).tolist() == [1, 2, 4]


def test_positions_of_a_mask():
    mask = jnp.asarray([False, True, False, True, True, False])
    assert selection.positions_of(mask, 4).tolist() == [1, 3, 4, 6]
    assert selection.positions_of(mask, 2).tolist() == [1, 3]


def greedy(sizes, budget):
    """Item by item, as the reference implementation does."""
    taken, left = [], budget
    for size in sizes:
        taken.append(bool(0 < size <= left))
        left -= size if taken[-1] else 0
    return taken


def test_fill_in_order_equals_one_item_at_a_time():
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 6, (300, 20)).astype(np.int32)
    budgets = rng.integers(0, 40, 300).astype(np.int32)
    found = quick_jit(jax.vmap(selection.fill_in_order))(sizes, budgets)
    expected = [greedy(s, b) for s, b in zip(sizes, budgets, strict=True)]
    np.testing.assert_array_equal(np.asarray(found), expected)


def words_of(sizes: list[int], gaps: tuple[int, ...] = ()) -> np.ndarray:
    """Word ids of words of these sizes; ineligible tokens before words in `gaps`."""
    ids = [-1]
    for word, size in enumerate(sizes):
        ids += ([-1] if word in gaps else []) + [word] * size
    return np.asarray(ids + [-1] * (LENGTH - len(ids)), np.int32)


def test_whole_words_meet_the_budget_exactly():
    word_ids = words_of([2, 1, 3, 1, 1, 2, 4, 1, 1, 2, 3, 1, 1, 2, 1], gaps=(4, 9))
    choose = quick_jit(
        jax.vmap(
            lambda key: selection.choose_words(key, jnp.asarray(word_ids), jnp.int32(7))
        )
    )
    masks = np.asarray(choose(keys(400)))
    assert (masks.sum(1) == 7).all()
    for word in range(15):
        inside = masks[:, word_ids == word]
        assert (inside.all(1) | ~inside.any(1)).all()
    assert not masks[:, word_ids < 0].any()
    assert masks[:, word_ids >= 0].any(0).all()


def reference_ngrams(rng, word_ids, budget, max_words):
    """ALBERT's create_masked_lm_predictions on one row, in plain Python."""
    words = [np.flatnonzero(word_ids == w) for w in range(word_ids.max() + 1)]
    prior = 1.0 / np.arange(1, max_words + 1)
    covered, ngrams = set(), []
    for start in rng.permutation(len(words)):
        if len(covered) >= budget:
            break
        candidates = words[start : start + max_words]
        joined = [candidates[0]]
        for word in candidates[1:]:
            if word[0] != joined[-1][-1] + 1:
                break
            joined.append(word)
        p = prior[: len(joined)] / prior[: len(joined)].sum()
        n = rng.choice(np.arange(1, len(joined) + 1), p=p)
        while n and len(covered) + sum(map(len, joined[:n])) > budget:
            n -= 1
        tokens = {int(t) for word in joined[:n] for t in word}
        if n and not tokens & covered:
            covered |= tokens
            ngrams.append(int(n))
    return covered, ngrams


def ngram_lengths(visits: np.ndarray, word_ids: np.ndarray) -> list[int]:
    """Words of every n-gram of one row."""
    pairs = {(v, w) for v, w in zip(visits, word_ids, strict=True) if v >= 0}
    _, counts = np.unique([v for v, _ in pairs], return_counts=True)
    return counts.tolist()


def test_ngrams_of_single_piece_words_have_alberts_lengths():
    word_ids = np.concatenate([[-1], np.arange(510), [-1]]).astype(np.int32)
    choose = quick_jit(
        jax.vmap(
            lambda key: selection.choose_ngrams(
                key, jnp.asarray(word_ids), jnp.int32(77), 3
            )
        )
    )
    visits = np.asarray(choose(keys(200)))
    assert ((visits >= 0).sum(1) == 77).all()
    lengths = np.concatenate([ngram_lengths(row, word_ids) for row in visits])
    shares = np.bincount(lengths, minlength=4)[1:] / len(lengths)
    # Three deviations of 9,600 n-grams; conflicts favour short ones over the prior of
    # 6/11, 3/11, 2/11.
    np.testing.assert_allclose(shares, [0.569, 0.266, 0.165], atol=0.015)


def test_ngrams_of_longer_words_agree_with_the_reference():
    sizes = [2, 1, 3, 1, 1, 2, 4, 1, 1, 2, 3, 1, 1, 2, 1, 1, 2]
    word_ids = words_of(sizes, gaps=(4, 9))
    choose = quick_jit(
        jax.vmap(
            functools.partial(selection.choose_ngrams, max_words=3),
            in_axes=(0, None, None),
        )
    )
    visits = np.asarray(choose(keys(4000), jnp.asarray(word_ids), jnp.int32(9)))
    rng = np.random.default_rng(0)
    runs = [reference_ngrams(rng, word_ids, 9, 3) for _ in range(4000)]

    expected_mask = np.zeros((4000, LENGTH), bool)
    for row, (covered, _) in enumerate(runs):
        expected_mask[row, list(covered)] = True
    # Four deviations of the difference of two frequencies.
    np.testing.assert_allclose(
        (visits >= 0).mean(0), expected_mask.mean(0), atol=4 * (0.5 / 4000) ** 0.5
    )
    lengths = np.concatenate([ngram_lengths(row, word_ids) for row in visits])
    expected = np.concatenate([ngrams for _, ngrams in runs])
    shares = np.bincount(lengths, minlength=4) / len(lengths)
    np.testing.assert_allclose(
        shares, np.bincount(expected, minlength=4) / len(expected), atol=0.02
    )
    assert np.mean((visits >= 0).sum(1)) == pytest.approx(
        expected_mask.sum(1).mean(), abs=0.05
    )
    for row in visits[:200]:
        for visit in set(row[row >= 0]):
            tokens = np.flatnonzero(row == visit)
            assert (np.diff(tokens) == 1).all()


def test_tokens_are_drawn_in_proportion_to_their_counts():
    counts = np.asarray([0, 5, 0, 1, 2, 2, 0, 0])
    thresholds = selection.token_thresholds(counts)
    drawn = np.asarray(selection.draw_tokens(jax.random.key(0), thresholds, 40_000))
    shares = np.bincount(drawn, minlength=8) / 40_000
    np.testing.assert_allclose(shares, counts / 10, atol=4 * 0.5 / 40_000**0.5)
    assert shares[counts == 0].sum() == 0


def test_capacity_holds_six_deviations():
    # 510 tokens at 0.15: mean 76.5, deviation 8.06.
    assert selection.capacity(510, 0.15) == 125
    assert selection.capacity(16, 0.9) == 16
