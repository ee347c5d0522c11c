"""One line of results.jsonl: a finished fine-tuning run on a GLUE task."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRow:
    """One fine-tuning run, with everything that its number depends on.

    Attributes:
      key: changes with anything that would change the result.
      task, init, seed, learning_rate, batch_size: which run; init is 'pretrained' or
        'random'.
      metric: the protocol's metric of the task.
      scores: every metric on every labelled evaluation split, in [-1, 1].
      protocol, selection: name, and what was selected on which split.
      selection_split, selection_score: split that selects, and its score there.
      best_epoch, num_epochs, num_steps, losses: of the training.
      mnli_init: whether the backbone had learned MNLI before.
      train_rows: rows that were trained on.
      truncated: rows of each split that were longer than the model reads.
      failed: why the run counts as failed, or ''.
      source, checkpoint, checkpoint_step, objective, architecture, commit: of what.
      config: every field of GlueConfig.
      settings: every field of FinetuneSettings.
      seconds, rows_per_second: of training.
    """

    key: str
    task: str
    init: str
    seed: int
    learning_rate: float
    batch_size: int
    metric: str
    scores: dict[str, dict[str, float]]
    protocol: str
    selection: str
    selection_split: str
    selection_score: float
    best_epoch: int
    num_epochs: int
    num_steps: int
    losses: tuple[float, ...]
    mnli_init: bool
    train_rows: int
    truncated: dict[str, int]
    failed: str
    source: str
    checkpoint: str
    checkpoint_step: int
    objective: str
    architecture: str
    commit: str
    config: dict[str, Any]
    settings: dict[str, Any]
    seconds: float
    rows_per_second: float

    @property
    def grid_point(self) -> tuple[float, int]:
        """(learning rate, batch size)."""
        return self.learning_rate, self.batch_size
