"""The explicit attention against jax.nn's and against repeated heads."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import platform
from models.dropout import DropoutRngs, keep_mask
from models.transformer import attend as attend_lib
from models.transformer.attend import attend
from models.transformer.masks import SegmentMask, causal_mask, segment_mask

B, T, S, N, K, H = 2, 5, 7, 4, 2, 3


def arrays(num_groups=K):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    qkv = normal(B, T, N, H), normal(B, S, num_groups, H), normal(B, S, num_groups, H)
    mask = jnp.asarray(rng.random((B, 1, T, S)) > 0.4).at[:, :, :, 0].set(True)
    return qkv, mask, normal(1, N, T, S), normal(B, T, N, H)


def run(qkv, mask, bias, weights, implementation, rate=0.0, rngs=None):
    """The output, and the gradients of queries, keys, values and bias."""

    def scalar(qkv, bias):
        out = attend(
            *qkv,
            mask=mask,
            bias=bias,
            scale=0.3,
            dropout_rate=rate,
            rngs=rngs,
            configured=implementation,
        )
        return (out * weights).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(scalar, (0, 1), has_aux=True))(
        qkv, bias
    )
    return out, grads


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=[0, 2**62], ids=["halves", "whole"])
def halving(request, monkeypatch):
    """Rows in two halves, and all at once."""
    monkeypatch.setattr(attend_lib, "_WORTH_HALVING", request.param)


@pytest.mark.usefixtures("halving")
@pytest.mark.parametrize("num_groups", [1, 2, 4])
@pytest.mark.parametrize("masked", [True, False])
def test_explicit_equals_library_with_gradients(num_groups, masked):
    qkv, mask, bias, weights = arrays(num_groups)
    mask = mask if masked else None
    ours = run(qkv, mask, bias, weights, "explicit")
    assert_close(ours, run(qkv, mask, bias, weights, "xla"))


@pytest.mark.usefixtures("halving")
def test_bias_of_every_row():
    qkv, mask, bias, weights = arrays()
    bias = jnp.concatenate([bias, 2 * bias])
    ours = run(qkv, mask, bias, weights, "explicit")
    assert_close(ours, run(qkv, mask, bias, weights, "xla"))


@pytest.mark.parametrize("implementation", ["explicit", "xla"])
def test_grouped_heads_equal_repeated_heads(implementation):
    (query, key, value), mask, bias, weights = arrays()
    grouped, _ = run((query, key, value), mask, bias, weights, implementation)
    repeated = tuple(jnp.repeat(x, N // K, axis=2) for x in (key, value))
    expected, _ = run((query, *repeated), mask, bias, weights, implementation)
    np.testing.assert_allclose(grouped, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("halving")
def test_dropout_is_that_of_the_weights():
    (query, key, value), mask, bias, weights = arrays(num_groups=N)
    rngs = DropoutRngs(seeds=jnp.asarray([7, 8], jnp.uint32))
    keep = keep_mask(rngs, (B, N, T, S), 0.4) / 0.6

    def reference(qkv, bias):
        query, key, value = qkv
        scores = jnp.einsum("btnh,bsnh->bnts", query, key) * 0.3 + bias
        probabilities = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1)
        out = jnp.einsum("bnts,bsnh->btnh", probabilities * keep, value)
        return (out * weights).sum(), out

    (_, out), grads = jax.value_and_grad(reference, (0, 1), has_aux=True)(
        (query, key, value), bias
    )
    ours = run((query, key, value), mask, bias, weights, "auto", 0.4, rngs)
    assert_close(ours, (out, grads))


@pytest.mark.parametrize("implementation", ["explicit", "xla"])
def test_rows_that_may_attend_to_nothing_are_finite(implementation):
    qkv, mask, bias, weights = arrays()
    mask = mask.at[0, :, 2].set(False)
    result = run(qkv, mask, bias, weights, implementation)
    for leaf in jax.tree.leaves(result):
        assert np.isfinite(leaf).all()


def test_bfloat16_keeps_its_dtype_and_a_float32_softmax():
    (query, key, value), mask, bias, weights = arrays()
    expected, _ = run((query, key, value), mask, bias, weights, "explicit")
    half = tuple(x.astype(jnp.bfloat16) for x in (query, key, value))
    out, (grads, bias_grad) = run(
        half, mask, bias, weights.astype(jnp.bfloat16), "explicit"
    )
    assert out.dtype == jnp.bfloat16
    assert all(grad.dtype == jnp.bfloat16 for grad in grads)
    assert bias_grad.dtype == jnp.float32
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.05)


def test_heads_are_not_repeated_in_memory():
    (query, key, value), mask, bias, weights = arrays()
    text = (
        jax.jit(lambda *qkv: run(qkv, mask, bias, weights, "explicit")[0])
        .lower(query, key, value)
        .as_text()
    )
    assert f"tensor<{B}x{S}x{N}x{H}xf32>" not in text
    assert f"tensor<{B}x{N}x{S}x{H}xf32>" not in text


def packed(length):
    """Two rows of packed documents; the second ends in padding."""
    rng = np.random.default_rng(1)
    ids = np.sort(rng.integers(1, 4, size=(B, length)), axis=1)
    ids[1, -9:] = 0
    return jnp.asarray(ids, jnp.int32)


@pytest.mark.parametrize(
    ("causal", "num_groups"),
    [
        pytest.param(causal, count, marks=() if count == 2 else pytest.mark.slow)
        for causal in (True, False)
        for count in (1, 2, 4)
    ],
)
def test_splash_equals_library_with_gradients(causal, num_groups):
    length, width = 256, 64
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    query, weights = normal(B, length, N, width), normal(B, length, N, width)
    key, value = (
        normal(B, length, num_groups, width),
        normal(B, length, num_groups, width),
    )
    segments = SegmentMask(ids=packed(length), causal=causal)
    mask = segment_mask(segments.ids, segments.ids)
    if causal:
        mask &= causal_mask(jnp.arange(length), jnp.arange(length))

    def scalar(qkv, implementation):
        out = attend(
            *qkv,
            mask=mask,
            bias=None,
            scale=0.1,
            dropout_rate=0.0,
            rngs=None,
            configured=implementation,
            segments=segments,
        )
        return (out * weights).sum(), out

    qkv = (query, key, value)
    run = jax.jit(jax.grad(scalar, has_aux=True), static_argnums=1)
    jaxpr = str(jax.make_jaxpr(run, static_argnums=1)(qkv, "splash"))
    assert jaxpr.count("pallas_call") >= 3  # Forward, and two of the backward pass.
    assert_close(run(qkv, "splash"), run(qkv, "xla"))


def chosen(configured="auto", length=8, **changes):
    values = dict(
        dtype=jnp.dtype("bfloat16"), drops_weights=False, segments_suffice=True
    )
    return attend_lib.implementation(
        configured,
        query_shape=(2, length, N, 64),
        key_length=length,
        **(values | changes),
    )


@pytest.mark.parametrize(
    ("capability", "changes", "kernel"),
    [
        ("9.0", {}, "cudnn"),
        ("8.0", {}, "cudnn"),
        ("7.5", {}, "xla"),
        ("gfx90a", {}, "xla"),
        ("9.0", {"dtype": jnp.dtype("float32")}, "xla"),
        ("9.0", {"length": 7}, "xla"),
        ("9.0", {"drops_weights": True}, "explicit"),
    ],
)
def test_gpus_take_the_flash_kernel_where_it_serves(
    monkeypatch, capability, changes, kernel
):
    gpu = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu])
    assert chosen(**changes) == kernel


def test_a_plan_is_for_its_platform_and_keeps_what_the_kernel_keeps():
    with platform.planned_for("tpu"):
        assert chosen(length=256) == "splash"
        assert chosen(length=200) == "xla"
        assert chosen(length=256, segments_suffice=False) == "xla"
    with platform.planned_for("cpu"):
        assert chosen("cudnn") == "explicit"
    assert chosen() == "explicit"
    half = jnp.ones((B, 4, N, 8), jnp.bfloat16)
    with platform.planned_for("gpu"):
        out, backward = jax.vjp(
            lambda *qkv: attend(
                *qkv,
                mask=None,
                bias=None,
                scale=1.0,
                dropout_rate=0.0,
                rngs=None,
                configured="auto",
            ),
            *(half, half, half),
        )
    sizes = [leaf.shape for leaf in jax.tree.leaves(backward)]
    assert sorted(sizes) == [(B, N, 4)] + [(B, 4, N, 8)] * 4
    assert out.shape == half.shape
