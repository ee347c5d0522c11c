"""Everything that a comparison has found, computed once from its workdir.

Reports only format what stands here. All of it is plain: numbers, words, tuples and
mappings in frozen dataclasses, so that `dataclasses.asdict` gives what JSON can hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.comparison import arms as arms_lib
from research.comparison import jobs, statistics, tuning, verdicts
from research.comparison.config import FLOOR, ComparisonConfig, Contrast
from research.comparison.results import Problem, Results, Run
from research.comparison.statistics import Difference, Interval, Scores
from research.comparison.verdicts import Evidence, Learning, Verdict
from research.config import objective_section
from research.evaluation.interface import Metric, Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Losses of one run, in nats per target, against clean tokens seen."""

    seed: int
    train_tokens: tuple[int, ...]
    train: tuple[float, ...]
    heldout_tokens: tuple[int, ...]
    heldout: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run of an arm spent: means over finished runs; None where unknown."""

    num_params: float | None
    num_steps: float | None
    tokens: float | None
    targets: float | None
    flops: float | None
    seconds: float | None
    tokens_per_second: float | None
    peak_memory_bytes: float | None
    utilisation: float | None
    learning_rate: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmFindings:
    """What is known of one arm besides its scores.

    Attributes:
      objective: its stages or components, e.g. 'mixture(causal_lm, masked_lm)'.
      floor: the arm whose random initialisation is evaluated for this one; None if the
        comparison has no floors. Arms with equal models share it.
      learning, cost: None without a finished run.
      curves: of the runs that have a held-out loss, by seed.
      above_floor: score on the primary metric minus that of random initialisation.
      trial_losses: learning rate -> held-out losses of its trials; infinite if failed.
      chosen_rate: the tuned learning rate; None if none was chosen.
      next_rate: the one to try next, if the chosen one is at an edge of the grid.
      confounded: in what it differs from the reference, if that is more than one thing.
    """

    name: str
    label: str
    objective: str
    architecture: str
    floor: str | None
    learning: Learning | None
    cost: Cost | None
    curves: tuple[LearningCurve, ...]
    above_floor: Difference | None
    trial_losses: Mapping[float, tuple[float, ...]]
    chosen_rate: float | None
    next_rate: float | None
    confounded: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """An arm on a metric at one point of the budget; point None is random initialisation.

    Attributes:
      interval: mean over pretraining seeds.
      example_error: standard error over test examples, the weights held fixed; None
        where there are several seeds, or no scores of single examples.
    """

    metric: str
    arm: str
    point: float | None
    interval: Interval
    example_error: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmDifference:
    """An arm minus the reference on one metric.

    Attributes:
      status: 'primary', 'exploratory', or 'plateau' where it is not testable.
    """

    metric: str
    arm: str
    compared: Difference
    status: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedDifference:
    """A published difference beside the measured one; `relation` compares them."""

    contrast: Contrast
    measured: Difference | None
    relation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The result of one evaluation of one run, as it was saved."""

    evaluation: str
    arm: str
    seed: int
    point: float | None
    result: Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """What a comparison planned and found.

    Attributes:
      problems: jobs that are not done.
      differing: field -> arm -> value, of fields in which the arms differ.
      shared: field -> value, of all others.
      arms: by name, in the order of the config.
      runs: every run and trial.
      records: every result of an evaluation.
      pretraining_seconds: of all finished runs, trials left out.
      metrics: 'evaluation/metric' -> label, unit, direction, chance level.
      scores: of every arm, metric and point.
      verdicts: on the primary metric.
      differences: from the reference arm, on all metrics.
      published: measured again.
    """

    config: ComparisonConfig
    num_jobs: int
    problems: tuple[Problem, ...]
    differing: Mapping[str, Mapping[str, Any]]
    shared: Mapping[str, Any]
    arms: Mapping[str, ArmFindings]
    runs: tuple[Run, ...]
    records: tuple[Record, ...]
    pretraining_seconds: float
    metrics: Mapping[str, Metric]
    scores: tuple[Score, ...]
    verdicts: tuple[Verdict, ...]
    differences: tuple[ArmDifference, ...]
    published: tuple[PublishedDifference, ...]

    def score(self, metric: str, arm: str, point: float | None) -> Score | None:
        """One score, if there is one."""
        return next(
            (
                score
                for score in self.scores
                if (score.metric, score.arm, score.point) == (metric, arm, point)
            ),
            None,
        )


