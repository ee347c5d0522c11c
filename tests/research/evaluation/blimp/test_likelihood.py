"""Likelihoods of sentences against their definitions, for every kind of objective."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import objectives
from experiments import presets
from models.inputs import ModelInputs
from research.evaluation.blimp import likelihood
from research.training import state as state_lib
from tests.helpers import tiny_config, toy_vocabulary

VOCAB = 512
VOCABULARY = toy_vocabulary(VOCAB)
LENGTHS = (1, 9)


def make_backbone(name, architecture, **overrides):
    """Fresh parameters of a tiny run, as likelihoods read it."""
    config = tiny_config(
        architecture, vocab_size=VOCAB, max_seq_len=64, init_stddev=0.3
    )
    objective = objectives.create(
        (name,),
        {name: {**presets.OBJECTIVES[name], **overrides}},
        vocabulary=VOCABULARY,
        row_length=40,
        architecture=architecture,
    )
    init = functools.partial(state_lib.init_params, config, objective)
    params = jax.jit(init)(jax.random.key(1))
    backbone = types.SimpleNamespace(
        vocabulary=VOCABULARY,
        model_config=config,
        objective=objective,
        params=params,
    )
    modules = state_lib.create_modules(config, objective)
    networks = modules.merge(params)
    (head,) = networks["heads"].by_name().values()
    return backbone, networks["model"], head


def sentences(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(10, 200, length).astype(np.int32) for length in LENGTHS]


def inputs_of(tokens, **changes):
    tokens = jnp.asarray(tokens, jnp.int32)[None]
    return ModelInputs(
        tokens=tokens,
        segment_ids=jnp.ones_like(tokens),
        positions=jnp.arange(tokens.shape[1], dtype=jnp.int32)[None],
        **changes,
    )


def log_probs(model, heads, inputs):
    """log p of every token at every position of one row, [L, V]."""
    graph, params = nnx.split((model, heads))
    return np.asarray(_log_probs(graph, params, inputs), np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(graph, params, inputs):
    model, heads = nnx.merge(graph, params)
    features, table, bias = heads.readout(model(inputs), model.embedding)
    logits = features[0] @ table.T + (0.0 if bias is None else bias[None])
    return jax.nn.log_softmax(logits)


def test_causal_lm_reads_the_start_token_first():
    backbone, model, heads = make_backbone("causal_lm", "decoder")
    found = likelihood.log_likelihoods(backbone, sentences())
    for row, value in zip(sentences(), found):
        scores = log_probs(model, heads, inputs_of([VOCABULARY.eod_id, *row]))
        expected = sum(scores[i, token] for i, token in enumerate(row))
        np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_isolated_causal_lm_does_not_score_the_first_token():
    backbone, model, heads = make_backbone(
        "causal_lm", "decoder", isolate_documents=True
    )
    found = likelihood.log_likelihoods(backbone, sentences())
    for row, value in zip(sentences(), found):
        scores = log_probs(model, heads, inputs_of(row))
        expected = sum(scores[i, row[i + 1]] for i in range(len(row) - 1))
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["masked_lm", "span_boundary"])
def test_encoders_mask_one_token_at_a_time(name):
    backbone, model, heads = make_backbone(name, "encoder")
    head = getattr(heads, "mlm", heads)
    found = likelihood.log_likelihoods(backbone, sentences())
    for row, value in zip(sentences(), found):
        framed = np.array([VOCABULARY.cls_id, *row, VOCABULARY.sep_id])
        expected = 0.0
        for index in range(1, len(framed) - 1):
            masked = framed.copy()
            masked[index] = VOCABULARY.mask_id
            expected += log_probs(model, head, inputs_of(masked))[index, framed[index]]
        np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_a_token_may_be_read_one_position_before_its_mask():
    backbone, model, head = make_backbone("masked_next_token", "decoder")
    found = likelihood.log_likelihoods(backbone, sentences())
    for row, value in zip(sentences(), found):
        framed = np.array([VOCABULARY.cls_id, *row, VOCABULARY.sep_id])
        expected = 0.0
        for index in range(1, len(framed) - 1):
            masked = framed.copy()
            masked[index] = VOCABULARY.mask_id
            scores = log_probs(model, head, inputs_of(masked, reads="both"))
            expected += scores[index - 1, framed[index]]
        np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize("shift", [False, True])
def test_diffusion_averages_passes_of_all_noise_levels(shift):
    """Restated: sum over passes of n / k / 32 times the masked tokens' log p."""
    backbone, model, head = make_backbone("masked_diffusion", "decoder", shift=shift)
    scoring = backbone.objective.scoring()
    assert scoring.kind == "bound"
    row = sentences()[1]
    (value,) = likelihood.log_likelihoods(backbone, [row])
    n, passes = len(row), scoring.num_samples
    tokens = jnp.tile(row, (passes, 1))
    example = scoring.arrange(tokens, jnp.full(passes, n), jnp.arange(passes))
    expected, counts = 0.0, []
    for shown in np.asarray(example.inputs.tokens):
        scores = log_probs(model, head, inputs_of(shown, reads="both"))
        scores[:, VOCABULARY.mask_id] = -np.inf
        scores -= np.logaddexp.reduce(scores, axis=1)[:, None]
        masked = np.flatnonzero(shown == VOCABULARY.mask_id)
        counts.append(len(masked))
        expected += sum(
            n / len(masked) / passes * scores[i - shift, row[i - 1]] for i in masked
        )
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    # Every count equally often, but for 32 being no multiple of 9.
    assert set(np.bincount(counts, minlength=n + 1)[1:]) == {3, 4}


