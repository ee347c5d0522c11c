"""Settings of a fine-tuning: all but the pretrained run, the task and the seed."""

from __future__ import annotations

import dataclasses
import math

from research.errors import nearest
from research.evaluation.finetuning.optimizer import SCHEDULES

STYLES = ("head", "text_to_text", "text_to_text_free")
READOUTS = ("auto", "cls", "mean", "last")
SELECTIONS = ("last", "best")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Every value of a fine-tuning.

    Attributes:
      style: 'head' (a new layer on one state), 'text_to_text' (an encoder-decoder
        writes the label; choice among the label words), 'text_to_text_free' (what it
        writes counts, unknown words as wrong).
      readout: state that the head reads: 'cls', 'mean', 'last', or 'auto' ('cls' for
        an encoder, else 'last').
      batch_size: rows a step.
      eval_batch_size: rows an evaluation call.
      num_epochs: passes over the train set.
      max_length: tokens of a framed row; longer ones are cut.
      bucket_lengths: static lengths below max_length.
      learning_rate: at its peak.
      schedule: 'linear', 'cosine' or 'constant', after a linear warm-up.
      warmup_fraction: of all steps.
      final_fraction: of the peak rate, at the end.
      beta1, beta2, epsilon, weight_decay: AdamW's.
      clip_norm: limit of the gradient's norm; 0 = none.
      layer_decay: factor on the learning rate from a layer to the one below.
      frozen_layers: first layers that do not learn, with the embeddings; 0 = all learn.
      reinit_layers: last layers that start from fresh parameters (Zhang et al. 2021).
      dropout_rate: on hidden states and attention; None = as pretrained.
      selection: parameters of the 'last' step, or of the 'best' epoch.
      selection_metric: what 'best' and early stopping compare: a metric or 'loss'.
      patience: epochs without a better score before stopping; 0 = never stop early.
      unit_scores: learn scores divided by their range, [0, 1].
      z_loss: factor on the squared log-partition in the loss of a written answer.
      min_answer_length: tokens that every written answer has room for; label words of
        at most so many share one compiled step.

    Raises:
      ValueError: for a value that is not allowed, naming it and what is.
    """

    style: str
    readout: str
    batch_size: int
    eval_batch_size: int
    num_epochs: int
    max_length: int
    bucket_lengths: tuple[int, ...]
    learning_rate: float
    schedule: str
    warmup_fraction: float
    final_fraction: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    clip_norm: float
    layer_decay: float
    frozen_layers: int
    reinit_layers: int
    dropout_rate: float | None
    selection: str
    selection_metric: str
    patience: int
    unit_scores: bool
    z_loss: float
    min_answer_length: int

    def __post_init__(self):
        choices = {
            "style": STYLES,
            "readout": READOUTS,
            "schedule": SCHEDULES,
            "selection": SELECTIONS,
        }
        for field, valid in choices.items():
            value = getattr(self, field)
            if value not in valid:
                raise ValueError(
                    f"{field} = {value!r}: must be one of {', '.join(valid)}."
                    f"{nearest(str(value), valid)}"
                )
        rates = ("learning_rate", "layer_decay")
        counts = ("batch_size", "eval_batch_size", "num_epochs")
        for fields, is_valid, rule in (
            # Without epsilon a parameter that no gradient reaches would become 0 / 0.
            ((*counts, *rates, "epsilon"), lambda x: 0 < x < math.inf, "> 0"),
            (
                ("weight_decay", "clip_norm", "z_loss", "patience", "reinit_layers"),
                lambda x: 0 <= x < math.inf,
                ">= 0",
            ),
            (
                ("warmup_fraction", "final_fraction"),
                lambda x: 0 <= x <= 1,
                "from 0 to 1",
            ),
            (("beta1", "beta2"), lambda x: 0 <= x < 1, ">= 0 and < 1"),
            (("max_length",), lambda x: x >= 8, "at least 8"),
        ):
            for field in fields:
                value = getattr(self, field)
                if not is_valid(value):
                    raise ValueError(f"{field} = {value}: must be {rule}.")
