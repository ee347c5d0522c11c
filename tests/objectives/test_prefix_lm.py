"""Prefix lengths, weights, visibility and both arrangements of prefix LM."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from models.transformer.masks import decoder_mask
from objectives import prefix_lm
from objectives.types import TokenBatch
from tests.helpers import EOD, EOS, PAD, toy_batch
from tests.objectives import denoising_reference as reference
from tests.objectives.denoising_reference import corrupt, shapes, tiny_model

VOCABULARY = reference.VOCABULARY


def create(row_length, architecture="decoder", **overrides):
    return reference.create("prefix_lm", row_length, architecture, **overrides)


def rows(count, row_length, **options):
    return toy_batch(count, row_length, vocabulary=VOCABULARY, **options)


def test_prefixes_of_511_tokens_are_uniform_from_1_to_510():
    draw = jax.jit(lambda key, sizes: prefix_lm.prefix_lengths(key, sizes, 511, 0.5))
    lengths = np.asarray(draw(jax.random.key(0), jnp.full(1_000_000, 511, jnp.int32)))
    assert lengths.mean() == pytest.approx(255.7, abs=0.5)
    assert lengths.mean() == pytest.approx((1 + 510) / 2, abs=4 * 147.2 / 1000)
    counts = np.bincount(lengths, minlength=512)
    assert counts[0] == counts[511] == 0
    assert stats.chisquare(counts[1:511]).pvalue > 1e-3


@pytest.mark.parametrize(("density", "shortest"), [(0.5, 1), (0.25, 50), (0.1, 80)])
def test_low_densities_have_long_prefixes(density, shortest):
    sizes = jnp.full(20_000, 101, jnp.int32)
    drawn = np.asarray(prefix_lm.prefix_lengths(jax.random.key(1), sizes, 101, density))
    assert (drawn.min(), drawn.max()) == (shortest, 100)
    mean = (shortest + 100) / 2
    assert drawn.mean() == pytest.approx(mean, abs=1.0)
    assert 1 - drawn.mean() / 101 == pytest.approx(density, abs=0.02)


def test_short_texts_keep_a_token_on_either_side():
    sizes = jnp.array([0, 1, 2, 3], jnp.int32).repeat(100)
    for density in (0.5, 0.01):
        drawn = np.asarray(
            prefix_lm.prefix_lengths(jax.random.key(2), sizes, 8, density)
        ).reshape(4, 100)
        assert set(drawn[0]) == {0}
        assert set(drawn[1]) == {1}
        assert set(drawn[2]) == {1}
        assert set(drawn[3]) == ({1, 2} if density == 0.5 else {2})


def test_a_decoder_predicts_what_follows_the_prefix():
    batch = rows(64, 40)
    example = corrupt(create(40), batch)
    target = example.targets["prefix_lm"]
    prefix = np.asarray(example.inputs.bidirectional).sum(1)
    assert ((prefix >= 1) & (prefix <= 39)).all()
    assert len(set(prefix.tolist())) > 20
    weights = np.asarray(target.loss_weights)
    np.testing.assert_array_equal(weights.sum(1), 40 - prefix)
    np.testing.assert_array_equal(example.inputs.tokens, batch.tokens)
    np.testing.assert_array_equal(target.values[:, :-1], batch.tokens[:, 1:])
    assert target.positions is None
    assert not weights[:, -1].any()
    weights = weights[:, :-1]
    # Value k is token k + 1 of the row; it counts from the prefix's end on.
    expected = np.arange(1, 40)[None] >= prefix[:, None]
    np.testing.assert_array_equal(weights, expected)
    index = jnp.arange(40)
    segments = example.inputs.segment_ids
    mask = decoder_mask(segments, segments, index, index, example.inputs.bidirectional)
    i, j = np.mgrid[:40, :40]
    for row in range(64):
        np.testing.assert_array_equal(mask[row, 0], (j <= i) | (j < prefix[row]))


def test_hidden_states_do_not_know_the_token_they_predict():
    batch = rows(1, 12, document_length=None)
    example = corrupt(create(12), batch)
    model = tiny_model("decoder")
    prefix = int(example.inputs.bidirectional.sum())
    before = np.asarray(model(example.inputs))[0]
    for position in range(12):
        tokens = example.inputs.tokens.at[:, position].set(200)
        other = dataclasses.replace(example.inputs, tokens=tokens)
        change = np.abs(np.asarray(model(other))[0] - before).max(1) > 1e-4
        first = 0 if position < prefix else position
        np.testing.assert_array_equal(change, np.arange(12) >= first)


def test_isolated_documents_have_prefixes_of_their_own():
    batch = rows(64, 60, document_length=9)
    example = corrupt(create(60, isolate_documents=True), batch)
    weights = np.asarray(example.targets["prefix_lm"].loss_weights)
    bidirectional = np.asarray(example.inputs.bidirectional)
    predicted_in_all = []
    for row, tokens in enumerate(batch.tokens):
        ends = tokens == EOD
        documents = np.cumsum(ends) - ends
        for document in set(documents.tolist()):
            inside = np.flatnonzero(documents == document)
            prefix = bidirectional[row, inside].sum()
            assert bidirectional[row, inside[:prefix]].all()
            assert 1 <= prefix <= max(len(inside) - 1, 1)
            predicted = weights[row, inside[inside > 0] - 1].sum()
            assert predicted == len(inside) - prefix
            predicted_in_all.append(predicted)
            positions = np.asarray(example.inputs.positions)[row, inside]
            assert positions.tolist() == list(range(len(inside)))
    assert weights.sum() == sum(predicted_in_all)


@pytest.mark.parametrize("isolated", [False, True])
def test_an_encoder_decoder_reads_the_prefix_and_writes_the_rest(isolated):
    batch = rows(64, 48, document_length=8)
    batch.tokens[0] = EOD
    batch.tokens[1, 20:] = PAD
    objective = create(48, "encoder_decoder", isolate_documents=isolated)
    example = corrupt(objective, batch)
    encoder, decoder = example.inputs.encoder, example.inputs
    assert encoder.tokens.shape[1] == objective.lengths.encoder == 48 + isolated
    assert decoder.tokens.shape[1] == objective.lengths.inputs == 48
    values = np.asarray(example.targets["prefix_lm"].values)
    weights = np.asarray(example.targets["prefix_lm"].loss_weights)
    np.testing.assert_array_equal(weights, np.asarray(decoder.segment_ids) > 0)
    lengths = collections.Counter()
    for row, tokens in enumerate(batch.tokens):
        ends = (tokens == EOD) & isolated
        documents = np.where(tokens == PAD, 0, 1 + np.cumsum(ends) - ends)
        for document in range(1, documents.max() + 1):
            text = tokens[(documents == document) & ~ends].tolist()
            in_encoder = np.asarray(encoder.segment_ids)[row] == document
            in_decoder = np.asarray(decoder.segment_ids)[row] == document
            inputs = np.asarray(encoder.tokens)[row][in_encoder].tolist()
            rest = values[row][in_decoder].tolist()
            assert inputs[-1] == EOS
            assert inputs[:-1] + rest[:-1] == text
            assert bool(rest) == (len(text) > 1)
            if rest:
                assert rest[-1] == EOS
                decoded = np.asarray(decoder.tokens)[row][in_decoder]
                reference.unshift(decoded, rest, PAD)
                lengths[len(rest)] += 1
    assert len(lengths) > 5


def test_padding_is_no_target():
    batch = rows(2, 16)
    batch.tokens[0, 10:] = PAD
    example = corrupt(create(16), batch)
    prefix = int(example.inputs.bidirectional[0].sum())
    assert 1 <= prefix <= 9
    weights = np.asarray(example.targets["prefix_lm"].loss_weights)[0]
    assert weights.sum() == 10 - prefix
    assert not weights[9:].any()


def test_static_lengths():
    decoder = create(511)
    assert (decoder.lengths.inputs, decoder.lengths.encoder) == (511, 0)
    assert decoder.lengths.targets == {"prefix_lm": 511}
    both = create(511, "encoder_decoder")
    assert (both.lengths.inputs, both.lengths.encoder) == (511, 511)
    causal = create(16, bidirectional_inputs=False)
    assert shapes(causal, rows(2, 16)).inputs.bidirectional is None


@pytest.mark.parametrize("density", [0.0, -0.5, 0.6, 1.0])
def test_densities_out_of_range_are_refused(density):
    with pytest.raises(ValueError, match=r"must be > 0 and <= 0.5"):
        create(16, noise_density=density)


def test_rows_and_vocabularies_that_do_not_do_are_refused():
    with pytest.raises(ValueError, match="at least 2 tokens"):
        create(1)
    with pytest.raises(ValueError, match="cannot train architecture 'encoder'"):
        create(16, "encoder")
    without = dataclasses.replace(VOCABULARY, eod_id=-1)
    with pytest.raises(ValueError, match="needs eod_id"):
        create(16, vocabulary=without, isolate_documents=True)


def test_one_row_alone_is_corrupted():
    tokens = np.array([[20, 21]], np.int32)
    batch = TokenBatch(
        tokens=tokens,
        row_ids=np.zeros(1, np.int32),
        first_document=np.zeros(1, np.int32),
    )
    example = create(2).corrupt(jax.random.key(0), batch)
    assert example.targets["prefix_lm"].loss_weights.tolist() == [[1.0, 0.0]]
