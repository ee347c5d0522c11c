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


class Row(Protocol):
    """A dataclass of plain values with a key."""

    @property
    def key(self) -> str:
        """Changes with anything that would change the result."""


AnyRow = TypeVar("AnyRow", bound=Row)


class RunStore(Generic[AnyRow]):
    """The finished runs of a workdir; an unfinished one leaves no row.

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
                # Cut off by a kill, or written by an older version: run again.
                continue
        return rows

    def get(self, key: str) -> AnyRow | None:
        """The finished run with this key."""
        return self._rows.get(key)

    def add(self, row: AnyRow, predictions: dict[str, np.ndarray]) -> None:
        """Writes the predictions of a finished run, then its row."""
        path = self._predictions_path(row.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as temporary:
            np.savez(temporary, **dict[str, Any](predictions))
        text = json.dumps(dataclasses.asdict(row))  # type: ignore[call-overload]
        with self.path.open("ab+") as file:
            # A line that a kill cut off has no end: begin a new one.
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
