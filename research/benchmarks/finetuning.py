"""Fine-tuning on RTE and MRPC beside transformers' Trainer: time per example.

Both train the same network from random parameters on the same token ids, with the same
batch, epochs and AdamW, each by its own loop and its own clock, evaluation left out.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from research.benchmarks import ours, peers
from research.benchmarks.table import Options, Table
from research.config import parse as config_lib
from research.data import tokenizer_training
from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.evaluation.finetuning import data as data_lib
from research.evaluation.finetuning import encoding, finetune
from research.evaluation.finetuning.data import Split, TaskData
from research.evaluation.finetuning.settings import FinetuneSettings
from research.evaluation.glue import protocols, sources, tasks
from research.training import program, trained_run
from research.training.trained_run import TrainedRun

TASKS = ("rte", "mrpc")
VOCAB_SIZE = 8192
# BERT's blocks at two sizes of the ladder; bert's own protocol, one epoch.
SHAPES = {"2 x 128": (2, 128, 2, 512), "4 x 256": (4, 256, 4, 1024)}
SHARED = {
    **ours.vocabulary_of(VOCAB_SIZE),
    "model.dtype": "float32",
    "data.tokenizer.kind": "wordpiece",
    "data.tokenizer.path": "",
    "data.tokenizer.num_sentinels": 0,
}
PROTOCOL = "bert"
LEARNING_RATE, BATCH_SIZE, EPOCHS = 5e-5, 32, 1
# Rows that a round trains on, so that rounds of both can alternate.
ROWS = 512
# Trainer's ways to make a batch: (train_sampling_strategy, padding of the collator).
TRAINERS: dict[str, tuple[str, bool | str]] = {
    "trainer": ("random", True),
    "grouped": ("group_by_length", True),
    "padded": ("random", "max_length"),
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One task and shape, ready for both.

    Attributes:
      label: as printed.
      data: ROWS train rows and a few to evaluate, which no clock sees.
      run: random parameters over a tokenizer of the task's own sentences.
      settings: of our side; the peer takes its values from them.
    """

    label: str
    data: TaskData
    run: TrainedRun
    settings: FinetuneSettings

    @property
    def train(self) -> Split:
        """The rows of a round."""
        return self.data.splits["train"]


def measure(options: Options) -> Table:
    """Both tasks at both shapes; a round is an epoch of ROWS rows."""
    rows = []
    source = options.glue
    with tempfile.TemporaryDirectory() as folder:
        if not source:
            write_made_up(pathlib.Path(folder))
        for shape in SHAPES:
            for name in TASKS:
                case = make_case(name, shape, source or folder)
                print(f"measuring {case.label} ...", flush=True)
                rows.append({"case": case.label} | _measure(case, options))
    return Table(
        title=f"fine-tuning: batch {BATCH_SIZE}, {ROWS} rows a round, dropout 0.1",
        rows=rows,
        notes=(
            f"source: {source or 'random words'}; ids of a WordPiece vocabulary of the task's sentences",
            "ours ms: per example, rows bucketed by length; tokens: mean length of a row",
            "to compile: once, before the first round, for every shape; kept on disk",
            (
                "trainer: transformers' Trainer, batches padded to their longest row; "
                "grouped: its group_by_length; padded: to max_length, as run_glue does"
            ),
            "ratios: peer / ours, medians of alternating rounds",
        ),
    )


def check(source: str) -> None:
    """Reads the files of a source once, before anything is measured.

    Raises:
      UserError: the source does not exist or lacks a task.
    """
    if not source:
        return
    missing = sources.load(source, tasks.resolve(TASKS)).missing
    if missing:
        raise UserError("\n       ".join(missing.values()))


def write_made_up(folder: pathlib.Path) -> None:
    """Writes files of TASKS with random words, about as long as the official rows."""
    rng = np.random.default_rng(0)
    words = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "dklmnrst"]
    for task in tasks.resolve(TASKS):
        (folder / task.title).mkdir()
        for split, count in (("train", ROWS), ("dev", BATCH_SIZE)):
            lines = ["\t".join((*task.texts, task.label))]
            for row in range(count):
                lengths = rng.integers(8, 45, len(task.texts))
                texts = [" ".join(rng.choice(words, n)) + " ." for n in lengths]
                label = task.labels[row % len(task.labels)]
                lines.append("\t".join((*texts, label)))
            (folder / task.title / f"{split}.tsv").write_text("\n".join(lines))


def make_case(name: str, shape: str, source: str) -> Case:
    """Some rows of a task, with a tokenizer and a network of their own."""
    data = sources.load(source, tasks.resolve([name])).tasks[name]
    train = data_lib.head(data.splits["train"], ROWS, seed=0)
    few = data_lib.head(data.splits["dev"], BATCH_SIZE, seed=0)
    settings = protocols.settings(
        protocols.get(PROTOCOL),
        data.task,
        dict(ours.config_of("glue", {"finetune.num_epochs": EPOCHS}).finetune),
        learning_rate=LEARNING_RATE,
        batch_size=BATCH_SIZE,
    )
    return Case(
        label=f"{data.task.title}, {shape}",
        data=dataclasses.replace(data, splits={"train": train, "dev": few}),
        run=random_run(train, shape),
        settings=settings,
    )


