"""Dropout masks: rate, independence, and nothing but row, site and index in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.dropout import DropoutRngs, dropout, fold, keep_mask, random_bits

SHAPE = (8, 128, 64)


def rngs(rows=8, seed=0, start=0):
    ids = jnp.arange(start, start + rows, dtype=jnp.int32)
    return DropoutRngs.from_key(jax.random.key(seed), ids)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_and_scale(rate):
    y = np.asarray(dropout(jnp.ones(SHAPE), rate, rngs()))
    count = y.size
    share = (y == 0).mean()
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / count)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_rate_of_every_row_and_column():
    keep = np.asarray(keep_mask(rngs(), SHAPE, 0.3))
    for axes in ((1, 2), (0, 2), (0, 1)):
        means = keep.mean(axes)
        deviation = np.sqrt(0.21 * means.size / keep.size)
        assert np.abs(means - 0.7).max() < 5 * deviation


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


def test_sites_rows_steps_and_neighbours_are_independent():
    base = rngs()
    masks = [
        np.asarray(keep_mask(source, SHAPE, 0.5))
        for source in (
            base.fold(0),
            base.fold(1),
            base.fold(0).fold(0),
            base.fold(0).fold(1),
            base.fold(1).fold(0),
            rngs(seed=1).fold(0),
            rngs(start=8).fold(0),
        )
    ]
    limit = 5 / np.sqrt(masks[0].size)
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert abs(correlation(first, second)) < limit
    mask = masks[0]
    for row in range(1, 8):
        assert abs(correlation(mask[0], mask[row])) < 5 / np.sqrt(mask[0].size)
    for shift in (1, 2, 64, 128):
        flat = mask.reshape(8, -1)
        assert abs(correlation(flat[:, shift:], flat[:, :-shift])) < limit


def test_bits_are_uniform():
    bits = np.asarray(random_bits(rngs(), SHAPE)).ravel()
    for shift in (0, 8, 16, 24):
        counts = np.bincount((bits >> shift) & 255, minlength=256)
        expected = bits.size / 256
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert abs(statistic - 255) < 6 * np.sqrt(2 * 255)


def test_rows_have_the_same_masks_in_any_microbatch():
    whole = np.asarray(keep_mask(rngs().fold(3), SHAPE, 0.1))
    for start in range(0, 8, 2):
        part = keep_mask(rngs(rows=2, start=start).fold(3), (2, *SHAPE[1:]), 0.1)
        np.testing.assert_array_equal(part, whole[start : start + 2])


def test_traced_sites_equal_python_sites():
    traced = jax.jit(lambda site: rngs().fold(site).seeds)(jnp.asarray(5, jnp.int32))
    np.testing.assert_array_equal(traced, rngs().fold(5).seeds)


def test_gradient_goes_where_values_went():
    x = jnp.ones((4, 50))
    seeds = rngs(rows=4)
    y, pullback = jax.vjp(lambda x: dropout(x, 0.4, seeds), x)
    np.testing.assert_array_equal(pullback(jnp.ones_like(y))[0], y)


def test_nothing_is_dropped_without_rngs_or_rate():
    x = jnp.ones((2, 3))
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, rngs(rows=2)) is x
    assert fold(None, 1) is None


def test_wrong_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="row_ids of these rows"):
        dropout(jnp.ones((4, 3)), 0.1, rngs(rows=2))
