"""Which masks a step reveals, seen from tokens that tell how many were left."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from research.generation import unmasking
from research.generation.unmasking import Unmasking, unmask
from tests.helpers import FIRST_TEXT, MASK, toy_vocabulary

NUM_MASKS = 10


@pytest.fixture
def revealed(monkeypatch):
    """Runs a sampler; [rows, masks], how many masks were left when each was revealed."""

    def read(language_model, params, tokens, is_text):
        left = (tokens == MASK).sum(1)
        logits = jax.nn.one_hot(FIRST_TEXT + left, 512)[:, None, :]
        # Later places are surer; [MASK] would be surer still.
        slope = 1.0 + jnp.arange(tokens.shape[1])[None, :, None] / 100
        return (10.0 * logits * slope).at[:, :, MASK].set(99.0)

    monkeypatch.setattr(unmasking, "read", read)
    model = LanguageModel()

    def run(sampler, num_steps, rows=1):
        masks = np.full((rows, NUM_MASKS), MASK)
        tokens = jnp.asarray(np.pad(masks, ((0, 0), (1, 0)), constant_values=9))
        settings = Unmasking(sampler, num_steps, temperature=0.0)
        found = unmask(model, settings, {}, tokens, tokens > 0, jax.random.key(0))
        assert (found[:, 0] == 9).all()
        return np.asarray(found)[:, 1:] - FIRST_TEXT

    return run


class LanguageModel:
    """As far as `unmask` knows it."""

    objective = types.SimpleNamespace(vocabulary=toy_vocabulary())


def test_confidence_reveals_the_surest_in_equal_parts(revealed):
    (row,) = revealed("confidence", 4)
    # The last places are the surest: 3 of 10, 3 of 7, 2 of 4, 2 of 2.
    assert row.tolist() == [2, 2, 4, 4, 7, 7, 7, 10, 10, 10]


def test_first_hitting_reveals_one_at_a_time_in_any_order(revealed):
    rows = revealed("first_hitting", 1, rows=2000)
    assert (np.sort(rows, axis=1) == np.arange(1, 11)).all()
    first = np.bincount(rows.argmax(1), minlength=10)
    assert stats.chisquare(first).pvalue > 1e-4


def test_ancestral_reveals_each_step_its_share(revealed):
    rows = revealed("ancestral", 4, rows=2000)
    assert (rows > 0).all()
    assert (rows == 10).mean() == pytest.approx(1 / 4, abs=0.02)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="confidence, ancestral"):
        Unmasking("beam", 4, 0.0)
    with pytest.raises(ValueError, match=">= 1"):
        Unmasking("confidence", 0, 0.0)
