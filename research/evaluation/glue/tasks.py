"""GLUE's tasks, one row of a table each; a task that is added is one row more."""

from __future__ import annotations

from collections.abc import Iterable

from research.errors import UserError, nearest
from research.evaluation.finetuning.task import Task

NLI = ("entailment", "neutral", "contradiction")
RTE = ("entailment", "not_entailment")


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
            labels=("0", "1"),
            label_words=("negative", "positive"),
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
            labels=RTE,
            label_words=RTE,
            sizes=_sizes(104743, 5463, 5463),
            submission={"test": "QNLI.tsv"},
        ),
        Task(
            name="rte",
            title="RTE",
            texts=("sentence1", "sentence2"),
            labels=RTE,
            label_words=RTE,
            sizes=_sizes(2490, 277, 3000),
            submission={"test": "RTE.tsv"},
        ),
        Task(
            name="wnli",
            title="WNLI",
            texts=("sentence1", "sentence2"),
            labels=("0", "1"),
            label_words=("not_entailment", "entailment"),
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
