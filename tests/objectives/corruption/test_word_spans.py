"""SpanBERT's spans against closed forms and a loop that draws them one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives.corruption.selection import ceil_share
from objectives.corruption.word_spans import geometric, place_spans

PMF = geometric(0.2, 10)


@functools.cache
def placed(kind: str, num_rows: int = 2000):
    """Word ids, budget and spans of many rows; at a rate of 0.15."""
    words = jnp.asarray(word_ids(kind, num_rows))
    budget = int(ceil_share((np.asarray(words[0]) >= 0).sum(), 0.15))

    def place(rng, words):
        return place_spans(rng, words, jnp.int32(budget), PMF, budget)

    keys = jax.random.split(jax.random.key(3), num_rows)
    return np.asarray(words), budget, jax.jit(jax.vmap(place))(keys, words)


def word_ids(kind: str, num_rows: int) -> np.ndarray:
    """Rows of one kind: 'pieces510' has words of one to four tokens, 'blocks' a hole."""
    if kind == "pieces510":
        rng = np.random.default_rng(0)
        starts = rng.random((num_rows, 510)) < 0.6
        starts[:, 0] = True
        return (np.cumsum(starts, 1) - 1).astype(np.int32)
    length = int(kind.removeprefix("words").removeprefix("blocks"))
    words = np.arange(length, dtype=np.int32)
    if kind.startswith("blocks"):
        words[length // 2 :] -= 1
        words[length // 2] = -1
    return np.tile(words, (num_rows, 1))


def reference_mask(rng: np.random.Generator, words: np.ndarray, budget: int):
    """The reference's procedure: anchors on masked tokens are drawn anew."""
    eligible = np.flatnonzero(words >= 0)
    mask = np.zeros(len(words), bool)
    while mask.sum() < budget:
        length = rng.choice(10, p=PMF) + 1
        anchor = rng.choice(eligible)
        if mask[anchor]:
            continue
        place, first = anchor, words[anchor]
        while place > 0 and words[place - 1] == first:
            place -= 1
        while place < len(words) and first <= words[place] < first + length:
            if mask.sum() < budget:
                mask[place] = True
            place += 1
    return mask


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Lengths of all runs of True of the rows [N, L]."""
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    changes = np.diff(padded.reshape(-1))
    return np.flatnonzero(changes < 0) - np.flatnonzero(changes > 0)


def test_lengths_are_renormalised_not_piled_up_at_the_longest():
    length = np.arange(1, 11)
    assert PMF.sum() == pytest.approx(1.0)
    assert PMF @ length == pytest.approx(3.797, abs=5e-4)
    assert PMF @ length**2 - (PMF @ length) ** 2 == pytest.approx(6.524, abs=5e-4)
    assert PMF[0] == pytest.approx(0.2241, abs=5e-5)
    assert PMF[9] == pytest.approx(0.0301, abs=5e-5)


def test_drawn_lengths_follow_the_distribution():
    # Wald: over the spans drawn until a budget is met, frequencies are unbiased.
    _, _, spans = placed("words126")
    lengths, draws = np.asarray(spans.lengths), np.asarray(spans.draws)
    used = lengths[np.arange(lengths.shape[1])[None] < draws[:, None]]
    counts = np.bincount(used, minlength=11)[1:]
    expected = PMF * len(used)
    # chi^2 with 9 degrees of freedom exceeds 27.9 once in a thousand.
    assert ((counts - expected) ** 2 / expected).sum() < 27.9
    assert used.mean() == pytest.approx(3.797, abs=4 * np.sqrt(6.524 / len(used)))


@pytest.mark.parametrize("kind", ["words510", "words126", "blocks126", "pieces510"])
def test_budget_is_exact(kind):
    words, budget, spans = placed(kind)
    assert budget == {510: 77, 126: 19}[words.shape[1]]
    assert (np.asarray(spans.mask).sum(1) == budget).all()


@pytest.mark.parametrize(
    "n, budget", [(100, 15), (180, 27), (200, 30), (125, 19), (509, 77)]
)
def test_budgets_are_integer_arithmetic(n, budget):
    """ceil(float32(n) * float32(0.15)) is one more at the first three."""
    assert ceil_share(n, 0.15) == budget


@pytest.mark.parametrize(
    "kind, spans_a_row, mean_length, share_of_ones",
    [("words510", 19.6, 3.93, 0.226), ("words126", 5.3, 3.57, 0.25)],
)
def test_merged_spans_have_the_known_numbers(
    kind, spans_a_row, mean_length, share_of_ones
):
    mask = np.asarray(placed(kind)[2].mask)
    lengths = run_lengths(mask)
    assert len(lengths) / len(mask) == pytest.approx(spans_a_row, abs=0.2)
    assert lengths.mean() == pytest.approx(mean_length, abs=0.05)
    assert (lengths == 1).mean() == pytest.approx(share_of_ones, abs=0.015)


@pytest.mark.parametrize("kind", ["words126", "blocks126", "pieces510"])
def test_spans_are_distributed_as_the_references(kind):
    words, budget, spans = placed(kind)
    rng = np.random.default_rng(1)
    rows = 600
    reference = np.stack([reference_mask(rng, row, budget) for row in words[:rows]])
    mine = np.asarray(spans.mask)
    for statistic in (
        lambda mask: (np.diff(mask.astype(int), axis=1) == 1).sum(1),  # spans
        lambda mask: mask[:, :8].sum(1),  # the beginning is seldom reached
        lambda mask: mask[:, mask.shape[1] // 2 - 8 :][:, :16].sum(1),
        lambda mask: mask[:, -8:].sum(1),
        lambda mask: (mask[:, 1:] & mask[:, :-1]).sum(1),
    ):
        a, b = statistic(mine), statistic(reference)
        error = np.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) < 4.5 * error


def test_a_span_ends_where_its_block_does():
    words, _, spans = placed("blocks126")
    mask = np.asarray(spans.mask)
    hole = 63
    assert (words[0, hole] == -1) and not mask[:, hole].any()
    # Were spans to run across the hole, the two sides would go together.
    left, right = mask[:, hole - 1], mask[:, hole + 1]
    together = np.corrcoef(left, right)[0, 1]
    assert abs(together) < 4.5 / np.sqrt(len(mask))
    # Without the hole they do.
    whole = np.asarray(placed("words126")[2].mask)
    assert np.corrcoef(whole[:, hole - 1], whole[:, hole])[0, 1] > 0.3


def test_words_are_whole_but_for_the_last():
    words, _, spans = placed("pieces510")
    mask = np.asarray(spans.mask)
    same_word = words[:, 1:] == words[:, :-1]
    cut = (same_word & (mask[:, 1:] != mask[:, :-1])).sum(1)
    # The budget cuts one span, inside one word at most.
    assert cut.max() == 1
    assert 0 < cut.mean() < 0.6


@pytest.mark.parametrize("length, budget", [(5, 0), (1, 1), (6, 6), (40, 36)])
def test_any_budget_up_to_everything(length, budget):
    words = jnp.arange(length, dtype=jnp.int32)
    spans = place_spans(
        jax.random.key(0), words, jnp.int32(budget), PMF, max(budget, 1)
    )
    assert int(spans.mask.sum()) == budget
