"""Samples against the exact distribution, restated in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from research.generation.decoding import DecodingConfig
from research.generation.sampling import filtered, next_token

LOGITS = np.array([1.5, -0.3, 2.0, 0.1, 1.2, -2.0, 0.7, 1.9, -1.0, 0.0], np.float32)
NUM_SAMPLES = 20_000
SETTINGS = [
    (1.0, 0, 1.0),
    (0.5, 0, 1.0),
    (2.0, 0, 1.0),
    (1.0, 3, 1.0),
    (1.0, 0, 0.6),
    (1.3, 5, 0.9),
]


def exact(temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Keeps tokens one by one, most probable first, until the mass is reached."""
    weights = np.exp(LOGITS.astype(np.float64) / temperature)
    order = np.argsort(-weights)
    if top_k:
        weights[order[top_k:]] = 0
    probabilities = weights / weights.sum()
    kept, mass = np.zeros_like(probabilities), 0.0
    for token in order:
        if mass < top_p:
            kept[token] = probabilities[token]
        mass += probabilities[token]
    return kept / kept.sum()


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_filtered_logits_have_the_exact_distribution(temperature, top_k, top_p):
    logits = filtered(
        jnp.asarray(LOGITS)[None], temperature=temperature, top_k=top_k, top_p=top_p
    )
    expected = exact(temperature, top_k, top_p)
    np.testing.assert_allclose(jax.nn.softmax(logits)[0], expected, atol=1e-6)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_samples_pass_a_chi_squared_test(temperature, top_k, top_p):
    logits = jnp.broadcast_to(jnp.asarray(LOGITS)[None], (NUM_SAMPLES, len(LOGITS)))
    tokens = next_token(
        jax.random.key(1),
        logits,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )
    counts = np.bincount(np.asarray(tokens), minlength=len(LOGITS))
    expected = exact(temperature, top_k, top_p)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    test = stats.chisquare(counts[possible], expected[possible] * NUM_SAMPLES)
    assert test.pvalue > 1e-3


def test_temperature_zero_is_greedy():
    tokens = next_token(
        jax.random.key(0),
        jnp.asarray(np.stack([LOGITS, -LOGITS])),
        temperature=0.0,
        top_k=0,
        top_p=1.0,
    )
    assert tokens.tolist() == [int(LOGITS.argmax()), int(LOGITS.argmin())]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("max_new_tokens", 0, ">= 1"),
        ("temperature", -1.0, ">= 0"),
        ("top_k", -1, ">= 0"),
        ("top_p", 0.0, "> 0 and <= 1"),
        ("top_p", 1.5, "> 0 and <= 1"),
        ("num_beams", 0, ">= 1"),
    ],
)
def test_settings_out_of_range(field, value, rule):
    settings = dict(
        max_new_tokens=4,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        num_beams=1,
        length_penalty=1.0,
    )
    with pytest.raises(ValueError, match=field) as error:
        DecodingConfig(**{**settings, field: value})
    assert rule in str(error.value)


def test_beams_do_not_sample():
    with pytest.raises(ValueError, match="beam search does not sample"):
        DecodingConfig(
            max_new_tokens=4,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_beams=2,
            length_penalty=1.0,
        )
