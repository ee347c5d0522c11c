"""Runs the tasks of a protocol: search, seeds, MNLI first, floor; nothing twice.

Seeds run one after the other and share what is compiled. Three at once under vmap took
1.06 times as long a seed on two CPU cores, for 2 layers x 128 and batches of 32 x 32.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from research.evaluation.finetuning import data as data_lib
from research.evaluation.finetuning.data import Split, TaskData
from research.evaluation.finetuning.finetune import (
    SELECTION_SPLIT,
    FinetuneResult,
    finetune,
)
from research.evaluation.finetuning.settings import FinetuneSettings
from research.evaluation.finetuning.task import Task
from research.evaluation.glue import protocols
from research.evaluation.glue.config import GlueConfig
from research.evaluation.glue.results import RunRow
from research.evaluation.glue.sources import Source
from research.evaluation.glue.tasks import DIAGNOSTIC
from research.machine import arrays, provenance
from research.machine.run_store import RunStore
from research.training import trained_run as backbone_lib
from research.training.trained_run import Backbone

PRETRAINED, RANDOM = "pretrained", "random"
# The diagnostic set rides along with MNLI, whose model answers it.
AX_SPLIT = "ax"
# The cut of the selection share is one for all seeds and rates.
_CUT_SEED = 0


@dataclasses.dataclass(frozen=True, eq=False)
class GlueRun:
    """One checkpoint on one source under one config.

    Attributes:
      config, source: see their classes.
      checkpoint: where the backbone comes from, for the rows.
      backbone: pretrained.
      store: of finished runs.
      say: reports finished runs, and how far long ones are, in words.
    """

    config: GlueConfig
    source: Source
    checkpoint: str
    backbone: Backbone
    store: RunStore[RunRow]
    say: Callable[[str], None]

    @property
    def tasks(self) -> tuple[TaskData, ...]:
        """Data of the tasks that can be trained, MNLI first as others may need it."""
        found = [
            data
            for name, data in self.source.tasks.items()
            if name != DIAGNOSTIC.name and not data.untrainable
        ]
        return tuple(sorted(found, key=lambda data: data.task.name != "mnli"))

    def run(self) -> dict[tuple[str, str], list[RunRow]]:
        """All runs of all tasks: {(task, init): rows}, finished ones included."""
        for data in self.tasks:
            data.check_trainable()
            for point in self.config.grid(data.task):
                self._settings(data.task, point)
        rows: dict[tuple[str, str], list[RunRow]] = {}
        inits = (PRETRAINED, RANDOM) if self.config.floor_seeds else (PRETRAINED,)
        for data in self.tasks:
            for init in inits:
                rows[data.task.name, init] = self.run_task(data, init, rows)
        return rows

    def run_task(
        self, data: TaskData, init: str, done: dict[tuple[str, str], list[RunRow]]
    ) -> list[RunRow]:
        """Every grid point with the first seed, then the best one with the others."""
        task = data.task
        seeds = self.config.task_seeds(task, init)
        base = self._base(task, init, done)
        prepared = prepare(data, self.config, self.source)
        grid = self.config.grid(task)
        rows = [
            self._run(prepared, init, seeds[0], point, base, done) for point in grid
        ]
        best = max(rows, key=lambda row: row.selection_score).grid_point
        for seed in seeds[1:]:
            rows.append(self._run(prepared, init, seed, best, base, done))
        return rows

    def _settings(self, task: Task, point: tuple[float, int]) -> FinetuneSettings:
        learning_rate, batch_size = point
        return protocols.settings(
            self.config.rules,
            task,
            dataclasses.asdict(self.config.finetune),
            learning_rate=learning_rate,
            batch_size=batch_size,
        )

    def _base(
        self, task: Task, init: str, done: dict[tuple[str, str], list[RunRow]]
    ) -> str:
        """Key of the MNLI run that a task starts from; '' for none."""
        rows = done.get(("mnli", init), [])
        if task.name not in self.config.rules.mnli_init or not rows:
            return ""
        return max(rows, key=lambda row: row.selection_score).key

    def _run(
        self,
        data: TaskData,
        init: str,
        seed: int,
        point: tuple[float, int],
        base: str,
        done: dict[tuple[str, str], list[RunRow]],
    ) -> RunRow:
        """One run, or the row of it if it is finished."""
        task = data.task
        settings = self._settings(task, point)
        key = self._key(data, init, seed, settings, base)
        row = self.store.get(key)
        keeps = self._keeps_params(task)
        if row is not None and (not keeps or self._params_path(key).exists()):
            return row
        backbone = self.starting_point(init, seed, base)
        name = run_name(task.name, init, seed, settings.learning_rate)
        result = finetune(
            backbone,
            data,
            settings,
            seed=seed,
            progress_file=self.store.workdir / "unfinished" / f"{key}.npz",
            save_seconds=self.config.save_seconds,
            say=lambda line: self.say(f"  {name}: {line}"),
        )
        if keeps:
            arrays.save(self._params_path(key), result.params["model"], {})
        row = self._row(data, init, seed, settings, base, key, result)
        self.store.add(row, result.predictions)
        self.say(describe(row))
        return row

    def starting_point(self, init: str, seed: int, base: str) -> Backbone:
        """The backbone a run starts from."""
        backbone = self.backbone
        if init == RANDOM:
            backbone = backbone_lib.random_init(backbone, seed)
        if not base:
            return backbone
        loaded = arrays.load(self._params_path(base), backbone.params["model"])
        assert loaded is not None, "MNLI's parameters are written before its row."
        params = {**backbone.params, "model": loaded[0]}
        return dataclasses.replace(backbone, params=params)

    def _keeps_params(self, task: Task) -> bool:
        wanted = set(self.config.rules.mnli_init) & set(self.source.tasks)
        return task.name == "mnli" and bool(wanted)

    def _params_path(self, key: str) -> pathlib.Path:
        return self.store.workdir / "mnli" / f"{key}.npz"

    def _key(
        self,
        data: TaskData,
        init: str,
        seed: int,
        settings: FinetuneSettings,
        base: str,
    ) -> str:
        identity = [
            data.task.name,
            init,
            seed,
            dataclasses.asdict(settings),
            base,
            self._fingerprint if init == PRETRAINED else self._shape,
            self.backbone.tokenizer.fingerprint,
            {name: fingerprint_split(split) for name, split in data.splits.items()},
        ]
        text = json.dumps(identity, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @functools.cached_property
    def _fingerprint(self) -> str:
        return fingerprint_params(self.backbone)

    @property
    def _shape(self) -> list[object]:
        """What the floor depends on: it is one for all checkpoints of a shape."""
        model = dataclasses.asdict(self.backbone.model_config)
        return [model, repr(self.backbone.config.objective)]

    def _row(
        self,
        data: TaskData,
        init: str,
        seed: int,
        settings: FinetuneSettings,
        base: str,
        key: str,
        result: FinetuneResult,
    ) -> RunRow:
        config = self.config
        return RunRow(
            key=key,
            task=data.task.name,
            init=init,
            seed=seed,
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            metric=config.rules.metric(data.task),
            scores=result.scores,
            protocol=config.protocol,
            selection=selection_rule(config, data.task, settings, result),
            selection_split=result.selection_split,
            selection_score=result.selection_score,
            best_epoch=result.best_epoch,
            num_epochs=result.num_epochs,
            num_steps=result.num_steps,
            losses=result.losses,
            mnli_init=bool(base),
            train_rows=result.train_rows,
            truncated=result.num_truncated,
            failed=result.failed,
            source=self.source.name,
            checkpoint=self.checkpoint,
            checkpoint_step=int(self.backbone.step),
            objective="+".join(self.backbone.config.objective.name),
            architecture=self.backbone.model_config.architecture,
            commit=provenance.commit(),
            config=dataclasses.asdict(config),
            settings=dataclasses.asdict(settings),
            seconds=round(result.seconds, 3),
            rows_per_second=round(result.rows_per_second, 3),
        )


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


def selection_rule(
    config: GlueConfig, task: Task, settings: FinetuneSettings, result: FinetuneResult
) -> str:
    """What was selected, and on what, in words."""
    where = result.selection_split
    if where == SELECTION_SPLIT:
        where = f"{config.selection_share:.0%} of train"
    by = f"by {settings.selection_metric} on {where}"
    grid = config.grid(task)
    parts = []
    if len(grid) > 1:
        parts.append(f"best of {len(grid)} rates and batch sizes {by} (first seed)")
    if settings.selection == "best":
        parts.append(f"best epoch {by}")
    else:
        parts.append("last step")
    return "; ".join(parts)


def run_name(task: str, init: str, seed: int, learning_rate: float) -> str:
    """What lines about a run begin with."""
    return f"{task} ({init}) seed {seed} rate {learning_rate:g}"


def describe(row: RunRow) -> str:
    """One line about a finished run."""
    split, scores = next(iter(row.scores.items()))
    failed = f", failed: {row.failed}" if row.failed else ""
    name = run_name(row.task, row.init, row.seed, row.learning_rate)
    score = f"{row.metric} {100 * scores[row.metric]:.1f} on {split}"
    return f"{name}: {score}, {row.seconds:.0f} s{failed}"


@functools.lru_cache(maxsize=256)
def fingerprint_split(split: Split) -> str:
    """Changes with any text or label."""
    digest = hashlib.sha256(json.dumps(split.texts).encode())
    if split.labels is not None:
        digest.update(np.ascontiguousarray(split.labels).tobytes())
    return digest.hexdigest()


def fingerprint_params(backbone: Backbone) -> str:
    """Changes with any parameter of the backbone or its heads."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(backbone.params)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
