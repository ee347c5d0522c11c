"""The interface of evaluations: each takes a pretrained run and returns its scores.

A score per fine-tuning seed (one in all for a zero-shot evaluation), and per-example
scores where a score is their mean.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from research.config.sections import RunConfig
from research.training.trained_run import TrainedRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """Label, unit, direction and chance level of a score.

    Attributes:
      label: for tables and axes.
      unit: '%' for shares (stored as 0..1), or e.g. 'nats/token'.
      higher_is_better: whether a larger score is the better one.
      floor: score of the majority class, or of guessing; None if there is none.
      floor_label: what the floor is, in words.
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
    """Scores of one pretrained run on one evaluation.

    Attributes:
      scores: metric -> one score per fine-tuning seed.
      examples: metric -> per-example scores of each fine-tuning seed, where the score
        is their mean.
      metrics: of each score: label, unit, direction and chance level.
      details: finer scores by name, for results.csv alone.
      notes: what a reader has to know, e.g. partial data.
      seconds: that the evaluation took.
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


Say = Callable[[str], None]


def silent(line: str) -> None:
    """Says nothing."""
    del line


class Evaluation:
    """One way of judging a pretrained run; a frozen dataclass of its settings.

    Attributes:
      primary: the metric that a report shows first.
      trains: whether it fine-tunes (and therefore takes seeds and time).
    """

    primary: ClassVar[str]
    trains: ClassVar[bool]

    def refusal(self, run: RunConfig) -> str:
        """Why this evaluation cannot be used on a run with this config, or ''."""
        del run
        return ""

    def metric_names(self) -> tuple[str, ...]:
        """Metrics that a config may name, as 'evaluation/metric'."""
        return (self.primary,)

    def check_data(self, run: RunConfig) -> None:
        """Reads the data once, so that missing files are found before any training.

        Raises:
          UserError: if the data is absent or damaged.
        """
        del run

    def run(
        self, trained: TrainedRun, folder: pathlib.Path, say: Say = silent
    ) -> Result:
        """Scores a run; may save progress in `folder` and continue from it.

        `say` is told how far it is.
        """
        raise NotImplementedError


# Accuracy where one of two sentences is right.
CHANCE = Metric(
    label="accuracy",
    unit="%",
    higher_is_better=True,
    floor=0.5,
    floor_label="chance",
    within_architecture=False,
)


def failure_notes(failed: Sequence[str]) -> list[str]:
    """One note with how many fine-tuning runs failed, and why; none if none did.

    Args:
      failed: why each run counts as failed, or ''.
    """
    reasons = collections.Counter(reason for reason in failed if reason)
    if not reasons:
        return []
    # They stay in the mean: leaving out the runs that fail would favour unstable arms.
    why = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    count = f"{reasons.total()} of {len(failed)} fine-tuning runs"
    return [f"{count} failed and stay in the mean ({why})"]
