"""Reads the workdir of a comparison, finished or not."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from research.comparison import config as config_lib
from research.comparison import jobs, outcomes
from research.comparison.config import ComparisonConfig
from research.comparison.jobs import Job
from research.comparison.statistics import Scores
from research.config import saved
from research.errors import UserError
from research.evaluation.interface import Metric, Result
from research.machine import checksums, files
from research.training import workdir as workdir_lib
from research.training.workdir import CONFIG, METRICS, written_by

COMPARISON_FILE = workdir_lib.COMPARISON


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A loss over a run, in nats per target; NaN where it was not finite."""

    steps: tuple[int, ...]
    losses: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One pretraining run, as far as it got.

    Attributes:
      job: which run.
      state: 'done', 'failed', 'damaged', 'unfinished' or 'missing'.
      train, heldout: losses, in nats per target.
      summary: what the finished run recorded; empty until then.
      config: of the run; empty until it started.
    """

    job: Job
    state: str
    train: Curve
    heldout: Curve
    summary: Mapping[str, Any]
    config: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A job that is not done, its state (as of Run), and why as far as is known."""

    job: Job
    state: str
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """The content of a comparison's workdir.

    Attributes:
      runs: (arm, seed) -> run.
      trials: (arm, learning rate, seed) -> run.
      scores: (evaluation, arm, point) -> seed -> result; point None is the floor.
      problems: jobs that are not done, with what is known about why.
    """

    config: ComparisonConfig
    runs: Mapping[tuple[str, int], Run]
    trials: Mapping[tuple[str, float, int], Run]
    scores: Mapping[tuple[str, str, float | None], Mapping[int, Result]]
    problems: tuple[Problem, ...]
    num_jobs: int

    def finished_runs(self, arm: str) -> list[Run]:
        """The arm's finished runs, by seed."""
        runs = (self.runs[arm, seed] for seed in self.config.seeds)
        return [run for run in runs if run.state == "done"]

    def metrics(self) -> dict[str, Metric]:
        """Every 'evaluation/metric' that has scores."""
        return {
            f"{name}/{metric}": meaning
            for name in self.config.evaluations
            for (evaluation, _, _), by_seed in self.scores.items()
            if evaluation == name
            for result in by_seed.values()
            for metric, meaning in result.metrics.items()
        }

    def scores_of(self, metric: str, arm: str, point: float | None) -> Scores | None:
        """Scores of an arm on 'evaluation/metric' at a point; None without any."""
        evaluation, _, name = metric.partition("/")
        by_seed = {
            seed: result
            for seed, result in self.scores.get((evaluation, arm, point), {}).items()
            if name in result.scores
        }
        if not by_seed:
            return None
        examples = None
        if all(name in result.examples for result in by_seed.values()):
            examples = {
                seed: [np.asarray(row, np.float64) for row in result.examples[name]]
                for seed, result in by_seed.items()
            }
        return Scores.average(
            {seed: result.scores[name] for seed, result in by_seed.items()}, examples
        )


def load_config(workdir: pathlib.Path) -> ComparisonConfig:
    """The config of the comparison in a workdir.

    Raises:
      UserError: if there is none, or it was edited or cut.
    """
    path = workdir / COMPARISON_FILE
    if not path.exists():
        raise UserError(
            f"{workdir} holds no comparison: there is no {COMPARISON_FILE}. Start one "
            f"with python -m research.compare --config=... --workdir={workdir}."
        )
    try:
        values = saved.complete_comparison(outcomes.read(path)["config"])
    except outcomes.DamagedError as error:
        raise UserError(str(error)) from error
    try:
        return config_lib.parse(values)
    except UserError as error:
        raise UserError(
            f"the comparison in {workdir}{written_by(workdir)} cannot be read: {error}"
        ) from error