@pytest.mark.parametrize(
    "name,encoded,shown,start",
    [
        ("span_corruption", "S$", "S", "pad_id"),
        ("text_infilling", "BM$", "B", "eos_id"),
    ],
)
def test_encoder_decoders_fill_one_hole(name, encoded, shown, start):
    symbols = {
        "S": VOCABULARY.sentinel_ids[0],
        "$": VOCABULARY.eos_id,
        "B": VOCABULARY.bos_id,
        "M": VOCABULARY.mask_id,
    }
    backbone, model, heads = make_backbone(name, "encoder_decoder")
    found = likelihood.log_likelihoods(backbone, sentences())
    encoder = inputs_of([symbols[s] for s in encoded])
    for row, value in zip(sentences(), found):
        target = [symbols[shown], *row]
        decoder = inputs_of([getattr(VOCABULARY, start), *target[:-1]], encoder=encoder)
        scores = log_probs(model, heads, decoder)
        expected = sum(scores[i + 1, token] for i, token in enumerate(row))
        np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_prefix_lm_scores_all_but_the_first_token(architecture):
    backbone, model, heads = make_backbone("prefix_lm", architecture)
    found = likelihood.log_likelihoods(backbone, sentences())
    for row, value in zip(sentences(), found):
        if architecture == "decoder":
            scores = log_probs(model, heads, inputs_of(row))[:-1]
        else:
            read = [VOCABULARY.pad_id, *row[1:-1]] if len(row) > 1 else []
            if not read:
                assert value == 0.0
                continue
            # As every training row's, the encoder's prefix ends in EOS.
            encoder = inputs_of([row[0], VOCABULARY.eos_id])
            decoder = inputs_of(read, encoder=encoder)
            scores = log_probs(model, heads, decoder)
        expected = sum(scores[i, token] for i, token in enumerate(row[1:]))
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_a_decoder_of_spans_reads_both_sides_in_one_sequence():
    backbone, model, heads = make_backbone("span_corruption", "decoder")
    found = likelihood.log_likelihoods(backbone, sentences())
    sentinel, end = VOCABULARY.sentinel_ids[0], VOCABULARY.eos_id
    for row, value in zip(sentences(), found):
        tokens = [sentinel, end, VOCABULARY.pad_id, sentinel, *row[:-1]]
        prefix = jnp.arange(len(tokens))[None] < 2
        scores = log_probs(model, heads, inputs_of(tokens, bidirectional=prefix))
        expected = sum(scores[i + 3, token] for i, token in enumerate(row))
        np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_objectives_without_a_likelihood_say_so():
    backbone, _, _ = make_backbone("deshuffling", "encoder_decoder")
    with pytest.raises(likelihood.UserError, match="deshuffling defines no likelihood"):
        likelihood.log_likelihoods(backbone, sentences())


def test_sentences_longer_than_the_position_table_are_refused():
    backbone, _, _ = make_backbone("causal_lm", "decoder")
    with pytest.raises(likelihood.UserError, match="62 tokens is longer than the 61"):
        likelihood.log_likelihoods(backbone, [np.ones(62, np.int32)])
