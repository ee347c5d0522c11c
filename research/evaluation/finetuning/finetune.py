"""Fine-tunes a pretrained run on one sentence task, with one seed."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from research.errors import UserError
from research.evaluation.finetuning import batching, layer_depths, loop, metrics, styles
from research.evaluation.finetuning.batching import Batches
from research.evaluation.finetuning.data import TaskData
from research.evaluation.finetuning.encoding import EncodedSplit
from research.evaluation.finetuning.loop import Outcome, Program
from research.evaluation.finetuning.settings import FinetuneSettings
from research.evaluation.finetuning.styles import Style
from research.training import rngs
from research.training.state import Params
from research.training.trained_run import TrainedRun

SELECTION_SPLIT = "selection"
# Scores that spread less than this share of their range are constant predictions.
_CONSTANT_SPREAD = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitRecord:
    """What a finished fine-tuning leaves in results.jsonl.

    Attributes:
      scores: of every labelled evaluation split, all metrics of the task, in [-1, 1].
      selection_split: the split that selects epochs, rates and batch sizes.
      selection_score: of the selected parameters on it; higher is better.
      best_epoch, num_epochs: selected epoch and epochs run.
      losses: mean train loss of each epoch.
      num_steps: optimizer steps taken.
      failed: why the fit counts as failed ('not finite', 'constant predictions'), or ''.
      num_truncated: rows of each split that were longer than the model reads.
      train_rows: rows of the train set.
      seconds: of training by this process, evaluation excluded.
      rows_per_second: of training, compilation included.
    """

    scores: dict[str, dict[str, float]]
    selection_split: str
    selection_score: float
    best_epoch: int
    num_epochs: int
    losses: tuple[float, ...]
    num_steps: int
    failed: str
    num_truncated: dict[str, int]
    train_rows: int
    seconds: float
    rows_per_second: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Fit(FitRecord):
    """A finished fine-tuning.

    Attributes:
      predictions: class or score of every row of every split but 'train'.
      params: of the selected step, {'model', 'heads'}.
    """

    predictions: dict[str, np.ndarray]
    params: Params

    @property
    def record(self) -> dict[str, Any]:
        """The fields of FitRecord."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(FitRecord)}


def finetune(
    trained: TrainedRun,
    data: TaskData,
    settings: FinetuneSettings,
    *,
    seed: int,
    progress_file: pathlib.Path | None = None,
    save_seconds: float = 60.0,
    say: Callable[[str], None] | None = None,
) -> Fit:
    """Trains on 'train' and predicts every other split.

    What is selected (epoch, early stopping) is selected on the split 'selection' if the
    data has one, else on the first labelled evaluation split.

    Args:
      trained: parameters, config, tokenizer; never changed.
      data: rows of the task.
      settings: how to fine-tune.
      seed: of the head, the order of rows and dropout.
      progress_file: where an unfinished run is kept; a second call continues it, to
        the same result. Removed at the end.
      save_seconds: how often it is written.
      say: told twice a minute how far a long run is.

    Raises:
      UserError: a task that cannot be trained (no labels, a single class), or a style
        that the run cannot serve.
    """
    data.check_trainable()
    check_params(trained)
    _check_metric(data, settings)
    config = loop.dropout_config(trained.model_config, settings.dropout_rate)
    style = styles.make_style(trained, config, data.task, settings)
    program = loop.make_program(config, style.objective)
    task = _Prepared(program, style, data, settings)
    selects = settings.selection == "best" or settings.patience > 0
    outcome = loop.train(
        program,
        initial_params(trained, program, settings, seed),
        functools.partial(task.batches("train").epoch, settings.batch_size, seed),
        settings,
        seed=seed,
        score=task.selection_score if selects else None,
        progress_file=progress_file,
        save_seconds=save_seconds,
        say=say,
    )
    result = _result(task, outcome)
    if progress_file is not None:
        progress_file.unlink(missing_ok=True)
    return result


def _check_metric(data: TaskData, settings: FinetuneSettings) -> None:
    valid = (*data.task.metrics, "loss")
    if settings.selection_metric not in valid:
        raise UserError(
            f"selection_metric = {settings.selection_metric!r}: {data.task.title} is "
            f"scored by {', '.join(valid)}."
        )


def check_params(trained: TrainedRun) -> None:
    """Refuses parameters, a config and a tokenizer that do not belong together.

    Raises:
      UserError: naming what differs.
    """
    config, network = trained.model_config, trained.objective.exported
    size, rows = trained.tokenizer.vocab_size, config.vocab_size
    if rows is not None and size > rows:
        raise UserError(
            f"the tokenizer has {size:,} ids, the model's embedding {rows:,} rows: the "
            f"checkpoint is of another vocabulary. Give the tokenizer/ that it was "
            f"trained with."
        )
    wanted = loop.model_shapes(config)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(trained.params[network])
    }
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"the checkpoint is of another architecture or size: parameter {name} "
                f"has the shape {found.get(name, 'none')}, the config says "
                f"{wanted.get(name, 'none')}."
            )


