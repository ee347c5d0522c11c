"""What every arm may spend, and the schedules that follow from it.

A budget is an axis and an amount. The number of optimizer steps of an arm follows from
what one of its steps costs on that axis. The schedules are fitted to that number: a
learning rate that has not decayed when the run ends makes an objective look worse than
it is.
"""

from __future__ import annotations

import dataclasses
import fractions
import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from research.errors import UserError, nearest

AXES = {
    "tokens": "clean tokens seen",
    "flops": "training FLOPs",
    "device_seconds": "device-seconds of training",
    "steps": "optimizer steps",
}
# Fields of a run's config that the comparison sets, so that arms need not share them.
FITTED = (
    "train.seed",
    "train.num_train_steps",
    "train.log_every_steps",
    "optimizer.warmup_steps",
    "eval.every_steps",
    "checkpoint.every_steps",
    "checkpoint.keep_last",
    "checkpoint.keep_best",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What each arm may spend.

    Attributes:
      axis: a key of `AXES`.
      amount: how much of it, per run.
      warmup_fraction: share of the steps that warm the learning rate up.
      num_evals: held-out evaluations over the run, evenly spaced.
      num_logs: logged training losses over the run, evenly spaced.
      num_checkpoints: checkpoints over the run, at least.
    """

    axis: str
    amount: float
    warmup_fraction: float
    num_evals: int
    num_logs: int
    num_checkpoints: int

    def __post_init__(self):
        if self.axis not in AXES:
            raise ValueError(
                f"axis = {self.axis!r}: must be one of {', '.join(AXES)}."
                f"{nearest(self.axis, AXES)}"
            )
        if not self.amount > 0:
            raise ValueError(f"amount = {self.amount}: must be positive.")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(
                f"warmup_fraction = {self.warmup_fraction}: a share of the steps, at "
                f"least 0 and below 1."
            )
        for field in ("num_evals", "num_logs", "num_checkpoints"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} = {getattr(self, field)}: at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepCost:
    """What one optimizer step of an arm costs.

    Attributes:
      tokens: clean tokens of the global batch.
      flops: training FLOPs.
      device_seconds: seconds times devices; None until measured.
    """

    tokens: int
    flops: float
    device_seconds: float | None

    def on(self, axis: str) -> float:
        """The cost on one axis."""
        cost = 1.0 if axis == "steps" else getattr(self, axis)
        assert cost is not None, "a job measures seconds before they are needed"
        return float(cost)


def num_train_steps(budget: Budget, costs: dict[str, StepCost]) -> dict[str, int]:
    """Steps that each arm can afford, rounded down so that no arm overspends.

    Raises:
      UserError: if some arm cannot afford a step for each held-out evaluation, so that
        the arms cannot share the budget.
    """
    steps = {
        arm: int(budget.amount / cost.on(budget.axis)) for arm, cost in costs.items()
    }
    short = {arm: count for arm, count in steps.items() if count < budget.num_evals}
    if short:
        details = "; ".join(
            f"{arm}: {count} steps at {costs[arm].on(budget.axis):.4g} each"
            for arm, count in short.items()
        )
        raise UserError(
            f"The arms cannot share a budget of {budget.amount:.4g} "
            f"{AXES[budget.axis]}: {details}, and at least {budget.num_evals} steps are "
            f"needed (config.budget.num_evals). Raise config.budget.amount or lower "
            f"config.shared.train.batch_size."
        )
    return steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Intervals:
    """Steps between checkpoints, and between logged training losses.

    The first is a multiple of the second, so that a run that is killed and resumed logs
    the same means as one that is not.
    """

    checkpoint: int
    log: int


def intervals(steps: int, points: tuple[float, ...], budget: Budget) -> Intervals:
    """Intervals at which a checkpoint falls on every point of the budget.

    Of the checkpoint intervals that are at most 2 % longer than the exact one, takes the
    one with the largest divisor up to the logging interval that was asked for.

    Args:
      points: shares of the budget, each in (0, 1].
    """
    shares = [fractions.Fraction(point).limit_denominator(100) for point in points]
    parts = math.lcm(*(share.denominator for share in shares))
    parts *= -(-budget.num_checkpoints // parts)
    exact = max(1, -(-steps // parts))
    wanted = max(1, steps // budget.num_logs)
    found = [
        Intervals(checkpoint=every, log=_largest_divisor(every, wanted))
        for every in range(exact, exact + exact // 50 + 1)
    ]
    return max(found, key=lambda interval: (interval.log, -interval.checkpoint))


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(limit, number), 0, -1) if number % d == 0)


def point_steps(
    steps: int, points: tuple[float, ...], budget: Budget
) -> dict[float, int]:
    """The checkpointed step at which each point (a share of the budget) is reached."""
    every = intervals(steps, points, budget).checkpoint
    found = {}
    for point in points:
        nearest = every * max(1, round(point * steps / every))
        # The last checkpoint is of the last step, wherever the interval would end.
        found[point] = steps if point == 1.0 else min(steps, nearest)
    return found


def fit(
    config: Mapping[str, Any],
    *,
    budget: Budget,
    steps: int,
    seed: int,
    learning_rate: float | None,
    points: tuple[float, ...],
) -> ml_collections.ConfigDict:
    """A copy of a run's config with its seed, and schedules fitted to `steps`.

    Checkpoints fall on every point of the budget at which evaluations are taken, and
    all are kept.

    Args:
      learning_rate: replaces the config's if it was tuned; None otherwise.
    """
    fitted = ml_collections.ConfigDict(config)
    interval = intervals(steps, points, budget)
    changes: dict[str, Any] = {
        "train.seed": seed,
        "train.num_train_steps": steps,
        "train.log_every_steps": interval.log,
        "optimizer.warmup_steps": max(1, round(budget.warmup_fraction * steps)),
        # Rounded up: the last step is evaluated in any case.
        "eval.every_steps": -(-steps // budget.num_evals),
        "checkpoint.every_steps": interval.checkpoint,
        "checkpoint.keep_last": max(1, -(-steps // interval.checkpoint)),
        "checkpoint.keep_best": False,
    }
    assert set(changes) == set(FITTED)
    if learning_rate is not None:
        # The rate that the schedule decays to keeps its ratio to the peak.
        scale = learning_rate / fitted.optimizer.learning_rate
        changes["optimizer.learning_rate"] = learning_rate
        changes["optimizer.final_learning_rate"] = (
            scale * fitted.optimizer.final_learning_rate
        )
    fitted.update_from_flattened_dict(changes)
    return fitted
