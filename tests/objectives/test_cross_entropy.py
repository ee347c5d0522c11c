"""The chunked cross-entropy against optax on dense logits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from objectives import cross_entropy
from objectives.cross_entropy import weighted_cross_entropy

B, K, E, C = 3, 7, 5, 11


def make(dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    features = jnp.asarray(rng.normal(size=(B, K, E)), dtype)
    table = jnp.asarray(rng.normal(size=(C, E)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=C), jnp.float32)
    values = jnp.asarray(rng.integers(0, C, (B, K)), jnp.int32)
    weights = jnp.asarray(rng.uniform(size=(B, K)) * (rng.random((B, K)) > 0.3))
    return features, table, bias, values, weights.astype(jnp.float32)


def dense(features, table, bias, values, weights, z_loss):
    logits = jnp.einsum("bke,ce->bkc", features.astype(jnp.float32), table)
    if bias is not None:
        logits = logits + bias[None, None]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, values)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    return (weights * (losses + z_loss * log_z**2)).sum()


@pytest.fixture(params=[1, 2, 7])
def num_chunks(request, monkeypatch):
    """Cuts K = 7 into 1, 2 (uneven) and 7 chunks."""
    limit = B * K * C // request.param + (request.param == 1)
    monkeypatch.setattr(cross_entropy, "_CHUNK_ELEMENTS", {"cpu": limit, "gpu": limit})
    return request.param


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_optax_with_gradients(num_chunks, z_loss, with_bias):
    features, table, bias, values, weights = make()
    if not with_bias:
        bias = None

    def ours(features, table, bias, weights):
        result = weighted_cross_entropy(
            features, table, bias, values, weights, z_loss=z_loss
        )
        # A factor on the loss must reach every gradient.
        return 0.37 * result.loss_sum

    def reference(features, table, bias, weights):
        return 0.37 * dense(features, table, bias, values, weights, z_loss)

    arguments = (0, 1, 2, 3) if with_bias else (0, 1, 3)
    grad = jax.jit(jax.value_and_grad(ours, arguments))
    loss, grads = grad(features, table, bias, weights)
    expected, expected_grads = jax.value_and_grad(reference, arguments)(
        features, table, bias, weights
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    live = weights != 0
    for argument, ours_, theirs in zip(arguments, grads, expected_grads, strict=True):
        if argument == 3:  # Ignored positions are constants, so their slope is 0.
            theirs = jnp.where(live, theirs, 0.0)
        np.testing.assert_allclose(ours_, theirs, rtol=1e-4, atol=1e-5)
    without_grad = jax.jit(ours)(features, table, bias, weights)
    np.testing.assert_allclose(without_grad, expected, rtol=1e-5)


def test_docstring_example():
    result = weighted_cross_entropy(
        jnp.asarray([[[1.0, 0.0], [0.0, 1.0]]]),
        jnp.asarray([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
        None,
        jnp.asarray([[0, 2]], jnp.int32),
        jnp.asarray([[1.0, 0.0]]),
    )
    np.testing.assert_allclose(result.loss_sum, np.log(np.e + 2) - 1, rtol=1e-6)
    assert result.correct_sum is None


def test_accuracy(num_chunks):
    features, table, bias, values, weights = make()
    result = weighted_cross_entropy(
        features, table, bias, values, weights, with_accuracy=True
    )
    logits = np.einsum("bke,ce->bkc", features, table) + np.asarray(bias)
    right = (logits.argmax(-1) == np.asarray(values)) * np.asarray(weights)
    np.testing.assert_allclose(result.correct_sum, right.sum(), rtol=1e-6)


def test_weight_zero_is_nothing_even_on_infinities(num_chunks):
    features, table, bias, values, weights = make()
    dead = np.asarray(weights) == 0
    assert dead.any()
    bad = jnp.where(dead[..., None], jnp.inf, features)

    def loss(features, table):
        return weighted_cross_entropy(features, table, bias, values, weights).loss_sum

    grad = jax.value_and_grad(loss, (0, 1))
    value, grads = grad(bad, table)
    expected, expected_grads = grad(features, table)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(grads[0], expected_grads[0], atol=1e-6)
    np.testing.assert_allclose(grads[1], expected_grads[1], atol=1e-5)


def test_no_weight_at_all_is_zero():
    features, table, bias, values, weights = make()
    loss = lambda f: (
        weighted_cross_entropy(f, table, bias, values, 0 * weights).loss_sum
    )
    value, grad = jax.value_and_grad(loss)(features)
    assert value == 0
    assert not np.asarray(grad).any()


def test_bfloat16_features_have_float32_logits():
    features, table, bias, values, weights = make(jnp.bfloat16)
    # Logits around 1000 would lose all digits in bfloat16.
    bias = bias + 1000.0

    def loss(features, table):
        return weighted_cross_entropy(features, table, bias, values, weights).loss_sum

    value, grads = jax.value_and_grad(loss, (0, 1))(features, table)
    rounded = table.astype(jnp.bfloat16).astype(jnp.float32)
    expected = dense(features, rounded, bias, values, weights, 0.0)
    assert value.dtype == jnp.float32
    assert grads[0].dtype == jnp.bfloat16
    assert grads[1].dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_no_array_holds_all_logits(monkeypatch):
    monkeypatch.setattr(
        cross_entropy, "_CHUNK_ELEMENTS", {"cpu": B * C * 2, "gpu": B * C * 2}
    )
    features, table, bias, values, weights = make()

    def loss(features, table):
        return weighted_cross_entropy(features, table, bias, values, weights).loss_sum

    text = jax.jit(jax.grad(loss, (0, 1))).lower(features, table).as_text()
    assert f"tensor<{B * 2}x{C}xf32>" in text
    assert f"tensor<{B}x{K}x{C}xf32>" not in text
    assert f"tensor<{B * K}x{C}xf32>" not in text
