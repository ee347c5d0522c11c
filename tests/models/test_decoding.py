"""Decoding with a cache against whole sequences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.inputs import ModelInputs
from tests.models import tiny


def part(inputs, start, stop):
    """Columns start .. stop - 1, without the encoder side."""
    cut = {
        field.name: getattr(inputs, field.name)[:, start:stop]
        for field in dataclasses.fields(inputs)
        if isinstance(getattr(inputs, field.name), jax.Array)
    }
    return ModelInputs(**cut)


def decode(model, cache, inputs, steps):
    """Hidden states of the columns, `steps` of them at a time."""
    graph, params = nnx.split(model)
    step = jax.jit(lambda p, i, c: nnx.merge(graph, p).decode_step(i, c))
    outputs, start = [], 0
    for count in steps:
        hidden, cache = step(params, part(inputs, start, start + count), cache)
        outputs.append(hidden)
        start += count
    return jnp.concatenate(outputs, axis=1), cache


def assert_close(cached, whole, inputs):
    real = np.asarray(inputs.segment_ids) > 0
    np.testing.assert_allclose(
        np.asarray(cached)[real], np.asarray(whole)[real], atol=1e-5
    )


def test_grouped_queries():
    """Everything else is crossed in tests/test_forward.py."""
    model = tiny.build(architecture="decoder", position="rope", num_kv_heads=2)
    inputs = tiny.inputs(((10,), (10,)))
    cache = model.init_cache(2, 12)
    cached, cache = decode(model, cache, inputs, (4, 1, 1, 1, 1, 1, 1))
    assert_close(cached, tiny.run(model, inputs), inputs)
    assert int(cache.index) == 10


def test_packed_segments_and_prefixes_stay_apart():
    model = tiny.build(architecture="decoder", position="rope")
    inputs = tiny.inputs(((5, 5), (3, 7)))
    prefix = jnp.asarray(inputs.positions < 2)
    inputs = dataclasses.replace(inputs, bidirectional=prefix)
    whole = tiny.run(model, inputs)
    # The prefix of a segment has to be read in one call, as its positions see ahead.
    cached, _ = decode(model, model.init_cache(2, 10), inputs, (10,))
    assert_close(cached, whole, inputs)


@pytest.mark.parametrize("position", ["learned", "rope", "relative_bias"])
def test_prompts_of_mixed_lengths(position):
    """Rows with padding between prompt and continuation equal rows of their own."""
    model = tiny.build(architecture="decoder", position=position)
    lengths, width, new = (3, 5), 5, 3
    tokens = tiny.inputs(((width + new,), (width + new,)), width=width + new).tokens
    columns = np.arange(width + new)
    segments = np.ones((2, width + new), np.int32)
    positions = np.zeros((2, width + new), np.int32)
    for row, length in enumerate(lengths):
        segments[row, length:width] = 0
        positions[row] = np.where(columns < width, columns, columns - width + length)
    inputs = ModelInputs(
        tokens=tokens,
        segment_ids=jnp.asarray(segments),
        positions=jnp.asarray(positions),
    )
    cached, _ = decode(model, model.init_cache(2, 8), inputs, (width, 1, 1, 1))
    for row in range(2):
        where = np.flatnonzero(segments[row])
        alone = ModelInputs(
            tokens=tokens[row, where][None],
            segment_ids=jnp.ones((1, len(where)), jnp.int32),
            positions=jnp.arange(len(where), dtype=jnp.int32)[None],
        )
        np.testing.assert_allclose(
            cached[row, where], tiny.run(model, alone)[0], atol=1e-5
        )


def test_a_cache_longer_than_the_table_is_refused():
    model = tiny.build(architecture="decoder", max_seq_len=8)
    with pytest.raises(ValueError, match="9 tokens .* max_seq_len = 8"):
        model.init_cache(1, 9)


def test_cached_decoding_reads_causally():
    model = tiny.build(architecture="decoder")
    inputs = dataclasses.replace(tiny.inputs(), reads="both")
    with pytest.raises(ValueError, match="decoding reads causally"):
        model.decode_step(inputs, model.init_cache(2, 10))
