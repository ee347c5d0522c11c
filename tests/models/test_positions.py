"""Position schemes against their closed forms and published definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.transformer import positions
from tests.models import tiny


def test_sinusoidal_closed_form():
    at = jnp.asarray([[0, 1, 7, 300]], jnp.int32)
    table = np.asarray(positions.sinusoidal(at, 10))
    for column, position in enumerate([0, 1, 7, 300]):
        for i in range(5):
            angle = position / 10000 ** (2 * i / 10)
            np.testing.assert_allclose(
                table[0, column, 2 * i], np.sin(angle), atol=1e-4
            )
            np.testing.assert_allclose(
                table[0, column, 2 * i + 1], np.cos(angle), atol=1e-4
            )


def test_rotation_depends_on_distance_only():
    config = tiny.config(position="rope", emb_dim=16, num_heads=2)
    rng = np.random.default_rng(0)
    query = jnp.asarray(rng.normal(size=(1, 1, 2, 8)), jnp.float32)
    key = jnp.asarray(rng.normal(size=(1, 1, 2, 8)), jnp.float32)

    def score(at_query, at_key):
        def turn(x, at):
            tables = positions.rope_tables(jnp.asarray([[at]], jnp.int32), config)
            return positions.rotate(x, tables)

        return np.asarray((turn(query, at_query) * turn(key, at_key)).sum(-1))

    np.testing.assert_allclose(score(3, 1), score(13, 11), rtol=1e-4)
    np.testing.assert_allclose(score(5, 5), (query * key).sum(-1), rtol=1e-5)
    assert np.abs(score(3, 1) - score(1, 3)).max() > 1e-3


def test_linear_scaling_stretches_positions():
    scaled = tiny.config(position="rope", rope_scaling=("linear", 4.0))
    plain = tiny.config(position="rope")
    cos, sin = positions.rope_tables(jnp.asarray([[8]], jnp.int32), scaled)
    expected = positions.rope_tables(jnp.asarray([[2]], jnp.int32), plain)
    np.testing.assert_allclose(cos, expected[0], rtol=1e-5)
    np.testing.assert_allclose(sin, expected[1], rtol=1e-5)


def test_llama3_scaling_spares_short_waves():
    config = tiny.config(
        position="rope",
        emb_dim=128,
        num_heads=1,
        rope_theta=500000.0,
        rope_scaling=("llama3", 8.0, 1.0, 4.0, 8192),
    )
    scaled = positions.rope_frequencies(config)
    plain = 500000.0 ** (-np.arange(0, 128, 2) / 128)
    waves = 2 * np.pi / plain
    short, long = waves < 8192 / 4, waves > 8192
    np.testing.assert_allclose(scaled[short], plain[short], rtol=1e-6)
    np.testing.assert_allclose(scaled[long], plain[long] / 8, rtol=1e-6)
    between = ~short & ~long
    assert between.any()
    assert (scaled[between] < plain[between]).all()
    assert (scaled[between] > plain[between] / 8).all()
    assert (np.diff(scaled) < 0).all()


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(
    ("num_buckets", "max_distance"), [(32, 128), (16, 64), (32, 100), (8, 20)]
)
def test_buckets_equal_published_function(bidirectional, num_buckets, max_distance):
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    distance = np.arange(-300, 301, dtype=np.int32)
    expected = modeling.T5Attention._relative_position_bucket(
        torch.from_numpy(distance), bidirectional, num_buckets, max_distance
    )
    buckets = positions.relative_buckets(
        distance,
        bidirectional=bidirectional,
        num_buckets=num_buckets,
        max_distance=max_distance,
    )
    np.testing.assert_array_equal(buckets, expected.numpy())


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_bias_by_index_is_the_bias_with_its_gradient(length, bidirectional):
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(8, 3)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(1, 3, length, length)), jnp.float32)
    index = jnp.arange(length, dtype=jnp.int32)[None]

    def direct(table):
        bias = positions.relative_bias(
            table, index, index, bidirectional=bidirectional, max_distance=6
        )
        return (bias * weights).sum(), bias

    def sliding(table):
        bias = positions.relative_bias_by_index(
            table, length, bidirectional=bidirectional, max_distance=6
        )
        return (bias * weights).sum(), bias

    (_, bias), grad = jax.value_and_grad(sliding, has_aux=True)(table)
    (_, expected), expected_grad = jax.value_and_grad(direct, has_aux=True)(table)
    np.testing.assert_array_equal(bias, expected)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-6)


def test_alibi_slopes_of_the_paper():
    np.testing.assert_allclose(positions.alibi_slopes(8), 0.5 ** np.arange(1, 9))
    twelve = positions.alibi_slopes(12)
    np.testing.assert_allclose(twelve[:8], positions.alibi_slopes(8))
    np.testing.assert_allclose(twelve[8:], positions.alibi_slopes(16)[0:8:2])


def test_alibi_is_symmetric_and_linear():
    index = jnp.arange(6, dtype=jnp.int32)[None]
    bias = np.asarray(positions.alibi_bias(index, index, 4))
    np.testing.assert_array_equal(bias, bias.swapaxes(2, 3))
    np.testing.assert_allclose(bias[0, :, 5, 2], -3 * positions.alibi_slopes(4))


def test_too_long_for_a_learned_table_names_both_lengths():
    config = tiny.config(position="learned", max_seq_len=8)
    with pytest.raises(ValueError, match=r"9 tokens .* max_seq_len = 8"):
        positions.check_length(9, config)
    positions.check_length(8, config)
    positions.check_length(9, tiny.config(position="alibi", max_seq_len=8))
