"""The unigram baseline against brute force, and the sums over batches."""

import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from objectives.types import Term
from research.training import heldout
from research.training.step import EvalSums
from tests.helpers import toy_vocabulary


def vocabulary(is_special, unigram_counts):
    return types.SimpleNamespace(
        is_special=np.array(is_special), unigram_counts=np.array(unigram_counts)
    )


def test_documented_example():
    words = vocabulary([True, False, False], [0, 5, 2])
    value = heldout.unigram_sum(np.array([2.0, 1.0, 1.0]), words)
    assert value == pytest.approx(2 * math.log(2) + math.log(3) + math.log(6))
    assert heldout.constant_sum(np.array([3.0, 1.0])) == pytest.approx(2.2493, abs=1e-4)


def test_baseline_is_a_cross_entropy_under_a_distribution():
    words = toy_vocabulary(512, 16)
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, 512).astype(float)
    value = heldout.unigram_sum(counts, words)
    # No constant prediction is better than the targets' own shares.
    assert value > heldout.constant_sum(counts)
    # With training counts in the same proportions it is nearly as good.
    same = vocabulary(words.is_special, (counts * 10**6).astype(np.int64))
    assert heldout.unigram_sum(counts, same) == pytest.approx(
        heldout.constant_sum(counts), rel=1e-4
    )


def test_tokens_never_seen_in_training_are_not_impossible():
    words = vocabulary([False, False], [10, 0])
    assert np.isfinite(heldout.unigram_sum(np.array([0.0, 3.0]), words))
    assert heldout.unigram_sum(np.zeros(2), words) == 0.0


def test_batches_are_added_before_dividing():
    objective = types.SimpleNamespace(
        terms={
            "mlm": Term(weight=2.0, predicts="tokens"),
            "nsp": Term(weight=0.5, predicts="labels"),
        },
        vocabulary=vocabulary([False, False], [1, 1]),
    )
    results = [
        EvalSums(
            sums={"mlm": (6.0, 2.0), "nsp": (1.0, 1.0), "mlm_accuracy": (1.0, 2.0)},
            targets={"mlm": np.array([2.0, 0.0]), "nsp": np.array([1.0, 0.0])},
        ),
        EvalSums(
            sums={"mlm": (2.0, 6.0), "nsp": (0.0, 1.0), "mlm_accuracy": (3.0, 6.0)},
            targets={"mlm": np.array([3.0, 3.0]), "nsp": np.array([0.0, 1.0])},
        ),
    ]
    stream = iter(results)
    found = heldout.evaluate(
        lambda *_: next(stream),
        weights=(None, None, 0),
        batches=[0, 1],
        seed=jnp.uint32(0),
        numbers=[0, 1],
        objective=objective,
    )
    assert found.values == {"mlm": 1.0, "nsp": 0.5, "mlm_accuracy": 0.5}
    assert found.loss == pytest.approx(2.0 * 1.0 + 0.5 * 0.5)
    # Two equal tokens and two equal labels: log 2 both times.
    assert found.baselines == pytest.approx({"mlm": math.log(2), "nsp": math.log(2)})
    assert found.margin("mlm") == pytest.approx(math.log(2) - 1.0)
    assert found.flat()["nsp_unigram"] == pytest.approx(math.log(2))
    assert "mlm 1.000 (unigram 0.693, margin -0.307)" in found.line()
