"""Fine-tuning to tell held-out sentences from copies with their words shuffled.

A downstream check that needs no other data and is the same for all architectures. Both
classes have the same words, without capitals and final marks, so the order of the words
is the only cue.

    label 1   returns the index of the first match
    label 0   match the first index the returns of
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
import time
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

from research.config.sections import DataConfig, RunConfig
from research.data import run_data
from research.errors import UserError, user_errors
from research.evaluation.finetuning.data import Split, TaskData
from research.evaluation.finetuning.finetune import finetune
from research.evaluation.finetuning.settings import FinetuneSettings
from research.evaluation.finetuning.task import Task
from research.evaluation.interface import (
    CHANCE,
    Evaluation,
    Result,
    Say,
    failure_notes,
    silent,
)
from research.training.trained_run import TrainedRun

TASK = Task(
    name="acceptability",
    title="Acceptability of word order",
    texts=("sentence",),
    labels=("shuffled", "sentence"),
    label_words=("shuffled", "sentence"),
    sizes={},
    submission={},
    train=None,
    dev={"dev": ""},
    test={},
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n\s*\n")
_SHUFFLES = 50
_WORD = re.compile(r"[A-Za-z][a-z'-]*,?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which sentences are asked about.

    Attributes:
      num_train, num_test: sentences, each of which gives two rows.
      min_words, max_words: length of a sentence.
      seed: of the choice of sentences and of the shuffling; the same for every arm.
    """

    num_train: int
    num_test: int
    min_words: int
    max_words: int
    seed: int


def make(documents: Iterable[str], sampling: Sampling) -> TaskData:
    """The task over the sentences of held-out documents.

    Sentences of one document are either trained on or tested on, and every sentence
    occurs once.

    Raises:
      UserError: if there are too few sentences for half of each split.
    """
    rng = np.random.default_rng(sampling.seed)
    wanted = {"dev": sampling.num_test, "train": sampling.num_train}
    found: dict[str, list[str]] = {name: [] for name in wanted}
    seen: set[str] = set()
    for document in rng.permutation(np.array(list(documents), object)):
        # The split that has the smaller share of what it wants takes the document.
        name = min(wanted, key=lambda split: len(found[split]) / wanted[split])
        for sentence in sentences(document, sampling.min_words, sampling.max_words):
            if sentence not in seen:
                seen.add(sentence)
                found[name].append(sentence)
    short = {n: len(found[n]) for n in wanted if len(found[n]) < wanted[n] / 2}
    if short:
        counts = ", ".join(f"{n}: {found} of {wanted[n]}" for n, found in short.items())
        raise UserError(
            f"The held-out documents have too few sentences of {sampling.min_words} to "
            f"{sampling.max_words} words ({counts}). Raise data.heldout_fraction, or "
            f"lower num_train and num_test of the acceptability evaluation."
        )
    splits = {
        name: _labelled(found[name][: wanted[name]], rng) for name in ("train", "dev")
    }
    return TaskData(task=TASK, splits=splits, notes=())


def sentences(document: str, min_words: int, max_words: int) -> Iterator[str]:
    """Plain sentences of a document, without capital and final mark.

    A sentence is plain if all its words are letters: no code, numbers or markup.
    """
    for block in _SENTENCE_END.split(document):
        if not block.endswith(".") or not block[0].isupper():
            continue
        words = block[:-1].split()
        if not min_words <= len(words) <= max_words:
            continue
        if len(set(words)) > 1 and all(_WORD.fullmatch(word) for word in words):
            first = words[0] if words[0] == "I" else words[0].lower()
            yield " ".join([first, *words[1:]]).replace(",", "")


def shuffled(sentence: str, rng: np.random.Generator) -> str:
    """The words in another order, at least half of them elsewhere where possible.

    Raises:
      ValueError: for a sentence whose words are all the same.
    """
    words = np.array(sentence.split(), object)
    if len(set(words)) < 2:
        raise ValueError(f"{sentence!r} has no other order.")
    best, most_moved = words, 0
    for _ in range(_SHUFFLES):
        order = rng.permutation(words)
        moved = int(np.sum(order != words))
        if moved > most_moved:
            best, most_moved = order, moved
        if 2 * most_moved >= len(words):
            break
    else:
        if most_moved == 0:  # a long run of one word and a single other one
            best = np.roll(words, 1)
    return " ".join(best)


def _labelled(texts: list[str], rng: np.random.Generator) -> Split:
    rows = [(text, 1) for text in texts]
    rows += [(shuffled(text, rng), 0) for text in texts]
    order = rng.permutation(len(rows))
    return Split(
        texts=tuple((rows[i][0],) for i in order),
        labels=np.array([rows[i][1] for i in order], np.int32),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Acceptability(Evaluation):
    """Accuracy in telling held-out sentences from shuffled copies, by fine-tuning."""

    primary: ClassVar[str] = "accuracy"
    trains: ClassVar[bool] = True

    sampling: Sampling
    finetune: FinetuneSettings
    seeds: tuple[int, ...]

    def refusal(self, run: RunConfig) -> str:
        del run
        chosen = self.finetune
        if chosen.selection != "last" or chosen.patience:
            return (
                f"finetune.selection = {chosen.selection!r} with finetune.patience = "
                f"{chosen.patience} selects on the dev set, which arms are compared on; "
                "set selection = 'last' and patience = 0."
            )
        return ""

    def check_data(self, run: RunConfig) -> None:
        _sentences(run.data, self.sampling)

    def run(
        self, trained: TrainedRun, folder: pathlib.Path, say: Say = silent
    ) -> Result:
        started = time.monotonic()
        task = _sentences(trained.config.data, self.sampling)
        labels = task.splits["dev"].labels
        assert labels is not None, "acceptability labels its own sentences"
        scores, right, failed = [], [], []
        for seed in self.seeds:
            result = finetune(
                trained,
                task,
                self.finetune,
                seed=seed,
                progress_file=folder / f"finetune-{seed}.npz",
                say=say,
            )
            scores.append(result.scores["dev"]["accuracy"])
            failed.append(result.failed)
            right.append((result.predictions["dev"] == labels).astype(int).tolist())
        majority = float(np.bincount(labels).max() / len(labels))
        metric = dataclasses.replace(
            CHANCE, floor=majority, floor_label="majority class"
        )
        count = len(labels) // 2
        note = f"{count} held-out sentences and a shuffled copy of each"
        return Result(
            scores={"accuracy": scores},
            examples={"accuracy": right},
            metrics={"accuracy": metric},
            details={},
            notes=[note, *failure_notes(failed)],
            seconds=time.monotonic() - started,
        )


@functools.lru_cache(maxsize=4)
def _sentences(config: DataConfig, sampling: Sampling) -> TaskData:
    """Made once for all runs: held-out text takes seconds to decode."""
    with user_errors():
        data = run_data.load(config)
    documents = [data.heldout.document(n) for n in range(data.heldout.num_documents)]
    decode = data.tokenizer.decode
    return make(
        [decode(ids.tolist(), skip_special=True) for ids in documents], sampling
    )