def find(results: Results) -> Findings:
    """Computes everything that a report shows."""
    config, metrics = results.config, results.metrics()
    names = [arm.name for arm in config.arms]
    metric, reference = config.primary.metric, config.primary.reference
    learning = {name: verdicts.learning(results.finished_runs(name)) for name in names}
    evidence = Evidence(
        scores=_scores(results, metrics),
        metrics=metrics,
        architectures={
            arm.name: arm.config["model"]["architecture"] for arm in config.arms
        },
        on_plateau=frozenset(
            name for name, learnt in learning.items() if learnt and learnt.on_plateau
        ),
        settings=config.statistics,
    )
    differences = evidence.differences(names, reference)
    return Findings(
        config=config,
        num_jobs=results.num_jobs,
        problems=results.problems,
        differing=arms_lib.differing_fields(config.arms),
        shared=arms_lib.shared_fields(config.arms),
        arms={name: _arm(results, evidence, name, learning[name]) for name in names},
        runs=(*results.runs.values(), *results.trials.values()),
        records=tuple(
            Record(evaluation=name, arm=arm, seed=seed, point=point, result=result)
            for (name, arm, point), by_seed in results.scores.items()
            for seed, result in sorted(by_seed.items())
        ),
        pretraining_seconds=sum(
            run.summary["seconds"]
            for name in names
            for run in results.finished_runs(name)
        ),
        metrics=metrics,
        scores=_intervals(evidence),
        verdicts=tuple(
            verdicts.primary(evidence, differences, metric, reference, names)
        ),
        differences=tuple(
            ArmDifference(
                metric=name,
                arm=arm,
                compared=compared,
                status=_status(evidence, arm, reference, is_primary=name == metric),
            )
            for (name, arm), compared in differences.items()
        ),
        published=tuple(
            _published(evidence, contrast) for contrast in config.contrasts.values()
        ),
    )


def _scores(
    results: Results, metrics: Mapping[str, Metric]
) -> dict[tuple[str, str, float | None], Scores]:
    """(metric, arm, point) -> scores; arms with equal models share those of point None."""
    floors = jobs.floor_arms(results.config)
    found = {}
    for metric in metrics:
        for arm, floor in floors.items():
            for point in (*results.config.points, None):
                scores = results.scores_of(metric, arm if point else floor, point)
                if scores is not None:
                    found[metric, arm, point] = scores
    return found


def _intervals(evidence: Evidence) -> tuple[Score, ...]:
    return tuple(
        Score(
            metric=metric,
            arm=arm,
            point=point,
            interval=statistics.mean_interval(
                scores.means, alpha=evidence.settings.alpha
            ),
            example_error=scores.example_error(),
        )
        for (metric, arm, point), scores in evidence.scores.items()
    )


def _arm(
    results: Results, evidence: Evidence, name: str, learning: Learning | None
) -> ArmFindings:
    config = results.config
    arm = config.arm(name)
    tokens_per_step = (
        arm.config["train"]["batch_size"] * arm.config["data"]["row_length"]
    )
    runs = results.finished_runs(name)
    return ArmFindings(
        name=name,
        label=arm.label,
        objective=objective_section.title(arm.config["objective"]),
        architecture=arm.config["model"]["architecture"],
        floor=jobs.floor_arms(config)[name] if config.floor else None,
        learning=learning,
        cost=_cost(runs) if runs else None,
        curves=tuple(
            LearningCurve(
                seed=seed,
                train_tokens=tuple(tokens_per_step * s for s in run.train.steps),
                train=run.train.losses,
                heldout_tokens=tuple(tokens_per_step * s for s in run.heldout.steps),
                heldout=run.heldout.losses,
            )
            for seed in config.seeds
            if (run := results.runs[name, seed]).heldout.steps
        ),
        above_floor=evidence.compare(config.primary.metric, name, FLOOR),
        trial_losses={
            rate: tuple(losses) for rate, losses in tuning.losses(results, name).items()
        },
        chosen_rate=tuning.best(results, name),
        next_rate=tuning.beyond_edge(results, name),
        confounded=arms_lib.confounded(arm, config.arm(config.primary.reference)),
    )


def _cost(runs: Sequence[Run]) -> Cost:
    means: dict[str, float | None] = {}
    for field in dataclasses.fields(Cost):
        values = [run.summary.get(field.name) for run in runs]
        known = [float(value) for value in values if value is not None]
        means[field.name] = float(np.mean(known)) if len(known) == len(runs) else None
    return Cost(**means)


def _status(evidence: Evidence, arm: str, reference: str, *, is_primary: bool) -> str:
    if not evidence.testable(arm, reference):
        return "plateau"
    return "primary" if is_primary else "exploratory"


def _published(evidence: Evidence, contrast: Contrast) -> PublishedDifference:
    measured = evidence.compare(contrast.metric, contrast.arm, contrast.reference)
    return PublishedDifference(
        contrast=contrast,
        measured=measured,
        relation=verdicts.relation(evidence, contrast, measured),
    )
