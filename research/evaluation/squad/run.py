"""Seeds of one checkpoint on SQuAD: finished runs on disk, and their table."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np

from research.config import kinds, strict
from research.config.parse import plain
from research.errors import UserError
from research.evaluation.finetuning.settings import FinetuneSettings
from research.evaluation.glue.run import (
    PRETRAINED,
    RANDOM,
    fingerprint_params,
)
from research.evaluation.glue.tables import (
    DASH,
    floor_statistics,
    percent,
    statistics_of,
)
from research.evaluation.markdown import bullets, table
from research.evaluation.squad import data, scoring
from research.evaluation.squad.data import Question, Windows
from research.evaluation.squad.finetune import SquadResult, finetune_squad
from research.machine import compilation_cache, files, provenance
from research.machine.run_store import RunStore
from research.training import trained_run as backbone_lib
from research.training.trained_run import Backbone

DEV = "dev"
TITLES = {
    "exact_match": "EM",
    "f1": "F1",
    "has_answer_exact_match": "EM, has an answer",
    "has_answer_f1": "F1, has an answer",
    "no_answer_exact_match": "EM, has none",
    "no_answer_f1": "F1, has none",
}


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
class SquadRow:
    """One run, with everything that its number depends on.

    Attributes: as in glue.results.RunRow; `scores` answers where the span is likelier
    than silence, `tuned` has the threshold chosen on the dev set itself.
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
    checkpoint: str
    checkpoint_step: int
    objective: str
    architecture: str
    commit: str
    settings: dict[str, Any]
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class SquadRun:
    """One checkpoint on one train and one dev file.

    Attributes:
      config: see experiments/squad.py.
      checkpoint: where the backbone comes from.
      backbone: pretrained.
      train, dev: questions.
      store: of finished runs.
      say: reports finished runs, and how far long ones are, in words.
    """

    config: SquadConfig
    checkpoint: str
    backbone: Backbone
    train: tuple[Question, ...]
    dev: tuple[Question, ...]
    store: RunStore[SquadRow]
    say: Callable[[str], None]

    def run(self) -> dict[str, list[SquadRow]]:
        """All seeds of the checkpoint and of the floor, finished ones included."""
        seeds = tuple(int(seed) for seed in self.config.seeds)
        return {
            PRETRAINED: [self._run(PRETRAINED, seed) for seed in seeds],
            RANDOM: [self._run(RANDOM, s) for s in seeds[: self.config.floor_seeds]],
        }

    def _run(self, init: str, seed: int) -> SquadRow:
        key = self._key(init, seed)
        row = self.store.get(key)
        if row is not None:
            return row
        backbone = self.backbone
        if init == RANDOM:
            backbone = backbone_lib.random_init(backbone, seed)
        result = finetune_squad(
            backbone,
            self.train,
            {DEV: self.dev},
            self.config.finetune,
            self.config.windows,
            seed=seed,
            progress_file=self.store.workdir / "unfinished" / f"{key}.npz",
            save_seconds=self.config.save_seconds,
            say=lambda line: self.say(f"  {init} seed {seed}: {line}"),
        )
        row = self._row(key, init, seed, result)
        answers = result.answers[DEV]
        self.store.add(
            row,
            {
                "names": np.array(list(answers)),
                "texts": np.array([answer.text for answer in answers.values()]),
                "null_odds": np.array([a.null_odds for a in answers.values()]),
            },
        )
        self.say(f"{init} seed {seed}: {_words(row.scores)}, {row.seconds:.0f} s")
        return row

    @functools.cached_property
    def _fingerprint(self) -> str:
        identity = [
            fingerprint_params(self.backbone),
            self.backbone.tokenizer.fingerprint,
            [dataclasses.astuple(question) for question in (*self.train, *self.dev)],
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def _key(self, init: str, seed: int) -> str:
        settings = dataclasses.asdict(self.config.finetune)
        windows = dataclasses.asdict(self.config.windows)
        identity = json.dumps([self._fingerprint, settings, windows, init, seed])
        return hashlib.sha256(identity.encode()).hexdigest()[:24]

    def _row(self, key: str, init: str, seed: int, result: SquadResult) -> SquadRow:
        return SquadRow(
            key=key,
            init=init,
            seed=seed,
            scores=result.scores.get(DEV, {}),
            tuned=result.tuned.get(DEV, {}),
            num_steps=result.outcome.num_steps,
            losses=result.outcome.losses,
            train_questions=len(self.train),
            train_rows=result.num_rows,
            cut_answers=result.num_cut,
            failed=result.failed,
            source=f"{self.config.train_file} -> {self.config.dev_file}",
            checkpoint=self.checkpoint,
            checkpoint_step=int(self.backbone.step),
            objective="+".join(self.backbone.config.objective.name),
            architecture=self.backbone.model_config.architecture,
            commit=provenance.commit(),
            settings=dataclasses.asdict(self.config.finetune),
            seconds=round(result.outcome.seconds, 3),
        )


def write_predictions(evaluation: SquadRun, rows: Mapping[str, list[SquadRow]]) -> None:
    """predictions-SEED.json and null_odds-SEED.json, as SQuAD's own script reads them."""
    folder = evaluation.store.workdir
    for row in rows[PRETRAINED]:
        arrays = evaluation.store.predictions(row.key)
        names = arrays["names"].tolist()
        texts, odds = arrays["texts"].tolist(), arrays["null_odds"].tolist()
        if any(not question.answers for question in evaluation.dev):
            texts = ["" if odd > 0 else t for t, odd in zip(texts, odds, strict=True)]
        for name, values in (("predictions", texts), ("null_odds", odds)):
            path = folder / f"{name}-{row.seed}.json"
            files.write(path, json.dumps(dict(zip(names, values, strict=True))))


def write_table(evaluation: SquadRun, rows: Mapping[str, list[SquadRow]]) -> str:
    """results.md: seeds beside the floor and beside answering nothing."""
    row = rows[PRETRAINED][0]
    golds = data.golds_of(evaluation.dev)
    silence: dict[str, float] = {}
    if golds:
        silence = scoring.score(dict.fromkeys(golds, ""), golds)
    body = []
    for metric in row.scores:
        values = [one.scores[metric] for one in rows[PRETRAINED]]
        floor = [one.scores[metric] for one in rows[RANDOM]]
        failed, floor_failed = (
            sum(bool(one.failed) for one in rows[init]) for init in (PRETRAINED, RANDOM)
        )
        body.append(
            [
                TITLES[metric],
                percent(silence[metric]),
                floor_statistics(floor, floor_failed) if floor else DASH,
                *statistics_of(values),
                str(len(values)),
                str(failed),
                *(_tuned_cell(rows[PRETRAINED], metric)),
            ]
        )
    header = ["metric", "no answer", "random init", "mean", "sd", "median", "seeds"]
    header += ["failed", "best threshold"]
    facts = [
        f"data: {row.source}",
        (
            f"{row.train_questions:,} train questions in {row.train_rows:,} windows; "
            f"answers of {row.cut_answers:,} lie whole in none"
        ),
        (
            f"checkpoint: {row.checkpoint}, step {row.checkpoint_step:,}, {row.objective}, "
            f"{row.architecture}"
        ),
        (
            f"batch {row.settings['batch_size']}, rate {row.settings['learning_rate']:g}, "
            f"{row.settings['num_epochs']} epochs, last step"
        ),
        f"code: {row.commit or 'no commit'}",
        (
            "best threshold: refusing where it is best for F1 on these very questions, as "
            "SQuAD 2.0's script reports it; the other columns refuse where no answer is "
            "likelier than the span, or never where every question has an answer"
        ),
    ]
    parts = [
        f"# SQuAD: {evaluation.checkpoint}",
        bullets(facts),
        table(header, body) if body else "The dev file has no answers: nothing scored.",
    ]
    return "\n\n".join(parts) + "\n"


def _tuned_cell(rows: list[SquadRow], metric: str) -> list[str]:
    values = [row.tuned[metric] for row in rows if row.tuned]
    return [percent(statistics.fmean(values)) if values else DASH]


def _words(scores: Mapping[str, float]) -> str:
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


def evaluate(
    config: ml_collections.ConfigDict, *, checkpoint: str, folder: pathlib.Path
) -> None:
    """Runs what is not finished, then writes and prints the table.

    Args:
      config: as experiments/squad.py gives it.
      checkpoint: workdir of a pretraining run.
      folder: workdir of the results.

    Raises:
      UserError: before any work, for a mistake in the config, data or checkpoint.
    """
    compilation_cache.enable()
    parsed = parse(config)
    train, dev = load_questions(parsed)
    backbone = backbone_lib.load(checkpoint, which=parsed.which)
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / "config.json", json.dumps(plain(config), indent=2))
    evaluation = SquadRun(
        config=parsed,
        checkpoint=checkpoint,
        backbone=backbone,
        train=train,
        dev=dev,
        store=RunStore(folder, SquadRow),
        say=functools.partial(print, flush=True),
    )
    rows = evaluation.run()
    write_predictions(evaluation, rows)
    text = write_table(evaluation, rows)
    files.write(folder / "results.md", text)
    print(f"\n{text}\n{folder / 'results.md'}")