def initial_params(
    trained: TrainedRun, program: Program, settings: FinetuneSettings, seed: int
) -> Params:
    """Pretrained parameters under a fresh head; some top layers fresh too if asked.

    A pretrained head is kept where it has the new head's parameters: the language
    model's head for text-to-text; for classes a tanh pooler, that of next-sentence
    prediction or the one that came with an imported BERT.
    """
    rng = rngs.stream(seed, "params")
    model = trained.params[trained.objective.exported]
    if settings.reinit_layers:
        fresh = program.init(rng)["model"]
        model = layer_depths.with_fresh_top(
            model, fresh, program.config, settings.reinit_layers
        )
    heads = dict(program.init_heads(rng))
    pretrained = trained.params["heads"]
    if "pooler" in heads and not settings.reinit_layers:
        pooler = styles.reusable_pooler(pretrained, heads["pooler"])
        heads["pooler"] = pooler or trained.pooler or heads["pooler"]
    if settings.style != "head":
        heads = styles.language_model_head(pretrained, heads)
    # Arrays of every origin in one place: jit compiles anew for another placement.
    return jax.device_put({"model": model, "heads": heads}, jax.local_devices()[0])


@dataclasses.dataclass(frozen=True, eq=False)
class _Prepared:
    """A task as token rows, in a style, for a program."""

    program: Program
    style: Style
    data: TaskData
    settings: FinetuneSettings

    @functools.cached_property
    def encoded(self) -> dict[str, EncodedSplit]:
        """Framed rows of every split."""
        return {
            name: self.style.encode(split) for name, split in self.data.splits.items()
        }

    def batches(self, name: str) -> Batches:
        """The rows of a split as batches."""
        encoded, split = self.encoded[name], self.data.splits[name]
        buckets = batching.usable_buckets(
            self.settings.bucket_lengths, self.style.framing.max_length
        )
        make = functools.partial(self.style.batch, encoded, split)
        return Batches(encoded.lengths, buckets, make)

    def outputs(self, params: Params, name: str) -> np.ndarray:
        """The objective's outputs of every row of a split, in its order."""
        batches = self.batches(name)
        found = batches.map(
            functools.partial(self.program.outputs, params),
            self.settings.eval_batch_size,
        )
        order, values = (np.concatenate(column) for column in zip(*found, strict=True))
        return values[np.argsort(order)]

    @property
    def selection_split(self) -> str:
        if SELECTION_SPLIT in self.data.splits:
            return SELECTION_SPLIT
        return self.data.dev_splits[0]

    def selection_score(self, params: Params) -> float:
        """Higher is better; 'loss' counts negatively."""
        return self._score(self.outputs(params, self.selection_split))

    def _score(self, outputs: np.ndarray) -> float:
        labels = self.data.splits[self.selection_split].known_labels
        if self.settings.selection_metric == "loss":
            losses = self.style.losses(outputs, labels)
            if losses is not None:
                mean = float(losses.mean())
                # A search never chooses what diverged: NaN would beat all after it.
                return -mean if math.isfinite(mean) else -math.inf
        scores = metrics.score((self._metric,), labels, self.style.predict(outputs))
        return scores[self._metric]

    @property
    def _metric(self) -> str:
        wanted = self.settings.selection_metric
        return self.data.task.metrics[0] if wanted == "loss" else wanted


def _result(task: _Prepared, outcome: Outcome) -> Fit:
    predictions, scores = {}, {}
    for name, split in task.data.splits.items():
        if name == "train":
            continue
        outputs = task.outputs(outcome.params, name)
        predictions[name] = task.style.predict(outputs)
        if split.labels is not None:
            scores[name] = metrics.score(
                task.data.task.metrics, split.labels, predictions[name]
            )
        if name == task.selection_split:
            selection = task._score(outputs)
    return Fit(
        scores=scores,
        predictions=predictions,
        selection_score=selection,
        selection_split=task.selection_split,
        best_epoch=outcome.best_epoch,
        num_epochs=len(outcome.losses),
        losses=outcome.losses,
        num_steps=outcome.num_steps,
        failed=_failure(task.data, outcome, predictions),
        num_truncated={n: e.num_truncated for n, e in task.encoded.items()},
        train_rows=len(task.data.splits["train"]),
        seconds=round(outcome.seconds, 3),
        rows_per_second=round(outcome.trained_rows / max(outcome.seconds, 1e-9), 3),
        params=outcome.params,
    )


def _failure(
    data: TaskData, outcome: Outcome, predictions: dict[str, np.ndarray]
) -> str:
    """Why a run counts as failed: it diverged, or answers every row alike."""
    if not outcome.finite:
        return "not finite"
    found = predictions[data.dev_splits[0]]
    constant = np.ptp(found) == 0
    if data.task.is_regression:
        low, high = data.task.limits
        constant = np.std(found) < _CONSTANT_SPREAD * (high - low)
    return "constant predictions" if constant else ""
