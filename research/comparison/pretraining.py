"""The pretraining runs of a comparison: their cost, their length and their summary."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from research.comparison import budgets, jobs, outcomes, results, tuning
from research.comparison.arms import Arm
from research.comparison.budgets import StepCost
from research.comparison.config import ComparisonConfig
from research.comparison.jobs import Job
from research.config import parse as run_config
from research.config.sections import DataConfig
from research.data import run_data
from research.data.run_data import Data
from research.errors import UserError, user_errors
from research.machine import provenance, timing
from research.training import baselines, flops, guards, loop, program, workdir
from research.training.pretraining import pretrain
from research.training.program import Program
from research.training.state import count_params
from research.training.steps import Steps

# Steps that are timed for a budget of seconds, after one that compiles.
_TIMED_STEPS = 20


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Workload:
    """What the runs of an arm have in common, whatever their seed and length.

    Attributes:
      program: of the arm's config, whose schedule no run has.
      row: FLOPs of a row.
    """

    program: Program
    row: flops.Flops


_workloads: dict[str, Workload] = {}


def workload(arm: Arm) -> Workload:
    """An arm's workload, built once because tracing it takes seconds.

    Loads the data to know the vocabulary.
    """
    key = repr(arm.config)
    if key not in _workloads:
        run = run_config.parse(ml_collections.ConfigDict(arm.config))
        parts = program.create(run, _data(run.data).vocabulary)
        counted = flops.count(parts.model_config, parts.objective, run.train.trainable)
        _workloads[key] = Workload(program=parts, row=counted)
    return _workloads[key]


@functools.lru_cache(maxsize=4)
def _data(config: DataConfig) -> Data:
    """Arms share their data: it is opened once."""
    with user_errors():
        found = run_data.load(config)
        run_data.require_rows(found, config)
    return found


def step_cost(arm: Arm, device_seconds: float | None) -> StepCost:
    """What one optimizer step of an arm costs.

    Args:
      device_seconds: as measured; None where the budget is none of seconds.
    """
    work = workload(arm)
    batch_size = work.program.config.train.batch_size
    return StepCost(
        tokens=batch_size * work.row.tokens,
        flops=batch_size * work.row.training,
        device_seconds=device_seconds,
    )


def check_budget(config: ComparisonConfig) -> None:
    """Refuses a budget that some arm cannot spend, before any run.

    Raises:
      UserError: naming the arms.
    """
    if config.budget.axis != "device_seconds":
        costs = {arm.name: step_cost(arm, None) for arm in config.arms}
        budgets.num_train_steps(config.budget, costs)


def measure_rate(arm: Arm) -> dict[str, Any]:
    """Times an arm's train step: device-seconds of one step, compilation excluded."""
    parts = workload(arm).program
    state, constants = parts.init()
    steps = Steps(parts, 0)
    try:
        batches = loop.train_batches(parts, _data(parts.config.data).train, 0)
        train_step = steps.train(0)
        state, _ = train_step(state, constants, next(batches))
        jax.block_until_ready(state.step)
        started = time.perf_counter()
        for _ in range(_TIMED_STEPS):
            state, _ = train_step(state, constants, next(batches))
        jax.block_until_ready(state.step)
        seconds = (time.perf_counter() - started) / _TIMED_STEPS
    finally:
        steps.close()
    return {
        "device_seconds": seconds * jax.device_count(),
        "environment": provenance.provenance(),
    }


def run_settings(
    config: ComparisonConfig, job: Job, folder: pathlib.Path
) -> ml_collections.ConfigDict:
    """The config of a run or trial: its seed, learning rate and fitted schedule."""
    arm = config.arm(job.arm)
    seconds = None
    if config.budget.axis == "device_seconds":
        done = folder / jobs.rate_folder(job.arm) / outcomes.DONE
        seconds = outcomes.read(done)["device_seconds"]
    cost = step_cost(arm, seconds)
    steps = budgets.num_train_steps(config.budget, {job.arm: cost})[job.arm]
    rate = job.learning_rate
    if job.kind == "trial":
        steps = max(
            config.budget.num_evals, round(config.tuning.budget_fraction * steps)
        )
    elif config.tuning.learning_rates:
        rate = tuning.best(results.load(folder), job.arm)
        if rate is None:
            raise UserError(f"{job.arm} has no learning rate: its trials failed.")
    assert job.seed is not None
    return budgets.fit(
        arm.config,
        budget=config.budget,
        steps=steps,
        seed=job.seed,
        learning_rate=rate,
        points=config.points,
    )


