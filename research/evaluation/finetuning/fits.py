"""Fine-tunings of one pretrained run in a workdir: what GLUE and SQuAD share."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from research.config.kinds import Kind
from research.machine import compilation_cache, files, provenance
from research.machine.run_store import RunStore
from research.training import trained_run, workdir
from research.training.trained_run import TrainedRun

PRETRAINED, RANDOM = "pretrained", "random"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What was fine-tuned, and by what code; in every row of results.jsonl."""

    checkpoint: str
    checkpoint_step: int
    objective: str
    architecture: str
    commit: str


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Fits:
    """The fine-tunings of one pretrained run; finished ones are read from disk.

    Attributes:
      checkpoint: where the run was loaded from, for the rows.
      trained: the run.
      store: of finished fine-tunings.
      say: reports finished ones, and how far long ones are, in words.
    """

    checkpoint: str
    trained: TrainedRun
    store: RunStore[Any]
    say: Callable[[str], None]

    @property
    def origin(self) -> dict[str, Any]:
        """The fields of Origin."""
        found = Origin(
            checkpoint=self.checkpoint,
            checkpoint_step=int(self.trained.step),
            objective=self.trained.objective.name,
            architecture=self.trained.model_config.architecture,
            commit=provenance.commit(),
        )
        return vars(found)

    def start(self, init: str, seed: int) -> TrainedRun:
        """The run, or the same network before any pretraining."""
        if init == PRETRAINED:
            return self.trained
        return trained_run.random_init(self.trained, seed)

    def progress_file(self, key: str) -> pathlib.Path:
        """Where an unfinished fine-tuning is saved."""
        return self.store.workdir / "unfinished" / f"{key}.npz"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with any parameter of the run and with its tokenizer."""
        digest = hashlib.sha256(self.trained.tokenizer.fingerprint.encode())
        weights = (self.trained.params, self.trained.pooler)
        for leaf in jax.tree.leaves(jax.device_get(weights)):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()

    @property
    def shape(self) -> list[Any]:
        """What a floor depends on: runs that are equal in it share their floor."""
        model = dataclasses.asdict(self.trained.model_config)
        objective = repr(self.trained.config.objective)
        return [model, objective, self.trained.tokenizer.fingerprint]


def key_of(*identity: Any) -> str:
    """A key that changes with any of the plain values."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def open_workdir(
    config: ml_collections.ConfigDict, kind: Kind, checkpoint: str, folder: pathlib.Path
) -> TrainedRun:
    """Loads the run of a workdir `checkpoint` and writes config.json to `folder`.

    Raises:
      UserError: if there is no such run or checkpoint, or `folder` holds another kind of
        work than `kind`.
    """
    compilation_cache.enable()
    workdir.check_kind(folder, kind)
    trained = trained_run.load(checkpoint, which=config.which)
    folder.mkdir(parents=True, exist_ok=True)
    workdir.save_config(folder, config)
    return trained


def write_results(folder: pathlib.Path, text: str) -> None:
    """Writes results.md and prints it."""
    files.write(folder / "results.md", text)
    print(f"\n{text}\n{folder / 'results.md'}")
