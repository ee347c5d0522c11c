"""Streams are independent, and depend on nothing but seed, name and step."""

import itertools

import jax
import numpy as np
import pytest

from research.training import rngs


def test_all_keys_differ():
    keys = [
        jax.random.key_data(rngs.at(seed, name, step)).tobytes()
        for seed, name, step in itertools.product((0, 1), rngs.STREAMS, (0, 1))
    ]
    assert len(set(keys)) == len(keys)


def test_traced_and_plain_numbers_give_the_same_key():
    traced = jax.jit(lambda seed, step: rngs.at(seed, "dropout", step))
    data = jax.random.key_data(traced(np.uint32(7), np.int32(5)))
    np.testing.assert_array_equal(data, jax.random.key_data(rngs.at(7, "dropout", 5)))


def test_the_default_generator_changes_nothing():
    before = jax.random.key_data(rngs.at(3, "corruption", 1))
    with jax.default_prng_impl("rbg"):
        after = jax.random.key_data(rngs.at(3, "corruption", 1))
    np.testing.assert_array_equal(before, after)


def test_unknown_streams_are_refused():
    with pytest.raises(KeyError):
        rngs.stream(0, "droput")
