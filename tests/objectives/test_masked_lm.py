"""Masked LM: budgets, what is selected, what stands in for it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

import objectives
from experiments import presets
from models.transformer.block import positions_at
from objectives.types import TokenBatch
from tests.helpers import (
    CLS,
    EOD,
    FIRST_TEXT,
    MASK,
    PAD,
    SEP,
    UNK,
    quick_jit,
    tiny_config,
    toy_batch,
    toy_vocabulary,
)

VOCABULARY = toy_vocabulary()
# Every token a word of its own.
ONE_PIECE = dataclasses.replace(VOCABULARY, is_word_start=np.ones(512, bool))


@functools.cache
def masked_lm(row_length: int, vocabulary=VOCABULARY, **overrides):
    params = {"masked_lm": {**presets.OBJECTIVES["masked_lm"], **overrides}}
    return objectives.create(
        "masked_lm",
        params,
        vocabulary=vocabulary,
        row_length=row_length,
        architecture="encoder",
    )


@functools.cache
def compiled(objective):
    return quick_jit(objective.corrupt)


def corrupt(objective, batch, seed: int = 0):
    return compiled(objective)(jax.random.key(seed), batch)


def selected_counts(example) -> np.ndarray:
    return np.asarray(example.targets["mlm"].loss_weights).sum(1).astype(int)


def plain_rows(batch_size: int, row_length: int, seed: int = 0) -> TokenBatch:
    """Rows without ``[EOD]``."""
    return toy_batch(
        batch_size, row_length, vocabulary=VOCABULARY, seed=seed, document_length=None
    )


def fates(example, batch) -> dict[str, np.ndarray]:
    """What became of each selected token, in order of rows and positions."""
    target = example.targets["mlm"]
    live = np.asarray(target.loss_weights) > 0
    found = np.take_along_axis(
        np.asarray(example.inputs.tokens), np.asarray(target.positions), axis=1
    )[live]
    clean = np.asarray(target.values)[live]
    masked = found == MASK
    return {"masked": masked, "kept": ~masked & (found == clean), "found": found}


@pytest.mark.parametrize(("length", "expected"), [(128, 19), (512, 77)])
def test_exact_budget_of_full_rows(length, expected):
    objective = masked_lm(length - 2)
    example = corrupt(objective, plain_rows(64, length - 2))
    assert objective.lengths.targets == {"mlm": expected}
    assert set(selected_counts(example)) == {expected}


@pytest.mark.parametrize(("rate", "expected"), [(0.4, (51, 205)), (0.3, (38, 154))])
def test_budgets_at_high_rates(rate, expected):
    lengths = [masked_lm(n - 2, noise_density=rate).lengths for n in (128, 512)]
    assert tuple(length.targets["mlm"] for length in lengths) == expected


def test_budget_follows_the_real_tokens_without_eod():
    rows = np.full((4, 62), FIRST_TEXT + 5, np.int32)
    rows[1, ::3] = EOD  # 21 of them: n = 41 + 2
    rows[2, 18:] = PAD  # n = 18 + 2
    rows[3] = PAD
    batch = TokenBatch(
        tokens=jnp.asarray(rows),
        row_ids=jnp.arange(4, dtype=jnp.int32),
        first_document=jnp.zeros(4, jnp.int32),
    )
    example = corrupt(masked_lm(62), batch)
    expected = [round(0.15 * 64), round(0.15 * 43), round(0.15 * 20), 0]
    assert selected_counts(example).tolist() == expected


def test_stochastic_budget_is_fairseqs():
    objective = masked_lm(510, budget="stochastic")
    counts = selected_counts(corrupt(objective, plain_rows(4000, 510)))
    assert set(counts.tolist()) == {76, 77}
    assert (counts == 76).mean() == pytest.approx(0.2, abs=4 * 0.4 / 4000**0.5)


def test_bernoulli_budget_is_binomial():
    objective = masked_lm(510, budget="bernoulli")
    counts = selected_counts(corrupt(objective, plain_rows(4000, 510)))
    assert counts.max() < objective.lengths.targets["mlm"]
    assert counts.mean() == pytest.approx(76.5, abs=4 * 8.07 / 4000**0.5)
    assert counts.std() == pytest.approx(8.07, abs=0.4)


def test_replacement_shares():
    example = corrupt(masked_lm(510), plain_rows(1300, 510))
    fate = fates(example, None)
    total = len(fate["found"])
    assert total == 1300 * 77
    # Four deviations at 1e5. A random token equals the old one once in 248 times.
    assert fate["masked"].mean() == pytest.approx(0.8, abs=0.0051)
    same = 0.1 / 248
    assert fate["kept"].mean() == pytest.approx(0.1 + same, abs=0.0038)
    random = ~fate["masked"] & ~fate["kept"]
    assert random.mean() == pytest.approx(0.1 - same, abs=0.0038)


@pytest.mark.parametrize(
    ("unit", "budget"),
    [("token", "exact"), ("token", "bernoulli"), ("word", "exact"), ("ngram", "exact")],
)
def test_special_tokens_and_padding_are_never_touched(unit, budget):
    batch = toy_batch(64, 62, vocabulary=VOCABULARY, document_length=8)
    tokens = np.asarray(batch.tokens).copy()
    tokens[:16, 40:] = PAD
    tokens[16:32, 10:12] = VOCABULARY.sentinel_ids[0]
    tokens[:, 3] = UNK
    batch = dataclasses.replace(batch, tokens=tokens)
    objective = masked_lm(62, unit=unit, budget=budget, noise_density=0.5)
    example = corrupt(objective, batch)
    target = example.targets["mlm"]
    live = np.asarray(target.loss_weights) > 0
    values = np.asarray(target.values)[live]
    assert (~VOCABULARY.is_special[values] | (values == UNK)).all()
    assert (values == UNK).any()
    framed = np.full((64, 64), PAD)
    framed[:, 0] = CLS
    for row, text in zip(framed, tokens, strict=True):
        text = text[text != PAD]
        row[1 : len(text) + 1] = text
        row[len(text) + 1] = SEP
    found = np.asarray(example.inputs.tokens)
    changed = np.zeros((64, 64), bool)
    index = np.broadcast_to(np.arange(64)[:, None], live.shape)
    changed[index[live], np.asarray(target.positions)[live]] = True
    np.testing.assert_array_equal(found[~changed], framed[~changed])
    drawn = found[changed]
    drawn = drawn[(drawn != MASK) & (drawn != UNK)]
    assert not VOCABULARY.is_special[drawn].any()
    np.testing.assert_array_equal(framed[changed], values)


@pytest.mark.parametrize("replacement", ["uniform", "unigram"])
def test_random_tokens_follow_their_distribution(replacement):
    objective = masked_lm(
        126, mask_prob=0.0, random_prob=1.0, replacement=replacement, noise_density=0.5
    )
    found = fates(corrupt(objective, plain_rows(400, 126)), None)["found"]
    weights = np.where(VOCABULARY.is_special, 0, 1)
    if replacement == "unigram":
        weights = weights * VOCABULARY.unigram_counts
    expected = weights / weights.sum()
    hits = np.bincount(found, minlength=512)
    assert hits[expected == 0].sum() == 0
    possible = expected > 0
    result = stats.chisquare(hits[possible], expected[possible] * len(found))
    assert result.pvalue > 1e-3


def test_whole_words_are_selected_whole_and_in_exact_number():
    batch = toy_batch(128, 126, vocabulary=VOCABULARY, document_length=None)
    example = corrupt(masked_lm(126, unit="word"), batch)
    assert (selected_counts(example) == 19).mean() > 0.99
    assert (selected_counts(example) <= 19).all()
    target = example.targets["mlm"]
    starts = VOCABULARY.is_word_start[np.asarray(batch.tokens)]
    starts[:, 0] = True
    words = np.cumsum(starts, axis=1)
    mask = np.zeros(words.shape, bool)
    live = np.asarray(target.loss_weights) > 0
    row = np.broadcast_to(np.arange(128)[:, None], live.shape)
    mask[row[live], np.asarray(target.positions)[live] - 1] = True
    for row_words, row_mask in zip(words, mask, strict=True):
        sizes = np.bincount(row_words)
        hit = np.bincount(row_words, weights=row_mask)
        assert ((hit == 0) | (hit == sizes)).all()


def reference_whole_words(rng, words, budget):
    """BERT's create_masked_lm_predictions with whole words, in plain Python."""
    units = [np.flatnonzero(words == w) for w in np.unique(words)]
    masked = []
    for unit in rng.permutation(len(units)):
        if len(masked) + len(units[unit]) <= budget:
            masked += units[unit].tolist()
    return masked


