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

import objectives
from research import data as data_lib
from research import strict
from research.config import RunConfig
from research.errors import UserError, nearest
from research.evaluation import acceptability, blimp, likelihood, probe
from research.evaluation.finetune import finetune
from research.evaluation.finetune_loop import FinetuneSettings
from research.evaluation.glue import run as glue_run
from research.evaluation.glue import sources as glue_sources
from research.evaluation.glue import summary as glue_summary
from research.evaluation.glue import tasks as glue_tasks
from research.evaluation.glue.config import GlueConfig
from research.evaluation.glue.results import RunRow, RunStore

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
        assert labels is not None, "acceptability labels its own sentences"
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
        majority = float(np.bincount(labels).max() / len(labels))
        metric = dataclasses.replace(
            CHANCE, floor=majority, floor_label="majority class"
        )
        count = len(labels) // 2
        note = f"{count} held-out sentences and a shuffled copy of each"
        return Result(
            scores={"accuracy": scores},
            examples={"accuracy": right},
            metrics={"accuracy": metric},
            details={},
            notes=[note],
            seconds=time.monotonic() - started,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blimp(Evaluation):
    """Minimal pairs, zero-shot: the mean over paradigms, and the 12 phenomena."""

    primary: ClassVar[str] = "accuracy"
    trains: ClassVar[bool] = False

    source: str
    pairs_per_paradigm: int

    def refusal(self, run: RunConfig) -> str:
        return likelihood.refusal(run)

    def run(self, backbone: Backbone, folder: pathlib.Path) -> Result:
        started = time.monotonic()
        paradigms = blimp.load(self.source, self.pairs_per_paradigm)
        found = blimp.evaluate(backbone, paradigms)
        values = {"accuracy": found.accuracy, **found.phenomena}
        return Result(
            scores={name: [value] for name, value in values.items()},
            examples={"accuracy": [found.right.tolist()]},
            metrics={
                name: dataclasses.replace(CHANCE, label=name.replace("_", " "))
                for name in values
            },
            details=found.paradigms,
            notes=list(found.notes),
            seconds=time.monotonic() - started,
        )


# Of two sentences, one is right.
CHANCE = Metric(
    label="accuracy",
    unit="%",
    higher_is_better=True,
    floor=0.5,
    floor_label="chance",
    within_architecture=False,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(Evaluation):
    """The same question on the same corruption for all arms of an architecture.

    Attributes:
      objectives: architecture -> objective section, as of a run.
      num_batches, batch_size: of held-out rows.
    """

    primary: ClassVar[str] = "loss"
    trains: ClassVar[bool] = False

    objectives: dict[str, Any]
    num_batches: int
    batch_size: int

    def run(self, backbone: Backbone, folder: pathlib.Path) -> Result:
        started = time.monotonic()
        architecture = backbone.model_config.architecture
        section = dict(self.objectives[architecture])
        objective = objectives.create(
            section.pop("name"),
            section,
            vocabulary=backbone.vocabulary,
            row_length=backbone.config.data.row_length,
            architecture=architecture,
        )
        found = probe.evaluate(
            backbone,
            objective,
            num_batches=self.num_batches,
            batch_size=self.batch_size,
        )
        count = f"{self.num_batches} x {self.batch_size} held-out rows"
        return Result(
            scores={
                "loss": [found.loss],
                "accuracy": [found.accuracy],
                "bits_per_byte": [found.bits_per_byte],
            },
            examples={},
            metrics=PROBE_METRICS,
            details={},
            notes=[f"{PROBE_NOTES[architecture]}, {count}"],
            seconds=time.monotonic() - started,
        )


def _probe_metric(label: str, unit: str, higher_is_better: bool) -> Metric:
    return Metric(
        label=label,
        unit=unit,
        higher_is_better=higher_is_better,
        floor=None,
        floor_label="",
        within_architecture=True,
    )


PROBE_METRICS = {
    "loss": _probe_metric("loss", "nats/target", False),
    "accuracy": _probe_metric("accuracy", "%", True),
    "bits_per_byte": _probe_metric("bits per byte", "bits/byte", False),
}
PROBE_NOTES = {
    "encoder": "encoders: masked tokens",
    "decoder": "decoders: the next token",
    "encoder_decoder": "encoder-decoders: corrupted spans",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Glue(Evaluation):
    """GLUE, or any part of it, by any protocol; selected on a share cut from train.

    Attributes:
      tasks: names of tasks.
      glue: as of research.glue; no floor of its own, no submission.
    """

    primary: ClassVar[str] = "average"
    trains: ClassVar[bool] = True

    tasks: tuple[str, ...]
    glue: GlueConfig

    def refusal(self, run: RunConfig) -> str:
        if not self.glue.selection_share:
            return (
                "glue.selection_share = 0 selects on the dev set, which arms are "
                "compared on; set it to a share of train, such as 0.1."
            )
        if self.glue.floor_seeds or self.glue.submission:
            return (
                "a comparison has floors of its own and submits nothing; set "
                "glue.floor_seeds = 0 and glue.submission = False."
            )
        return ""

    def run(self, backbone: Backbone, folder: pathlib.Path) -> Result:
        started = time.monotonic()
        source = glue_sources.load(self.glue.source, glue_tasks.resolve(self.tasks))
        evaluation = glue_run.Evaluation(
            config=self.glue,
            source=source,
            checkpoint=str(backbone.workdir),
            backbone=backbone,
            store=RunStore(folder, RunRow),
            say=lambda line: None,
        )
        rows = evaluation.run()
        scores: dict[str, list[float]] = {}
        metrics: dict[str, Metric] = {}
        for task in evaluation.tasks:
            name = task.task.name
            metric = self.glue.rules.metric(task.task)
            summary = glue_summary.summarise(task.task, rows[name, glue_run.PRETRAINED])
            scores[name] = summary.task_values(metric)
            majority = glue_summary.majority_scores(task)
            metrics[name] = Metric(
                label=f"{task.task.title} {metric.replace('_', ' ')}",
                unit="%",
                higher_is_better=True,
                floor=float(np.mean([split[metric] for split in majority.values()])),
                floor_label="majority class",
                within_architecture=False,
            )
        scores, metrics = _with_average(scores, metrics)
        notes = [f"protocol {self.glue.protocol}, source {source.name}"]
        notes += [source.caveat] if source.caveat else []
        notes += source.missing.values()
        return Result(
            scores=scores,
            examples={},
            metrics=metrics,
            details={},
            notes=notes,
            seconds=time.monotonic() - started,
        )


def _with_average(
    scores: dict[str, list[float]], metrics: dict[str, Metric]
) -> tuple[dict[str, list[float]], dict[str, Metric]]:
    """The mean over tasks first; per fine-tuning seed where all tasks have the same."""
    columns = list(scores.values())
    if len({len(column) for column in columns}) == 1:
        average = [float(np.mean(values)) for values in zip(*columns, strict=True)]
    else:
        average = [float(np.mean([np.mean(column) for column in columns]))]
    floors = [metric.floor for metric in metrics.values()]
    meaning = dataclasses.replace(
        next(iter(metrics.values())),
        label=f"average of {len(scores)}",
        floor=float(np.mean([floor for floor in floors if floor is not None])),
    )
    return {"average": average, **scores}, {"average": meaning, **metrics}


def heldout_documents(data: data_lib.Data) -> list[str]:
    """Text of the held-out documents."""
    return [
        data.tokenizer.decode(data.heldout.document(number).tolist(), skip_special=True)
        for number in range(data.heldout.num_documents)
    ]


EVALUATIONS: dict[str, type[Evaluation]] = {
    "acceptability": Acceptability,
    "blimp": Blimp,
    "glue": Glue,
    "probe": Probe,
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
