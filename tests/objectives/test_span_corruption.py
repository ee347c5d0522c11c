"""T5's objective: exact budgets, sentinels, variants, arrangements and losses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from experiments import presets
from models.transformer.masks import decoder_mask
from objectives.types import TokenBatch
from tests.helpers import (
    EOD,
    EOS,
    PAD,
    take_rows,
    tiny_config,
    toy_batch,
    toy_vocabulary,
)
from tests.objectives import denoising_reference as reference
from tests.objectives.denoising_reference import (
    FAST_COMPILATION,
    corrupt,
    shapes,
    stream_lengths,
    tiny_model,
)

VOCABULARY = reference.VOCABULARY
SENTINELS = VOCABULARY.sentinel_ids
ARCHITECTURES = ("encoder_decoder", "decoder")


def create(row_length, architecture="encoder_decoder", **overrides):
    return reference.create("span_corruption", row_length, architecture, **overrides)


def rows(count, row_length, seed=0, **options):
    return toy_batch(count, row_length, vocabulary=VOCABULARY, seed=seed, **options)


def batch_of(*tokens):
    return TokenBatch(
        tokens=np.array(tokens, np.int32),
        row_ids=np.arange(len(tokens), dtype=np.int32),
        first_document=np.zeros(len(tokens), np.int32),
    )


def streams_of(example):
    """Inputs and targets of every row, as NumPy arrays."""
    target = np.asarray(example.targets["span_corruption"].values)
    inputs = example.inputs
    if inputs.encoder is not None:
        return np.asarray(inputs.encoder.tokens), target
    return np.asarray(inputs.tokens)[:, : -target.shape[1]], target


ROWS_568 = rows(1024, 568)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_568_tokens_are_512_inputs_and_114_targets(architecture):
    objective = create(568, architecture)
    lengths = objective.lengths
    assert lengths.targets == {"span_corruption": 114}
    decoder = (626, 0) if architecture == "decoder" else (114, 512)
    assert (lengths.inputs, lengths.encoder) == decoder
    example = shapes(objective, ROWS_568)
    assert example.inputs.tokens.shape == (1024, lengths.inputs)
    assert example.targets["span_corruption"].values.shape == (1024, 114)
    assert set(example.metrics) == {"span_corruption_no_targets"}


def test_inputs_and_targets_hold_the_whole_row_without_padding():
    example = corrupt(create(568), ROWS_568)
    assert (example.inputs.segment_ids == 1).all()
    assert (example.inputs.encoder.segment_ids == 1).all()
    assert (example.targets["span_corruption"].loss_weights == 1).all()
    inputs, targets = streams_of(example)
    assert inputs.shape == (1024, 512)
    assert (inputs[:, -1] == EOS).all()
    assert (targets[:, -1] == EOS).all()
    assert not (inputs == PAD).any()
    assert not (targets == PAD).any()
    for row, *streams in zip(ROWS_568.tokens, inputs, targets, strict=True):
        assert reference.reconstruct(*streams, SENTINELS) == row.tolist()
    content = ~np.isin(targets, [*SENTINELS, EOS])
    assert (content.sum(1) == 85).all()


def test_sentinels_count_down_and_agree():
    inputs, targets = streams_of(corrupt(create(568), ROWS_568))
    first_sentinel = VOCABULARY.vocab_size - 1
    expected = [first_sentinel - i for i in range(28)]
    for stream in (*inputs, *targets):
        assert stream[np.isin(stream, SENTINELS)].tolist() == expected
    assert set(expected) <= set(range(512 - 256, 512))
    # Text first, noise last: a sentinel opens the targets and closes the inputs.
    assert not np.isin(inputs[:, 0], SENTINELS).any()
    assert (targets[:, 0] == first_sentinel).all()
    assert (inputs[:, -2] == expected[-1]).all()


def test_corruption_is_the_restatement_of_its_own_mask():
    batch = rows(8, 141)
    inputs, targets = streams_of(corrupt(create(141), batch))
    for row, ours_in, ours_out in zip(batch.tokens, inputs, targets, strict=True):
        mask = mask_of(ours_in, ours_out)
        segments = np.ones(141, int)
        theirs = reference.split_row(row, segments, mask, SENTINELS, False)
        assert ours_in.tolist() == theirs[0][0]
        assert ours_out.tolist() == theirs[1][0]


def mask_of(inputs, targets):
    """The noise mask that inputs and targets tell."""
    sizes, current = {}, None
    for token in targets:
        if token in SENTINELS:
            current = token
            sizes[current] = 0
        elif token not in (EOS, PAD):
            sizes[current] += 1
    mask = []
    for token in inputs:
        if token in sizes:
            mask += [True] * sizes[token]
        elif token not in (EOS, PAD):
            mask.append(False)
    return mask


@pytest.mark.parametrize("row_length", [16, 17, 4096])
def test_any_row_length_has_exact_counts(row_length):
    batch = rows(2, row_length)
    objective = create(row_length)
    example = corrupt(objective, batch)
    noise, spans = reference.span_counts(row_length, "0.15", "3")
    inputs, targets = streams_of(example)
    assert inputs.shape[1] == row_length - noise + spans + 1
    assert targets.shape[1] == noise + spans + 1
    assert np.isin(targets, SENTINELS).sum() == 2 * spans


def test_decoder_reads_the_targets_shifted_right_from_padding():
    example = corrupt(create(141), rows(8, 141))
    targets = np.asarray(example.targets["span_corruption"].values)
    for decoded, target in zip(np.asarray(example.inputs.tokens), targets, strict=True):
        reference.unshift(decoded, target, PAD)
    positions = np.asarray(example.inputs.positions)
    assert (positions == np.arange(29)[None]).all()


def test_a_decoder_reads_inputs_then_shifted_targets():
    batch = rows(8, 141)
    joint = corrupt(create(141, "decoder"), batch)
    apart = corrupt(create(141), batch)
    tokens = np.asarray(joint.inputs.tokens)
    np.testing.assert_array_equal(tokens[:, :128], apart.inputs.encoder.tokens)
    np.testing.assert_array_equal(tokens[:, 128:], apart.inputs.tokens)
    target = joint.targets["span_corruption"]
    assert (target.positions == np.arange(128, 157)[None]).all()
    np.testing.assert_array_equal(
        target.values, apart.targets["span_corruption"].values
    )
    assert (joint.inputs.bidirectional == (np.arange(157) < 128)[None]).all()
    causal = create(141, "decoder", bidirectional_inputs=False)
    assert shapes(causal, batch).inputs.bidirectional is None
    assert (joint.inputs.positions == np.arange(157)[None]).all()


def test_a_decoder_attends_in_both_directions_to_inputs_only():
    inputs = corrupt(create(24, "decoder"), rows(2, 24)).inputs
    prefix = stream_lengths(create(24, "decoder"))[0]
    length = inputs.tokens.shape[1]
    index = jnp.arange(length)
    mask = decoder_mask(
        inputs.segment_ids, inputs.segment_ids, index, index, inputs.bidirectional
    )[0, 0]
    i, j = np.mgrid[:length, :length]
    np.testing.assert_array_equal(mask, (j <= i) | (j < prefix))


@pytest.mark.parametrize("bidirectional", [True, False])
def test_what_a_decoder_sees(bidirectional):
    objective = create(24, "decoder", bidirectional_inputs=bidirectional)
    example = corrupt(objective, rows(2, 24))
    prefix, num_targets = stream_lengths(objective)
    model = tiny_model("decoder")

    def changed(position):
        tokens = example.inputs.tokens.at[:, position].set(100)
        other = dataclasses.replace(example.inputs, tokens=tokens)
        difference = np.abs(model(other) - model(example.inputs)).max((0, 2))
        return np.flatnonzero(difference > 1e-4)

    everything = np.arange(prefix + num_targets)
    seen_from = 0 if bidirectional else prefix - 2
    np.testing.assert_array_equal(changed(prefix - 2), everything[seen_from:])
    late = prefix + num_targets - 2
    np.testing.assert_array_equal(changed(late), everything[late:])


def test_independent_noise():
    objective = create(511, noise="iid")
    inputs_length, targets_length = stream_lengths(objective)
    assert inputs_length == 512
    # The reference allows 192; four deviations above the mean of 143.5 are a few more.
    assert 192 <= targets_length <= 205
    batch = rows(400, 511)
    example = corrupt(objective, batch)
    inputs, targets = streams_of(example)
    surplus = np.asarray(example.metrics["span_corruption_surplus_noise"])
    assert (surplus > 0).mean() < 0.01
    for row, *streams in zip(batch.tokens, inputs, targets, strict=True):
        assert reference.reconstruct(*streams, SENTINELS) == row.tolist()
    sentinels = np.isin(targets, SENTINELS).sum(1)
    used = (targets != PAD).sum(1)
    noise = used - sentinels - 1
    assert noise.mean() == pytest.approx(76.65, abs=4 * 8.1 / 20)
    assert sentinels.mean() == pytest.approx(65.2, abs=4 * 6.4 / 20)
    assert (inputs != PAD).sum(1).mean() == pytest.approx(500.5, abs=1.6)
    assert used.mean() == pytest.approx(142.9, abs=4 * 14 / 20)
    weights = np.asarray(example.targets["span_corruption"].loss_weights)
    np.testing.assert_array_equal(weights, targets != PAD)


def test_iid_noise_that_outgrows_its_room_stays_text(monkeypatch):
    monkeypatch.setattr("objectives.span_corruption._MARGIN", -1.0)
    objective = create(256, noise="iid")
    batch = rows(64, 256)
    example = corrupt(objective, batch)
    surplus = np.asarray(example.metrics["span_corruption_surplus_noise"])
    assert (surplus > 0).mean() > 0.5
    inputs, targets = streams_of(example)
    for row, *streams in zip(batch.tokens, inputs, targets, strict=True):
        assert reference.reconstruct(*streams, SENTINELS) == row.tolist()
        assert EOS in streams[1]


@pytest.mark.parametrize("noise", ["spans", "iid"])
def test_dropped_tokens_leave_no_trace(noise):
    objective = create(128, noise=noise, markers="none")
    batch = rows(32, 128)
    inputs, targets = streams_of(corrupt(objective, batch))
    assert not np.isin(inputs, SENTINELS).any()
    assert not np.isin(targets, SENTINELS).any()
    if noise == "spans":
        assert stream_lengths(objective) == (128 - 19 + 1, 19 + 1)
    for row, kept, dropped in zip(batch.tokens, inputs, targets, strict=True):
        kept = [t for t in kept if t not in (EOS, PAD)]
        dropped = [t for t in dropped if t not in (EOS, PAD)]
        assert sorted(kept + dropped) == sorted(row.tolist())
        assert is_subsequence(kept, row)
        assert is_subsequence(dropped, row)


def is_subsequence(part, whole):
    remaining = iter(whole)
    return all(any(token == other for other in remaining) for token in part)


@pytest.mark.parametrize("noise", ["spans", "iid"])
def test_isolated_documents_are_examples_by_themselves(noise):
    objective = create(96, noise=noise, isolate_documents=True)
    batch = rows(64, 96, document_length=12)
    example = corrupt(objective, batch)
    surplus = np.asarray(example.metrics["span_corruption_surplus_noise"])
    assert (surplus > 0).mean() < 0.05
    encoder, decoder = example.inputs.encoder, example.inputs
    assert encoder.tokens.shape[1] == 97
    values = np.asarray(example.targets["span_corruption"].values)
    for index, row in enumerate(batch.tokens):
        ends = row == EOD
        documents = 1 + np.cumsum(ends) - ends
        for document in range(1, documents[-1] + 1):
            text = row[(documents == document) & ~ends].tolist()
            in_encoder = np.asarray(encoder.segment_ids[index]) == document
            in_decoder = np.asarray(decoder.segment_ids[index]) == document
            inputs = np.asarray(encoder.tokens[index])[in_encoder].tolist()
            targets = values[index][in_decoder].tolist()
            assert reference.reconstruct(inputs, targets, SENTINELS) == text
            assert inputs[-1] == EOS
            used = [t for t in targets if t in SENTINELS]
            assert used == list(SENTINELS[: len(used)])
            if targets:
                assert targets[-1] == EOS
                decoded = np.asarray(decoder.tokens[index])[in_decoder]
                reference.unshift(decoded, targets, PAD)
            positions = np.asarray(encoder.positions[index])[in_encoder]
            assert positions.tolist() == list(range(len(inputs)))
    ids = np.asarray(example.document_ids)
    corpus = ids >= 0
    expected = batch.first_document[:, None] + np.asarray(encoder.segment_ids) - 1
    np.testing.assert_array_equal(ids[corpus], expected[corpus])


def test_a_row_of_one_document_is_corrupted_alike_when_isolated():
    batch = rows(8, 141, document_length=None)
    merged = streams_of(corrupt(create(141), batch))
    isolated = streams_of(corrupt(create(141, isolate_documents=True), batch))
    for ours, theirs in zip(merged, isolated, strict=True):
        np.testing.assert_array_equal(ours, theirs[:, : ours.shape[1]])
        assert (theirs[:, ours.shape[1] :] == PAD).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_attention_crosses_isolated_documents(architecture):
    over = {"noise_density": 0.4, "isolate_documents": True}
    objective = create(16, architecture, **over)
    model = tiny_model(architecture)
    row = [20, 21, 22, 23, 24, 25, 26, EOD, 30, 31, 32, 33, 34, 35, 36, 37]
    other = [90, 91, 92, 93, 94, 95, 96, EOD, *row[8:]]
    one, two = (corrupt(objective, batch_of(tokens)) for tokens in (row, other))
    second = np.asarray(one.inputs.segment_ids[0]) == 2
    assert second.sum() >= 4
    before, after = (np.asarray(model(e.inputs))[0] for e in (one, two))
    np.testing.assert_array_equal(before[second], after[second])
    other = [*row[:8], 90, *row[9:]]
    two = corrupt(objective, batch_of(other))
    after = np.asarray(model(two.inputs))[0]
    assert np.abs(before[second] - after[second]).max() > 1e-3


@pytest.mark.parametrize("isolated", [False, True])
def test_padding_is_never_noise(isolated):
    batch = rows(64, 96, document_length=9)
    batch.tokens[:, 50:] = PAD
    batch.tokens[63] = PAD
    objective = create(96, noise="spans", isolate_documents=isolated)
    example = corrupt(objective, batch)
    inputs, targets = streams_of(example)
    weights = np.asarray(example.targets["span_corruption"].loss_weights)
    np.testing.assert_array_equal(weights, targets != PAD)
    assert not weights[63].any()
    for row, *streams in zip(batch.tokens[:63], inputs, targets, strict=False):
        if not isolated:
            text = [t for t in row.tolist() if t != PAD]
            assert reference.reconstruct(*streams, SENTINELS) == text


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_do_not_know_the_targets_that_follow(architecture):
    model = tiny_model(architecture)
    row = np.arange(20, 44, dtype=np.int32)
    objective = create(24, architecture)
    example = corrupt(objective, batch_of(row, row))
    targets = streams_of(example)[1][0]
    hidden_token = targets[-2]
    changed = np.where(row == hidden_token, 200, row)
    other = corrupt(objective, batch_of(changed, changed))
    num = targets.size
    before, after = (np.asarray(model(e.inputs))[0, -num:] for e in (example, other))
    # The last noise token is the target before EOS; only EOS's place may read it.
    np.testing.assert_array_equal(before[: num - 1], after[: num - 1])
    assert np.abs(before[-1] - after[-1]).max() > 1e-4


def test_rows_are_corrupted_alike_in_any_batch():
    batch = rows(8, 141)
    whole = corrupt(create(141), batch)
    part = corrupt(create(141), take_rows(batch, np.array([5, 2])))
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a)[[5, 2]], b),
        whole,
        part,
    )
    fresh = corrupt(create(141), batch, seed=1)
    assert (fresh.inputs.encoder.tokens != whole.inputs.encoder.tokens).any()


def losses_of(architecture, **overrides):
    """(sum, weight) of the term of 8 rows, and the corrupted rows."""
    config = tiny_config(architecture)
    model = models.create(config, rngs=nnx.Rngs(0))
    objective = create(24, architecture, **overrides)
    heads = objective.init_heads(config, rngs=nnx.Rngs(1))
    example = corrupt(objective, rows(8, 24))
    losses = jax.jit(
        lambda example: objective.losses({"model": model, "heads": heads}, example)[0],
        compiler_options=FAST_COMPILATION,
    )
    ((total, weight),) = losses(example).values()
    return float(total), float(weight), example


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_at_initialisation(architecture):
    total, weight, _ = losses_of(architecture)
    assert weight == 8 * stream_lengths(create(24))[1]
    assert total / weight == pytest.approx(np.log(512), abs=0.05)


def test_normalisation_by_a_constant_and_z_loss_have_closed_forms():
    total, weight, _ = losses_of("encoder_decoder")
    settings = {"loss_normalizing_factor": 233472.0, "z_loss": 1e-2}
    with_z, constant, example = losses_of("encoder_decoder", **settings)
    assert constant == pytest.approx(233472.0, rel=1e-6)
    expected = 1e-2 * np.log(512) ** 2
    assert (with_z - total) / weight == pytest.approx(expected, rel=5e-3)
    # The constant belongs to the global batch, however it is cut into microbatches.
    shares = np.asarray(example.targets["span_corruption"].denominators())
    assert shares.shape == (8,)
    assert shares[:2].sum() * 4 == pytest.approx(233472.0, rel=1e-6)


@pytest.mark.parametrize(
    ("row_length", "overrides", "message"),
    [
        (64, {"noise": "span"}, "noise = 'span': must be one of 'spans', 'iid'"),
        (64, {"markers": "x"}, "markers = 'x': must be one of 'sentinels', 'none'"),
        (64, {"noise_density": 0.0}, "noise_density = 0.0: must be > 0 and < 1"),
        (64, {"noise_density": 1.0}, "noise_density = 1.0: must be > 0 and < 1"),
        (64, {"noise_density": -0.2, "noise": "iid"}, "must be > 0 and < 1"),
        (64, {"noise_density": 1.2}, "must be > 0 and < 1"),
        (64, {"mean_noise_span_length": 65.0}, "between 1 and row_length"),
        (64, {"mean_noise_span_length": 0.0}, "between 1 and row_length"),
        (64, {"noise_density": 0.7, "mean_noise_span_length": 1.0}, "kept tokens"),
        (1, {}, "at least 2 tokens"),
        (64, {"z_loss": -1e-4}, "z_loss = -0.0001: must be >= 0"),
        (64, {"loss_weight": 0.0}, "loss_weight = 0.0: must be > 0"),
        (64, {"loss_normalizing_factor": -1.0}, "must be >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(row_length, overrides, message):
    with pytest.raises(ValueError, match=message):
        create(row_length, **overrides)


@pytest.mark.parametrize("noise", ["spans", "iid"])
def test_too_few_sentinels_are_refused_with_what_helps(noise):
    few = toy_vocabulary(num_sentinels=20)
    with pytest.raises(ValueError, match=r"has 20: shorten .*num_sentinels"):
        create(568, vocabulary=few, noise=noise)
    create(568, vocabulary=few, noise=noise, markers="none")
    with pytest.raises(ValueError, match="needs sentinel_ids"):
        create(64, vocabulary=dataclasses.replace(few, sentinel_ids=()))


def test_an_encoder_and_a_vocabulary_without_eos_are_refused():
    with pytest.raises(ValueError, match="cannot train architecture 'encoder'"):
        create(64, "encoder")
    with pytest.raises(ValueError, match="needs eos_id"):
        create(64, vocabulary=dataclasses.replace(VOCABULARY, eos_id=-1))
    without = dataclasses.replace(VOCABULARY, eod_id=-1)
    create(64, vocabulary=without)
    with pytest.raises(ValueError, match="needs eod_id"):
        create(64, vocabulary=without, isolate_documents=True)


def test_notes_say_what_few_spans_amount_to():
    assert create(568).notes == ()
    several, only = create(128, mean_noise_span_length=32.0).notes
    assert several.startswith("spans have 19.00 tokens on average, not mean_noise_span")
    assert "19 noise tokens in one span, which is always the last of the row" in only
    assert create(128, mean_noise_span_length=32.0, noise="iid").notes == ()


def test_presets_hold_the_published_settings():
    values = presets.OBJECTIVES["span_corruption"]
    assert (values["noise_density"], values["mean_noise_span_length"]) == (0.15, 3.0)
