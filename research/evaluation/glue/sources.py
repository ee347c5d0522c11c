"""Reads GLUE's tasks from the official TSV files or from TFDS."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from research.data import tfds
from research.errors import UserError
from research.evaluation.finetuning.data import Split, TaskData
from research.evaluation.finetuning.task import Task
from research.evaluation.glue import tsv
from research.evaluation.glue.tasks import DIAGNOSTIC, TASKS


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """The tasks that were found in a source.

    Attributes:
      name: as shown in tables.
      tasks: data of every task that it has, by name.
      missing: why each other task that was asked for is absent, by name.
    """

    name: str
    tasks: dict[str, TaskData]
    missing: dict[str, str]


def load(source: str, tasks: Iterable[Task]) -> Source:
    """Reads `tasks` from a source.

    Args:
      source: 'tfds' or 'tfds:FOLDER' (its data_dir); or a folder that holds the
        official downloads, one subfolder a task.
      tasks: rows of the table.

    Raises:
      UserError: the source is unknown or holds none of the tasks, a file is broken
        (file, line and what was expected), or TFDS has to download and cannot.
    """
    tasks = tuple(tasks)
    if source == "tfds" or source.startswith("tfds:"):
        data_dir = source.partition(":")[2] or None
        loaded = {task.name: _from_tfds(task, data_dir) for task in tasks}
        return Source(source, loaded, {})
    folder = pathlib.Path(source).expanduser()
    if not source or not folder.is_dir():
        raise UserError(
            f"source = {source!r}: no such folder. Give a folder with the official "
            f"GLUE downloads (one subfolder a task), 'tfds', or 'tfds:FOLDER'."
        )
    loaded, missing = {}, {}
    for task in tasks:
        data = read_folder(folder / task.title, task)
        if data.splits:
            loaded[task.name] = data
        else:
            missing[task.name] = f"{task.title}: no files in {folder / task.title}"
    if not loaded:
        raise UserError(
            f"{folder}: none of the tasks is there; expected a subfolder with the "
            f"official files for each of {', '.join(task.title for task in tasks)}."
        )
    return Source(str(folder), loaded, missing)


def skipped(source: Source) -> list[str]:
    """Says of each task that was asked for and cannot run why it cannot."""
    reasons = list(source.missing.values())
    for name, data in source.tasks.items():
        if name != DIAGNOSTIC.name and data.untrainable:
            reasons.append(data.untrainable)
    if DIAGNOSTIC.name in source.tasks and "mnli" not in source.tasks:
        reasons.append("diagnostic: its rows are answered by MNLI's model; add mnli")
    return reasons


def check_trainable(source: Source) -> None:
    """Refuses a source with which nothing can be trained.

    Raises:
      UserError: if no task but the diagnostic has a labelled train set.
    """
    tasks_at_hand = [d for n, d in source.tasks.items() if n != DIAGNOSTIC.name]
    if all(data.untrainable for data in tasks_at_hand):
        raise UserError(
            f"nothing of {source.name} can be trained, for the reasons above. --tasks "
            f"takes {', '.join(TASKS)}, and {DIAGNOSTIC.name} beside mnli."
        )


def read_folder(folder: pathlib.Path, task: Task) -> TaskData:
    """Reads the official files of one task; absent ones become notes.

    Raises:
      UserError: a column is missing, a row is broken or a label is unknown.
    """
    splits, notes = {}, []
    for name, file in task.files.items():
        path = folder / file
        if not path.is_file():
            notes.append(f"no {name} set ({file} is absent)")
            continue
        splits[name], note = _read_split(path, task, name)
        if note:
            notes.append(note)
    return TaskData(task, splits, (*notes, *_size_notes(task, splits)))


def _read_split(path: pathlib.Path, task: Task, name: str) -> tuple[Split, str]:
    table = tsv.read(
        path,
        columns=task.headerless.get(name),
        # The rows of a test set are numbered for the leaderboard: none may be left out.
        max_broken=0 if name in task.test else task.broken_rows,
    )
    texts = tuple(zip(*(table.column(column) for column in task.texts), strict=True))
    labels = None
    if name not in task.test or task.label in table.columns:
        cells = table.column(task.label)
        labels = np.array(
            [_label(task, cell, table, row) for row, cell in enumerate(cells)],
            np.float32 if task.is_regression else np.int32,
        )
    note = ""
    if table.broken:
        lines = ", ".join(map(str, table.broken))
        note = f"{name}: {len(table.broken)} broken rows left out (lines {lines})"
    return Split(texts, labels), note


def _label(task: Task, cell: str, table: tsv.Table, row: int) -> float | int:
    if not task.is_regression:
        if cell in task.labels:
            return task.labels.index(cell)
        allowed = f"one of {', '.join(map(repr, task.labels))}"
    else:
        low, high = task.limits
        try:
            value = float(cell)
        except ValueError:
            value = float("nan")
        if low <= value <= high:
            return value
        allowed = f"a number from {low:g} to {high:g}"
    raise UserError(
        f"{table.where(row)}: {task.label} is {cell!r}; expected {allowed}."
    )


def _size_notes(task: Task, splits: dict[str, Split]) -> list[str]:
    """Says which splits have another number of rows than the official ones."""
    notes = []
    for name, split in splits.items():
        official = task.sizes[name]
        if len(split) != official:
            kind = "partial" if len(split) < official else "unofficial"
            comparable = "" if name == "train" else "; scores are not comparable"
            notes.append(
                f"{kind} {name} set: {len(split):,} rows, officially {official:,}"
                f"{comparable}"
            )
    return notes


def _from_tfds(task: Task, data_dir: str | None) -> TaskData:
    """One task from TensorFlow Datasets, without importing TensorFlow."""
    from tensorflow_datasets.text import glue  # Takes a second, which few runs need.

    builder = glue.Glue(config=task.name, file_format="array_record", data_dir=data_dir)
    tfds.prepare(
        builder, f"glue/{task.name}", instead="a folder of the official TSVs as source"
    )
    return from_examples(task, builder.as_data_source)


def from_examples(
    task: Task, open_split: Callable[[str], Iterable[dict[str, Any]]]
) -> TaskData:
    """Builds a task's data from dicts under TFDS names, put in the order of 'idx'.

    TFDS shuffles rows when it writes them; a submission needs the official order.
    """
    splits = {}
    for name in task.files:
        tfds_name = task.tfds.get(name, "validation" if name == "dev" else name)
        examples = sorted(open_split(tfds_name), key=lambda example: example["idx"])
        columns = [task.tfds.get(column, column) for column in task.texts]
        texts = tuple(
            tuple(example[column].decode() for column in columns)
            for example in examples
        )
        labels = np.array([e[task.tfds.get(task.label, task.label)] for e in examples])
        if name in task.test:
            splits[name] = Split(texts, None)
        else:
            dtype = np.float32 if task.is_regression else np.int32
            splits[name] = Split(texts, labels.astype(dtype))
    return TaskData(task, splits, tuple(_size_notes(task, splits)))
