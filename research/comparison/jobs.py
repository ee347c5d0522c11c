"""The jobs of a comparison, and the folder of each.

rates/ARM                                   time of a step (budgets in seconds only)
tuning/ARM/lr-RATE/seed-S                   a trial run
runs/ARM/seed-S                             a run
evaluations/EVALUATION/ARM/seed-S/point-P   a score at a point of the budget
evaluations/EVALUATION/ARM/seed-S/floor     the same from random initialisation
"""

from __future__ import annotations

import dataclasses

import ml_collections

from research.comparison.arms import Arm
from research.comparison.config import ComparisonConfig
from research.config import objective_section, parse
from research.evaluation.table import EVALUATIONS

KINDS = ("rate", "trial", "run", "evaluation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One unit of work.

    Attributes:
      folder: its folder in the workdir, and its name.
      kind: one of KINDS.
      arm: name of the arm.
      needs: folders of jobs that must have finished.
      seed: pretraining seed; None for a rate.
      learning_rate: of a trial.
      evaluation: name of the evaluation.
      point: share of the budget; None for the floor.
    """

    folder: str
    kind: str
    arm: str
    needs: tuple[str, ...]
    seed: int | None = None
    learning_rate: float | None = None
    evaluation: str | None = None
    point: float | None = None

    @property
    def description(self) -> str:
        """What the job does, for progress and messages."""
        words = [self.arm]
        if self.seed is not None:
            words.append(f"seed {self.seed}")
        if self.learning_rate is not None:
            words.append(f"learning rate {self.learning_rate:g}")
        if self.evaluation is not None:
            words.append(self.evaluation)
            if self.point is None:
                words.append("floor")
            elif self.point < 1:
                words.append(f"at {self.point:.0%}")
        titles = {"rate": "timing", "trial": "tuning", "run": "pretraining"}
        return f"{titles.get(self.kind, 'evaluating')} {', '.join(words)}"


def plan(config: ComparisonConfig) -> list[Job]:
    """All jobs, in the order in which a single process does them.

    Seeds come one after another, so that an unfinished comparison has whole seeds.
    """
    arms = [arm.name for arm in config.arms]
    jobs = []
    if config.budget.axis == "device_seconds":
        jobs += [
            Job(folder=rate_folder(arm), kind="rate", arm=arm, needs=()) for arm in arms
        ]
    rates = {job.arm: (job.folder,) for job in jobs}
    jobs += [
        Job(
            folder=trial_folder(arm, rate, seed),
            kind="trial",
            arm=arm,
            needs=rates.get(arm, ()),
            seed=seed,
            learning_rate=rate,
        )
        for arm in arms
        for rate in config.tuning.learning_rates
        for seed in config.tuning.seeds
    ]
    first = {arm: tuple(job.folder for job in jobs if job.arm == arm) for arm in arms}
    for seed in config.seeds:
        jobs += [
            Job(
                folder=run_folder(arm, seed),
                kind="run",
                arm=arm,
                needs=first[arm],
                seed=seed,
            )
            for arm in arms
        ]
        jobs += _evaluations(config, seed)
    return jobs


def rate_folder(arm: str) -> str:
    """Folder of the measured time of an arm's step."""
    return f"rates/{arm}"


def run_folder(arm: str, seed: int) -> str:
    """Folder of a run."""
    return f"runs/{arm}/seed-{seed}"


def trial_folder(arm: str, learning_rate: float, seed: int) -> str:
    """Folder of a trial run."""
    return f"tuning/{arm}/lr-{learning_rate:g}/seed-{seed}"


def evaluation_folder(evaluation: str, arm: str, seed: int, point: float | None) -> str:
    """Folder of an evaluation of a run; `point` None is random initialisation."""
    last = "floor" if point is None else f"point-{point:g}"
    return f"evaluations/{evaluation}/{arm}/seed-{seed}/{last}"


def floor_arms(config: ComparisonConfig) -> dict[str, str]:
    """arm -> the first arm with an equal floor, which is evaluated for both.

    Random parameters of equal models are equal, so arms that differ in the objective
    alone share a floor, the score from random initialisation, if the objectives have a
    text read in the same way. Evaluations without training ask more of the objective.
    """
    zero_shot = not all(
        EVALUATIONS[settings["kind"]].trains for settings in config.evaluations.values()
    )
    first: dict[str, str] = {}
    return {
        arm.name: first.setdefault(repr(_floor_of(arm, zero_shot)), arm.name)
        for arm in config.arms
    }


def _floor_of(arm: Arm, zero_shot: bool) -> tuple[object, ...]:
    """What the floor of an arm depends on."""
    model = sorted(arm.config["model"].items())
    if zero_shot:
        return model, arm.config["objective"]
    run = parse.parse(ml_collections.ConfigDict(arm.config))
    objective = objective_section.provisional(run)
    return model, objective.attention, objective.prompt


def _evaluations(config: ComparisonConfig, seed: int) -> list[Job]:
    """Final scores first, then floors, then earlier points."""
    points: list[float | None] = [1.0]
    points += [None] if config.floor else []
    points += [point for point in reversed(config.points) if point < 1]
    floors = set(floor_arms(config).values())
    return [
        Job(
            folder=evaluation_folder(evaluation, arm.name, seed, point),
            kind="evaluation",
            arm=arm.name,
            needs=(run_folder(arm.name, seed),),
            seed=seed,
            evaluation=evaluation,
            point=point,
        )
        for point in points
        for evaluation in config.evaluations
        for arm in config.arms
        if point is not None or arm.name in floors
    ]
