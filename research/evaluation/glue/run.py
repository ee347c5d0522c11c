"""Runs the tasks of a protocol: MNLI first, searches, seeds, floors; nothing twice.

Seeds run one after the other and share what is compiled. Three at once under vmap took
1.06 times as long a seed on two CPU cores, for 2 layers x 128 and batches of 32 x 32.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from research.evaluation.finetuning import data as data_lib
from research.evaluation.finetuning import finetune as finetune_lib
from research.evaluation.finetuning.data import Split, TaskData
from research.evaluation.finetuning.finetune import SELECTION_SPLIT, FitRecord
from research.evaluation.finetuning.fits import (
    PRETRAINED,
    RANDOM,
    Fits,
    Origin,
    key_of,
)
from research.evaluation.finetuning.settings import FinetuneSettings
from research.evaluation.finetuning.task import Task
from research.evaluation.glue.config import GlueConfig
from research.evaluation.glue.sources import Source
from research.evaluation.glue.tasks import DIAGNOSTIC
from research.machine import arrays
from research.training.trained_run import TrainedRun

# MNLI's model answers the diagnostic set, as one more split of MNLI.
AX_SPLIT = "ax"
# The selection share is cut once, for all seeds and rates.
_CUT_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlueRow(FitRecord, Origin):
    """One fine-tuning on one task, with everything that its score depends on.

    Attributes:
      key: changes with anything that would change the result.
      task, init, seed: which one; init is 'pretrained' or 'random'.
      learning_rate, batch_size: the grid point that was searched.
      metric, protocol: the protocol's metric of the task, and its name.
      selection: what was selected, and on which split, in words.
      mnli_init: whether it started from a model fine-tuned on MNLI.
      source: where the rows came from.
      config: every field of GlueConfig.
      settings: every field of FinetuneSettings.
    """

    key: str
    task: str
    init: str
    seed: int
    learning_rate: float
    batch_size: int
    metric: str
    protocol: str
    selection: str
    mnli_init: bool
    source: str
    config: dict[str, Any]
    settings: dict[str, Any]

    @property
    def grid_point(self) -> tuple[float, int]:
        """(learning rate, batch size)."""
        return self.learning_rate, self.batch_size


Rows = dict[tuple[str, str], list[GlueRow]]  # by (task, init)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GlueFits(Fits):
    """One pretrained run on the tasks of one source, under one config."""

    config: GlueConfig
    source: Source

    @property
    def tasks(self) -> tuple[TaskData, ...]:
        """Data of the tasks that can be trained, MNLI first as others may need it."""
        found = [
            data
            for name, data in self.source.tasks.items()
            if name != DIAGNOSTIC.name and not data.untrainable
        ]
        return tuple(sorted(found, key=lambda data: data.task.name != "mnli"))

    def run(self) -> Rows:
        """All fine-tunings of all tasks, finished ones included."""
        for data in self.tasks:  # Mistakes are told before the first training.
            data.check_trainable()
        rows: Rows = {}
        inits = (PRETRAINED, RANDOM) if self.config.floor_seeds else (PRETRAINED,)
        for data in self.tasks:
            for init in inits:
                mnli = ""
                if data.task.name in self.config.rules.mnli_init:
                    mnli = best_key(rows.get(("mnli", init), []))
                rows[data.task.name, init] = self._run_task(data, init, mnli)
        return rows

    def _run_task(self, data: TaskData, init: str, mnli: str) -> list[GlueRow]:
        """Every grid point with the first seed, then the best one with the others.

        `mnli` is the key of the MNLI model to start from, or ''.
        """
        first, *others = self.config.task_seeds(data.task, init)
        grid = self.config.grid(data.task)
        fit = functools.partial(
            self._fit, prepare(data, self.config, self.source), init, mnli
        )
        rows = [fit(first, point) for point in grid]
        best = max(rows, key=lambda row: row.selection_score).grid_point
        return rows + [fit(seed, best) for seed in others]

    def key(
        self,
        data: TaskData,
        init: str,
        mnli: str,
        seed: int,
        settings: FinetuneSettings,
    ) -> str:
        """Changes with anything that would change the result."""
        return key_of(
            data.task.name,
            init,
            mnli,
            seed,
            dataclasses.asdict(settings),
            self.fingerprint if init == PRETRAINED else self.shape,
            {name: fingerprint(split) for name, split in data.splits.items()},
        )

    def _fit(
        self, data: TaskData, init: str, mnli: str, seed: int, point: tuple[float, int]
    ) -> GlueRow:
        """One fine-tuning, or the row of it if it is finished."""
        task = data.task
        settings = self.config.settings(task, point)
        key = self.key(data, init, mnli, seed, settings)
        wanted = set(self.config.rules.mnli_init) & set(self.source.tasks)
        keeps_params = task.name == "mnli" and bool(wanted)
        row = self.store.get(key)
        if row is not None and (not keeps_params or self._params_path(key).exists()):
            return row
        name = fit_name(task.name, init, seed, point[0])
        fit = finetune_lib.finetune(
            self._start_from(init, mnli, seed),
            data,
            settings,
            seed=seed,
            progress_file=self.progress_file(key),
            save_seconds=self.config.save_seconds,
            say=lambda line: self.say(f"  {name}: {line}"),
        )
        if keeps_params:
            arrays.save(self._params_path(key), fit.params["model"], {})
        row = GlueRow(
            **fit.record,
            **self.origin,
            key=key,
            task=task.name,
            init=init,
            seed=seed,
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            metric=self.config.rules.metric(task),
            protocol=self.config.protocol,
            selection=self._selection(task, settings, fit),
            mnli_init=bool(mnli),
            source=self.source.name,
            config=dataclasses.asdict(self.config),
            settings=dataclasses.asdict(settings),
        )
        self.store.add(row, fit.predictions)
        self.say(describe(row))
        return row

    def _start_from(self, init: str, mnli: str, seed: int) -> TrainedRun:
        trained = self.start(init, seed)
        if not mnli:
            return trained
        loaded = arrays.load(self._params_path(mnli), trained.params["model"])
        assert loaded is not None, "MNLI's parameters are written before its row."
        params = {**trained.params, "model": loaded[0]}
        return dataclasses.replace(trained, params=params)

    def _params_path(self, key: str) -> pathlib.Path:
        return self.store.workdir / "mnli" / f"{key}.npz"

    def _selection(self, task: Task, settings: FinetuneSettings, fit: FitRecord) -> str:
        """What was selected, and on what, in words."""
        where = fit.selection_split
        if where == SELECTION_SPLIT:
            where = f"{self.config.selection_share:.0%} of train"
        by = f"by {settings.selection_metric} on {where}"
        count = len(self.config.grid(task))
        parts = [f"best of {count} rates and batch sizes {by} (first seed)"]
        parts = parts if count > 1 else []
        best = settings.selection == "best"
        return "; ".join([*parts, f"best epoch {by}" if best else "last step"])


def prepare(data: TaskData, config: GlueConfig, source: Source) -> TaskData:
    """The train set as the protocol has it, and the selection share cut off."""
    name, rules = data.task.name, config.rules
    train = data.splits["train"]
    limit = config.task_limit(data.task)
    if limit is not None:
        train = data_lib.head(train, limit, seed=_CUT_SEED)
    splits = {}
    if config.selection_share:
        train, splits[SELECTION_SPLIT] = data_lib.cut(
            train,
            config.selection_share,
            seed=_CUT_SEED,
            stratify=not data.task.is_regression,
        )
    if name in rules.both_orders:
        train = data_lib.swapped_too(train)
    diagnostic = source.tasks.get(DIAGNOSTIC.name)
    if name == "mnli" and diagnostic is not None:
        splits[AX_SPLIT] = diagnostic.splits["test"]
    return data.replace(train=train, **splits)


def best_key(rows: list[GlueRow]) -> str:
    """Key of the row with the best selection score; '' without rows."""
    return max(rows, key=lambda row: row.selection_score).key if rows else ""


def fit_name(task: str, init: str, seed: int, learning_rate: float) -> str:
    """What lines about a fine-tuning begin with."""
    return f"{task} ({init}) seed {seed} rate {learning_rate:g}"


def describe(row: GlueRow) -> str:
    """One line about a finished fine-tuning."""
    split, scores = next(iter(row.scores.items()))
    failed = f", failed: {row.failed}" if row.failed else ""
    score = f"{row.metric} {100 * scores[row.metric]:.1f} on {split}"
    name = fit_name(row.task, row.init, row.seed, row.learning_rate)
    return f"{name}: {score}, {row.seconds:.0f} s{failed}"


@functools.lru_cache(maxsize=256)
def fingerprint(split: Split) -> str:
    """Changes with any text or label."""
    digest = hashlib.sha256(json.dumps(split.texts).encode())
    if split.labels is not None:
        digest.update(np.ascontiguousarray(split.labels).tobytes())
    return digest.hexdigest()
