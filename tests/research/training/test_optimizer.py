"""Update rules against optax's own and against the formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.errors import UserError
from research.training import optimizer
from tests.research.training import tiny

PARAMS = {
    "kernel": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32),
    "bias": jnp.asarray([1.0, -2.0, 0.5], jnp.float32),
}


def config(**changes):
    return dataclasses.replace(tiny.run_config().optimizer, **changes)


def gradients(step: int):
    rng = np.random.default_rng(step)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), PARAMS
    )


def run(rule: optimizer.Optimizer, steps: int = 5):
    """Parameters after some steps, each with the learning rate of the schedule."""
    params, state = PARAMS, rule.transformation.init(PARAMS)
    for step in range(steps):
        updates, state = rule.transformation.update(gradients(step), state, params)
        rate = rule.schedule(jnp.int32(step))
        params = jax.tree.map(lambda p, u, r=rate: p + r * u, params, updates)
    return params


def run_optax(rule: optax.GradientTransformation, steps: int = 5):
    params, state = PARAMS, rule.init(PARAMS)
    for step in range(steps):
        updates, state = rule.update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(first, second, rtol=1e-5, atol=1e-7):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def test_adamw_is_optax_adamw_with_clipping_and_mask():
    ours = optimizer.create(
        config(schedule="constant", warmup_steps=0, learning_rate=0.1, clip_norm=0.5),
        100,
    )
    settings = config()
    theirs = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(
            0.1,
            b1=settings.beta1,
            b2=settings.beta2,
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
            mask={"kernel": True, "bias": False},
        ),
    )
    assert_close(run(ours), run_optax(theirs))


def test_without_bias_correction_the_first_update_is_smaller():
    rule = optimizer.create(
        config(
            bias_correction=False,
            weight_decay=0.0,
            clip_norm=0.0,
            schedule="constant",
            warmup_steps=0,
            learning_rate=1.0,
            epsilon=0.0,
        ),
        10,
    )
    grads = gradients(0)
    updates, _ = rule.transformation.update(
        grads, rule.transformation.init(PARAMS), PARAMS
    )
    # m = (1 - b1) g and v = (1 - b2) g^2, so m / sqrt(v) is the same for every entry.
    size = (1 - 0.9) / np.sqrt(1 - 0.98)
    for update, grad in zip(
        jax.tree.leaves(updates), jax.tree.leaves(grads), strict=True
    ):
        np.testing.assert_allclose(update, -size * np.sign(grad), rtol=1e-4)


def test_adafactor_is_optax_adafactor():
    ours = optimizer.create(
        config(
            name="adafactor",
            schedule="constant",
            warmup_steps=0,
            learning_rate=0.1,
            weight_decay=0.0,
            clip_norm=0.0,
        ),
        100,
    )
    assert_close(run(ours), run_optax(optax.adafactor(0.1)))


@pytest.mark.parametrize("name", optimizer.RULES)
def test_scanned_layers_are_updated_like_layers_of_a_loop(name):
    rule = optimizer.create(config(name=name, clip_norm=0.5, weight_decay=0.1), 100)
    rng = np.random.default_rng(0)

    def layer(scale):
        # Large enough for Adafactor to factor the second moment.
        return {"kernel": rng.normal(size=(130, 140), scale=scale), "bias": np.ones(9)}

    def forms(*layers):
        """The same layers by number, and stacked."""
        layers = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), layers)
        numbered = {"stack": {"layers": dict(enumerate(layers))}}
        stacked = {"stack": {"layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}}
        return numbered, stacked

    params = list(forms(layer(0.1), layer(3.0)))
    states = [rule.transformation.init(form) for form in params]
    for step in range(3):
        gradients = forms(layer(1.0), layer(0.01 * (step + 1)))
        updates = [None, None]
        for i in range(2):
            updates[i], states[i] = rule.transformation.update(
                gradients[i], states[i], params[i]
            )
            params[i] = optax.apply_updates(params[i], updates[i])
        _, looped = forms(*updates[0]["stack"]["layers"].values())
        assert_close(looped, updates[1], atol=1e-6)  # Updates of Muon: 0.1


@pytest.mark.parametrize("scan_layers", [False, True])
def test_muon_updates_the_matrices_of_layers_and_of_dense_heads(scan_layers):
    program = tiny.program(optimizer__name="muon", model__scan_layers=scan_layers)
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), program.modules.params)
    rule = optimizer.create(config(name="muon", clip_norm=0.0, weight_decay=0.0), 10)
    rng = np.random.default_rng(0)
    # Far from zero, where Adam's epsilon would show.
    grads = jax.tree.map(
        lambda p: jnp.float32(
            rng.choice([-1, 1], p.shape) * rng.uniform(0.5, 2.0, p.shape)
        ),
        params,
    )
    state = rule.transformation.init(params)
    updates, _ = jax.jit(rule.transformation.update)(grads, state, params)
    grads = _flat(grads)
    for name, update in _flat(updates).items():
        if name.endswith("/kernel"):
            # 0.95 of singular values in [0.68, 1.15], times 0.2 of the longer side.
            values = np.linalg.svd(np.asarray(update), compute_uv=False)
            unit = 0.2 * max(update.shape[-2:]) ** 0.5
            assert values.max() < 1.21 * unit, name
            rms = np.sqrt(np.square(update).mean())
            assert 0.12 < rms < 0.21, (name, rms)
        else:  # Adam's first update.
            np.testing.assert_allclose(
                update, -np.sign(grads[name]), rtol=1e-2, err_msg=name
            )
    kernels = {name for name in grads if name.endswith("/kernel")}
    assert any("layers" in name for name in kernels)
    assert any(name.startswith("heads/") for name in kernels)


def test_muon_needs_matrices():
    rule = optimizer.create(config(name="muon"), 10)
    with pytest.raises(UserError, match="optimizer.name = 'adamw'"):
        rule.transformation.init(PARAMS)


def test_first_moment_in_bfloat16_second_in_float32():
    rule = optimizer.create(config(moment_dtype="bfloat16"), 10)
    state = rule.transformation.init(PARAMS)["adam"]
    assert {m.dtype for m in jax.tree.leaves(state.mean)} == {jnp.dtype("bfloat16")}
    assert {v.dtype for v in jax.tree.leaves(state.square)} == {jnp.dtype("float32")}
    exact = run(optimizer.create(config(), 10))
    assert_close(run(rule), exact, rtol=2e-2)


def test_weight_decay_leaves_biases_and_norms_alone():
    program = tiny.program(model__position="relative_bias")
    mask = optimizer.decay_mask(program.modules.params)
    decayed = {name: flag for name, flag in _flat(mask).items()}
    assert decayed["model/token_embedding"]
    assert decayed["model/stack/layers/0/attention/query/kernel"]
    assert not decayed["model/stack/relative_bias"]
    for name, flag in decayed.items():
        is_exempt = name.endswith(("/bias", "/scale", "relative_bias"))
        assert flag is not is_exempt, name


@pytest.mark.parametrize("scan_layers", [False, True])
def test_decay_shrinks_only_what_the_mask_names(scan_layers):
    program = tiny.program(model__scan_layers=scan_layers)
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), program.modules.params)
    rule = optimizer.create(config(weight_decay=0.1, clip_norm=0.0), 10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = rule.transformation.update(
        zeros, rule.transformation.init(params), params
    )
    for name, update in _flat(updates).items():
        wanted = 0.0 if name.endswith(("/bias", "/scale")) else -0.1
        np.testing.assert_allclose(update, wanted, atol=1e-8, err_msg=name)


def _flat(tree):
    from research.training.checkpoints import flatten

    return flatten(tree)
