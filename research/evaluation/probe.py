"""A common probe on fixed corruption, to be compared within an architecture only.

Arms of one architecture may be trained on different corruptions, so their own losses do
not compare. The probe asks all of them the same question on the same held-out rows, with
the heads that they were pretrained with: another objective's corruption is put before
the backbone, and its targets are read off with the arm's own head.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import objectives
from objectives.base import Objective
from objectives.cross_entropy import weighted_cross_entropy
from objectives.types import TokenBatch
from research.data import loader, run_data
from research.errors import UserError
from research.evaluation.interface import Evaluation, Metric, Result, Say, silent
from research.training import rngs
from research.training import state as state_lib
from research.training.trained_run import TrainedRun

# The probe's corruption is the same for every arm, seed and time.
_SEED = 0


def evaluate(
    run: TrainedRun, question: Objective, *, num_batches: int, batch_size: int
) -> dict[str, float]:
    """Asks a run the targets of `question` on held-out rows, read by the run's own head.

    The metrics of PROBE_METRICS, over the targets and their text.

    Args:
      run: whose backbone and head answer.
      question: an objective with a single term, arranged for the run's architecture.

    Raises:
      UserError: if the run's objective predicts no tokens.
    """
    config, objective = run.config, run.objective
    term = objective.token_term
    if term is None:
        raise UserError(
            f"objective {objective.name} has no head that predicts tokens, which the "
            f"probe reads."
        )
    data = run_data.load(config.data)
    modules = state_lib.create_modules(run.model_config, objective)
    byte_lengths = jnp.asarray(run.vocabulary.byte_lengths, jnp.float32)

    @jax.jit
    def ask(weights: Any, batch: TokenBatch, number: Array) -> Array:
        networks = modules.merge(weights)
        model = networks["model"]
        example = question.corrupt(rngs.at(_SEED, "evaluation", number), batch)
        (target,) = example.targets.values()
        (states,) = question.hidden_states(model, example).values()
        found = weighted_cross_entropy(
            *objective.readout(
                term, networks["heads"], states, target, model.embedding, example.inputs
            ),
            target.values,
            target.loss_weights,
            with_accuracy=True,
        )
        size = (byte_lengths[target.values] * target.loss_weights).sum()
        return jnp.stack(
            [
                found.loss_sum,
                jnp.asarray(found.correct_sum),
                target.loss_weights.sum(),
                size,
            ]
        )

    batches = loader.heldout_batches(
        data.heldout,
        row_length=config.data.row_length,
        batch_size=batch_size,
        num_batches=num_batches,
    )
    sums = [
        ask(run.params, batch, jnp.int32(number))
        for number, batch in enumerate(batches)
    ]
    loss, correct, count, size = np.asarray(jax.device_get(sums), np.float64).sum(0)
    return {
        "loss": loss / count,
        "accuracy": correct / count,
        "bits_per_byte": loss / math.log(2) / max(size, 1.0),
    }


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

    def run(
        self, backbone: TrainedRun, folder: pathlib.Path, say: Say = silent
    ) -> Result:
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
        found = evaluate(
            backbone,
            objective,
            num_batches=self.num_batches,
            batch_size=self.batch_size,
        )
        count = f"{self.num_batches} x {self.batch_size} held-out rows"
        return Result(
            scores={name: [value] for name, value in found.items()},
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
