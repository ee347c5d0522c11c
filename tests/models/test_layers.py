"""Layers against their definitions, with gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from models import layers
from tests.models import tiny


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("inside", "outside"), [(5, 7), (7, 5), (6, 6), (9, 6)])
def test_matmul_has_the_gradients_of_a_product(inside, outside):
    x, kernel = normal(2, 3, inside), normal(inside, outside, seed=1)
    weights = normal(2, 3, outside, seed=2)

    def ours(x, kernel):
        return (layers.matmul(x, kernel) * weights).sum()

    def reference(x, kernel):
        return (jnp.einsum("bli,io->blo", x, kernel) * weights).sum()

    value, grads = jax.jit(jax.value_and_grad(ours, (0, 1)))(x, kernel)
    expected, expected_grads = jax.value_and_grad(reference, (0, 1))(x, kernel)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-5)


def test_gelu_is_the_exact_one_with_its_slope():
    special = pytest.importorskip("scipy.special")
    x = np.linspace(-12.0, 12.0, 2001)
    cdf = 0.5 * special.erfc(-x / np.sqrt(2))
    slope = cdf + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    at = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(layers.gelu(at), x * cdf, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(layers.gelu))(at), slope, atol=1e-6)
    # The left tail keeps its relative precision, where a difference of 1 and erf would
    # have none left.
    tail = jnp.asarray([-5.0, -6.0], jnp.float32)
    expected = np.asarray(tail) * 0.5 * special.erfc(-np.asarray(tail) / np.sqrt(2))
    np.testing.assert_allclose(layers.gelu(tail), expected, rtol=1e-2)


@pytest.mark.parametrize("name", sorted(layers.ACTIVATIONS))
def test_activations_keep_bfloat16(name):
    x = normal(4, 5).astype(jnp.bfloat16)
    assert layers.ACTIVATIONS[name](x).dtype == jnp.bfloat16


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_norms(norm):
    config = tiny.config(norm=norm, norm_epsilon=1e-3)
    module = layers.Norm(config, 6)
    x = np.asarray(normal(2, 3, 6)) * 3 + 1
    centre = x.mean(-1, keepdims=True) if norm == "layernorm" else 0.0
    expected = (x - centre) / np.sqrt(
        ((x - centre) ** 2).mean(-1, keepdims=True) + 1e-3
    )
    np.testing.assert_allclose(module(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


def test_norms_of_bfloat16_are_computed_in_float32():
    config = tiny.config(dtype="bfloat16")
    module = layers.Norm(config, 512)
    # A mean of 100 leaves a bfloat16 variance no correct digit.
    x = (100 + normal(4, 512)).astype(jnp.bfloat16)
    y = np.asarray(module(x), np.float32)
    assert module(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(y.std(-1), 1.0, atol=0.02)
    np.testing.assert_allclose(y.mean(-1), 0.0, atol=0.02)


def test_use_bias_governs_every_bias():
    def names(**changes):
        state = nnx.state(tiny.build(**changes))
        return {str(path[-1]) for path, _ in nnx.to_flat_state(state)}

    assert "bias" in names(use_bias=True)
    assert "bias" not in names(use_bias=False, embedding_norm=True)


def test_initial_scales():
    sizes = {"emb_dim": 128, "mlp_dim": 256, "num_layers": 2}

    @functools.cache
    def drawn(init, init_stddev):
        config = tiny.config(init=init, init_stddev=init_stddev, **sizes)
        model = models.create(config, rngs=nnx.Rngs(0))
        return dict(nnx.to_flat_state(nnx.state(model)))

    def stddev(init, init_stddev, *path):
        return np.asarray(drawn(init, init_stddev)[path][...]).std()

    up = ("stack", "layers", 0, "mlp", "up", "kernel")
    down = ("stack", "layers", 0, "mlp", "down", "kernel")
    query = ("stack", "layers", 0, "attention", "query", "kernel")
    out = ("stack", "layers", 1, "attention", "out", "kernel")
    close = {"rtol": 0.03}
    np.testing.assert_allclose(stddev("normal", 0.02, *down), 0.02, **close)
    np.testing.assert_allclose(stddev("gpt2", 0.02, *up), 0.02, **close)
    np.testing.assert_allclose(stddev("gpt2", 0.02, *down), 0.01, **close)
    np.testing.assert_allclose(stddev("gpt2", 0.02, *out), 0.01, **close)
    np.testing.assert_allclose(stddev("t5", 1.0, *up), 128**-0.5, **close)
    np.testing.assert_allclose(stddev("t5", 1.0, *down), 256**-0.5, **close)
    np.testing.assert_allclose(stddev("t5", 1.0, *query), (128 * 32) ** -0.5, **close)
    np.testing.assert_allclose(stddev("t5", 1.0, "token_embedding"), 1.0, **close)
