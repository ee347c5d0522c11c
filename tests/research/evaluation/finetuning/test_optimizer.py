"""AdamW against optax, schedules against closed forms, depths by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import models
from research.errors import UserError
from research.evaluation.finetuning import layer_depths, optimizer
from research.evaluation.finetuning import loop as finetune_loop
from tests.helpers import tiny_config
from tests.research.evaluation.toy import same_trees, settings

CONFIG = tiny_config("encoder")


def params_of(config):
    model = models.create(config, rngs=nnx.Rngs(0))
    head = {"output": {"kernel": jnp.ones((16, 3)), "bias": jnp.zeros(3)}}
    return {"model": nnx.to_pure_dict(nnx.state(model)), "heads": head}


def by_path(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def factors(config, layer_decay):
    """{path: factor on the learning rate}."""
    return by_path(layer_depths.multipliers(params_of(config), config, layer_decay))


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
    found = factors(config, 0.5)
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
    params = params_of(config)
    learned, frozen = layer_depths.split(params, config, 3)
    for name in by_path(params):
        last = name.startswith("model/decoder_stack/layers/1/")
        last |= name.startswith(("heads", "model/decoder_stack/final_norm"))
        assert (name in by_path(learned), name in by_path(frozen)) == (last, not last)
    assert layer_depths.split(params, config, 0) == (params, {})
    with pytest.raises(UserError, match="frozen_layers = 5: the model has 4 layers"):
        layer_depths.split(params, config, 5)


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_what_is_split_is_joined(architecture, scan_layers):
    config = tiny_config(architecture, num_layers=3, scan_layers=scan_layers)
    params = params_of(config)
    for count in range(config.num_blocks + 1):
        learned, frozen = layer_depths.split(params, config, count)
        assert same_trees(layer_depths.join(learned, frozen), params)
        sizes = [sum(x.size for x in jax.tree.leaves(t)) for t in (learned, frozen)]
        assert sum(sizes) == sum(x.size for x in jax.tree.leaves(params))
        assert (sizes[1] > 0) == (count > 0)


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_stacked_layers_have_the_same_factors(architecture):
    loop = tiny_config(architecture, num_layers=3)
    scan = dataclasses.replace(loop, scan_layers=True)
    stacked = factors(scan, 0.7)
    for name, factor in factors(loop, 0.7).items():
        head, layers, rest = name.partition("/layers/")
        if layers:
            index, _, rest = rest.partition("/")
            values = stacked[f"{head}/layers/{rest}"]
            assert values.reshape(-1)[int(index)] == pytest.approx(factor)
        else:
            assert stacked[name] == pytest.approx(factor)


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
