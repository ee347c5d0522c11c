"""Labels as text: choices are ranked as their own log-probabilities are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from objectives.finetuning.text_to_text import TextBatch, TextToText
from tests.helpers import EOS, tiny_config, toy_vocabulary

VOCABULARY = toy_vocabulary()
CHOICES = np.array([[20, 21, EOS, 0], [30, EOS, 0, 0], [0, 0, 0, 0]], np.int32)
PRESENT = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], np.int32)
ROWS = [np.arange(10, 17), np.arange(40, 43)]


def make(architecture, *, free=False):
    objective = TextToText(
        architecture=architecture,
        vocabulary=VOCABULARY,
        row_length=12,
        loss_weight=1.0,
        z_loss=0.0,
        loss_normalizing_factor=0.0,
        bidirectional_inputs=True,
        isolate_documents=False,
        free=free,
        answer_length=4,
        reads_first=0,
    )
    config = tiny_config(architecture, init_stddev=0.3, num_token_types=0)
    model = models.create(config, rngs=nnx.Rngs(0))
    return objective, model, objective.init_heads(config, rngs=nnx.Rngs(1))


def batch_of(rows, length, *, labels=(0, 1), side="right") -> TextBatch:
    tokens = np.full((len(rows), length), 77, np.int32)
    real = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        where = (
            slice(0, len(row)) if side == "right" else slice(length - len(row), None)
        )
        tokens[i, where], real[i, where] = row, 1
    labels = np.array(labels)
    size = len(rows)
    return TextBatch(
        tokens=jnp.asarray(tokens),
        segment_ids=jnp.asarray(real),
        targets=jnp.asarray(CHOICES[labels]),
        target_segment_ids=jnp.asarray(PRESENT[labels]),
        choices=jnp.asarray(np.broadcast_to(CHOICES[None], (size, 3, 4))),
        choice_segment_ids=jnp.asarray(np.broadcast_to(PRESENT[None], (size, 3, 4))),
        weights=jnp.ones(size),
        row_ids=jnp.arange(size, dtype=jnp.int32),
    )


def outputs_of(objective, model, heads):
    """Outputs of a batch, compiled."""
    return jax.jit(
        lambda batch: objective.outputs({"model": model, "heads": heads}, batch)
    )


@pytest.mark.parametrize("architecture", ["encoder_decoder", "decoder"])
def test_scores_are_the_negative_losses_of_the_choices(architecture):
    objective, model, heads = make(architecture)

    @jax.jit
    def loss(batch):
        example = objective.corrupt(jax.random.key(0), batch)
        return objective.losses({"model": model, "heads": heads}, example)[0][
            "text_to_text"
        ]

    outputs = outputs_of(objective, model, heads)
    scores = np.asarray(outputs(batch_of(ROWS, 12)))
    assert (scores[:, 2] < -1e8).all()  # A choice that does not exist.
    for choice in (0, 1):
        for row in (0, 1):
            total, count = loss(batch_of([ROWS[row]], 12, labels=[choice]))
            assert float(count) == PRESENT[choice].sum()
            assert scores[row, choice] == pytest.approx(-float(total), abs=1e-4)
    # Nor does the side of the padding matter.
    found = outputs(batch_of(ROWS, 12, side="left"))
    np.testing.assert_allclose(found, scores, atol=1e-4)


@pytest.mark.parametrize("architecture", ["encoder_decoder", "decoder"])
def test_greedy_decoding_writes_the_likeliest_tokens(architecture):
    """Each token is the argmax given the ones before, until EOS."""
    objective, model, heads = make(architecture, free=True)
    outputs = outputs_of(objective, model, heads)
    batch = batch_of(ROWS, 12)
    written = np.asarray(outputs(batch))
    np.testing.assert_array_equal(outputs(batch_of(ROWS, 12, side="left")), written)

    @jax.jit
    def best_after(tokens):
        example = objective._example(batch, tokens, jnp.ones((2, 4), int))
        return objective.scores({"model": model, "heads": heads}, example).argmax(-1)

    best = np.asarray(best_after(jnp.asarray(written)))
    for row in range(2):
        for position in range(4):
            ended = EOS in written[row, :position]
            assert written[row, position] == (0 if ended else best[row, position])


def test_decoding_stops_at_eos(monkeypatch):
    objective, model, heads = make("encoder_decoder", free=True)
    script = jnp.array([20, EOS, 33, 34])

    def scores(self, networks, example):
        return jax.nn.one_hot(jnp.stack([script, script + 1]), 512)

    monkeypatch.setattr(TextToText, "scores", scores)
    written = objective.outputs({"model": model, "heads": heads}, batch_of(ROWS, 12))
    assert written.tolist() == [[20, EOS, 0, 0], [21, EOS + 1, 34, 35]]
