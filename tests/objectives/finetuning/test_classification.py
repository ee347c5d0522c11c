"""Fine-tuning heads: padding, pooling, masked classes, scores, gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from objectives.finetuning.classification import (
    Classification,
    LabelledBatch,
    label_losses,
    mean,
    read_position,
)
from objectives.finetuning.labelled import shift_right, token_positions
from tests.helpers import tiny_config, toy_vocabulary

VOCABULARY = toy_vocabulary()
READOUTS = [
    ("encoder", "cls"),
    ("encoder", "mean"),
    ("encoder", "last"),
    ("decoder", "last"),
    ("decoder", "mean"),
    ("encoder_decoder", "last"),
]
ROWS = [np.arange(10, 17), np.arange(40, 43), np.arange(20, 32)]


def make(architecture, readout, reading="causal", **changes):
    """(objective, model, heads) with large weights, so that logits differ."""
    objective = Classification(
        architecture=architecture,
        vocabulary=VOCABULARY,
        row_length=16,
        num_classes=3,
        reads=readout,
        with_pooler=architecture != "decoder",
        decoder_start_id=0,
        reading=reading,
    )
    config = tiny_config(architecture, init_stddev=0.3, **changes)
    model = models.create(config, rngs=nnx.Rngs(0))
    return objective, model, objective.init_heads(config, rngs=nnx.Rngs(1))


def outputs_of(objective, model, heads):
    """Logits of a batch, compiled."""
    return jax.jit(
        lambda batch: objective.outputs({"model": model, "heads": heads}, batch)
    )


def batch_of(rows, length, *, side="right", size=None, classes=3) -> LabelledBatch:
    """Rows padded with garbage on one side."""
    size = size or len(rows)
    rng = np.random.default_rng(length)
    tokens = rng.integers(8, 250, (size, length)).astype(np.int32)
    real = np.zeros((size, length), np.int32)
    for i, row in enumerate(rows):
        where = (
            slice(0, len(row)) if side == "right" else slice(length - len(row), None)
        )
        tokens[i, where], real[i, where] = row, 1
    real[len(rows) :, 0] = 1
    second = (np.cumsum(real, 1) > 2) & (real > 0)
    return LabelledBatch(
        tokens=jnp.asarray(tokens),
        segment_ids=jnp.asarray(real),
        token_type_ids=jnp.asarray(second.astype(np.int32)),
        labels=jnp.arange(size) % classes * 1.0,
        num_classes=jnp.full(size, classes, jnp.int32),
        weights=jnp.asarray((np.arange(size) < len(rows)).astype(np.float32)),
        row_ids=jnp.arange(size, dtype=jnp.int32),
    )


@pytest.mark.parametrize("reading", ["causal", "prefix", "bidirectional"])
def test_a_decoder_reads_as_it_was_pretrained(reading):
    objective, model, _ = make("decoder", "last", reading)
    inputs = objective.inputs(batch_of([np.arange(10, 17)], 8))
    changed = dataclasses.replace(inputs, tokens=inputs.tokens.at[0, 6].set(99))
    first, other = (model(x)[0, 0] for x in (inputs, changed))
    assert bool(jnp.allclose(first, other)) == (reading == "causal")


@pytest.mark.parametrize(("architecture", "readout"), READOUTS)
def test_padding_never_changes_a_prediction(architecture, readout):
    outputs = outputs_of(*make(architecture, readout))
    wanted = outputs(batch_of(ROWS, 12))
    assert np.std(np.asarray(wanted), axis=0).min() > 1e-3
    mates = [*ROWS, np.arange(60, 70)]
    others = {
        "longer padding": outputs(batch_of(ROWS, 16)),
        "padding on the left": outputs(batch_of(ROWS, 16, side="left")),
        "other batch mates": outputs(batch_of(mates, 16, size=5))[:3],
        "alone": jnp.concatenate([outputs(batch_of([row], 12)) for row in ROWS]),
    }
    for name, found in others.items():
        np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("position", ["rope", "relative_bias", "alibi", "sinusoidal"])
def test_padding_with_other_positions(position):
    outputs = outputs_of(*make("decoder", "last", position=position))
    wanted = outputs(batch_of(ROWS, 16))
    found = outputs(batch_of(ROWS, 16, side="left"))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_filler_rows_do_not_count():
    objective, model, heads = make("encoder", "cls")

    @jax.jit
    def loss(batch):
        example = objective.corrupt(jax.random.key(0), batch)
        terms, metrics = objective.losses({"model": model, "heads": heads}, example)
        return terms["label"], metrics["label_accuracy"]

    (total, weight), accuracy = loss(batch_of(ROWS, 12))
    (padded, padded_weight), padded_accuracy = loss(batch_of(ROWS, 12, size=8))
    assert float(weight) == float(padded_weight) == 3.0
    assert float(total) == pytest.approx(float(padded), rel=1e-5)
    assert float(accuracy[1]) == float(padded_accuracy[1]) == 3.0


def test_losses_of_classes_and_scores():
    logits = jnp.array([[1.0, 2.0, 50.0], [0.5, 9.0, 9.0], [1.0, 0.0, 2.0]])
    labels = jnp.array([1.0, 0.7, 2.0])
    num_classes = jnp.array([2, 1, 3])
    found = label_losses(logits, labels, num_classes)
    # The third class does not exist for the first row; the second row is a score.
    expected = [
        np.log(np.exp(1) + np.exp(2)) - 2,
        (0.5 - 0.7) ** 2,
        np.log(np.exp(1) + 1 + np.exp(2)) - 2,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_logits_of_missing_classes_get_no_gradient():
    logits = jnp.array([[1.0, 2.0, 3.0], [0.5, 9.0, -9.0]])

    def total(z):
        return label_losses(z, jnp.array([1.0, 0.7]), jnp.array([2, 1])).sum()

    grad = np.asarray(jax.grad(total)(logits))
    assert np.isfinite(grad).all()
    assert grad[0, 2] == 0 and (grad[1, 1:] == 0).all()
    assert (grad[0, :2] != 0).all() and grad[1, 0] != 0


def test_positions_and_shift():
    segments = jnp.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    positions = token_positions(segments)
    assert positions.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 0, 0]]
    tokens = jnp.array([[9, 9, 5, 6, 7], [5, 6, 7, 9, 9]])
    shifted = np.asarray(shift_right(tokens, positions, 99))
    assert shifted[0, 2:].tolist() == shifted[1, :3].tolist() == [99, 5, 6]


def test_pooling_reads_the_ends_and_the_mean():
    objective, _, _ = make("encoder", "cls")
    states = jnp.arange(16.0)[None, :, None] + jnp.zeros((2, 16, 4))
    for side, first in (("right", 0), ("left", 9)):
        batch = batch_of([np.arange(10, 17)] * 2, 16, side=side)
        inputs = objective.inputs(batch)
        assert read_position(inputs, "cls").tolist() == [[first]] * 2
        assert read_position(inputs, "last").tolist() == [[first + 6]] * 2
        assert read_position(inputs, "mean") is None
        assert float(mean(states, inputs)[1, 3]) == pytest.approx(first + 3)


def test_pooler_is_where_the_papers_have_it():
    for architecture, readout in READOUTS:
        objective, _, heads = make(architecture, readout)
        params = nnx.to_pure_dict(nnx.state(heads))
        assert params["output"]["kernel"].shape == (16, 3)
        assert ("pooler" in params) == (architecture != "decoder")
        assert ("bias" in params["output"]) == (architecture != "decoder")
        assert objective.lengths.targets == {"label": 1}


def test_dropout_reaches_the_head():
    objective, model, heads = make("encoder", "cls", dropout_rate=0.0)
    heads.dropout_rate = 0.5
    example = objective.corrupt(jax.random.key(0), batch_of(ROWS, 12))

    @jax.jit
    def loss(seed):
        networks = {"model": model, "heads": heads}
        terms, _ = objective.losses(
            networks, example, rng=jax.random.key(seed), deterministic=False
        )
        return terms["label"][0]

    assert float(loss(0)) == float(loss(0)) != float(loss(1))


def test_bad_readouts():
    with pytest.raises(ValueError, match="must be one of cls, mean, last"):
        make("encoder", "first")
    with pytest.raises(ValueError, match="sees nothing else"):
        make("decoder", "cls")


def test_corrupt_is_jittable_and_keeps_labels():
    objective, _, _ = make("encoder_decoder", "last")
    batch = batch_of(ROWS, 12)
    example = jax.jit(objective.corrupt)(jax.random.key(0), batch)
    target = example.targets["label"]
    assert target.values[:, 0].tolist() == batch.labels.tolist()
    assert target.denominators().tolist() == [1.0, 1.0, 1.0]
    assert example.inputs.encoder is not None
    assert dataclasses.replace(example, row_ids=batch.row_ids).framed
