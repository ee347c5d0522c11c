"""Published fine-tuning protocols, as data.

Each gives batch sizes, rates, epochs, what is selected on which split, the seeds, and the
tasks that start from an MNLI model. Values are those of the papers' own configurations;
where one leaves a value open, `source` says where it comes from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from research.config import kinds, strict
from research.errors import UserError, nearest
from research.evaluation.finetuning.settings import FinetuneSettings
from research.evaluation.finetuning.task import Task

# Written out, so that a task added to the table enters no published average.
NINE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
WITHOUT_WNLI = NINE[:-1]
# The tasks that some protocols start from a model fine-tuned on MNLI.
AFTER_MNLI = ("rte", "mrpc", "stsb")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a paper fine-tunes, and which scores it reports.

    Attributes:
      name: its key.
      source: where the values come from.
      learning_rates, batch_sizes: searched; the pair with the best selection score is
        reported.
      seeds: fine-tuning seeds.
      statistic: over seeds, 'mean' or 'median', in the published table.
      settings: fields of FinetuneSettings that hold for every task.
      tasks: what differs for a task: fields of FinetuneSettings, learning_rates,
        batch_sizes or seeds.
      metrics: the published metric of each task.
      average: tasks in the published average.
      mnli_init: tasks that start from the MNLI model's backbone.
      both_orders: tasks whose pairs are trained on in both orders.
      train_limit: largest number of train rows of a task.
    """

    name: str
    source: str
    learning_rates: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    statistic: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, str]
    average: tuple[str, ...]
    tasks: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    mnli_init: tuple[str, ...] = ()
    both_orders: tuple[str, ...] = ()
    train_limit: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def for_task(self, task: Task, field: str) -> tuple[Any, ...]:
        """learning_rates, batch_sizes or seeds of a task."""
        return self.tasks.get(task.name, {}).get(field, getattr(self, field))

    def metric(self, task: Task) -> str:
        """The published metric of a task."""
        return self.metrics.get(task.name, task.metrics[0])


_ADAM = dict(beta1=0.9, beta2=0.999, epsilon=1e-6, clip_norm=1.0)
_ADAM_98 = dict(beta1=0.9, beta2=0.98, epsilon=1e-6, clip_norm=0.0)
_ACCURACIES = {"mrpc": "accuracy", "qqp": "accuracy"}
_F1 = {"mrpc": "f1", "qqp": "f1"}


def _settings(
    adam: Mapping[str, float],
    *,
    epochs: int,
    length: int,
    warmup: float,
    decay: float,
    **changes: Any,
) -> dict[str, Any]:
    """What a protocol sets for all tasks; `changes` are of what most have in common."""
    common = dict(
        layer_decay=1.0,
        frozen_layers=0,
        reinit_layers=0,
        final_fraction=0.0,
        patience=0,
        selection="last",
        dropout_rate=0.1,
        schedule="linear",
        unit_scores=False,
    )
    own = dict(num_epochs=epochs, max_length=length)
    return {
        **common,
        **adam,
        **own,
        "warmup_fraction": warmup,
        "weight_decay": decay,
        **changes,
    }


