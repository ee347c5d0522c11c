"""Cross-entropy over a class table, without ever holding all logits.

The logits of a chunk of positions are computed, turned into a loss and into their own
gradients at once, and dropped: the backward pass only scales what the forward pass left
behind. No array of the size [B, L, V] exists, and no logit is computed twice.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Logits held at a time, in elements of all rows together.
_CHUNK_ELEMENTS = {"cpu": 2**23, "gpu": 2**28, "tpu": 2**28}


class CrossEntropy(NamedTuple):
    """Sums over all positions.

    Attributes:
      loss_sum: weighted sum of the losses, in nats, z-loss included.
      correct_sum: weighted number of positions whose target has the highest logit;
        None if not asked for.
    """

    loss_sum: Float[Array, ""]
    correct_sum: Float[Array, ""] | None


def weighted_cross_entropy(
    features: Float[Array, "B K E"],
    table: Float[Array, "C E"],
    bias: Float[Array, " C"] | None,
    values: Int[Array, "B K"],
    loss_weights: Float[Array, "B K"],
    *,
    z_loss: float = 0.0,
    with_accuracy: bool = False,
) -> CrossEntropy:
    """Sum of w * (logsumexp(z) - z[value] + z_loss * logsumexp(z)^2), z = table f + bias.

    Logits are float32, also for bfloat16 features. Gradients flow to features, table,
    bias and loss_weights. Chunks run along K, so that rows may lie on different devices
    and so may the classes of the table.

    Args:
      features: what the table multiplies, at the K predicted positions.
      table: one row per class, e.g. the token embedding.
      bias: one value per class.
      values: the class to predict.
      loss_weights: w; positions of weight 0 add exactly nothing, whatever they hold.
      z_loss: factor on the squared log-partition (Chowdhery et al. 2022, section 5).
      with_accuracy: also count the positions predicted right.

    Example, one row, two positions, three classes, second position ignored:

        features      [[[1., 0.], [0., 1.]]]
        table         [[1., 0.], [0., 1.], [0., 0.]]
        values        [[0, 2]]
        loss_weights  [[1., 0.]]
        -> loss_sum   log(e + 1 + 1) - 1 = 0.5514
    """
    # Ignored positions may hold anything; 0 times infinity would not be 0.
    features = jnp.where((loss_weights != 0)[..., None], features, 0)
    if bias is None:
        bias = jnp.zeros(table.shape[0], table.dtype)
    loss_sum, correct_sum = _cross_entropy(
        features, table, bias, values, loss_weights, z_loss, with_accuracy
    )
    return CrossEntropy(loss_sum, correct_sum if with_accuracy else None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _cross_entropy(features, table, bias, values, loss_weights, z_loss, with_accuracy):
    chunks = _chunked(features, values, loss_weights, table.shape[0])

    def body(sums, chunk):
        logits = _logits(chunk[0], table, bias)
        losses, correct, _, _ = _chunk_losses(logits, *chunk[1:], z_loss, with_accuracy)
        return (sums[0] + losses.sum(), sums[1] + correct), None

    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(body, (zero, zero), chunks)[0]


def _forward(features, table, bias, values, loss_weights, z_loss, with_accuracy):
    chunks = _chunked(features, values, loss_weights, table.shape[0])

    def body(carry, chunk):
        loss_sum, correct_sum, table_grad, bias_grad = carry
        chunk_features, chunk_values, chunk_weights = chunk
        logits = _logits(chunk_features, table, bias)
        losses, correct, grad, per_weight = _chunk_losses(
            logits, chunk_values, chunk_weights, z_loss, with_accuracy
        )
        bias_grad += grad.sum((0, 1))
        grad = grad.astype(chunk_features.dtype)
        features_grad = jax.lax.dot_general(
            grad, table.astype(grad.dtype), (((2,), (0,)), ((), ()))
        )
        table_grad += jax.lax.dot_general(
            grad,
            chunk_features,
            (((0, 1), (0, 1)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        carry = (loss_sum + losses.sum(), correct_sum + correct, table_grad, bias_grad)
        return carry, (features_grad, per_weight)

    zero = jnp.zeros((), jnp.float32)
    carry = (
        zero,
        zero,
        jnp.zeros(table.shape, jnp.float32),
        jnp.zeros(bias.shape, jnp.float32),
    )
    carry, outputs = jax.lax.scan(body, carry, chunks)
    loss_sum, correct_sum, table_grad, bias_grad = carry
    features_grad, weights_grad = (
        _unchunked(output, values.shape[1]) for output in outputs
    )
    residuals = (
        features_grad,
        table_grad.astype(table.dtype),
        bias_grad.astype(bias.dtype),
        weights_grad,
    )
    return (loss_sum, correct_sum), residuals


def _backward(z_loss, with_accuracy, residuals, cotangents):
    del z_loss, with_accuracy
    scale = cotangents[0]
    features_grad, table_grad, bias_grad, weights_grad = (
        (grad * scale.astype(grad.dtype)) for grad in residuals
    )
    return features_grad, table_grad, bias_grad, None, weights_grad


_cross_entropy.defvjp(_forward, _backward)


def _chunked(features, values, loss_weights, num_classes):
    """Splits axis K into [chunks, B, K / chunks], padded with weight 0."""
    batch, length = values.shape
    limit = _CHUNK_ELEMENTS.get(jax.default_backend(), 2**28)
    num_chunks = min(length, max(1, math.ceil(batch * length * num_classes / limit)))
    size = math.ceil(length / num_chunks)
    num_chunks = math.ceil(length / size)

    def split(x):
        pads = [(0, 0)] * x.ndim
        pads[1] = (0, num_chunks * size - length)
        x = jnp.pad(x, pads).reshape(batch, num_chunks, size, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    return split(features), split(values), split(loss_weights.astype(jnp.float32))


def _unchunked(x, length):
    """[chunks, B, k, ...] back to [B, length, ...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def _logits(features, table, bias):
    """float32 logits [B, k, C]."""
    logits = jax.lax.dot_general(
        features,
        table.astype(features.dtype),
        (((2,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    return logits + bias.astype(jnp.float32)[None, None]


def _chunk_losses(logits, values, weights, z_loss, with_accuracy):
    """Losses [B, k], number correct, gradient of the logits, and loss per weight."""
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # A comparison instead of a gather and a scatter: it fuses into the reductions, and
    # needs no exchange when the classes lie on different devices.
    is_value = jnp.arange(logits.shape[-1])[None, None] == values[..., None]
    chosen = jnp.where(is_value, logits, 0.0).sum(-1)
    per_weight = log_z - chosen + z_loss * jnp.square(log_z)
    per_weight = jnp.where(weights != 0, per_weight, 0.0)
    probabilities = jnp.exp(logits - log_z[..., None])
    slope = 1.0 + 2.0 * z_loss * log_z[..., None]
    grad = weights[..., None] * (probabilities * slope - is_value)
    correct = jnp.zeros((), jnp.float32)
    if with_accuracy:
        best = jnp.argmax(logits, axis=-1) == values
        correct = (weights * best).sum()
    return weights * per_weight, correct, grad, per_weight
