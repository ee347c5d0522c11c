"""Position schemes: sinusoids, rotations, relative buckets and linear biases."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from models.transformer.config import TransformerConfig


def sinusoidal(positions: Int[Array, "B L"], dim: int) -> Float[Array, "B L {dim}"]:
    """PE(pos, 2i) = sin(pos / 10000^(2i/dim)), PE(pos, 2i+1) = cos of the same.

    Vaswani et al. 2017, section 3.5.
    """
    frequencies = 10000.0 ** (-np.arange(0, dim, 2, dtype=np.float32) / dim)
    angles = positions[..., None].astype(jnp.float32) * frequencies[None, None]
    pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return pairs.reshape(*positions.shape, -1)[..., :dim]


def rope_frequencies(config: TransformerConfig) -> np.ndarray:
    """Angle per position of each rotated pair, float32 [H / 2].

    theta^(-2i/H), then the configured scaling: 'linear' divides all by a factor;
    'llama3' divides those whose wavelength exceeds original_max_len /
    low_freq_factor, keeps those below original_max_len / high_freq_factor, and
    interpolates between (Llama 3.1).
    """
    dim = config.dim_per_head
    frequencies = config.rope_theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    if config.rope_scaling:
        kind, factor, *rest = config.rope_scaling
        if kind == "linear":
            frequencies = frequencies / factor
        else:
            low, high, original_max_len = rest
            turns = original_max_len * frequencies / (2 * math.pi)
            keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
            frequencies = frequencies * (keep + (1 - keep) / factor)
    return frequencies.astype(np.float32)


def rope_tables(
    positions: Int[Array, "B L"], config: TransformerConfig
) -> tuple[Float[Array, "B L 1 h"], Float[Array, "B L 1 h"]]:
    """Cosines and sines of every position's angles, h = H / 2."""
    frequencies = rope_frequencies(config)[None, None]
    angles = (positions[..., None].astype(jnp.float32) * frequencies)[:, :, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "B L N H"],
    tables: tuple[Float[Array, "B L 1 h"], Float[Array, "B L 1 h"]],
) -> Float[Array, "B L N H"]:
    """Rotates pair i = (x[i], x[i + H/2]) by its angle (the half-split layout)."""
    cos, sin = tables
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def relative_buckets(
    distance: Int[Array, "*shape"] | Int[np.ndarray, "*shape"],
    *,
    bidirectional: bool,
    num_buckets: int,
    max_distance: int,
) -> Int[Array, "*shape"]:
    """T5's bucket of key position minus query position (Raffel et al. 2020, 2.1).

    Half of a direction's buckets are single distances, the other half grow
    logarithmically up to `max_distance`; everything beyond shares the last one. With
    `bidirectional`, keys after the query use the upper half of the buckets; without,
    they share bucket 0.
    """
    distance = jnp.asarray(distance)
    if bidirectional:
        num_buckets //= 2
        first = jnp.where(distance > 0, num_buckets, 0)
        distance = jnp.abs(distance)
    else:
        first = jnp.zeros_like(distance)
        distance = jnp.maximum(-distance, 0)
    num_exact = num_buckets // 2
    bucket = jnp.minimum(distance, num_exact)
    # Counting reached thresholds needs no logarithm, which devices round differently.
    for threshold in _bucket_thresholds(num_buckets, max_distance):
        bucket = bucket + (distance >= threshold).astype(jnp.int32)
    return first + bucket


def _bucket_thresholds(num_buckets: int, max_distance: int) -> list[int]:
    """First distance of every logarithmic bucket but the first of them."""
    num_exact = num_buckets // 2
    num_steps = num_buckets - num_exact
    distances = np.arange(num_exact, max_distance + 1, dtype=np.float32)
    # In float32, as the published models were trained.
    ratio = np.log(distances / np.float32(num_exact))
    steps = ratio / np.float32(math.log(max_distance / num_exact))
    steps = (steps * np.float32(num_steps)).astype(np.int32)
    return [num_exact + int(np.argmax(steps >= k)) for k in range(1, num_steps)]


def relative_bias(
    table: Float[Array, "buckets N"],
    query_positions: Int[Array, "B T"],
    key_positions: Int[Array, "B S"],
    *,
    bidirectional: bool,
    max_distance: int,
) -> Float[Array, "B N T S"]:
    """The learned bias of every head for every pair of positions."""
    distance = key_positions[:, None, :] - query_positions[:, :, None]
    buckets = relative_buckets(
        distance,
        bidirectional=bidirectional,
        num_buckets=table.shape[0],
        max_distance=max_distance,
    )
    return jnp.moveaxis(table[buckets], -1, 1)


def relative_bias_by_index(
    table: Float[Array, "buckets N"],
    length: int,
    *,
    bidirectional: bool,
    max_distance: int,
) -> Float[Array, "1 N L L"]:
    """`relative_bias` of positions 0 .. L - 1, one for all rows.

    A pair's bias depends on its distance only, so the 2 L - 1 distances are looked up
    once and each query's row is a window of them. Looking up L * L pairs would scatter
    as many gradients.
    """
    buckets = relative_buckets(
        np.arange(1 - length, length, dtype=np.int32),
        bidirectional=bidirectional,
        num_buckets=table.shape[0],
        max_distance=max_distance,
    )
    by_distance = table[buckets].T
    num_heads, num_distances = by_distance.shape
    # Row t read with a stride one short of the row length begins t places earlier.
    rows = jnp.pad(by_distance, ((0, 0), (0, 1)))[:, None]
    rows = jnp.broadcast_to(rows, (num_heads, length, num_distances + 1))
    skewed = rows.reshape(num_heads, -1)[:, : length * num_distances]
    skewed = skewed.reshape(num_heads, length, num_distances)
    return skewed[None, :, :, length - 1 :]


def alibi_slopes(num_heads: int) -> np.ndarray:
    """A geometric series from 2^(-8/n) on, float32 [N] (Press et al. 2022, section 3).

    For N that is no power of two, the series of the power of two below, followed by
    every other slope of the one above.
    """

    def series(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    below = 2 ** int(math.log2(num_heads))
    slopes = series(below) + series(2 * below)[0::2][: num_heads - below]
    return np.asarray(slopes, np.float32)


def alibi_bias(
    query_positions: Int[Array, "B T"], key_positions: Int[Array, "B S"], num_heads: int
) -> Float[Array, "B N T S"]:
    """-slope * |distance|: the causal bias, and its symmetric form for encoders."""
    distance = jnp.abs(
        key_positions[:, None, None, :] - query_positions[:, None, :, None]
    )
    slopes = jnp.asarray(alibi_slopes(num_heads))[None, :, None, None]
    return -slopes * distance.astype(jnp.float32)


def check_length(length: int, config: TransformerConfig) -> None:
    """Refuses a sequence that a learned position table is too short for."""
    if config.position == "learned" and length > config.max_seq_len:
        raise ValueError(
            f"A sequence of {length} tokens is longer than max_seq_len = "
            f"{config.max_seq_len}, the rows of the learned position table: raise "
            f"model.max_seq_len, shorten the rows, or choose another model.position."
        )
