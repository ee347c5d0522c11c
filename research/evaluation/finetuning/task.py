"""A labelled data set of sentences or pairs: its columns, labels and metrics."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A sentence task: where its columns are and how it is scored.

    Attributes:
      name: short name, as TFDS and most papers' scripts spell it.
      title: official name, which is also the folder of the official download.
      texts: column of the sentence, or columns of the pair.
      label: column of the label.
      labels: label names in class order; () = a score in `score_range`.
      label_words: what a text-to-text model writes for each class (T5, appendix D).
      metrics: names in metrics.METRICS, the official main metric first.
      train, dev, test: file of each split; several dev or test sets have several.
      sizes: official number of rows of each split, to tell a partial file.
      headerless: columns of the splits whose file has no header.
      broken_rows: rows that the official file is known to break at most.
      tfds: TFDS split of each of ours that has another name there, and the TFDS name
        of a column that differs.
      score_range: limits of a regression label.
      submission: file of each test split on the leaderboard.
    """

    name: str
    title: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    label_words: tuple[str, ...]
    sizes: dict[str, int]
    submission: dict[str, str]
    label: str = "label"
    metrics: tuple[str, ...] = ("accuracy",)
    train: str | None = "train.tsv"
    dev: dict[str, str] = dataclasses.field(default_factory=lambda: {"dev": "dev.tsv"})
    test: dict[str, str] = dataclasses.field(
        default_factory=lambda: {"test": "test.tsv"}
    )
    headerless: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    broken_rows: int = 0
    tfds: dict[str, str] = dataclasses.field(default_factory=dict)
    score_range: tuple[float, float] | None = None

    @property
    def is_regression(self) -> bool:
        """Whether labels are scores."""
        return not self.labels

    @property
    def num_classes(self) -> int:
        """Number of classes; 1 for a score."""
        return max(1, len(self.labels))

    @property
    def limits(self) -> tuple[float, float]:
        """Limits of the score of a regression task."""
        assert self.score_range is not None, f"{self.title} has classes"
        return self.score_range

    @property
    def files(self) -> dict[str, str]:
        """File of every split."""
        train = {} if self.train is None else {"train": self.train}
        return {**train, **self.dev, **self.test}
