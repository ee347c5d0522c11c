"""Prompts in the frames their networks were trained to read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives
from experiments import presets
from models.inputs import ModelInputs
from objectives.corruption import rows
from research.generation.language_model import language_model
from research.training import state
from tests.helpers import (
    CLS,
    EOS,
    SEP,
    quick_jit,
    tiny_config,
    toy_batch,
    toy_vocabulary,
)

VOCABULARY = toy_vocabulary()


def create(name, architecture, **changes):
    return objectives.create(
        (name,),
        {name: {**presets.OBJECTIVES[name], **changes}},
        vocabulary=VOCABULARY,
        row_length=24,
        architecture=architecture,
    )


@pytest.mark.parametrize(
    ("name", "architecture", "before", "after"),
    [
        ("masked_lm", "encoder", (CLS,), (SEP,)),
        ("span_corruption", "encoder_decoder", (), (EOS,)),
        ("causal_lm", "decoder", (), ()),
        ("prefix_lm", "decoder", (), ()),
        ("span_corruption", "decoder", (), (EOS, None)),
        ("deshuffling", "encoder_decoder", (), (EOS,)),
        ("text_infilling", "encoder_decoder", (VOCABULARY.bos_id,), (EOS,)),
        ("text_infilling", "decoder", (VOCABULARY.bos_id,), (EOS, EOS)),
    ],
)
def test_frames(name, architecture, before, after):
    objective = create(name, architecture)
    prompt = objective.prompt
    expected = tuple(VOCABULARY.pad_id if x is None else x for x in after)
    assert (prompt.before, prompt.after) == (before, expected)
    assert prompt.fills == (name == "masked_lm")


@pytest.mark.parametrize("name", ["prefix_lm", "span_corruption"])
def test_a_decoder_reads_prompts_as_it_was_trained(name):
    """First logits of a prompt equal those of the same prefix in a training row."""
    objective = create(name, "decoder", bidirectional_inputs=True)
    config = tiny_config("decoder")
    modules = state.create_modules(config, objective)
    params = quick_jit(state.init_params, static_argnums=(0, 1))(
        config, objective, jax.random.key(0)
    )
    clean = rows.clean(
        toy_batch(1, 24, vocabulary=VOCABULARY, document_length=None), VOCABULARY
    )
    example = quick_jit(objective.corrupt)(jax.random.key(1), clean)
    weights = np.asarray(next(iter(example.targets.values())).loss_weights)[0]
    trained = jax.tree.map(np.asarray, example.inputs)
    # The prompt: up to and with what the first target is predicted from.
    count = np.flatnonzero(weights)[0] + 1
    if name == "span_corruption":
        count = int(trained.bidirectional[0].sum()) + 1
    inputs = ModelInputs(**_part(example.inputs, count))
    hidden = quick_jit(lambda p: modules.merge(p)["model"](inputs)[:, -1])(params)
    network = language_model(objective, modules)
    tokens = jnp.pad(jnp.asarray(trained.tokens[:, :count]), ((0, 0), (3, 0)))
    is_prompt = jnp.arange(count + 3)[None] >= 3
    start = quick_jit(lambda p: network.start(p, tokens, is_prompt, 2)[0])
    logits = start(params)
    expected = hidden @ params["model"]["token_embedding"].T
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def _part(inputs, count):
    fields = (field.name for field in dataclasses.fields(inputs))
    values = {name: getattr(inputs, name) for name in fields}
    return {n: v[:, :count] for n, v in values.items() if isinstance(v, jax.Array)}
