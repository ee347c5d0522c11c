"""Finished runs on disk: one JSON object a run, and its predictions."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from research.machine import files

RESULTS_FILE = "results.jsonl"
PREDICTIONS_FOLDER = "predictions"


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


class Row(Protocol):
    """A dataclass of plain values with a key."""

    @property
    def key(self) -> str:
        """Changes with anything that would change the result."""


AnyRow = TypeVar("AnyRow", bound=Row)


class RunStore(Generic[AnyRow]):
    """The runs of a workdir; a run is there whole or not at all.

    Args:
      workdir: where results.jsonl and predictions/ are.
      row_class: dataclass of its rows.
    """

    def __init__(self, workdir: pathlib.Path, row_class: type[AnyRow]):
        self.workdir = workdir
        self.path = workdir / RESULTS_FILE
        self.row_class = row_class
        self._rows = {row.key: row for row in self._read()}

    def _read(self) -> list[AnyRow]:
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(self.row_class(**json.loads(line)))
            except (json.JSONDecodeError, TypeError):
                # A line that a kill cut off, or a row of an older format: run again.
                continue
        return rows

    def get(self, key: str) -> AnyRow | None:
        """The finished run with this key."""
        return self._rows.get(key)

    def add(self, row: AnyRow, predictions: dict[str, np.ndarray]) -> None:
        """Keeps a finished run, predictions first: a row promises them."""
        path = self._predictions_path(row.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as temporary:
            np.savez(temporary, **dict[str, Any](predictions))
        text = json.dumps(dataclasses.asdict(row))  # type: ignore[call-overload]
        with self.path.open("ab+") as file:
            # After a line that was cut off, begin a new one.
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._rows[row.key] = row

    def predictions(self, key: str) -> dict[str, np.ndarray]:
        """Predictions of every split of a finished run."""
        with np.load(self._predictions_path(key)) as arrays:
            return dict(arrays)

    def _predictions_path(self, key: str) -> pathlib.Path:
        return self.workdir / PREDICTIONS_FOLDER / f"{key}.npz"
