"""The files that record how a job ended.

A finished job has `done.json`, every failed attempt a `failure.N.json`. Each holds the
hash of its own content, so that a file that was edited or cut is refused.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import traceback
from typing import Any

from research.machine import files

DONE = "done.json"
# A job that failed is tried once more, in case the machine was to blame.
MAX_ATTEMPTS = 2
_HASH = "sha256"


class DamagedError(Exception):
    """A results file was edited or cut since it was written."""


def write(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes values with their hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps({**values, _HASH: digest(values)}, indent=1))


def read(path: pathlib.Path) -> dict[str, Any]:
    """The values of a file.

    Raises:
      DamagedError: if it was edited or cut, naming the file and what to do.
    """
    hint = f"Delete the folder {path.parent} and start the comparison again to redo it."
    try:
        values = files.read_json(path, **{_HASH: str})
    except files.Damaged as error:
        raise DamagedError(f"{path} was cut or edited: {error} {hint}") from error
    expected = values.pop(_HASH)
    if digest(values) != expected:
        raise DamagedError(f"{path} was edited: its hash does not match. {hint}")
    return values


def digest(values: dict[str, Any]) -> str:
    """Hash of plain values, whatever their formatting."""
    text = json.dumps(json.loads(json.dumps(values)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_done(folder: pathlib.Path) -> bool:
    """Whether the job of a folder has finished."""
    return (folder / DONE).exists()


def failures(folder: pathlib.Path) -> list[pathlib.Path]:
    """Records of failed attempts, first to last."""
    return sorted(folder.glob("failure.*.json"))


def has_failed(folder: pathlib.Path) -> bool:
    """Whether the job has used up its attempts."""
    return len(failures(folder)) >= MAX_ATTEMPTS and not is_done(folder)


def write_failure(folder: pathlib.Path, error: BaseException) -> None:
    """Records one more failed attempt."""
    attempt = len(failures(folder)) + 1
    record = {
        "attempt": attempt,
        "error": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)),
    }
    write(folder / f"failure.{attempt}.json", record)