@pytest.mark.parametrize("unit", ["word", "ngram"])
@pytest.mark.parametrize("budget", ["exact", "stochastic"])
def test_a_text_without_spaces_has_targets(unit, budget):
    # The table is known, but no token of the text begins a word.
    starts = np.arange(512) == EOD
    vocabulary = dataclasses.replace(VOCABULARY, is_word_start=starts)
    objective = masked_lm(126, vocabulary, unit=unit, budget=budget)
    example = corrupt(objective, plain_rows(8, 126))
    counts = selected_counts(example)
    # One piece of the row's only word, or the shorter one at its end.
    assert ((counts >= 12) & (counts <= objective.lengths.targets["mlm"])).all()
    assert not np.asarray(example.metrics["mlm_no_targets"]).any()
    ended = TokenBatch(
        tokens=jnp.full((8, 126), EOD, jnp.int32),
        row_ids=jnp.arange(8),
        first_document=jnp.zeros(8, jnp.int32),
    )
    assert np.asarray(corrupt(objective, ended).metrics["mlm_no_targets"]).all()


def test_whole_words_agree_with_the_reference_by_position():
    tokens = np.random.default_rng(0).choice(np.flatnonzero(~VOCABULARY.is_special), 30)
    batch = TokenBatch(
        tokens=jnp.broadcast_to(jnp.asarray(tokens, jnp.int32)[None], (4000, 30)),
        row_ids=jnp.arange(4000, dtype=jnp.int32),
        first_document=jnp.zeros(4000, jnp.int32),
    )
    objective = masked_lm(30, unit="word", noise_density=0.2)
    target = corrupt(objective, batch).targets["mlm"]
    live = np.asarray(target.loss_weights) > 0
    hits = np.bincount(np.asarray(target.positions)[live] - 1, minlength=30)
    starts = VOCABULARY.is_word_start[tokens]
    starts[0] = True
    rng = np.random.default_rng(1)
    expected = np.zeros(30)
    for _ in range(4000):
        expected[reference_whole_words(rng, np.cumsum(starts), 6)] += 1
    np.testing.assert_allclose(
        hits / 4000, expected / 4000, atol=4 * (2 * 0.2 * 0.8 / 4000) ** 0.5
    )