def load(workdir: pathlib.Path) -> Results:
    """Reads the whole workdir.

    Raises:
      UserError: if it holds no comparison, or its config was edited.
    """
    config = load_config(workdir)
    runs: dict[tuple[str, int], Run] = {}
    trials: dict[tuple[str, float, int], Run] = {}
    scores: dict[tuple[str, str, float | None], dict[int, Result]] = {}
    problems = []
    plan = jobs.plan(config)
    for job in plan:
        folder = workdir / job.folder
        state, value, detail = _outcome(folder)
        if state != "done":
            problems.append(Problem(job=job, state=state, detail=detail))
        match job:
            case Job(kind="run", seed=int(seed)):
                runs[job.arm, seed] = _read_run(folder, job, state, value)
            case Job(kind="trial", seed=int(seed), learning_rate=float(rate)):
                trials[job.arm, rate, seed] = _read_run(folder, job, state, value)
            case Job(evaluation=str(name), seed=int(seed)) if state == "done":
                by_seed = scores.setdefault((name, job.arm, job.point), {})
                by_seed[seed] = result = Result.from_json(value["result"])
                detail = _not_finite(result)
                if detail:
                    problems.append(Problem(job=job, state="failed", detail=detail))
    return Results(
        config=config,
        runs=runs,
        trials=trials,
        scores=scores,
        problems=tuple(problems),
        num_jobs=len(plan),
    )


def _outcome(folder: pathlib.Path) -> tuple[str, dict[str, Any], str]:
    """State of a job, what it recorded, and what is known if it is not done."""
    value: dict[str, Any] = {}
    try:
        if outcomes.is_done(folder):
            value = outcomes.read(folder / outcomes.DONE)
            _check_metrics(folder, value)
        checksums.check(folder)
        if (folder / CONFIG).exists():
            files.read_json(folder / CONFIG, data=dict)
        workdir_lib.read_metrics(folder)
    except (outcomes.DamagedError, UserError) as error:
        return "damaged", {}, str(error)
    if value:
        return "done", value, ""
    failures = outcomes.failures(folder)
    if not failures:
        return "unfinished" if folder.exists() else "missing", {}, ""
    try:
        reason = outcomes.read(failures[-1])["error"]
    except outcomes.DamagedError as damaged:
        reason = str(damaged)
    if outcomes.has_failed(folder):
        return "failed", {}, f"{reason} ({len(failures)} attempts)"
    return "unfinished", {}, f"failed once: {reason}"


def _not_finite(result: Result) -> str:
    """Names the scores that are not finite; '' if all are."""
    names = [name for name, x in result.scores.items() if not np.isfinite(x).all()]
    return f"not finite: {', '.join(names)}" if names else ""


def metrics_digest(folder: pathlib.Path) -> str:
    """Hash of a run's metrics file; '' without one."""
    path = folder / METRICS
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _check_metrics(folder: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Refuses a metrics file that changed after its run finished."""
    expected = value.get("metrics_sha256", "")
    if expected and metrics_digest(folder) != expected:
        raise outcomes.DamagedError(
            f"{folder / METRICS} was edited or cut after the run had finished. Delete "
            f"the folder {folder} and start the comparison again to redo it."
        )


def _read_run(
    folder: pathlib.Path, job: Job, state: str, value: Mapping[str, Any]
) -> Run:
    config, lines = {}, []
    if state != "damaged":
        lines = workdir_lib.read_metrics(folder)
        # Absent before the run starts.
        with contextlib.suppress(OSError):
            config = files.read_json(folder / CONFIG, data=dict)
    return Run(
        job=job,
        state=state,
        train=_curve(line for line in lines if line["split"] == "train"),
        heldout=_curve(line for line in lines if line["split"] == "eval"),
        summary=value.get("summary", {}),
        config=config,
    )


def _curve(lines: Iterable[Mapping[str, Any]]) -> Curve:
    # A resumed run may have logged a step twice; the later line counts.
    by_step = {
        # What was not finite is null in the file.
        int(line["step"]): float("nan" if line["loss"] is None else line["loss"])
        for line in lines
    }
    steps = tuple(sorted(by_step))
    return Curve(steps=steps, losses=tuple(by_step[step] for step in steps))
