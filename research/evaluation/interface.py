"""What an evaluation is: from a backbone to scores and what they mean.

An evaluation takes a backbone and gives scores, one per fine-tuning seed (one in all
for a zero-shot evaluation), and per-example scores where a score is their mean.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from research.config.sections import RunConfig

if TYPE_CHECKING:
    from research.training.trained_run import Backbone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """What a number means.

    Attributes:
      label: for tables and axes.
      unit: '%' for shares (stored as 0..1), or e.g. 'nats/token'.
      higher_is_better: direction of better.
      floor: score of knowing nothing (the majority class, chance); None without.
      floor_label: what that is.
      within_architecture: only arms of one architecture may be compared on it.
    """

    label: str
    unit: str
    higher_is_better: bool
    floor: float | None
    floor_label: str
    within_architecture: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Scores of one backbone on one evaluation.

    Attributes:
      scores: metric -> one score per fine-tuning seed.
      examples: metric -> per-example scores of each fine-tuning seed, where the score
        is their mean.
      metrics: what each metric means.
      details: finer scores by name, for results.csv alone.
      notes: what a reader has to know, e.g. partial data.
      seconds: of this evaluation.
    """

    scores: dict[str, list[float]]
    examples: dict[str, list[list[float]]]
    metrics: dict[str, Metric]
    details: dict[str, float]
    notes: list[str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Result:
        """The inverse of `to_json`."""
        metrics = {name: Metric(**value) for name, value in values["metrics"].items()}
        return cls(**{**values, "metrics": metrics})


class Evaluation:
    """One way of judging a backbone; a frozen dataclass of its settings.

    Attributes:
      primary: the metric that stands for the evaluation.
      trains: whether it fine-tunes (and therefore takes seeds and time).
    """

    primary: ClassVar[str]
    trains: ClassVar[bool]

    def refusal(self, run: RunConfig) -> str:
        """Why an arm cannot be judged by it, or ''."""
        del run
        return ""

    def metric_names(self) -> tuple[str, ...]:
        """What a config may name as 'evaluation/metric'."""
        return (self.primary,)

    def check_data(self, run: RunConfig) -> None:
        """Reads what an arm is judged on, so that what is missing is known at once.

        Raises:
          UserError: if it is not there, or damaged.
        """
        del run

    def run(self, backbone: Backbone, folder: pathlib.Path) -> Result:
        """Scores a backbone; may keep progress in `folder` and continue from it."""
        raise NotImplementedError


# Of two sentences, one is right.
CHANCE = Metric(
    label="accuracy",
    unit="%",
    higher_is_better=True,
    floor=0.5,
    floor_label="chance",
    within_architecture=False,
)
