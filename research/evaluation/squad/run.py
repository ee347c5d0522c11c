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
from research.errors import UserError
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
from research.evaluation.squad.finetune import finetune_squad
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
    problems: list[str] = []
    parsed = strict.build(
        SquadConfig, values, "config", problems, complete=kinds.SQUAD.complete
    )
    if parsed is None:
        raise UserError("\n".join(problems))
    return parsed


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquadRow(Origin):
    """One fine-tuning, with everything that its scores depend on.

    Attributes:
      key: changes with anything that would change the result.
      init, seed: which one; init is 'pretrained' or 'random'.
      scores: of answers that are given where the span is likelier than no answer.
      tuned: the same with the threshold that is best on the dev set itself.
      num_steps, losses, seconds: of the training.
      train_questions, train_rows: questions, and the windows of their passages.
      cut_answers: train questions whose answer no window holds whole.
      failed: why it counts as failed, or ''.
      source: the files.
      settings: every field of FinetuneSettings.
    """

    key: str
    init: str
    seed: int
    scores: dict[str, float]
    tuned: dict[str, float]
    num_steps: int
    losses: tuple[float, ...]
    train_questions: int
    train_rows: int
    cut_answers: int
    failed: str
    source: str
    settings: dict[str, Any]
    seconds: float


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
            **self.origin,
            key=key,
            init=init,
            seed=seed,
            scores=fit.scores,
            tuned=fit.tuned,
            num_steps=fit.outcome.num_steps,
            losses=fit.outcome.losses,
            train_questions=len(self.train),
            train_rows=fit.num_rows,
            cut_answers=fit.num_cut,
            failed=fit.failed,
            source=f"{self.config.train_file} -> {self.config.dev_file}",
            settings=dataclasses.asdict(self.config.finetune),
            seconds=round(fit.outcome.seconds, 3),
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
