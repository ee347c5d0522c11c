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

from models.layers import laid_out

# Logits held at a time, in elements of all rows together; on CPUs they should fit
# into the last level of the cache.
_CHUNK_ELEMENTS = {"cpu": 2**23, "gpu": 2**28, "tpu": 2**28}


def chunk_elements(platform: str) -> int:
    """Logits held at a time, in elements of all rows on all devices together."""
    return _CHUNK_ELEMENTS.get(platform, 2**28)


class CrossEntropy(NamedTuple):
    """Sums over all positions.

    Attributes:
      loss_sum: weighted sum of the losses, in nats, z-loss included.
      correct_sum: weighted number of positions whose target has the highest logit;
        None if not asked for.
    """

    loss_sum: Float[Array, ""]
    correct_sum: Float[Array, ""] | None


def logits(
    features: Float[Array, "*shape E"],
    table: Float[Array, "C E"],
    bias: Float[Array, " C"] | None,
) -> Float[Array, "*shape C"]:
    """float32 logits: table . features + bias, for few positions or chunks of them."""
    result = jax.lax.dot_general(
        features,
        table.astype(features.dtype),
        (((features.ndim - 1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    if bias is None:
        return result
    return result + jnp.expand_dims(bias.astype(jnp.float32), range(result.ndim - 1))


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
    loss_sum, correct_sum = _cross_entropy(
        features, table, bias, values, loss_weights, z_loss, with_accuracy
    )
    return CrossEntropy(loss_sum, correct_sum if with_accuracy else None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _cross_entropy(features, table, bias, values, loss_weights, z_loss, with_accuracy):
    chunks = _chunked(features, values, loss_weights, table.shape[0])

    def body(sums, chunk):
        rows, row_values, weights = chunk
        scores = logits(rows, table, bias)
        losses, *_ = _losses(scores, row_values, z_loss)
        correct = _correct(scores, row_values, weights) if with_accuracy else 0.0
        return (sums[0] + _weighted(losses, weights), sums[1] + correct), None

    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(body, (zero, zero), chunks)[0]


def _forward(features, table, bias, values, loss_weights, z_loss, with_accuracy):
    chunks = _chunked(features, values, loss_weights, table.shape[0])
    # A product over the rows of both factors has to turn one of them. With more rows
    # than features it turns the features and sums up the transposed gradient.
    turned = chunks[1].shape[1] > table.shape[1]

    def body(carry, chunk):
        loss_sum, correct_sum, table_grad, bias_grad = carry
        rows, row_values, weights = chunk
        scores = logits(rows, table, bias)
        losses, exps, normaliser, log_z = _losses(scores, row_values, z_loss)
        if with_accuracy:
            correct_sum += _correct(scores, row_values, weights)
        grad = _logits_grad(exps, normaliser, log_z, row_values, weights, z_loss)
        if bias is not None:
            ones = jnp.ones((1, grad.shape[0]), grad.dtype)
            bias_grad += (ones @ grad)[0]
        grad = grad.astype(rows.dtype)
        rows_grad = grad @ table.astype(rows.dtype)
        if turned:
            factors = (laid_out(rows.T), grad, (((1,), (0,)), ((), ())))
        else:
            factors = (grad, rows, (((0,), (0,)), ((), ())))
        table_grad += jax.lax.dot_general(*factors, preferred_element_type=jnp.float32)
        carry = (
            loss_sum + _weighted(losses, weights),
            correct_sum,
            table_grad,
            bias_grad,
        )
        return carry, (rows_grad, losses)

    zero = jnp.zeros((), jnp.float32)
    table_shape = table.shape[::-1] if turned else table.shape
    carry = (
        zero,
        zero,
        jnp.zeros(table_shape, jnp.float32),
        None if bias is None else jnp.zeros(bias.shape, jnp.float32),
    )
    carry, (rows_grad, losses) = jax.lax.scan(body, carry, chunks)
    loss_sum, correct_sum, table_grad, bias_grad = carry
    table_grad = laid_out(table_grad).T if turned else table_grad
    residuals = (
        _unchunked(rows_grad, values.shape),
        table_grad.astype(table.dtype),
        None if bias is None else bias_grad.astype(bias.dtype),
        jnp.where(loss_weights != 0, _unchunked(losses, values.shape), 0.0),
    )
    return (loss_sum, correct_sum), residuals


def _backward(z_loss, with_accuracy, residuals, cotangents):
    del z_loss, with_accuracy
    scale = cotangents[0]
    features_grad, table_grad, bias_grad, weights_grad = jax.tree.map(
        lambda grad: grad * scale.astype(grad.dtype), residuals
    )
    return features_grad, table_grad, bias_grad, None, weights_grad


_cross_entropy.defvjp(_forward, _backward)


def _chunked(features, values, loss_weights, num_classes):
    """Splits axis K into [chunks, B * K / chunks], padded with weight 0."""
    batch, length = values.shape
    limit = chunk_elements(jax.default_backend())
    num_chunks = min(length, max(1, math.ceil(batch * length * num_classes / limit)))
    size = math.ceil(length / num_chunks)
    num_chunks = math.ceil(length / size)

    def split(x):
        pads = [(0, 0)] * x.ndim
        pads[1] = (0, num_chunks * size - length)
        x = jnp.pad(x, pads).reshape(batch, num_chunks, size, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0).reshape(num_chunks, batch * size, *x.shape[3:])

    return split(features), split(values), split(loss_weights.astype(jnp.float32))


def _unchunked(x, shape):
    """[chunks, B * k, ...] back to [B, K, ...]."""
    batch, length = shape
    x = jnp.moveaxis(x.reshape(x.shape[0], batch, -1, *x.shape[2:]), 0, 1)
    return x.reshape(batch, -1, *x.shape[3:])[:, :length]


def _losses(logits, values, z_loss):
    """Loss of each row, and what its gradient is made of: exps, their sum, log Z."""
    highest = logits.max(-1, keepdims=True)
    # One exponential a logit: the gradient is a multiple of these.
    exps = jnp.exp(logits - highest)
    normaliser = exps.sum(-1)
    log_z = highest[:, 0] + jnp.log(normaliser)
    # Ignored positions may hold any value.
    chosen = jnp.take_along_axis(logits, values[:, None], axis=1, mode="clip")[:, 0]
    return log_z - chosen + z_loss * jnp.square(log_z), exps, normaliser, log_z


def _logits_grad(exps, normaliser, log_z, values, weights, z_loss):
    factor = weights * (1.0 + 2.0 * z_loss * log_z) / normaliser
    # A comparison instead of a scatter: it fuses, and needs no exchange when the
    # classes lie on different devices.
    is_value = jnp.arange(exps.shape[-1])[None] == values[:, None]
    return exps * factor[:, None] - jnp.where(is_value, weights[:, None], 0.0)


def _weighted(losses, weights):
    return (weights * jnp.where(weights != 0, losses, 0.0)).sum()


def _correct(logits, values, weights):
    return (weights * (jnp.argmax(logits, axis=-1) == values)).sum()
