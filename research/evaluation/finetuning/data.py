"""Sentences and labels of a task, by split."""

from __future__ import annotations

import dataclasses

import numpy as np

from research.errors import UserError
from research.evaluation.finetuning.task import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Sentences and labels of one split.

    Attributes:
      texts: one tuple a row, of one sentence or of a pair.
      labels: int32 classes or float32 scores [rows]; None without labels.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def known_labels(self) -> np.ndarray:
        """The labels of a split that has some."""
        assert self.labels is not None, "this split has no labels"
        return self.labels

    def take(self, rows: np.ndarray) -> Split:
        """The given rows, in the given order."""
        labels = None if self.labels is None else self.labels[rows]
        return Split(tuple(self.texts[row] for row in rows), labels)


@dataclasses.dataclass(frozen=True, eq=False)
class TaskData:
    """A task and its rows.

    Attributes:
      task: its row of the table.
      splits: those that were found, by name: 'train', 'dev' or several 'dev_*', 'test'
        or several 'test_*'.
      notes: what is missing, partial or left out, as sentences for the tables.
    """

    task: Task
    splits: dict[str, Split]
    notes: tuple[str, ...]

    @property
    def dev_splits(self) -> tuple[str, ...]:
        """Names of the labelled evaluation splits, in the task's order."""
        return tuple(name for name in self.task.dev if name in self.splits)

    @property
    def untrainable(self) -> str:
        """Says which split lacks labels for training or scoring; '' if none does."""
        train = self.splits.get("train")
        if train is None or train.labels is None or not len(train):
            return f"{self.task.title}: no labelled train set"
        if not any(self.splits[name].labels is not None for name in self.dev_splits):
            wanted = ", ".join(self.task.dev)
            return f"{self.task.title}: no labelled evaluation set ({wanted})"
        return ""

    def check_trainable(self) -> None:
        """Refuses a task that cannot be trained and scored.

        Raises:
          UserError: no train set, no evaluation set, or a single class.
        """
        if self.untrainable:
            raise UserError(f"{self.untrainable}.")
        labels = self.splits["train"].known_labels
        found = np.unique(labels)
        if len(found) < 2:
            regression = self.task.is_regression
            kind = "score" if regression else "class"
            value = found[0] if regression else self.task.labels[int(found[0])]
            raise UserError(
                f"{self.task.title}: all {len(labels)} train rows have the {kind} "
                f"{str(value)!r}; training needs at least two."
            )

    def replace(self, **splits: Split) -> TaskData:
        """A copy with some splits changed or added."""
        return dataclasses.replace(self, splits={**self.splits, **splits})


def cut(
    split: Split, share: float, *, seed: int, stratify: bool
) -> tuple[Split, Split]:
    """Cuts a share off a split at random: (rest, share).

    With `stratify` every class gives its rounded share, at least one row of a class
    that has two. The cut depends on the seed and the split only.
    """
    rng = np.random.default_rng([seed, len(split)])
    chosen = np.zeros(len(split), bool)
    labels = split.known_labels if stratify else np.zeros(len(split), np.int32)
    for value in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == value))
        count = round(share * len(rows))
        if len(rows) > 1:
            count = min(max(count, 1), len(rows) - 1)
        chosen[rows[:count]] = True
    return split.take(np.flatnonzero(~chosen)), split.take(np.flatnonzero(chosen))


def swapped_too(split: Split) -> Split:
    """The split followed by itself with the pairs in the other order."""
    texts = split.texts + tuple(pair[::-1] for pair in split.texts)
    labels = None if split.labels is None else np.tile(split.labels, 2)
    return Split(texts, labels)


def head(split: Split, count: int, *, seed: int) -> Split:
    """`count` rows at random, in the split's order; the split if it has fewer."""
    if len(split) <= count:
        return split
    rng = np.random.default_rng([seed, len(split)])
    return split.take(np.sort(rng.permutation(len(split))[:count]))
