"""Evaluations by fine-tuning: acceptability, GLUE, SQuAD."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from research import data as data_lib
from research.config.sections import DataConfig, RunConfig
from research.errors import user_errors
from research.evaluation import acceptability
from research.evaluation.finetuning.data import TaskData
from research.evaluation.finetuning.finetune import finetune
from research.evaluation.finetuning.loop import FinetuneSettings
from research.evaluation.glue import run as glue_run
from research.evaluation.glue import sources as glue_sources
from research.evaluation.glue import summary as glue_summary
from research.evaluation.glue import tasks as glue_tasks
from research.evaluation.glue.config import GlueConfig
from research.evaluation.glue.results import RunRow, RunStore
from research.evaluation.interface import CHANCE, Evaluation, Metric, Result
from research.evaluation.squad import data as squad_data
from research.evaluation.squad import run as squad_run
from research.evaluation.squad import scoring
from research.evaluation.squad.run import SquadConfig, SquadEvaluation, SquadRow

if TYPE_CHECKING:
    from research.training.trained_run import Backbone


def failure_notes(failed: Sequence[str]) -> list[str]:
    """How many fine-tuning runs of a backbone failed, and why; nothing if none did.

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Acceptability(Evaluation):
    """Held-out sentences against shuffled copies, by fine-tuning."""

    primary: ClassVar[str] = "accuracy"
    trains: ClassVar[bool] = True

    sampling: acceptability.Sampling
    finetune: FinetuneSettings
    seeds: tuple[int, ...]

    def refusal(self, run: RunConfig) -> str:
        del run
        chosen = self.finetune
        if chosen.selection != "last" or chosen.patience:
            return (
                f"finetune.selection = {chosen.selection!r} with finetune.patience = "
                f"{chosen.patience} selects on the dev set, which arms are compared on; "
                "set selection = 'last' and patience = 0."
            )
        return ""

    def check_data(self, run: RunConfig) -> None:
        _sentences(run.data, self.sampling)

    def run(self, backbone: Backbone, folder: pathlib.Path) -> Result:
        started = time.monotonic()
        task = _sentences(backbone.config.data, self.sampling)
        labels = task.splits["dev"].labels
        assert labels is not None, "acceptability labels its own sentences"
        scores, right, failed = [], [], []
        for seed in self.seeds:
            result = finetune(
                backbone,
                task,
                self.finetune,
                seed=seed,
                progress_file=folder / f"finetune-{seed}.msgpack",
            )
            scores.append(result.scores["dev"]["accuracy"])
            failed.append(result.failed)
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
            notes=[note, *failure_notes(failed)],
            seconds=time.monotonic() - started,
        )


@functools.lru_cache(maxsize=4)
def _sentences(config: DataConfig, sampling: acceptability.Sampling) -> TaskData:
    """Made once for all backbones: held-out text takes seconds to decode."""
    with user_errors():
        data = data_lib.load(config)
    return acceptability.make(heldout_documents(data), sampling)


def heldout_documents(data: data_lib.Data) -> list[str]:
    """Text of the held-out documents."""
    return [
        data.tokenizer.decode(data.heldout.document(number).tolist(), skip_special=True)
        for number in range(data.heldout.num_documents)
    ]


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

    def metric_names(self) -> tuple[str, ...]:
        # A task without a train set, the diagnostic, is answered but never scored.
        trained = [task for task in glue_tasks.resolve(self.tasks) if task.train]
        return (self.primary, *(task.name for task in trained))

    def check_data(self, run: RunConfig) -> None:
        del run
        _glue_source(self.glue.source, self.tasks)

    def run(self, backbone: Backbone, folder: pathlib.Path) -> Result:
        started = time.monotonic()
        source = _glue_source(self.glue.source, self.tasks)
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
        failures: list[str] = []
        for task in evaluation.tasks:
            name = task.task.name
            metric = self.glue.rules.metric(task.task)
            summary = glue_summary.summarise(task.task, rows[name, glue_run.PRETRAINED])
            scores[name] = summary.task_values(metric)
            failed = [row.failed for row in summary.rows]
            failures += [f"{task.task.title}: {x}" for x in failure_notes(failed)]
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
        notes += [*source.missing.values(), *failures]
        return Result(
            scores=scores,
            examples={},
            metrics=metrics,
            details={},
            notes=notes,
            seconds=time.monotonic() - started,
        )


@functools.lru_cache(maxsize=2)
def _glue_source(source: str, tasks: tuple[str, ...]) -> glue_sources.Source:
    """Read once for all backbones."""
    return glue_sources.load(source, glue_tasks.resolve(tasks))


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


_SQUAD_METRICS = ("f1", "exact_match")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Squad(Evaluation):
    """Questions about passages: the span that answers them.

    Attributes:
      squad: as of research.squad; no floor of its own.
    """

    primary: ClassVar[str] = "f1"
    trains: ClassVar[bool] = True

    squad: SquadConfig

    def refusal(self, run: RunConfig) -> str:
        del run
        if self.squad.floor_seeds:
            return "a comparison has floors of its own; set squad.floor_seeds = 0."
        chosen = self.squad.finetune
        if chosen.selection != "last" or chosen.patience:
            return (
                "SQuAD runs keep their last step; set squad.finetune.selection = 'last' "
                "and squad.finetune.patience = 0."
            )
        return ""

    def metric_names(self) -> tuple[str, ...]:
        return _SQUAD_METRICS

    def check_data(self, run: RunConfig) -> None:
        del run
        self._questions()

    def _questions(self):
        with tempfile.TemporaryDirectory() as scratch:
            return squad_run.load_questions(self.squad, pathlib.Path(scratch))

    def run(self, backbone: Backbone, folder: pathlib.Path) -> Result:
        started = time.monotonic()
        train, dev, caveat = self._questions()
        evaluation = SquadEvaluation(
            config=self.squad,
            caveat=caveat,
            checkpoint=str(backbone.workdir),
            backbone=backbone,
            train=train,
            dev=dev,
            store=RunStore(folder, SquadRow),
            say=lambda line: None,
        )
        rows = evaluation.run()[glue_run.PRETRAINED]
        golds = squad_data.golds_of(dev)
        silence = scoring.score(dict.fromkeys(golds, ""), golds)
        names = _SQUAD_METRICS
        notes = [f"{len(train):,} train questions, {len(dev):,} dev questions"]
        notes += failure_notes([row.failed for row in rows])
        return Result(
            scores={name: [row.scores[name] for row in rows] for name in names},
            examples={},
            metrics={
                name: dataclasses.replace(
                    CHANCE,
                    label=squad_run.TITLES[name],
                    floor=silence[name],
                    floor_label="answering nothing",
                )
                for name in names
            },
            details={},
            notes=[*notes, *([caveat] if caveat else [])],
            seconds=time.monotonic() - started,
        )
