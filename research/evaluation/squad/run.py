"""Fine-tunes one pretrained run on SQuAD with several seeds, beside the floor."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from research.config import kinds, strict
from research.config.parse import plain
from research.evaluation.finetuning.fits import (
    PRETRAINED,
    RANDOM,
    Fits,
    Origin,
    key_of,
)
from research.evaluation.finetuning.settings import FinetuneSettings
from research.evaluation.squad import data
from research.evaluation.squad.data import Question, Windows
from research.evaluation.squad.finetune import SquadRecord, finetune_squad
from research.evaluation.squad.scoring import TITLES


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquadConfig:
    """What to answer and how to fine-tune; see experiments/squad.py."""

    train_file: str
    dev_file: str
    which: str
    seeds: tuple[Any, ...]
    floor_seeds: int
    max_train_questions: int
    save_seconds: float
    windows: Windows
    finetune: FinetuneSettings

    def __post_init__(self):
        if not self.seeds:
            raise ValueError("seeds = (): give at least one fine-tuning seed.")


def parse(config: ml_collections.ConfigDict) -> SquadConfig:
    """Checks a whole config.

    Raises:
      UserError: one message with every problem.
    """
    values = plain(config)
    kinds.check(values, kinds.SQUAD)
    return strict.parsed(SquadConfig, values, "config", complete=kinds.SQUAD.complete)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquadRow(SquadRecord, Origin):
    """One fine-tuning, with everything that its scores depend on.

    Attributes:
      key: changes with anything that would change the result.
      init, seed: which one; init is 'pretrained' or 'random'.
      train_questions: how many there are.
      source: the files.
      settings: every field of FinetuneSettings.
    """

    key: str
    init: str
    seed: int
    train_questions: int
    source: str
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SquadFits(Fits):
    """One pretrained run on the questions of one train and one dev file."""

    config: SquadConfig
    train: tuple[Question, ...]
    dev: tuple[Question, ...]

    def run(self) -> dict[str, list[SquadRow]]:
        """All seeds of the run and of the floor, finished ones included."""
        seeds = tuple(int(seed) for seed in self.config.seeds)
        return {
            PRETRAINED: [self._fit(PRETRAINED, seed) for seed in seeds],
            RANDOM: [self._fit(RANDOM, s) for s in seeds[: self.config.floor_seeds]],
        }

    @functools.cached_property
    def _identity(self) -> str:
        """Changes with the run, the questions and the settings."""
        return key_of(
            self.fingerprint,
            [dataclasses.astuple(question) for question in (*self.train, *self.dev)],
            dataclasses.asdict(self.config.finetune),
            dataclasses.asdict(self.config.windows),
        )

    def _fit(self, init: str, seed: int) -> SquadRow:
        """One fine-tuning, or the row of it if it is finished."""
        key = key_of(self._identity, init, seed)
        row = self.store.get(key)
        if row is not None:
            return row
        fit = finetune_squad(
            self.start(init, seed),
            self.train,
            self.dev,
            self.config.finetune,
            self.config.windows,
            seed=seed,
            progress_file=self.progress_file(key),
            save_seconds=self.config.save_seconds,
            say=lambda line: self.say(f"  {init} seed {seed}: {line}"),
        )
        row = SquadRow(
            **fit.record,
            **self.origin,
            key=key,
            init=init,
            seed=seed,
            train_questions=len(self.train),
            source=f"{self.config.train_file} -> {self.config.dev_file}",
            settings=dataclasses.asdict(self.config.finetune),
        )
        answers = fit.answers
        self.store.add(
            row,
            {
                "names": np.array(list(answers)),
                "texts": np.array([answer.text for answer in answers.values()]),
                "null_odds": np.array([a.null_odds for a in answers.values()]),
            },
        )
        self.say(f"{init} seed {seed}: {_in_words(row.scores)}, {row.seconds:.0f} s")
        return row


def _in_words(scores: Mapping[str, float]) -> str:
    """Exact match and F1 of all questions."""
    found = [f"{TITLES[name]} {100 * value:.1f}" for name, value in scores.items()]
    return ", ".join(found[:2]) or "not scored"


def load_questions(
    config: SquadConfig,
) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """Train and dev questions of the config's files.

    Raises:
      UserError: a file that is absent or no SQuAD.
    """
    train = data.read(pathlib.Path(config.train_file))
    if config.max_train_questions:
        train = train[: config.max_train_questions]
    return train, data.read(pathlib.Path(config.dev_file))
