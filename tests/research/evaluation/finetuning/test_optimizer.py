"""AdamW against optax, schedules against closed forms, depths by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import models
from research.evaluation.finetuning import layer_depths, optimizer
from research.evaluation.finetuning import loop as finetune_loop
from tests.helpers import tiny_config
from tests.research.evaluation.toy import settings

CONFIG = tiny_config("encoder")


def params_of(config):
    model = models.create(config, rngs=nnx.Rngs(0))
    head = {"output": {"kernel": jnp.ones((16, 3)), "bias": jnp.zeros(3)}}
    return {"model": nnx.to_pure_dict(nnx.state(model)), "heads": head}


def factors(config, **kwargs):
    """{path: factor on the learning rate}."""
    tree = layer_depths.multipliers(params_of(config), config, **kwargs)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_steps_equal_optax():
    params = {
        "model": {
            "token_embedding": jnp.ones((3, 2)),
            "stack": {"final_norm": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}},
        },
        "heads": {"output": {"kernel": jnp.full((2, 3), 0.5), "bias": jnp.ones(3)}},
    }
    given = settings(schedule="cosine", final_fraction=0.1, warmup_fraction=0.2)
    hyper = finetune_loop.hyperparameters(params, CONFIG, given, 10)
    state = optimizer.init(params, hyper)
    mask = jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in ("bias", "scale"), params
    )
    reference = optax.chain(
        optax.clip_by_global_norm(given.clip_norm),
        optax.adamw(
            lambda step: optimizer.learning_rate(hyper, step),
            b1=given.beta1,
            b2=given.beta2,
            eps=given.epsilon,
            weight_decay=given.weight_decay,
            mask=mask,
        ),
    )
    reference_state, ours, theirs = reference.init(params), params, params
    for step in range(4):
        angle = step + 3.0
        grads = jax.tree.map(lambda p, a=angle: jnp.sin(p * a) * 0.3 + 0.1, params)
        updates, state = optimizer.update(grads, state, ours)
        ours = optax.apply_updates(ours, updates)
        updates, reference_state = reference.update(grads, reference_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7),
        ours,
        theirs,
    )


@pytest.mark.parametrize(
    ("schedule", "final", "expected"),
    [
        # 20 steps, 4 of warm-up: t / 4, then 16 steps of decay.
        ("linear", 0.0, {0: 0.0, 2: 0.5, 4: 1.0, 12: 0.5, 20: 0.0}),
        ("linear", 0.2, {4: 1.0, 12: 0.6, 20: 0.2}),
        ("cosine", 0.0, {2: 0.5, 4: 1.0, 12: 0.5, 16: 0.5 - 0.5**1.5, 20: 0.0}),
        ("cosine", 0.1, {4: 1.0, 12: 0.55, 20: 0.1}),
        ("constant", 0.0, {0: 0.0, 2: 0.5, 4: 1.0, 20: 1.0}),
    ],
)
def test_schedules(schedule, final, expected):
    given = settings(
        schedule=schedule,
        final_fraction=final,
        warmup_fraction=0.2,
        learning_rate=2.0,
    )
    hyper = finetune_loop.hyperparameters(params_of(CONFIG), CONFIG, given, 20)
    for step, share in expected.items():
        found = optimizer.learning_rate(hyper, jnp.int32(step))
        assert float(found) == pytest.approx(2.0 * share, abs=1e-6), step


def test_layer_decay_follows_depth():
    config = tiny_config("encoder", num_layers=3, embedding_norm=True, final_norm=True)
    found = factors(config, layer_decay=0.5, frozen_layers=0)
    wanted = {
        "model/token_embedding": 0.5**5,
        "model/embedder/norm/scale": 0.5**5,
        "model/stack/layers/0/mlp/up/kernel": 0.5**4,
        "model/stack/layers/2/attention/query/bias": 0.5**2,
        "model/stack/final_norm/scale": 0.5,
        "heads/output/kernel": 1.0,
    }
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value), name


def test_frozen_layers():
    config = tiny_config("encoder_decoder", num_layers=2, position="relative_bias")
    found = factors(config, layer_decay=1.0, frozen_layers=3)
    for name, factor in found.items():
        last = name.startswith("model/decoder_stack/layers/1/")
        last |= name.startswith(("heads", "model/decoder_stack/final_norm"))
        assert factor == (1.0 if last else 0.0), name
    free = factors(config, layer_decay=1.0, frozen_layers=0)
    assert all(factor == 1.0 for factor in free.values())


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_stacked_layers_have_the_same_factors(architecture):
    loop = tiny_config(architecture, num_layers=3)
    scan = dataclasses.replace(loop, scan_layers=True)
    kwargs = dict(layer_decay=0.7, frozen_layers=2)
    stacked = factors(scan, **kwargs)
    for name, factor in factors(loop, **kwargs).items():
        head, layers, rest = name.partition("/layers/")
        if layers:
            index, _, rest = rest.partition("/")
            values = stacked[f"{head}/layers/{rest}"]
            assert values.reshape(-1)[int(index)] == pytest.approx(factor)
        else:
            assert stacked[name] == pytest.approx(factor)


def test_frozen_parameters_neither_move_nor_count():
    params = params_of(CONFIG)
    given = settings(frozen_layers=1, warmup_fraction=0.0)
    hyper = finetune_loop.hyperparameters(params, CONFIG, given, 10)
    state = optimizer.init(params, hyper)
    grads = jax.tree.map(lambda p: jnp.full_like(p, 1e3), params)
    updates, _ = optimizer.update(grads, state, params)
    assert not np.any(updates["model"]["token_embedding"])
    assert not np.any(updates["model"]["stack"]["layers"][0]["mlp"]["up"]["kernel"])
    assert np.all(updates["heads"]["output"]["kernel"] != 0)
    # The gradients of frozen parameters do not use up the norm that clipping allows.
    none = jax.tree.map(jnp.zeros_like, grads["model"])
    deepest = {**none, "token_embedding": grads["model"]["token_embedding"]}
    heads = jax.tree.map(lambda p: jnp.full_like(p, 1e-3), grads["heads"])
    _, with_it = optimizer.update({"model": deepest, "heads": heads}, state, params)
    np.testing.assert_allclose(
        with_it.mean["heads"]["output"]["bias"], 0.1 * 1e-3, rtol=1e-5
    )


def test_fresh_top_layers():
    config = tiny_config("encoder", num_layers=3)
    old = params_of(config)["model"]
    model = models.create(config, rngs=nnx.Rngs(7))
    fresh = nnx.to_pure_dict(nnx.state(model))
    mixed = layer_depths.with_fresh_top(old, fresh, config, 1)

    def kernel(tree, layer):
        return tree["stack"]["layers"][layer]["mlp"]["up"]["kernel"]

    np.testing.assert_array_equal(kernel(mixed, 2), kernel(fresh, 2))
    for i in (0, 1):
        np.testing.assert_array_equal(kernel(mixed, i), kernel(old, i))
    np.testing.assert_array_equal(mixed["token_embedding"], old["token_embedding"])
