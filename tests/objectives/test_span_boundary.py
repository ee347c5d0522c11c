"""SpanBERT's masking and its boundary objective, value by value."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
import objectives
from experiments import presets
from objectives.span_boundary import SpanBoundaryHead
from objectives.types import Target, TokenBatch
from tests.helpers import (
    CLS,
    EOD,
    FIRST_TEXT,
    MASK,
    PAD,
    SEP,
    quick_jit,
    tiny_config,
    toy_batch,
    toy_vocabulary,
)

VOCABULARY = toy_vocabulary()
# Every token is a word: what the reference's published numbers were measured with.
WORDS = dataclasses.replace(
    VOCABULARY, is_word_start=np.ones_like(VOCABULARY.is_word_start)
)
BATCH, LENGTH = 64, 62


@functools.cache
def create(*names, row_length=LENGTH, vocabulary=VOCABULARY, **overrides):
    params = presets.objective(*names).to_dict()
    params["span_boundary"] |= overrides
    return objectives.create(
        names,
        {name: params[name] for name in names},
        vocabulary=vocabulary,
        row_length=row_length,
        architecture="encoder",
    )


@functools.cache
def compiled(objective):
    return quick_jit(objective.corrupt)


def corrupted(objective, batch, seed=0):
    example = compiled(objective)(jax.random.key(seed), batch)
    return jax.tree.map(np.asarray, example)


@functools.cache
def many_rows():
    """Rows with documents and padding, and their example."""
    batch = toy_batch(BATCH, LENGTH, vocabulary=VOCABULARY, document_length=30)
    tokens = np.asarray(batch.tokens).copy()
    tokens[0, 20:] = PAD
    tokens[1] = PAD
    batch = dataclasses.replace(batch, tokens=jnp.asarray(tokens))
    return batch, corrupted(create("span_boundary"), batch)


@functools.cache
def single_documents(num_rows: int = 512, length: int = 510):
    """Rows without [EOD], one word a token."""
    batch = toy_batch(num_rows, length, vocabulary=WORDS, document_length=None)
    objective = create("span_boundary", row_length=length, vocabulary=WORDS)
    example = jax.jit(objective.corrupt)(jax.random.key(1), batch)
    return batch, jax.tree.map(np.asarray, example)


def framed(batch) -> np.ndarray:
    """[CLS] row [SEP], by hand."""
    tokens = np.asarray(batch.tokens)
    result = np.full((len(tokens), tokens.shape[1] + 2), PAD)
    for row, values in enumerate(tokens):
        text = values[values != PAD]
        result[row, : len(text) + 2] = [CLS, *text, SEP]
    return result


def masked(example, row) -> np.ndarray:
    """Positions masked in a row, ascending."""
    target = example.targets["mlm"]
    return target.positions[row][target.loss_weights[row] > 0]


def spans_of(positions: np.ndarray) -> list[tuple[int, int]]:
    """Inclusive limits of the runs of positions."""
    groups = np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1)
    return [(group[0], group[-1]) for group in groups if len(group)]


def test_targets_are_the_clean_tokens_and_the_rest_is_untouched():
    batch, example = many_rows()
    clean = framed(batch)
    target = example.targets["mlm"]
    for row in range(BATCH):
        positions = masked(example, row)
        live = target.loss_weights[row] > 0
        np.testing.assert_array_equal(target.values[row][live], clean[row][positions])
        untouched = np.setdiff1d(np.arange(LENGTH + 2), positions)
        np.testing.assert_array_equal(
            example.inputs.tokens[row][untouched], clean[row][untouched]
        )
        assert len(set(positions)) == len(positions)
        assert not np.isin(clean[row][positions], [CLS, SEP, EOD, PAD]).any()
        # Dead slots are harmless.
        assert not target.positions[row][~live].any()
        assert not target.values[row][~live].any()


def test_budgets_count_eligible_tokens():
    batch, example = many_rows()
    tokens = np.asarray(batch.tokens)
    eligible = ((tokens != EOD) & (tokens != PAD)).sum(1)
    expected = -(-eligible * 15 // 100)
    np.testing.assert_array_equal(example.targets["mlm"].loss_weights.sum(1), expected)
    assert expected[1] == 0 and expected[0] == 3


@pytest.mark.parametrize("length, budget", [(126, 19), (510, 77), (125, 19)])
def test_slots_hold_exactly_the_budget(length, budget):
    lengths = create("span_boundary", row_length=length).lengths
    assert lengths.inputs == length + 2
    assert lengths.targets == {"mlm": budget, "sbo": budget}


def test_spans_are_the_merged_runs():
    _, example = many_rows()
    for target in example.targets.values():
        assert target.span_starts is not None
    for row in range(BATCH):
        limits = {
            position: span
            for span in spans_of(masked(example, row))
            for position in range(span[0], span[1] + 1)
        }
        for target in example.targets.values():
            live = example.targets["mlm"].loss_weights[row] > 0
            for position, start, end in zip(
                target.positions[row][live],
                target.span_starts[row][live],
                target.span_ends[row][live],
                strict=True,
            ):
                assert limits[position] == (start, end)


def test_boundaries_are_real_tokens_that_are_not_masked():
    batch, example = many_rows()
    clean, mlm, sbo = framed(batch), example.targets["mlm"], example.targets["sbo"]
    dropped = 0
    for row in range(BATCH):
        is_masked = np.isin(np.arange(LENGTH + 2), masked(example, row))
        for slot in np.flatnonzero(mlm.loss_weights[row]):
            before, after = mlm.span_starts[row, slot] - 1, mlm.span_ends[row, slot] + 1
            assert not is_masked[before] and not is_masked[after]
            place = mlm.positions[row, slot] - before - 1
            specials = [CLS, SEP, EOD, PAD]
            expected = (
                clean[row, before] not in specials
                and clean[row, after] not in specials
                and place < 15
            )
            assert sbo.loss_weights[row, slot] == expected
            dropped += not expected
    assert dropped > 20
    np.testing.assert_array_equal(sbo.positions, mlm.positions)
    np.testing.assert_array_equal(sbo.values, mlm.values)


def test_share_of_boundary_targets_is_the_known_one():
    _, example = single_documents()
    assert (example.targets["mlm"].loss_weights.sum(1) == 77).all()
    share = example.targets["sbo"].loss_weights.sum() / (512 * 77)
    assert share == pytest.approx(0.989, abs=0.003)


def test_places_beyond_the_table_have_no_boundary_target():
    objective = create("span_boundary", max_pair_targets=2)
    batch = many_rows()[0]
    sbo = corrupted(objective, batch).targets["sbo"]
    place = (sbo.positions - sbo.span_starts)[sbo.loss_weights > 0]
    assert set(place) == {0, 1}


def test_a_span_is_replaced_as_a_whole():
    batch, example = single_documents()
    clean, tokens = framed(batch), example.inputs.tokens
    kinds = []
    for row in range(len(clean)):
        for start, end in spans_of(masked(example, row)):
            shown = tokens[row, start : end + 1]
            kept = clean[row, start : end + 1]
            if (shown == MASK).any():
                assert (shown == MASK).all()
                kinds.append(0)
            else:
                # A random token is the clean one by chance, not all of several.
                kinds.append(2 if (shown == kept).all() else 1)
    shares = np.bincount(kinds) / len(kinds)
    n = len(kinds)
    assert n > 9000
    errors = np.sqrt(np.array([0.16, 0.09, 0.09]) / n)
    # Of spans of one token, 0.8% of the random ones show the clean token (1 / rank).
    assert (np.abs(shares - [0.8, 0.1, 0.1]) < 4 * errors + 0.001).all()


def test_random_tokens_are_drawn_by_their_frequency():
    example = single_documents()[1]
    mlm = example.targets["mlm"]
    tokens = np.take_along_axis(example.inputs.tokens, mlm.positions, axis=1)
    drawn = tokens[(tokens != MASK) & (tokens != mlm.values)]
    assert not VOCABULARY.is_special[drawn].any()
    weights = VOCABULARY.unigram_counts / VOCABULARY.unigram_counts.sum()
    share = (drawn == FIRST_TEXT).mean()
    # The likeliest token; 4 standard errors and what coincidences take away.
    error = np.sqrt(weights[FIRST_TEXT] / len(drawn))
    assert share == pytest.approx(weights[FIRST_TEXT], abs=4 * error + 0.02)
    assert share > 20 / (~VOCABULARY.is_special).sum()


def test_per_token_replacement_mixes_within_spans():
    objective = create("span_boundary", replace_per="token")
    example = corrupted(objective, many_rows()[0])
    mixed = 0
    for row in range(BATCH):
        for start, end in spans_of(masked(example, row)):
            shown = example.inputs.tokens[row, start : end + 1] == MASK
            mixed += shown.any() and not shown.all()
    assert mixed > 10


def test_span_masking_alone_has_one_term():
    objective = create("span_boundary", sbo_weight=0.0)
    assert list(objective.terms) == ["mlm"]
    batch, example = many_rows()
    alone = corrupted(objective, batch)
    assert set(alone.targets) == {"mlm"}
    np.testing.assert_array_equal(alone.inputs.tokens, example.inputs.tokens)
    heads = objective.init_heads(tiny_config("encoder"), rngs=nnx.Rngs(0))
    assert "sbo" not in str(jax.tree_util.tree_structure(nnx.state(heads)))


def test_spans_stay_within_segments_after_next_sentence():
    objective = create("next_sentence", "span_boundary")
    assert list(objective.terms) == ["nsp", "mlm", "sbo"]
    batch = toy_batch(BATCH, LENGTH, vocabulary=VOCABULARY, document_length=60)
    example = corrupted(objective, batch)
    types = example.inputs.token_type_ids
    text = example.document_ids >= 0
    both = 0
    for row in range(BATCH):
        positions = masked(example, row)
        assert len(positions) == -(-text[row].sum() * 15 // 100)
        for start, end in spans_of(positions):
            assert len(set(types[row, start : end + 1])) == 1
            assert len(set(example.document_ids[row, start : end + 1])) == 1
        both += len(set(types[row][positions])) == 2
    assert both > 10
    # Boundaries lie in the span's own segment.
    sbo = example.targets["sbo"]
    rows, slots = np.nonzero(sbo.loss_weights)
    inside = types[rows, sbo.positions[rows, slots]]
    for boundary in (sbo.span_starts - 1, sbo.span_ends + 1):
        places = boundary[rows, slots]
        np.testing.assert_array_equal(types[rows, places], inside)
        assert text[rows, places].all()


def head_of(places: int = 15, position_dim: int = 7):
    config = tiny_config("encoder", init_stddev=0.5)
    head = SpanBoundaryHead(
        config, num_places=places, position_dim=position_dim, rngs=nnx.Rngs(0)
    )
    return config, head


def targets_of(starts, ends, positions) -> Target:
    def row(values):
        return jnp.asarray([values], jnp.int32)

    return Target(
        values=row([0] * len(starts)),
        loss_weights=jnp.ones((1, len(starts))),
        positions=row(positions),
        span_starts=row(starts),
        span_ends=row(ends),
    )


def test_head_is_two_layers_over_boundaries_and_place():
    config, head = head_of()
    hidden = jax.random.normal(jax.random.key(0), (1, 12, config.emb_dim))
    embedding = jax.random.normal(
        jax.random.key(1), (config.vocab_size, config.emb_dim)
    )
    target = targets_of([3, 3, 8], [5, 5, 8], [3, 5, 8])
    before_and_after = hidden[:, jnp.array([2, 2, 7, 6, 6, 9])]
    features, table, bias = head.readout(before_and_after, target, embedding)
    assert table is embedding and bias.shape == (config.vocab_size,)

    def gelu(x):
        from scipy.special import erf

        return x * (1 + erf(x / np.sqrt(2))) / 2

    def norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon)

    h, p = np.float64(hidden)[0], np.float64(head.places[...])
    for slot, (before, after, place) in enumerate([(2, 6, 0), (2, 6, 2), (7, 9, 0)]):
        x = np.concatenate([h[before], h[after], p[place]])
        for dense in (head.dense1, head.dense2):
            x = norm(gelu(x @ np.float64(dense.kernel[...])))
        np.testing.assert_allclose(features[0, slot], x, atol=2e-5)


def test_the_term_reads_nothing_but_its_boundaries():
    objective = create("span_boundary")
    target = targets_of([3, 3, 0], [5, 5, 0], [3, 4, 0])
    np.testing.assert_array_equal(
        objective.read_at("sbo", target), [[2, 2, 0, 6, 6, 1]]
    )
    np.testing.assert_array_equal(objective.read_at("mlm", target), [[3, 4, 0]])


def test_losses_at_initialisation_are_twice_ln_v():
    objective = create("span_boundary")
    config = tiny_config("encoder", init_stddev=0.02)
    model = models.create(config, rngs=nnx.Rngs(0))
    heads = objective.init_heads(config, rngs=nnx.Rngs(1))
    example = jax.tree.map(jnp.asarray, many_rows()[1])
    terms, _ = quick_jit(
        lambda example: objective.losses({"model": model, "heads": heads}, example)
    )(example)
    # Tied embeddings of deviation 0.02 after a norm: + 16 * 0.0004 / 2.
    for term in ("mlm", "sbo"):
        total, weight = terms[term]
        assert float(total / weight) == pytest.approx(np.log(512) + 0.0032, abs=0.02)
        assert float(weight) == example.targets[term].loss_weights.sum()


def test_worked_example_of_the_docstring_is_possible():
    """A span of two words in the middle has boundary targets at places 0 and 1."""
    row = [20, 21, 22, 23, 24]
    batch = TokenBatch(
        tokens=jnp.asarray([row], jnp.int32),
        row_ids=jnp.zeros(1, jnp.int32),
        first_document=jnp.zeros(1, jnp.int32),
    )
    objective = create(
        "span_boundary", row_length=5, vocabulary=WORDS, noise_density=0.4
    )
    corrupt = compiled(objective)
    for seed in range(200):
        example = corrupt(jax.random.key(seed), batch)
        mlm, sbo = example.targets["mlm"], example.targets["sbo"]
        if mlm.positions[0].tolist() == [2, 3]:
            break
    assert mlm.values[0].tolist() == [21, 22]
    assert sbo.span_starts[0].tolist() == [2, 2]
    assert sbo.span_ends[0].tolist() == [3, 3]
    assert sbo.loss_weights[0].tolist() == [1, 1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"noise_density": 0.0}, "noise_density = 0.0: must be > 0 and < 1"),
        ({"noise_density": 1.5}, "noise_density = 1.5: must be > 0 and < 1"),
        ({"noise_density": -0.1}, "noise_density = -0.1: must be > 0 and < 1"),
        ({"geometric_p": 1.0}, "geometric_p = 1.0: must be > 0 and < 1"),
        ({"max_span_length": 0}, "max_span_length = 0: must be >= 1"),
        ({"max_pair_targets": 0}, "max_pair_targets = 0: must be >= 1"),
        ({"mask_prob": 0.8, "random_prob": 0.3}, "mask_prob \\+ random_prob = 1.1"),
        ({"replacement": "zipf"}, "must be one of 'uniform', 'unigram'"),
        ({"replace_per": "word"}, "must be one of 'span', 'token'"),
        ({"row_length": 1}, "row_length = 1 is too short"),
        (
            {"vocabulary": dataclasses.replace(VOCABULARY, is_word_start=None)},
            "needs is_word_start",
        ),
        (
            {
                "vocabulary": dataclasses.replace(
                    VOCABULARY, unigram_counts=np.zeros(0, np.int64)
                )
            },
            "needs unigram_counts",
        ),
    ],
)
def test_refuses(change, message):
    stage = create("span_boundary").stages[0]
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(stage, **change)


def test_refuses_isolated_documents_after_pairs():
    with pytest.raises(ValueError, match="isolate_documents = True after"):
        create("next_sentence", "span_boundary", isolate_documents=True)


def test_cannot_be_composed_with_masked_lm():
    with pytest.raises(ValueError, match="cannot follow"):
        create("masked_lm", "span_boundary")