def test_stochastic_whole_words_count_words():
    objective = masked_lm(126, unit="word", budget="stochastic")
    batch = plain_rows(256, 126)
    target = corrupt(objective, batch).targets["mlm"]
    starts = VOCABULARY.is_word_start[np.asarray(batch.tokens)]
    starts[:, 0] = True
    num_words = starts.sum(1)
    live = np.asarray(target.loss_weights) > 0
    position = np.where(live, np.asarray(target.positions) - 1, 0)
    chosen = (np.take_along_axis(starts, position, axis=1) & live).sum(1)
    share = 0.15 * num_words
    assert ((chosen == np.floor(share)) | (chosen == np.floor(share) + 1)).all()
    assert (chosen - share).mean() == pytest.approx(0, abs=4 * 0.5 / 256**0.5)


def test_ngrams_have_an_exact_budget_and_longer_runs():
    objective = masked_lm(510, ONE_PIECE, unit="ngram")
    example = corrupt(objective, plain_rows(64, 510))
    assert set(selected_counts(example)) == {77}
    positions = np.sort(np.asarray(example.targets["mlm"].positions), axis=1)
    runs = (np.diff(positions, axis=1) > 1).sum(1) + 1
    # 77 tokens in maximal runs of 1.77 on average.
    assert (77 / runs).mean() == pytest.approx(1.77, abs=0.05)


@pytest.mark.parametrize("unit", ["word", "ngram"])
def test_replacement_per_unit_is_homogeneous(unit):
    settings = {"unit": unit, "noise_density": 0.3, "random_prob": 0.0}
    together = masked_lm(126, replace_per="unit", **settings)
    apart = masked_lm(126, replace_per="token", **settings)
    batch = plain_rows(64, 126)
    starts = VOCABULARY.is_word_start[np.asarray(batch.tokens)]
    starts[:, 0] = True
    words = np.pad(np.cumsum(starts, axis=1), ((0, 0), (1, 1)))

    def mixed(objective):
        """Selected words of which a part became [MASK] and a part did not."""
        example = corrupt(objective, batch)
        target = example.targets["mlm"]
        count = 0
        for row in range(64):
            live = np.asarray(target.loss_weights)[row] > 0
            position = np.asarray(target.positions)[row][live]
            masked = np.asarray(example.inputs.tokens)[row][position] == MASK
            for word in np.unique(words[row][position]):
                inside = masked[words[row][position] == word]
                count += inside.any() and not inside.all()
        return count

    assert mixed(together) == 0
    assert mixed(apart) > 50


