"""The sections of a pretraining run's config, as frozen dataclasses.

experiments/base.py says what each field means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from models.backbone import BackboneConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How text becomes token ids; see experiments/base.py for every field."""

    kind: str
    vocab_size: int
    lowercase: bool
    num_sentinels: int
    path: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which corpus, and how it is cut into rows."""

    source: str
    text_field: str
    heldout_fraction: float
    cache_dir: str
    row_length: int
    num_workers: int
    tokenizer: TokenizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The update rule and its learning rate over the steps."""

    name: str
    learning_rate: float
    schedule: str
    warmup_steps: int
    final_learning_rate: float
    decay_fraction: float
    beta1: float
    beta2: float
    epsilon: float
    bias_correction: bool
    weight_decay: float
    clip_norm: float
    moment_dtype: str
    decay_rate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, on how many rows a step, and from which parameters."""

    seed: int
    batch_size: int
    num_microbatches: int
    num_train_steps: int
    log_every_steps: int
    init_from: str
    extend_vocabulary: bool
    trainable: str
    max_skipped_steps: int
    spike_deviations: float
    hang_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How often and on how many held-out rows."""

    every_steps: int
    num_batches: int
    batch_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often to save, and which checkpoints stay."""

    every_steps: int
    keep_last: int
    keep_best: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How devices share the work."""

    mode: str
    data: int
    fsdp: int
    tensor: int


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """Stages, composed left to right, and the hyperparameters of each."""

    name: tuple[str, ...]
    params: Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Components among which the rows of every batch are dealt out."""

    components: Mapping[str, ObjectiveConfig]
    shares: tuple[int, ...]
    weights: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhasesConfig:
    """Components that train one after the other."""

    components: Mapping[str, ObjectiveConfig | MixtureConfig]
    ends: tuple[float, ...]


AnyObjectiveConfig = ObjectiveConfig | MixtureConfig | PhasesConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run. `model.vocab_size` is None until a tokenizer is known."""

    model: BackboneConfig
    objective: AnyObjectiveConfig
    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    parallel: ParallelConfig


# Sections by name; the class of `model` is that of its backbone, see `parse`.
SECTIONS: dict[str, type] = {
    "model": BackboneConfig,
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "checkpoint": CheckpointConfig,
    "parallel": ParallelConfig,
}