def run(
    config: ComparisonConfig,
    job: Job,
    folder: pathlib.Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Trains a run or trial to its end, and summarises it.

    Args:
      folder: workdir of the comparison.

    Returns:
      'summary' and the hash of the run's metrics.

    Raises:
      Stopped: if a signal came meanwhile; the run is saved and goes on later.
    """
    settings = run_settings(config, job, folder)
    run_folder = folder / job.folder
    result = pretrain(settings, run_folder, say=say)
    if result.stopped_by is not None:
        # Even if this run has finished: the signal stops the comparison.
        raise Stopped(result.stopped_by, guards.exit_code(result.stopped_by))
    summary = summarise(workload(config.arm(job.arm)), settings, run_folder)
    return {
        "summary": {**summary, "peak_memory_bytes": result.peak_bytes},
        "metrics_sha256": results.metrics_digest(run_folder),
    }


class Stopped(BaseException):
    """A signal stopped a run. Not an Exception, because it is not a failure to retry."""

    def __init__(self, signal: str, exit_code: int):
        super().__init__(signal)
        self.exit_code = exit_code


def summarise(
    work: Workload, settings: ml_collections.ConfigDict, folder: pathlib.Path
) -> dict[str, Any]:
    """The losses of a finished run, and what it cost.

    Raises:
      UserError: if its last held-out loss is not finite, or it never learnt.
    """
    lines = workdir.read_metrics(folder)
    heldout = [line for line in lines if line["split"] == "eval"][-1]
    if heldout["loss"] is None:  # What is not finite is null in the file.
        raise UserError(
            f"the held-out loss of {folder} is not finite after its last step, "
            f"{heldout['step']}. What to try: a lower learning rate than "
            f"{settings.optimizer.learning_rate:g}, a longer warmup, or float32 for "
            f"model.dtype; each makes another comparison, in another workdir."
        )
    trained = [line for line in lines if line["split"] == "train"]
    if not trained:
        raise UserError(
            f"{folder} logged no step that learnt: its gradients were never finite. What "
            f"to try: a lower learning rate than {settings.optimizer.learning_rate:g}, "
            f"or float32 for model.dtype."
        )
    parts, counted = work.program, work.row
    config = run_config.parse(settings)
    found = baselines.targets(config, parts.objective, _data(config.data))
    num_rows = config.train.num_train_steps * config.train.batch_size
    spent = num_rows * counted.training
    seconds = trained[-1]["seconds"]
    rate = timing.matrix_rate(parts.model_config.dtype)
    return {
        "heldout_loss": heldout["loss"],
        "unigram_loss": sum(
            term.weight * heldout[f"{name}_unigram"]
            for name, term in parts.objective.terms.items()
            if f"{name}_unigram" in heldout
        ),
        "content_unigram_loss": found.content_unigram_loss,
        "heldout": {k: v for k, v in heldout.items() if k not in ("step", "split")},
        "num_params": count_params(parts.weights),
        "num_steps": config.train.num_train_steps,
        "tokens": num_rows * counted.tokens,
        "targets": num_rows * found.per_row,
        "flops": spent,
        "seconds": seconds,
        "tokens_per_second": num_rows * counted.tokens / seconds,
        "utilisation": None if rate is None else spent / seconds / rate,
        "learning_rate": config.optimizer.learning_rate,
        "text": _data(config.data).text(),
        "environment": provenance.provenance() | provenance.machine(),
    }


def point_folder(
    config: ComparisonConfig, job: Job, folder: pathlib.Path
) -> tuple[pathlib.Path, int]:
    """Where the run of an evaluation is, and the step of the evaluation's point."""
    assert job.seed is not None
    run_folder = folder / jobs.run_folder(job.arm, job.seed)
    steps = workdir.load_config(run_folder).train.num_train_steps
    point = 1.0 if job.point is None else job.point
    found = budgets.point_steps(steps, config.points, config.budget)
    return run_folder, found[point]
