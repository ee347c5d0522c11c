"""The config of research.glue, and of GLUE in a comparison."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_collections

from research.config import kinds, strict
from research.config.parse import plain
from research.evaluation.finetuning.settings import FinetuneSettings
from research.evaluation.finetuning.task import Task
from research.evaluation.glue import protocols
from research.evaluation.glue.protocols import Protocol
from research.evaluation.glue.tasks import TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlueConfig:
    """Data, protocol, seeds and searches.

    Attributes:
      source: a folder of the official TSVs, 'tfds' or 'tfds:FOLDER'.
      protocol: a key of protocols.PROTOCOLS.
      which: checkpoint of the run, 'last' or 'best'.
      seeds, learning_rates, batch_sizes: () = the protocol's.
      floor_seeds: fine-tuning seeds of the random-initialisation floor; 0 = no floor.
      train_limit: largest number of train rows of a task, drawn once for all seeds;
        0 = the protocol's, which is all but for babylm.
      selection_share: of the train set that selects rates and epochs instead of the
        evaluation set; 0 = the evaluation set, as published.
      submission: whether to write the leaderboard's files.
      save_seconds: how often an unfinished run is saved.
      finetune: fields of FinetuneSettings, but those that are searched; None = as the
        protocol says.
    """

    source: str
    protocol: str
    which: str
    seeds: tuple[Any, ...]
    learning_rates: tuple[Any, ...]
    batch_sizes: tuple[Any, ...]
    floor_seeds: int
    train_limit: int
    selection_share: float
    submission: bool
    save_seconds: float
    finetune: dict[str, Any]

    def __post_init__(self):
        if self.train_limit < 0:
            raise ValueError(
                f"train_limit = {self.train_limit}: must be >= 0; 0 = no limit."
            )
        if not 0.0 <= self.selection_share < 1.0:
            raise ValueError(
                f"selection_share = {self.selection_share}: must be >= 0 and < 1."
            )

        for field in ("learning_rate", "batch_size"):
            if field in self.finetune:
                raise ValueError(f"finetune.{field} is searched: set {field}s instead.")
        for task in TASKS.values():
            for point in self.grid(task):
                self.settings(task, point)

    def settings(self, task: Task, point: tuple[float, int]) -> FinetuneSettings:
        """The settings of a fine-tuning at a point of the grid."""
        return protocols.settings(
            self.rules,
            task,
            self.finetune,
            learning_rate=point[0],
            batch_size=point[1],
        )

    def grid(self, task: Task) -> tuple[tuple[float, int], ...]:
        """(learning rate, batch size) pairs that are searched for a task."""
        return tuple(
            (float(rate), int(size))
            for rate in self._searched(task, "learning_rates")
            for size in self._searched(task, "batch_sizes")
        )

    def task_seeds(self, task: Task, init: str) -> tuple[int, ...]:
        """Fine-tuning seeds of a task; the floor takes the first ones."""
        seeds = tuple(int(seed) for seed in self._searched(task, "seeds"))
        return seeds if init == "pretrained" else seeds[: self.floor_seeds]

    def task_limit(self, task: Task) -> int | None:
        """Largest number of train rows of a task; None for all."""
        limits = [self.train_limit, self.rules.train_limit.get(task.name, 0)]
        return min((limit for limit in limits if limit), default=None)

    def _searched(self, task: Task, field: str) -> tuple[Any, ...]:
        given = getattr(self, field)
        return given or protocols.get(self.protocol).for_task(task, field)

    @property
    def rules(self) -> Protocol:
        """The protocol."""
        return protocols.get(self.protocol)


def parse(config: ml_collections.ConfigDict) -> GlueConfig:
    """Checks a whole config.

    Raises:
      UserError: one message with every problem.
    """
    values = plain(config)
    kinds.check(values, kinds.GLUE)
    return strict.parsed(GlueConfig, values, "config", complete=kinds.GLUE.complete)