def random_run(train: Split, shape: str) -> TrainedRun:
    """A BERT with random parameters over a WordPiece vocabulary of the sentences."""
    raw = ours.config_of("bert_base", {**SHARED, **ours.sizes(*SHAPES[shape])})
    config = config_lib.parse(raw)
    words = dataclasses.replace(config.data.tokenizer, lowercase=True)
    texts = [text for row in train.texts for text in row]
    tokenizer = tokenizer_training.train(texts, words)
    vocabulary = tokenizer.vocabulary()
    empty = TrainedRun(
        config=config,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        model_config=program.resolve_model(config.model, vocabulary),
        params={},
        step=0,
        workdir=pathlib.Path(),
        pooler=None,
    )
    return trained_run.random_init(empty, seed=0)


def _measure(case: Case, options: Options) -> dict[str, Any]:
    encoded = encode(case)
    sides: dict[str, Callable[[], float]] = {"ours": lambda: our_seconds(case)}
    if options.peers:
        for label, (sampling, padding) in TRAINERS.items():
            sides[label] = make_trainer(case, encoded, sampling, padding)
        # Its allocator and threads are warm after a few steps.
        make_trainer(case, encoded, "random", True, num_rows=2 * BATCH_SIZE)()
    first = our_seconds(case)
    times: dict[str, list[float]] = {label: [] for label in sides}
    # A round is an epoch here, not a step.
    for _ in range(max(1, options.rounds // 4)):
        for label, seconds in sides.items():
            times[label].append(seconds())
    median = {label: statistics.median(values) for label, values in times.items()}
    row: dict[str, Any] = {
        "tokens": float(encoded.lengths.mean()),
        "ours ms": 1e3 * median["ours"] / len(case.train),
        "to compile s": first - median["ours"],
    }
    if options.peers:
        row["trainer ms"] = 1e3 * median["trainer"] / len(case.train)
        for column, label in (
            ("ratio", "trainer"),
            ("grouped", "grouped"),
            ("padded", "padded"),
        ):
            row[column] = median[label] / median["ours"]
    return row


def our_seconds(case: Case) -> float:
    """Seconds of training in one round of ours."""
    return finetune.finetune(case.run, case.data, case.settings, seed=0).seconds


def encode(case: Case) -> encoding.EncodedSplit:
    """The train rows as both sides read them."""
    framing = encoding.sentence_framing(
        case.run.tokenizer,
        case.run.vocabulary,
        case.run.model_config.architecture,
        case.settings.max_length,
    )
    return encoding.encode(case.run.tokenizer, framing, case.train, order=None)


def make_trainer(
    case: Case,
    encoded: encoding.EncodedSplit,
    sampling: str,
    padding: bool | str,
    num_rows: int | None = None,
) -> Callable[[], float]:
    """A round of Trainer, from fresh parameters, as a function that gives its seconds.

    Raises:
      UserError: if the extra 'peers' is not installed.
    """
    # Trainer refuses to start without accelerate.
    torch, transformers = peers.libraries("accelerate")
    examples = peer_examples(encoded, case.train.known_labels)[:num_rows]
    collator = transformers.DataCollatorWithPadding(
        _peer_tokenizer(transformers, case.run.tokenizer),
        padding=padding,
        max_length=case.settings.max_length if padding == "max_length" else None,
    )

    dropout_rate = case.settings.dropout_rate
    assert dropout_rate is not None, "the protocol sets it"
    config = peers.bert_config(
        case.run.model_config.with_dropout(dropout_rate),
        num_labels=case.data.task.num_classes,
    )

    def seconds() -> float:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            trainer = transformers.Trainer(
                model=transformers.BertForSequenceClassification(config),
                args=_arguments(transformers, case.settings, folder, sampling),
                train_dataset=examples,
                data_collator=collator,
                processing_class=collator.tokenizer,
            )
            trainer.remove_callback(transformers.PrinterCallback)
            return trainer.train().metrics["train_runtime"]

    return seconds


def peer_examples(
    encoded: encoding.EncodedSplit, labels: np.ndarray
) -> list[dict[str, Any]]:
    """The rows as transformers' collators take them."""
    return [
        {
            "input_ids": row.tolist(),
            "token_type_ids": (np.arange(len(row)) >= first).astype(int).tolist(),
            "labels": int(label),
        }
        for row, first, label in zip(
            encoded.rows, encoded.first_lengths, labels, strict=True
        )
    ]


def _peer_tokenizer(transformers: Any, tokenizer: Tokenizer) -> Any:
    import tokenizers

    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(tokenizer.definition),
        pad_token=tokenizer.token(tokenizer.vocabulary().pad_id),
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _arguments(
    transformers: Any, settings: FinetuneSettings, folder: str, sampling: str
) -> Any:
    return transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=settings.num_epochs,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip_norm,
        adam_epsilon=settings.epsilon,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_fraction,
        train_sampling_strategy=sampling,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
