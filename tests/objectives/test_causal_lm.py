"""Next-token targets with and without isolated documents."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
import objectives
from experiments import presets
from objectives.types import TokenBatch
from tests.helpers import EOD, PAD, quick_jit, tiny_config, toy_vocabulary

VOCABULARY = toy_vocabulary()


def causal_lm(row_length: int, **overrides):
    params = {"causal_lm": {**presets.OBJECTIVES["causal_lm"], **overrides}}
    return objectives.create(
        "causal_lm",
        params,
        vocabulary=VOCABULARY,
        row_length=row_length,
        architecture="decoder",
    )


def corrupt(objective, *tokens):
    batch = TokenBatch(
        tokens=jnp.asarray(tokens, jnp.int32),
        row_ids=jnp.arange(len(tokens), dtype=jnp.int32),
        first_document=jnp.zeros(len(tokens), jnp.int32),
    )
    return quick_jit(objective.corrupt)(jax.random.key(0), batch)


def test_every_real_token_but_the_first_is_a_target():
    example = corrupt(
        causal_lm(6), [20, 21, EOD, 22, 23, 24], [20, 21, 22, EOD, PAD, PAD]
    )
    target = example.targets["clm"]
    assert target.values[:, :5].tolist() == [[21, EOD, 22, 23, 24], [21, 22, EOD, 0, 0]]
    assert target.loss_weights.tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]]
    assert target.positions is None
    assert example.inputs.segment_ids.tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0]]


def test_isolated_documents_do_not_predict_each_other():
    example = corrupt(
        causal_lm(6, isolate_documents=True), [20, 21, EOD, 22, 23, EOD], [EOD] * 6
    )
    weights = example.targets["clm"].loss_weights
    assert weights.tolist() == [[1, 1, 0, 1, 1, 0], [0] * 6]
    assert example.inputs.segment_ids.tolist()[0] == [1, 1, 1, 2, 2, 2]
    assert example.inputs.positions.tolist()[0] == [0, 1, 2, 0, 1, 2]


def test_isolated_documents_do_not_see_each_other():
    model = models.create(tiny_config("decoder", init_stddev=0.3), rngs=nnx.Rngs(0))

    def change(isolate_documents):
        """Of the states behind [EOD], when the tokens before it change."""
        objective = causal_lm(8, isolate_documents=isolate_documents)
        tokens = [20, 21, EOD, 22, 23, 24, 25, 26]
        inputs = corrupt(objective, tokens, [90, 91, *tokens[2:]]).inputs
        hidden = quick_jit(model)(inputs)
        return np.abs(hidden[0, 3:] - hidden[1, 3:]).max()

    assert change(isolate_documents=True) == 0
    assert change(isolate_documents=False) > 1e-3


def test_it_is_arranged_for_decoders_and_uses_no_bias():
    heads = causal_lm(8).init_heads(tiny_config("decoder"), rngs=nnx.Rngs(0))
    assert jax.tree.leaves(nnx.state(heads)) == []
    untied = tiny_config("decoder", tie_embeddings=False)
    heads = causal_lm(8).init_heads(untied, rngs=nnx.Rngs(0))
    assert [leaf.shape for leaf in jax.tree.leaves(nnx.state(heads))] == [(512, 16)]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("loss_weight", 0.0, "> 0"),
        ("z_loss", -1.0, ">= 0"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(field, value, allowed):
    with pytest.raises(ValueError, match=rf"causal_lm.{field} = .*{allowed}"):
        causal_lm(8, **{field: value})


def test_short_rows_and_vocabularies_without_eod_are_refused():
    with pytest.raises(ValueError, match="at least 2 tokens"):
        causal_lm(1)
    vocabulary = dataclasses.replace(VOCABULARY, eod_id=-1)
    with pytest.raises(ValueError, match="eod_id"):
        objectives.create(
            "causal_lm",
            {"causal_lm": presets.OBJECTIVES["causal_lm"]},
            vocabulary=vocabulary,
            row_length=8,
            architecture="decoder",
        )
