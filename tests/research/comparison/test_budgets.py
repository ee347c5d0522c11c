"""Steps follow from budgets, and schedules from steps."""

import pytest

from research.comparison import budgets
from research.comparison.budgets import Budget, StepCost
from research.config import parse as run_config
from research.errors import UserError
from tests.research.comparison import fixtures


def budget(axis="tokens", amount=1e5, **changes) -> Budget:
    values = dict(warmup_fraction=0.1, num_evals=4, num_logs=10, num_checkpoints=2)
    return Budget(axis=axis, amount=amount, **{**values, **changes})


CHEAP = StepCost(tokens=1000, flops=2e9, device_seconds=0.1)
DEAR = StepCost(tokens=1000, flops=5e9, device_seconds=0.4)


@pytest.mark.parametrize(
    "axis,amount,expected",
    [
        ("steps", 50, (50, 50)),
        ("tokens", 50_999, (50, 50)),
        ("flops", 1e11, (50, 20)),
        ("device_seconds", 10.0, (100, 25)),
    ],
)
def test_steps_of_each_axis(axis, amount, expected):
    steps = budgets.num_train_steps(
        budget(axis, amount), {"cheap": CHEAP, "dear": DEAR}
    )
    assert (steps["cheap"], steps["dear"]) == expected


def test_arms_that_cannot_share_a_budget_are_named():
    with pytest.raises(UserError, match="cannot share a budget.*dear: 3 steps"):
        budgets.num_train_steps(budget("flops", 1.9e10), {"c": CHEAP, "dear": DEAR})


@pytest.mark.parametrize(
    "changes,message",
    [
        (dict(axis="epochs"), "tokens, flops, device_seconds, steps"),
        (dict(amount=0.0), "positive"),
        (dict(warmup_fraction=1.0), "below 1"),
        (dict(num_evals=0), "at least 1"),
    ],
)
def test_bad_budgets_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        budget(**changes)


@pytest.mark.parametrize("steps", [7, 100, 1237])
@pytest.mark.parametrize("points", [(1.0,), (0.25, 0.5, 1.0), (0.1, 0.33, 1.0)])
def test_checkpoints_fall_on_every_point(steps, points):
    every = budgets.intervals(steps, points, budget()).checkpoint
    saved = {*range(every, steps, every), steps}
    found = budgets.point_steps(steps, points, budget())
    assert set(found.values()) <= saved
    assert found[1.0] == steps
    if steps > 100:
        for point, step in found.items():
            assert abs(step / steps - point) <= 0.06


@pytest.mark.parametrize("steps", [3, 7, 100, 488, 976, 1237, 15259])
@pytest.mark.parametrize("points", [(1.0,), (0.5, 1.0)])
def test_checkpoints_end_intervals_of_logging(steps, points):
    many = budget(num_logs=100, num_checkpoints=4)
    found = budgets.intervals(steps, points, many)
    assert found.checkpoint % found.log == 0
    # Not many more lines than asked for, except where steps are few.
    assert steps / found.log <= max(250, steps / max(1, steps // 100) + 1)
    assert found.checkpoint <= 1.02 * steps / 4 + 1


def test_schedules_are_fitted_to_the_steps():
    arm = fixtures.parsed().arm("masked_lm")
    fitted = budgets.fit(
        arm.config,
        budget=budget(),
        steps=200,
        seed=7,
        learning_rate=None,
        points=(0.5, 1.0),
    )
    assert fitted.train.seed == 7
    assert fitted.train.num_train_steps == 200
    assert fitted.optimizer.warmup_steps == 20
    assert fitted.eval.every_steps == 50
    assert fitted.checkpoint.every_steps == 100
    run_config.parse(fitted)
    # The arm itself is as it was.
    assert arm.config["train"]["seed"] == 0


def test_a_tuned_rate_keeps_the_ratio_of_its_floor():
    config = fixtures.comparison()
    config.shared.optimizer.learning_rate = 1e-3
    config.shared.optimizer.final_learning_rate = 1e-4
    arm = fixtures.config_lib.parse(config).arm("causal_lm")
    fitted = budgets.fit(
        arm.config, budget=budget(), steps=10, seed=0, learning_rate=4e-3, points=(1.0,)
    )
    assert fitted.optimizer.learning_rate == 4e-3
    assert fitted.optimizer.final_learning_rate == pytest.approx(4e-4)
