"""Finished runs on disk: one JSON object a run, and its predictions."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from research.machine import checksums, files

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
        names = {field.name for field in dataclasses.fields(self.row_class)}  # type: ignore[arg-type]
        checksums.check(self.workdir, RESULTS_FILE)
        lines = files.read_json_lines(self.path, appended=True)
        # A row of an older version has other fields: that run is done again.
        return [self.row_class(**line) for line in lines if line.keys() == names]

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
        files.append_line(self.path, text)
        checksums.record(self.workdir, RESULTS_FILE)
        self._rows[row.key] = row

    def predictions(self, key: str) -> dict[str, np.ndarray]:
        """Predictions of every split of a finished run."""
        return files.read_arrays(self._predictions_path(key))

    def _predictions_path(self, key: str) -> pathlib.Path:
        return self.workdir / PREDICTIONS_FOLDER / f"{key}.npz"
