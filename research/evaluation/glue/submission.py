"""Files for the GLUE leaderboard: for each test set a TSV of index and prediction."""

from __future__ import annotations

import pathlib

import numpy as np

from research.evaluation.finetuning.task import Task
from research.machine import files


def lines(task: Task, predictions: np.ndarray) -> list[str]:
    """The lines of a file: header, then every row under its index from 0.

    Classes have their official names; scores are cut to the task's range and have three
    digits.
    """
    if task.is_regression:
        values = [f"{score:.3f}" for score in np.clip(predictions, *task.limits)]
    else:
        names = dict(enumerate(task.labels))
        # The leaderboard wants a label for every row, whatever text was written.
        values = [names.get(int(label), task.labels[0]) for label in predictions]
    rows = [f"{index}\t{value}" for index, value in enumerate(values)]
    return ["index\tprediction", *rows]


def write(
    folder: pathlib.Path, task: Task, split: str, predictions: np.ndarray
) -> pathlib.Path:
    """Writes the file of one test split and returns its path."""
    path = folder / task.submission[split]
    folder.mkdir(parents=True, exist_ok=True)
    files.write(path, "\n".join(lines(task, predictions)) + "\n")
    return path


def missing(folder: pathlib.Path, tasks: tuple[Task, ...]) -> tuple[str, ...]:
    """Files that the leaderboard wants and the folder lacks."""
    names = [file for task in tasks for file in task.submission.values()]
    return tuple(name for name in names if not (folder / name).is_file())
