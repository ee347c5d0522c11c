"""Evaluations of a backbone as it is: minimal pairs, and a common probe."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from typing import TYPE_CHECKING, Any, ClassVar

import objectives
from research.config.sections import RunConfig
from research.evaluation import probe
from research.evaluation.blimp import blimp, likelihood
from research.evaluation.interface import CHANCE, Evaluation, Metric, Result

if TYPE_CHECKING:
    from research.training.trained_run import Backbone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blimp(Evaluation):
    """Minimal pairs, zero-shot: the mean over paradigms, and the 12 phenomena."""

    primary: ClassVar[str] = "accuracy"
    trains: ClassVar[bool] = False

    source: str
    pairs_per_paradigm: int

    def refusal(self, run: RunConfig) -> str:
        return likelihood.refusal(run)

    def metric_names(self) -> tuple[str, ...]:
        return (self.primary, *blimp.PHENOMENA)

    def check_data(self, run: RunConfig) -> None:
        del run
        _paradigms(self.source, self.pairs_per_paradigm)

    def run(self, backbone: Backbone, folder: pathlib.Path) -> Result:
        started = time.monotonic()
        paradigms = _paradigms(self.source, self.pairs_per_paradigm)
        found = blimp.evaluate(backbone, paradigms)
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
    """Read once for all backbones."""
    return blimp.load(source, pairs_per_paradigm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(Evaluation):
    """The same question on the same corruption for all arms of an architecture.

    Attributes:
      objectives: architecture -> objective section, as of a run.
      num_batches, batch_size: of held-out rows.
    """

    primary: ClassVar[str] = "loss"
    trains: ClassVar[bool] = False

    objectives: dict[str, Any]
    num_batches: int
    batch_size: int

    def metric_names(self) -> tuple[str, ...]:
        return tuple(PROBE_METRICS)

    def run(self, backbone: Backbone, folder: pathlib.Path) -> Result:
        started = time.monotonic()
        architecture = backbone.model_config.architecture
        section = dict(self.objectives[architecture])
        objective = objectives.create(
            section.pop("name"),
            section,
            vocabulary=backbone.vocabulary,
            row_length=backbone.config.data.row_length,
            architecture=architecture,
        )
        found = probe.evaluate(
            backbone,
            objective,
            num_batches=self.num_batches,
            batch_size=self.batch_size,
        )
        count = f"{self.num_batches} x {self.batch_size} held-out rows"
        return Result(
            scores={
                "loss": [found.loss],
                "accuracy": [found.accuracy],
                "bits_per_byte": [found.bits_per_byte],
            },
            examples={},
            metrics=PROBE_METRICS,
            details={},
            notes=[f"{PROBE_NOTES[architecture]}, {count}"],
            seconds=time.monotonic() - started,
        )


def _probe_metric(label: str, unit: str, higher_is_better: bool) -> Metric:
    return Metric(
        label=label,
        unit=unit,
        higher_is_better=higher_is_better,
        floor=None,
        floor_label="",
        within_architecture=True,
    )


PROBE_METRICS = {
    "loss": _probe_metric("loss", "nats/target", False),
    "accuracy": _probe_metric("accuracy", "%", True),
    "bits_per_byte": _probe_metric("bits per byte", "bits/byte", False),
}
PROBE_NOTES = {
    "encoder": "encoders: masked tokens",
    "decoder": "decoders: the next token",
    "encoder_decoder": "encoder-decoders: corrupted spans",
}