def test_masks_are_fresh_at_every_step_and_differ_between_rows():
    batch = plain_rows(1, 126)
    same = TokenBatch(
        tokens=jnp.repeat(jnp.asarray(batch.tokens), 8, axis=0),
        row_ids=jnp.arange(8, dtype=jnp.int32),
        first_document=jnp.zeros(8, jnp.int32),
    )
    first = np.asarray(corrupt(masked_lm(126), same).inputs.tokens)
    second = np.asarray(corrupt(masked_lm(126), same, seed=1).inputs.tokens)
    assert len({row.tobytes() for row in np.concatenate([first, second])}) == 16


def test_isolated_documents_share_a_row_but_not_attention():
    batch = toy_batch(4, 62, vocabulary=VOCABULARY, document_length=10)
    example = corrupt(masked_lm(62, isolate_documents=True), batch)
    segments = np.asarray(example.inputs.segment_ids)
    is_eod = np.asarray(batch.tokens) == EOD
    np.testing.assert_array_equal(
        segments[:, 1:-1], 1 + np.cumsum(is_eod, axis=1) - is_eod
    )


def test_head_runs_on_the_gathered_positions_only():
    objective = masked_lm(30)
    config = tiny_config("encoder")
    heads = objective.init_heads(config, rngs=nnx.Rngs(1))
    example = corrupt(objective, plain_rows(2, 30))
    target = example.targets["mlm"]
    hidden = jax.random.normal(jax.random.key(0), (2, 32, 16))
    embedding = jnp.ones((512, 16))
    states = positions_at(hidden, objective.read_at("mlm", target))
    features, table, bias = objective.readout(
        "mlm", heads, states, target, embedding, example.inputs
    )
    assert features.shape == (2, 5, 16)
    assert table.shape == (512, 16) and bias.shape == (512,)
    dense, _, _ = heads.masked_lm.readout(hidden, embedding)
    picked = np.take_along_axis(
        np.asarray(dense), np.asarray(target.positions)[..., None], axis=1
    )
    np.testing.assert_allclose(features, picked, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"noise_density": 0.0}, "noise_density = 0.0: must be > 0 and < 1"),
        ({"noise_density": 1.0}, "noise_density = 1.0: must be > 0 and < 1"),
        ({"noise_density": -0.1}, "noise_density = -0.1"),
        ({"noise_density": 1.5}, "noise_density = 1.5"),
        ({"mask_prob": 1.1}, "mask_prob = 1.1: must be >= 0 and <= 1"),
        ({"random_prob": -0.1}, "random_prob = -0.1"),
        ({"mask_prob": 0.9, "random_prob": 0.2}, r"mask_prob \+ random_prob = 1.1"),
        ({"unit": "sentence"}, "'token', 'word', 'ngram'"),
        ({"budget": "poisson"}, "'exact', 'stochastic', 'bernoulli'"),
        ({"replacement": "zipf"}, "'uniform', 'unigram'"),
        ({"replace_per": "row"}, "'token', 'unit'"),
        ({"max_ngram": 0}, "max_ngram = 0: must be >= 1"),
        ({"unit": "ngram", "budget": "bernoulli"}, "budget 'exact' or 'stochastic'"),
        ({"loss_weight": 0.0}, "loss_weight = 0.0: must be > 0"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        masked_lm(30, **overrides)


def test_short_rows_and_poor_vocabularies_are_refused():
    with pytest.raises(ValueError, match="at least 2 tokens"):
        masked_lm(1)
    without_words = dataclasses.replace(VOCABULARY, is_word_start=None)
    with pytest.raises(ValueError, match="is_word_start"):
        masked_lm(30, without_words, unit="word")
    without_mask = dataclasses.replace(VOCABULARY, mask_id=-1)
    with pytest.raises(ValueError, match="mask_id"):
        masked_lm(30, without_mask)
    without_counts = dataclasses.replace(VOCABULARY, unigram_counts=np.zeros(512, int))
    with pytest.raises(ValueError, match="unigram_counts"):
        masked_lm(30, without_counts, replacement="unigram")
