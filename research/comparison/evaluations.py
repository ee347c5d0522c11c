"""What arms are judged by: a table of evaluations with one interface.

An evaluation takes a backbone and gives scores, one per fine-tuning seed (one in all
for a zero-shot evaluation), and per-example scores where a score is their mean.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from research import data as data_lib
from research import strict
from research.config import RunConfig
from research.errors import UserError, nearest
from research.evaluation import acceptability
from research.evaluation.finetune import finetune
from research.evaluation.finetune_loop import FinetuneSettings

if TYPE_CHECKING:
    from research.training.backbone import Backbone


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
      notes: what a reader has to know, e.g. partial data.
      seconds: of this evaluation.
    """

    scores: dict[str, list[float]]
    examples: dict[str, list[list[float]]]
    metrics: dict[str, Metric]
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

    def run(self, backbone: Backbone, folder: pathlib.Path) -> Result:
        """Scores a backbone; may keep progress in `folder` and continue from it."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Acceptability(Evaluation):
    """Held-out sentences against shuffled copies, by fine-tuning."""

    primary: ClassVar[str] = "accuracy"
    trains: ClassVar[bool] = True

    sampling: acceptability.Sampling
    finetune: FinetuneSettings
    seeds: tuple[int, ...]

    def run(self, backbone: Backbone, folder: pathlib.Path) -> Result:
        started = time.monotonic()
        data = data_lib.load(backbone.config.data)
        task = acceptability.make(heldout_documents(data), self.sampling)
        labels = task.splits["dev"].labels
        scores, right = [], []
        for seed in self.seeds:
            result = finetune(
                backbone,
                task,
                self.finetune,
                seed=seed,
                progress_file=folder / f"finetune-{seed}.msgpack",
            )
            scores.append(result.scores["dev"]["accuracy"])
            right.append((result.predictions["dev"] == labels).astype(int).tolist())
        metric = Metric(
            label="accuracy",
            unit="%",
            higher_is_better=True,
            floor=float(np.bincount(labels).max() / len(labels)),
            floor_label="majority class",
            within_architecture=False,
        )
        count = len(labels) // 2
        note = f"{count} held-out sentences and a shuffled copy of each"
        return Result(
            scores={"accuracy": scores},
            examples={"accuracy": right},
            metrics={"accuracy": metric},
            notes=[note],
            seconds=time.monotonic() - started,
        )


def heldout_documents(data: data_lib.Data) -> list[str]:
    """Text of the held-out documents."""
    return [
        data.tokenizer.decode(data.heldout.document(number), skip_special=True)
        for number in range(data.heldout.num_documents)
    ]


EVALUATIONS: dict[str, type[Evaluation]] = {
    "acceptability": Acceptability,
}


def create(name: str, settings: Mapping[str, Any]) -> Evaluation:
    """The evaluation that a section of the config describes.

    Args:
      name: of the section, for messages.
      settings: `kind`, a key of EVALUATIONS, and that evaluation's fields.

    Raises:
      UserError: for an unknown kind or field.
    """
    values = dict(settings)
    kind = values.pop("kind", None)
    if kind not in EVALUATIONS:
        raise UserError(
            f"config.evaluations.{name}.kind = {kind!r}: there is no such evaluation."
            f"{nearest(str(kind), EVALUATIONS)} Valid: {', '.join(EVALUATIONS)}."
        )
    problems: list[str] = []
    path = f"config.evaluations.{name}"
    evaluation = strict.build(EVALUATIONS[kind], values, path, problems)
    if evaluation is None:
        raise UserError("\n".join(problems))
    return evaluation
