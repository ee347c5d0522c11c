"""The table of tasks: to add one of GLUE's kind is to add a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from research.errors import UserError, nearest

NLI = ("entailment", "neutral", "contradiction")
RTE = ("entailment", "not_entailment")


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
    label: str
    labels: tuple[str, ...]
    label_words: tuple[str, ...]
    metrics: tuple[str, ...]
    sizes: dict[str, int]
    submission: dict[str, str]
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


def _sizes(train: int, dev: int, test: int) -> dict[str, int]:
    return {"train": train, "dev": dev, "test": test}


_COLA_COLUMNS = ("source", "label", "mark", "sentence")
_MATCHED = {"dev_matched": "validation_matched", "test_matched": "test_matched"}
_MISMATCHED = {
    "dev_mismatched": "validation_mismatched",
    "test_mismatched": "test_mismatched",
}

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="cola",
            title="CoLA",
            texts=("sentence",),
            label="label",
            labels=("0", "1"),
            label_words=("unacceptable", "acceptable"),
            metrics=("matthews", "accuracy"),
            sizes=_sizes(8551, 1043, 1063),
            headerless={"train": _COLA_COLUMNS, "dev": _COLA_COLUMNS},
            submission={"test": "CoLA.tsv"},
        ),
        Task(
            name="sst2",
            title="SST-2",
            texts=("sentence",),
            label="label",
            labels=("0", "1"),
            label_words=("negative", "positive"),
            metrics=("accuracy",),
            sizes=_sizes(67349, 872, 1821),
            submission={"test": "SST-2.tsv"},
        ),
        Task(
            name="mrpc",
            title="MRPC",
            texts=("#1 String", "#2 String"),
            label="Quality",
            labels=("0", "1"),
            label_words=("not_equivalent", "equivalent"),
            metrics=("f1_accuracy", "f1", "accuracy"),
            sizes=_sizes(3668, 408, 1725),
            tfds={
                "#1 String": "sentence1",
                "#2 String": "sentence2",
                "Quality": "label",
            },
            submission={"test": "MRPC.tsv"},
        ),
        Task(
            name="stsb",
            title="STS-B",
            texts=("sentence1", "sentence2"),
            label="score",
            labels=(),
            label_words=(),
            metrics=("pearson_spearman", "pearson", "spearman"),
            sizes=_sizes(5749, 1500, 1379),
            score_range=(0.0, 5.0),
            tfds={"score": "label"},
            submission={"test": "STS-B.tsv"},
        ),
        Task(
            name="qqp",
            title="QQP",
            texts=("question1", "question2"),
            label="is_duplicate",
            labels=("0", "1"),
            label_words=("not_duplicate", "duplicate"),
            metrics=("f1_accuracy", "f1", "accuracy"),
            sizes=_sizes(363846, 40430, 390965),
            broken_rows=32,
            tfds={"is_duplicate": "label"},
            submission={"test": "QQP.tsv"},
        ),
        Task(
            name="mnli",
            title="MNLI",
            texts=("sentence1", "sentence2"),
            label="gold_label",
            labels=NLI,
            label_words=NLI,
            metrics=("accuracy",),
            sizes={
                "train": 392702,
                "dev_matched": 9815,
                "dev_mismatched": 9832,
                "test_matched": 9796,
                "test_mismatched": 9847,
            },
            dev={
                "dev_matched": "dev_matched.tsv",
                "dev_mismatched": "dev_mismatched.tsv",
            },
            test={
                "test_matched": "test_matched.tsv",
                "test_mismatched": "test_mismatched.tsv",
            },
            tfds={
                **_MATCHED,
                **_MISMATCHED,
                "sentence1": "premise",
                "sentence2": "hypothesis",
                "gold_label": "label",
            },
            submission={"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
        ),
        Task(
            name="qnli",
            title="QNLI",
            texts=("question", "sentence"),
            label="label",
            labels=RTE,
            label_words=RTE,
            metrics=("accuracy",),
            sizes=_sizes(104743, 5463, 5463),
            submission={"test": "QNLI.tsv"},
        ),
        Task(
            name="rte",
            title="RTE",
            texts=("sentence1", "sentence2"),
            label="label",
            labels=RTE,
            label_words=RTE,
            metrics=("accuracy",),
            sizes=_sizes(2490, 277, 3000),
            submission={"test": "RTE.tsv"},
        ),
        Task(
            name="wnli",
            title="WNLI",
            texts=("sentence1", "sentence2"),
            label="label",
            labels=("0", "1"),
            label_words=("not_entailment", "entailment"),
            metrics=("accuracy",),
            sizes=_sizes(635, 71, 146),
            submission={"test": "WNLI.tsv"},
        ),
    )
}

# The diagnostic set has no train set: the MNLI model answers it.
DIAGNOSTIC = Task(
    name="ax",
    title="diagnostic",
    texts=("sentence1", "sentence2"),
    label="label",
    labels=NLI,
    label_words=NLI,
    metrics=("matthews", "accuracy"),
    sizes={"test": 1104},
    train=None,
    dev={},
    test={"test": "diagnostic.tsv"},
    tfds={"sentence1": "premise", "sentence2": "hypothesis"},
    submission={"test": "AX.tsv"},
)


def resolve(names: Iterable[str]) -> tuple[Task, ...]:
    """The tasks called `names`, in the table's order.

    Raises:
      UserError: for an unknown name, with the nearest and all valid ones.
    """
    known = {**TASKS, DIAGNOSTIC.name: DIAGNOSTIC}
    wanted = [name.strip().lower() for name in names if name.strip()]
    if not wanted:
        raise UserError(f"No task is given; choose from {', '.join(known)}.")
    for name in wanted:
        if name not in known:
            raise UserError(
                f"there is no GLUE task {name!r}.{nearest(name, known)} "
                f"Valid: {', '.join(known)}."
            )
    return tuple(task for name, task in known.items() if name in wanted)
