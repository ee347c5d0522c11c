"""Scores of a task over seeds, of its majority class, and the average over tasks."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from research.evaluation.finetuning import metrics
from research.evaluation.finetuning.data import TaskData
from research.evaluation.finetuning.task import Task
from research.evaluation.glue.protocols import Protocol
from research.evaluation.glue.run import GlueRow

STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Seeds of the chosen rate and batch size, of one task and one initialisation.

    Attributes:
      task: its row of the table.
      rows: one a seed.
    """

    task: Task
    rows: tuple[GlueRow, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """Labelled evaluation splits that were scored."""
        return tuple(name for name in self.task.dev if name in self.rows[0].scores)

    def values(self, split: str, metric: str) -> list[float]:
        """The score of each seed."""
        return [row.scores[split][metric] for row in self.rows]

    def task_values(self, metric: str) -> list[float]:
        """The score of each seed, the mean over the evaluation splits."""
        columns = [self.values(split, metric) for split in self.splits]
        return [statistics.fmean(scores) for scores in zip(*columns, strict=True)]

    @property
    def num_failed(self) -> int:
        """Fine-tunings that diverged or answer every row alike."""
        return sum(bool(row.failed) for row in self.rows)

    @property
    def best(self) -> GlueRow:
        """The row with the best selection score."""
        return max(self.rows, key=lambda row: row.selection_score)


def summarise(task: Task, rows: Sequence[GlueRow]) -> Summary:
    """The seeds of the grid point whose first seed did best on the selection split."""
    first = rows[0].seed
    searched = [row for row in rows if row.seed == first]
    chosen = max(searched, key=lambda row: row.selection_score).grid_point
    kept = tuple(row for row in rows if row.grid_point == chosen)
    return Summary(task=task, rows=kept)


def majority_scores(data: TaskData) -> dict[str, dict[str, float]]:
    """Scores of the most frequent train class, or of the mean score, everywhere."""
    value = metrics.majority(data.splits["train"].known_labels)
    scores = {}
    for name in data.dev_splits:
        labels = data.splits[name].known_labels
        predictions = np.full(labels.shape, value, labels.dtype)
        scores[name] = metrics.score(data.task.metrics, labels, predictions)
    return scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Average:
    """A mean over tasks, and what is in it.

    Attributes:
      members: tasks, in the table's order.
      value: mean over tasks of each task's statistic over seeds.
      deviation: of the seeds' own averages; None unless all tasks have the same seeds.
    """

    members: tuple[str, ...]
    value: float
    deviation: float | None


def average(protocol: Protocol, summaries: Sequence[Summary]) -> Average | None:
    """The protocol's average over the tasks at hand; None if none of them is in it."""
    inside = [s for s in summaries if s.task.name in protocol.average]
    if not inside:
        return None
    statistic = STATISTICS[protocol.statistic]
    columns = [s.task_values(protocol.metric(s.task)) for s in inside]
    deviation = None
    seeds = {tuple(row.seed for row in s.rows) for s in inside}
    if len(seeds) == 1 and len(columns[0]) > 1:
        by_seed = [statistics.fmean(scores) for scores in zip(*columns, strict=True)]
        deviation = statistics.stdev(by_seed)
    return Average(
        members=tuple(s.task.name for s in inside),
        value=statistics.fmean(statistic(scores) for scores in columns),
        deviation=deviation,
    )
