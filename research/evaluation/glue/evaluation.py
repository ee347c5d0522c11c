"""GLUE as an evaluation of a comparison."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from typing import ClassVar

import numpy as np

from research.config.sections import RunConfig
from research.evaluation.finetuning.fits import PRETRAINED
from research.evaluation.glue import sources
from research.evaluation.glue import summary as summary_lib
from research.evaluation.glue.config import GlueConfig
from research.evaluation.glue.run import GlueFits, GlueRow
from research.evaluation.glue.tasks import resolve
from research.evaluation.interface import (
    Evaluation,
    Metric,
    Result,
    Say,
    failure_notes,
    silent,
)
from research.machine.run_store import RunStore
from research.training.trained_run import TrainedRun


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
        trained = [task for task in resolve(self.tasks) if task.train]
        return (self.primary, *(task.name for task in trained))

    def check_data(self, run: RunConfig) -> None:
        del run
        _glue_source(self.glue.source, self.tasks)

    def run(
        self, trained: TrainedRun, folder: pathlib.Path, say: Say = silent
    ) -> Result:
        started = time.monotonic()
        source = _glue_source(self.glue.source, self.tasks)
        fits = GlueFits(
            config=self.glue,
            source=source,
            checkpoint=str(trained.workdir),
            trained=trained,
            store=RunStore(folder, GlueRow),
            say=say,
        )
        rows = fits.run()
        scores: dict[str, list[float]] = {}
        metrics: dict[str, Metric] = {}
        failures: list[str] = []
        for data in fits.tasks:
            task = data.task
            metric = self.glue.rules.metric(task)
            summary = summary_lib.summarise(task, rows[task.name, PRETRAINED])
            scores[task.name] = summary.task_values(metric)
            failed = [row.failed for row in summary.rows]
            failures += [f"{task.title}: {x}" for x in failure_notes(failed)]
            majority = summary_lib.majority_scores(data)
            metrics[task.name] = Metric(
                label=f"{task.title} {metric.replace('_', ' ')}",
                unit="%",
                higher_is_better=True,
                floor=float(np.mean([split[metric] for split in majority.values()])),
                floor_label="majority class",
                within_architecture=False,
            )
        scores, metrics = _with_average(scores, metrics)
        notes = [f"protocol {self.glue.protocol}, source {source.name}"]
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
def _glue_source(source: str, tasks: tuple[str, ...]) -> sources.Source:
    """Read once for all runs."""
    return sources.load(source, resolve(tasks))


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
