"""Learning rates against closed forms, written out again."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from research.config.checks import CHOICES
from research.training import schedules
from tests.research.training import tiny

SCHEDULES = CHOICES["optimizer.schedule"]
PEAK, FINAL, WARMUP, TOTAL = 0.01, 0.001, 10, 100


def rates(**changes) -> np.ndarray:
    config = dataclasses.replace(
        tiny.run_config().optimizer,
        learning_rate=PEAK,
        final_learning_rate=FINAL,
        warmup_steps=WARMUP,
        decay_fraction=0.2,
        **changes,
    )
    schedule = schedules.create(config, TOTAL)
    return np.array([float(schedule(jnp.int32(t))) for t in range(TOTAL)])


def expected(schedule: str, t: int) -> float:
    if schedule == "rsqrt":
        return PEAK * math.sqrt(WARMUP / max(t + 1, WARMUP))
    if t < WARMUP:
        return PEAK * (t + 1) / WARMUP
    p = (t - WARMUP) / (TOTAL - WARMUP)
    if schedule == "linear":
        return PEAK + (FINAL - PEAK) * p
    if schedule == "cosine":
        return FINAL + (PEAK - FINAL) * (1 + math.cos(math.pi * p)) / 2
    if schedule == "constant" or t < 80:
        return PEAK
    return PEAK + (FINAL - PEAK) * (t - 80) / 20  # wsd: the last fifth


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_closed_form(schedule):
    wanted = [expected(schedule, t) for t in range(TOTAL)]
    np.testing.assert_allclose(rates(schedule=schedule), wanted, rtol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_peak_is_reached_and_no_step_is_wasted(schedule):
    values = rates(schedule=schedule)
    np.testing.assert_allclose(values.max(), PEAK, rtol=1e-6)
    assert (values > 0).all()


@pytest.mark.parametrize(
    ("schedule", "decay_fraction", "warmup"),
    [("linear", 0.9, 10), ("wsd", 0.9, 1), ("rsqrt", 0.9, 1000)],
)
def test_a_warmup_that_does_not_fit_is_a_tenth(schedule, decay_fraction, warmup):
    config = dataclasses.replace(
        tiny.run_config().optimizer,
        schedule=schedule,
        decay_fraction=decay_fraction,
        warmup_steps=1000,
    )
    assert schedules.warmup_steps(config, TOTAL) == warmup
    fits = dataclasses.replace(config, warmup_steps=warmup)
    for step in (0, 5, TOTAL - 1):
        found, wanted = (schedules.create(c, TOTAL)(step) for c in (config, fits))
        assert float(found) == float(wanted)


def test_without_warmup_the_first_step_is_the_peak():
    config = dataclasses.replace(tiny.run_config().optimizer, warmup_steps=0)
    for name in SCHEDULES:
        config = dataclasses.replace(config, schedule=name, learning_rate=PEAK)
        rate = schedules.create(config, TOTAL)(jnp.int32(0))
        np.testing.assert_allclose(float(rate), PEAK, rtol=1e-6)
