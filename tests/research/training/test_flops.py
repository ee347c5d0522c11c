"""Analytic FLOPs against the matrix products of compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives
from experiments import presets
from models.transformer.config import TransformerConfig
from objectives.types import TokenBatch
from research.config.checks import provisional_vocabulary
from research.config.sections import TokenizerConfig
from research.training import flops, rngs, state
from tests.research.training import hlo

BATCH = 4
ROW_LENGTH = 64


def compiled_flops(config, objective) -> float:
    """Products of one compiled, deterministic train step, per row."""
    modules = state.create_modules(config, objective)
    params = modules.params
    batch = TokenBatch(
        tokens=jax.ShapeDtypeStruct((BATCH, ROW_LENGTH), jnp.int32),
        row_ids=jax.ShapeDtypeStruct((BATCH,), jnp.int32),
        first_document=jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    )

    def gradient(params, batch):
        example = objective.corrupt(rngs.at(0, "corruption", 0), batch)

        def loss(params):
            networks = modules.merge(params)
            rng = jax.random.key(0)
            terms, _ = objective.losses(networks, example, rng=rng, deterministic=True)
            return sum(value / weight for value, weight in terms.values())

        return jax.grad(loss)(params)

    compiled = jax.jit(gradient).lower(params, batch).compile()
    return hlo.compiled_dot_flops(compiled) / BATCH


COMPOSITIONS = [
    (("next_sentence", "masked_lm"), "encoder"),
    (("next_sentence", "span_boundary"), "encoder"),
]
CASES = [
    ((name,), architecture)
    for name, kind in objectives.OBJECTIVES.items()
    for architecture in kind.architectures
] + COMPOSITIONS


# Heads of tokens and of labels; the rest takes minutes to compile.
QUICK = (("causal_lm",), ("next_sentence", "masked_lm"))


@pytest.mark.parametrize(
    "names,architecture",
    [
        pytest.param(*case, marks=() if case[0] in QUICK else pytest.mark.slow)
        for case in CASES
    ],
)
def test_training_flops_equal_the_compiled_step(names, architecture):
    check("tiny", names, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("names,architecture", CASES)
def test_training_flops_equal_the_compiled_step_of_the_small_size(names, architecture):
    check("small", names, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder_decoder"])
@pytest.mark.parametrize(
    "settings",
    [
        {"num_kv_heads": 1, "gated_mlp": True},
        {"embedding_dim": 48, "tie_embeddings": False},
        {"position": "relative_bias", "head_dim": 24},
    ],
)
def test_settings_of_the_transformer_are_counted(architecture, settings):
    names = {"encoder": "masked_lm", "decoder": "causal_lm"}
    name = names.get(architecture, "span_corruption")
    check("tiny", (name,), architecture, **settings)


def check(size, names, architecture, **settings):
    vocabulary = provisional_vocabulary(
        TokenizerConfig(
            kind="bpe", vocab_size=600, lowercase=False, num_sentinels=64, path=""
        )
    )
    model = presets.model(size, architecture=architecture, vocab_size=600, **settings)
    config = TransformerConfig(**model.to_dict())
    section = presets.objective(*names).to_dict()
    section.pop("name")
    objective = objectives.create(
        names,
        section,
        vocabulary=vocabulary,
        row_length=ROW_LENGTH,
        architecture=architecture,
    )
    counted = flops.count(config, objective)
    np.testing.assert_allclose(
        counted.training, compiled_flops(config, objective), rtol=0.03
    )


def test_products_in_loops_and_calls_count_as_often_as_they_run():
    def body(carry, row):
        hidden = jnp.tanh(row @ carry)
        return carry + hidden.T @ hidden, None

    def function(matrix, rows):
        return jax.lax.scan(body, matrix, rows)[0]

    matrix = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    rows = jax.ShapeDtypeStruct((5, 3, 8), jnp.float32)
    compiled = jax.jit(function).lower(matrix, rows).compile()
    assert hlo.compiled_dot_flops(compiled) == 5 * 2 * (2 * 3 * 8 * 8)


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.dot_flops("HloModule nothing")


def test_published_costs_of_the_base_size():
    """Table of forward GFLOP a row: BERT base at 512 and T5 base at 512 inputs.

    It counts the last layer of all positions, of which ours computes queries, output
    and feed-forward layer only where a target is read.
    """
    position = 2 * (2 * 768**2 + 2 * 768 * 3072) + 4 * 512 * 768
    cases = {
        ("masked_lm", "encoder", 510): 100.5 - (512 - 77) * position / 1e9,
        ("causal_lm", "decoder", 512): 121.8,
        ("span_corruption", "encoder_decoder", 568): 142.0,
    }
    for (name, architecture, row_length), expected in cases.items():
        vocabulary = provisional_vocabulary(
            TokenizerConfig(
                kind="bpe",
                vocab_size=32000,
                lowercase=False,
                num_sentinels=100,
                path="",
            )
        )
        model = presets.model(
            "base",
            architecture=architecture,
            vocab_size=32000,
            max_seq_len=1024,
            scan_layers=True,
        )
        section = presets.objective(name).to_dict()
        section.pop("name")
        objective = objectives.create(
            (name,),
            section,
            vocabulary=vocabulary,
            row_length=row_length,
            architecture=architecture,
        )
        counted = flops.count(TransformerConfig(**model.to_dict()), objective)
        np.testing.assert_allclose(counted.forward / 1e9, expected, rtol=0.006)