_MOSAIC_SEEDS = (19, 8364, 717, 10536, 90166)
_MOSAIC = {
    # task: (rate, weight decay, batch, epochs, seeds)
    "mnli": (5e-5, 5e-6, 48, 3, 1),
    "qqp": (3e-5, 3e-6, 16, 5, 1),
    "qnli": (1e-5, 1e-6, 16, 10, 1),
    "sst2": (3e-5, 3e-6, 16, 3, 3),
    "cola": (5e-5, 5e-6, 32, 10, 4),
    "rte": (1e-5, 1e-5, 16, 3, 5),
    "mrpc": (8e-5, 8e-6, 32, 10, 5),
    "stsb": (3e-5, 3e-6, 32, 10, 5),
}

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="bert",
            source="Devlin et al. 2019, section 4.1 and appendix A.3",
            learning_rates=(5e-5, 4e-5, 3e-5, 2e-5),
            batch_sizes=(32,),
            seeds=(0, 1, 2, 3, 4),
            statistic="mean",
            settings=_settings(_ADAM, epochs=3, length=128, warmup=0.1, decay=0.01),
            metrics={**_F1, "stsb": "spearman"},
            average=WITHOUT_WNLI,
        ),
        Protocol(
            name="turc",
            source="Turc et al. 2019, README of the small BERT models (batches of 32)",
            learning_rates=(3e-4, 1e-4, 5e-5, 3e-5),
            batch_sizes=(32,),
            seeds=(0, 1, 2),
            statistic="mean",
            settings=_settings(_ADAM, epochs=4, length=128, warmup=0.1, decay=0.01),
            metrics={},
            average=NINE,
        ),
        Protocol(
            name="roberta",
            source="Liu et al. 2019, fairseq examples/roberta/config/finetuning",
            learning_rates=(1e-5,),
            batch_sizes=(32,),
            seeds=(0, 1, 2, 3, 4),
            statistic="median",
            settings=_settings(
                _ADAM_98,
                epochs=10,
                length=512,
                warmup=0.06,
                decay=0.1,
                selection="best",
                unit_scores=True,
            ),
            tasks={
                # The checkpoint of CoLA is chosen by accuracy, that of STS-B by loss.
                "cola": dict(batch_sizes=(16,), selection_metric="accuracy"),
                "mrpc": dict(batch_sizes=(16,), selection_metric="accuracy"),
                "rte": dict(batch_sizes=(16,), learning_rates=(2e-5,)),
                "stsb": dict(
                    batch_sizes=(16,), learning_rates=(2e-5,), selection_metric="loss"
                ),
                "qqp": dict(warmup_fraction=0.25, selection_metric="accuracy"),
            },
            metrics={**_ACCURACIES, "stsb": "pearson"},
            average=WITHOUT_WNLI,
        ),
        Protocol(
            name="electra",
            source="Clark et al. 2020, configure_finetuning.py (small and base)",
            learning_rates=(1e-4,),
            batch_sizes=(32,),
            seeds=tuple(range(10)),
            statistic="median",
            settings=_settings(
                _ADAM,
                epochs=3,
                length=128,
                warmup=0.1,
                decay=0.01,
                layer_decay=0.8,
                unit_scores=True,
            ),
            tasks={"rte": dict(num_epochs=10), "stsb": dict(num_epochs=10)},
            metrics={**_ACCURACIES, "stsb": "spearman"},
            average=WITHOUT_WNLI,
            both_orders=("mrpc", "stsb"),
        ),
        Protocol(
            name="mosaic",
            source="Portes et al. 2023, mosaicml/examples finetuning_jobs.py",
            learning_rates=(5e-5,),
            batch_sizes=(32,),
            seeds=(19,),
            statistic="mean",
            settings=_settings(
                _ADAM_98, epochs=10, length=256, warmup=0.06, decay=5e-6
            ),
            tasks={
                task: dict(
                    learning_rates=(rate,),
                    weight_decay=decay,
                    batch_sizes=(batch,),
                    num_epochs=epochs,
                    seeds=_MOSAIC_SEEDS[:count],
                )
                for task, (rate, decay, batch, epochs, count) in _MOSAIC.items()
            },
            metrics={**_ACCURACIES, "stsb": "spearman"},
            average=WITHOUT_WNLI,
            mnli_init=AFTER_MNLI,
        ),
        Protocol(
            name="cramming",
            source="Geiping and Goldstein 2023, config/eval/GLUE_sane.yaml",
            learning_rates=(4e-5,),
            batch_sizes=(16,),
            seeds=(0, 1, 2, 3, 4),
            statistic="mean",
            settings=_settings(
                _ADAM_98, epochs=5, length=128, warmup=0.1, decay=0.0, schedule="cosine"
            ),
            metrics={**_F1, "stsb": "pearson"},
            average=WITHOUT_WNLI,
        ),
        Protocol(
            name="babylm",
            source="BabyLM 2025, evaluation_pipeline/finetune (clipping: as in bert)",
            learning_rates=(3e-5,),
            batch_sizes=(32,),
            seeds=(42,),
            statistic="mean",
            settings=_settings(
                _ADAM,
                epochs=10,
                length=512,
                warmup=0.06,
                decay=0.01,
                selection="best",
                schedule="cosine",
                final_fraction=0.1,
            ),
            metrics=_F1,
            average=("mrpc", "qqp", "mnli", "rte"),
            train_limit={"mnli": 10_000, "qqp": 10_000},
        ),
    )
}


def get(name: str) -> Protocol:
    """The protocol called `name`.

    Raises:
      UserError: listing the valid ones, the nearest first.
    """
    if name not in PROTOCOLS:
        raise UserError(
            f"there is no protocol {name!r}.{nearest(name, PROTOCOLS)} "
            f"Valid: {', '.join(PROTOCOLS)}."
        )
    return PROTOCOLS[name]


def settings(
    protocol: Protocol,
    task: Task,
    given: Mapping[str, Any],
    *,
    learning_rate: float,
    batch_size: int,
) -> FinetuneSettings:
    """The settings of one fine-tuning.

    Args:
      protocol: gives what `given` leaves None.
      task: may have values of its own in the protocol.
      given: fields of FinetuneSettings; those that no protocol has must be set.
      learning_rate, batch_size: one of those searched.
    """
    fields = {field.name for field in dataclasses.fields(FinetuneSettings)}
    values: dict[str, Any] = {"selection_metric": protocol.metric(task)}
    values |= protocol.settings
    own = protocol.tasks.get(task.name, {})
    values |= {name: value for name, value in own.items() if name in fields}
    values |= {name: value for name, value in given.items() if value is not None}
    values |= {"learning_rate": learning_rate, "batch_size": batch_size}
    return strict.parsed(
        FinetuneSettings, values, "config.finetune", complete=kinds.GLUE.complete
    )
