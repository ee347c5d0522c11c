"""The border between a comparison's config and its code."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from research import config as run_config
from research import strict
from research.comparison import arms as arms_lib
from research.comparison import budgets, statistics
from research.comparison.arms import Arm
from research.comparison.budgets import Budget
from research.errors import UserError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """The learning rates that every arm tries, on seeds of their own."""

    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    budget_fraction: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Primary:
    """The one metric that verdicts are about, and the arm they compare with."""

    metric: str
    reference: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """Level of the intervals, power of detectable differences, nature of examples."""

    alpha: float
    power: float
    examples: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference that was published, to be measured again.

    Attributes:
      arm, reference: names of arms; reference FLOOR is the arm's random initialisation.
      metric: 'evaluation/metric' that stands for the published one here.
      published: the published difference, in points of `published_metric`.
      source: where.
    """

    arm: str
    reference: str
    metric: str
    published: float
    published_metric: str
    source: str


# The reference of a contrast of pretraining against none.
FLOOR = "random_init"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """A whole comparison, checked.

    Attributes:
      evaluations: name -> settings as plain values; `evaluations.create` reads them.
      contrasts: published differences, by name.
      raw: the config as plain values, what is saved and compared.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]
    varies: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: Budget
    points: tuple[float, ...]
    tuning: Tuning
    evaluations: Mapping[str, Mapping[str, Any]]
    primary: Primary
    statistics: Statistics
    contrasts: Mapping[str, Contrast]
    floor: bool
    raw: Mapping[str, Any]

    def arm(self, name: str) -> Arm:
        """The arm with this name."""
        return next(arm for arm in self.arms if arm.name == name)


_FIELDS = (
    "name",
    "title",
    "shared",
    "arms",
    "varies",
    "seeds",
    "budget",
    "points",
    "tuning",
    "evaluations",
    "primary",
    "statistics",
    "contrasts",
    "floor",
)


def parse(config: Any) -> ComparisonConfig:
    """Checks a comparison's config whole and turns it into dataclasses.

    Raises:
      UserError: for unknown or missing fields, arms that are no valid runs, differ in
        what they claim to share or do not exist, and settings that contradict.
    """
    raw = run_config.plain(config)
    if "arms" not in raw:
        raise UserError(
            "This config has no arms: begin with get_config() of "
            "experiments/comparison_base.py, and use python -m research.pretrain for a "
            "single run."
        )
    problems: list[str] = []
    strict.check_names(raw, _FIELDS, "config", problems)
    sections: dict[str, Any] = {
        name: strict.build(kind, raw[name], f"config.{name}", problems)
        for name, kind in (
            ("budget", Budget),
            ("tuning", Tuning),
            ("primary", Primary),
            ("statistics", Statistics),
        )
        if name in raw
    }
    contrasts: dict[str, Any] = {
        name: strict.build(Contrast, values, f"config.contrasts.{name}", problems)
        for name, values in raw.get("contrasts", {}).items()
    }
    _refuse(problems)
    arms = [_arm(name, values) for name, values in raw["arms"].items()]
    arms_lib.check(arms, raw["varies"])
    parsed = ComparisonConfig(
        name=raw["name"],
        title=raw["title"],
        arms=tuple(arms),
        varies=raw["varies"],
        seeds=tuple(sorted(raw["seeds"])),
        points=tuple(sorted(raw["points"])),
        evaluations=raw["evaluations"],
        contrasts=contrasts,
        floor=raw["floor"],
        raw=raw,
        **sections,
    )
    _refuse(_contradictions(parsed))
    return parsed


def _arm(name: str, values: Mapping[str, Any]) -> Arm:
    try:
        run_config.parse(values["config"])
    except UserError as error:
        raise UserError(f"config.arms.{name}: {error}") from error
    differing = run_config.differing_fields(values["base"], values["config"])
    return Arm(
        name=name,
        label=values["label"],
        experiment=values["experiment"],
        overrides={
            field: own
            for field, (_, own) in differing.items()
            if field not in budgets.FITTED
        },
        config=values["config"],
    )


def _contradictions(config: ComparisonConfig) -> list[str]:
    problems = []
    names = [arm.name for arm in config.arms]
    if len(set(config.seeds)) < len(config.seeds):
        problems.append(f"config.seeds = {config.seeds}: each seed once.")
    overlap = set(config.seeds) & set(config.tuning.seeds)
    if config.tuning.learning_rates and overlap:
        problems.append(
            f"config.tuning.seeds and config.seeds share {sorted(overlap)}: tuning on "
            f"the seeds that are judged favours the tuned."
        )
    if not 0 < config.tuning.budget_fraction <= 1:
        problems.append("config.tuning.budget_fraction must be in (0, 1].")
    if config.tuning.learning_rates and not config.tuning.seeds:
        problems.append("config.tuning.learning_rates need config.tuning.seeds.")
    if any(not 0 < point <= 1 for point in config.points) or 1.0 not in config.points:
        problems.append(
            f"config.points = {config.points}: shares of the budget in (0, 1], with 1."
        )
    if config.primary.reference not in names:
        problems.append(
            f"config.primary.reference = {config.primary.reference!r} is no arm."
            f"{nearest(config.primary.reference, names)} Arms: {', '.join(names)}."
        )
    for name, contrast in config.contrasts.items():
        for field, valid in (("arm", names), ("reference", [*names, FLOOR])):
            value = getattr(contrast, field)
            if value not in valid:
                problems.append(
                    f"config.contrasts.{name}.{field} = {value!r} is no arm."
                    f"{nearest(value, valid)} Valid: {', '.join(valid)}."
                )
    if not 0 < config.statistics.alpha < 1 or not 0.5 <= config.statistics.power < 1:
        problems.append(
            "config.statistics.alpha must be in (0, 1), and power in [0.5, 1)."
        )
    if config.statistics.examples not in statistics.EXAMPLES:
        problems.append(
            f"config.statistics.examples = {config.statistics.examples!r}: must be one "
            f"of {', '.join(statistics.EXAMPLES)}."
        )
    return problems


def _refuse(problems: list[str]) -> None:
    if problems:
        raise UserError("\n       ".join(problems))
