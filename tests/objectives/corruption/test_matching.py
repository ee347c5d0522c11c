"""Partners of different documents, and exact halves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives.corruption.matching import choose_half, match_rows


def match(lengths, documents, exists=None):
    lengths, documents = np.asarray(lengths), np.asarray(documents)
    exists = np.ones(len(lengths), bool) if exists is None else np.asarray(exists)
    partners = jax.jit(match_rows)(
        jnp.asarray(lengths, jnp.int32),
        jnp.asarray(documents, jnp.int32),
        jnp.asarray(exists),
    )
    return np.asarray(partners)


def test_worked_example():
    partners = match([9, 40, 38, 11, 25], [0, 1, 1, 1, 2])
    # Row 2 of document 1 is left for the nearest of another document.
    assert partners[0] == 3 and partners[3] == 0
    assert partners[1] == 4 or partners[2] == 4
    assert (partners != np.arange(5)).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("batch_size", [2, 3, 7, 32, 33])
@pytest.mark.parametrize("num_documents", [2, 5, 1000])
def test_partners_are_of_other_documents(seed, batch_size, num_documents):
    rng = np.random.default_rng(seed)
    documents = rng.integers(0, num_documents, batch_size)
    documents[:2] = 0, 1
    exists = rng.random(batch_size) < 0.9
    exists[:2] = True
    lengths = rng.integers(1, 60, batch_size)
    partners = match(lengths, documents, exists)
    own = np.arange(batch_size)
    assert (partners[~exists] == own[~exists]).all()
    assert exists[partners[exists]].all()
    assert (documents[partners[exists]] != documents[exists]).all()
    # As many are mutual as can be: no document can marry more than the rest.
    mutual = (partners[partners] == own) & exists
    largest = np.bincount(documents[exists]).max()
    total = exists.sum()
    possible = min(total - total % 2, 2 * (total - largest))
    assert mutual.sum() >= possible - (0 if total % 2 == 0 else 2)


def test_partners_are_of_similar_length():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 128, 64)
    partners = match(lengths, np.arange(64))
    lost = lengths - np.minimum(lengths, lengths[partners])
    # Of 64 lengths in 1 .. 127 neighbours are two apart, and one of two loses it.
    assert lost.mean() < 2.0


def test_a_batch_of_one_document_has_no_partners():
    np.testing.assert_array_equal(match([5, 9, 3, 7], [4, 4, 4, 4]), np.arange(4))
    np.testing.assert_array_equal(match([5], [4]), [0])
    np.testing.assert_array_equal(match([5, 6], [4, 5], [True, False]), [0, 1])


def test_one_document_with_most_rows_borrows():
    partners = match([10, 20, 30, 40, 50, 60], [7, 7, 7, 7, 7, 8])
    assert (partners[:5] == 5).all()
    assert partners[5] in range(5)


@pytest.mark.parametrize("batch_size", [1, 2, 6, 7, 32])
def test_exactly_half_of_those_that_count(batch_size):
    rng = np.random.default_rng(batch_size)
    totals = []
    for seed in range(40):
        counts = rng.random(batch_size) < 0.8
        partners = np.arange(batch_size)
        labels = choose_half(
            jax.random.key(seed),
            jnp.asarray(rng.random(batch_size), jnp.float32),
            jnp.asarray(partners, jnp.int32),
            jnp.asarray(counts),
        )
        chosen = np.asarray(labels)
        assert not (chosen & ~counts).any()
        n = counts.sum()
        assert chosen.sum() in {n // 2, (n + 1) // 2}
        totals.append(chosen.sum() - n / 2)
    # An odd row goes either way.
    assert abs(np.mean(totals)) < 4 * 0.5 / np.sqrt(40)


def test_partners_share_their_label_but_for_one_pair():
    partners = jnp.asarray([1, 0, 3, 2, 5, 4], jnp.int32)
    for seed in range(20):
        scores = jax.random.uniform(jax.random.key(seed), (6,))
        labels = np.asarray(
            choose_half(jax.random.key(0), scores, partners, jnp.ones(6, bool))
        )
        assert labels.sum() == 3
        assert (labels[::2] != labels[1::2]).sum() == 1


def test_every_row_is_chosen_equally_often():
    partners = jnp.asarray([1, 0, 3, 2, 4], jnp.int32)
    counts = jnp.ones(5, bool)

    def choose(rng):
        a, b = jax.random.split(rng)
        return choose_half(a, jax.random.uniform(b, (5,)), partners, counts)

    n = 4000
    labels = jax.jit(jax.vmap(choose))(jax.random.split(jax.random.key(0), n))
    share = np.asarray(labels).mean(0)
    np.testing.assert_allclose(share, 0.5, atol=4.5 * 0.5 / np.sqrt(n))
