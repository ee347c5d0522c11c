"""Turns the config of a comparison into checked, frozen dataclasses."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from typing import Any

from research.comparison import arms as arms_lib
from research.comparison import statistics
from research.comparison.arms import Arm
from research.comparison.budgets import Budget
from research.config import kinds, strict
from research.config import parse as run_config
from research.errors import UserError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """The learning rates that every arm tries, on seeds that no run uses."""

    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    budget_fraction: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Primary:
    """The metric that is tested, and the arm that the others are compared with."""

    metric: str
    reference: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """Level of intervals, power of detectable differences, fixed or sampled examples."""

    alpha: float
    power: float
    examples: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    """A published difference that is measured again.

    Attributes:
      arm, reference: names of arms; reference FLOOR is the arm's random initialisation.
      metric: 'evaluation/metric' that is measured here.
      published: the published difference, in points of `published_metric`.
      source: where it was published.
    """

    arm: str
    reference: str
    metric: str
    published: float
    published_metric: str
    source: str


_NAME = re.compile(r"(?!\.)[A-Za-z0-9_.-]+")
# The reference of a contrast between pretraining and none.
FLOOR = "random_init"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """A whole comparison, checked.

    Attributes:
      varies: fields or sections in which arms may differ.
      points: shares of the budget at which arms are evaluated, ascending.
      evaluations: name -> settings as plain values, for `table.create`.
      contrasts: by name.
      floor: whether random initialisation is evaluated too.
      raw: the config as plain values, as it is saved.
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


_SECTIONS = {
    "budget": Budget,
    "tuning": Tuning,
    "primary": Primary,
    "statistics": Statistics,
}
_VALUES = ("name", "title", "varies", "seeds", "points", "floor")
_FIELDS = (*_VALUES, *_SECTIONS, "shared", "arms", "evaluations", "contrasts")


def parse(config: Any) -> ComparisonConfig:
    """Checks a comparison's config whole and turns it into dataclasses.

    Raises:
      UserError: for unknown or missing fields, arms that are no valid runs, differ in
        what they claim to share or do not exist, and settings that contradict.
    """
    raw = run_config.plain(config)
    kinds.check(raw, kinds.COMPARISON)
    problems = [
        f"config.{section}: the name {name!r} must be of letters, digits, '_', '-' and "
        f"'.', and not begin with '.': it is the name of a folder."
        for section in ("arms", "evaluations", "contrasts")
        for name in raw.get(section, {})
        if not _NAME.fullmatch(name)
    ]
    complete = kinds.COMPARISON.complete
    strict.check_names(raw, _FIELDS, "config", problems, complete=complete)
    # Any: each has the type that ComparisonConfig's field of its name has.
    sections: dict[str, Any] = {
        name: strict.build(
            cls, raw[name], f"config.{name}", problems, complete=complete
        )
        for name, cls in _SECTIONS.items()
        if name in raw
    }
    hints = typing.get_type_hints(ComparisonConfig)
    given: dict[str, Any] = {
        name: strict.check_type(hints[name], raw[name], f"config.{name}", problems)
        for name in _VALUES
        if name in raw
    }
    contrasts: dict[str, Any] = {
        name: strict.build(
            Contrast,
            values,
            f"config.contrasts.{name}",
            problems,
            complete="contrast() of experiments/comparison_base.py",
        )
        for name, values in raw.get("contrasts", {}).items()
    }
    _refuse(problems)
    arms = [_arm(name, values) for name, values in raw["arms"].items()]
    arms_lib.check(arms, given["varies"])
    for name in ("seeds", "points"):
        given[name] = tuple(sorted(given[name]))
    parsed = ComparisonConfig(
        arms=tuple(arms),
        evaluations=raw["evaluations"],
        contrasts=contrasts,
        raw=raw,
        **given,
        **sections,
    )
    _refuse(_contradictions(parsed))
    return parsed


def _arm(name: str, values: Mapping[str, Any]) -> Arm:
    try:
        run_config.parse(values["config"])
    except UserError as error:
        raise UserError(f"config.arms.{name}: {error}") from error
    return Arm(
        name=name,
        label=values["label"],
        experiment=values["experiment"],
        config=values["config"],
    )


def _contradictions(config: ComparisonConfig) -> list[str]:
    problems = []
    names = [arm.name for arm in config.arms]
    if not config.seeds or min(config.seeds) < 0:
        problems.append(
            f"config.seeds = {config.seeds}: give at least one pretraining seed, such as "
            f"(0, 1, 2), and none below 0."
        )
    if len(set(config.seeds)) < len(config.seeds):
        problems.append(f"config.seeds = {config.seeds}: each seed once.")
    overlap = set(config.seeds) & set(config.tuning.seeds)
    if config.tuning.learning_rates and overlap:
        problems.append(
            f"config.tuning.seeds and config.seeds share {sorted(overlap)}: tuning on "
            f"the seeds that are compared favours the tuned arms."
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
