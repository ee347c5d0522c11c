"""BLiMP as an evaluation of a comparison."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from typing import ClassVar

from research.config import objective_section
from research.config.sections import RunConfig
from research.evaluation.blimp import blimp, likelihood
from research.evaluation.interface import CHANCE, Evaluation, Result, Say, silent
from research.training.trained_run import TrainedRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blimp(Evaluation):
    """Minimal pairs, zero-shot: the mean over paradigms, and the 12 phenomena."""

    primary: ClassVar[str] = "accuracy"
    trains: ClassVar[bool] = False

    source: str
    pairs_per_paradigm: int

    def refusal(self, run: RunConfig) -> str:
        return likelihood.refusal(objective_section.provisional(run))

    def metric_names(self) -> tuple[str, ...]:
        return (self.primary, *blimp.PHENOMENA)

    def check_data(self, run: RunConfig) -> None:
        del run
        _paradigms(self.source, self.pairs_per_paradigm)

    def run(
        self, trained: TrainedRun, folder: pathlib.Path, say: Say = silent
    ) -> Result:
        started = time.monotonic()
        paradigms = _paradigms(self.source, self.pairs_per_paradigm)
        found = blimp.evaluate(trained, paradigms)
        values = {"accuracy": found.accuracy, **found.phenomena}
        return Result(
            scores={name: [value] for name, value in values.items()},
            examples={"accuracy": [found.right.tolist()]},
            metrics={
                name: dataclasses.replace(CHANCE, label=name.replace("_", " "))
                for name in values
            },
            details=found.paradigms,
            notes=list(found.notes),
            seconds=time.monotonic() - started,
        )


@functools.lru_cache(maxsize=2)
def _paradigms(source: str, pairs_per_paradigm: int) -> tuple[blimp.Paradigm, ...]:
    """Read once for all runs."""
    return blimp.load(source, pairs_per_paradigm)
