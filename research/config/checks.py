"""Checks the values of a config, each alone and together.

Every check returns its problems as messages: the field, what was given, what is
allowed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from models.backbone import BackboneConfig
from objectives.base import Objective
from objectives.vocabulary import Vocabulary
from research.config.sections import (
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    OptimizerConfig,
    ParallelConfig,
    TokenizerConfig,
    TrainConfig,
)
from research.errors import nearest

# Allowed values of the fields that take names.
CHOICES: dict[str, tuple[str, ...]] = {
    "data.tokenizer.kind": ("bpe", "wordpiece", "unigram", "file"),
    "optimizer.name": ("adamw", "adafactor", "muon"),
    "optimizer.schedule": ("linear", "cosine", "constant", "wsd", "rsqrt"),
    "optimizer.moment_dtype": ("float32", "bfloat16"),
    "parallel.mode": ("jit", "pmap"),
}


def section_problems(sections: Mapping[str, Any]) -> list[str]:
    """Problems of the sections; a section that could not be built is None and skipped."""
    problems = []
    for name, section in sections.items():
        if section is not None:
            problems += _check_choices(name, section)
    for check, names in CHECKS.items():
        if all(sections.get(name) is not None for name in names):
            problems += check(*(sections[name] for name in names))
    return problems


def _check_choices(section: str, values: Any, prefix: str = "") -> list[str]:
    problems = []
    for field in dataclasses.fields(values):
        path = f"{prefix}{section}.{field.name}"
        value = getattr(values, field.name)
        if dataclasses.is_dataclass(value):
            problems += _check_choices(field.name, value, f"{section}.")
        elif path in CHOICES and value not in CHOICES[path]:
            valid = CHOICES[path]
            problems.append(
                f"config.{path} = {value!r}: must be one of {', '.join(valid)}."
                f"{nearest(str(value), valid)}"
            )
    return problems


def _bounds(path: str, values: Any, **limits: tuple[float, float]) -> list[str]:
    """Problems of fields that are outside their limits (both included)."""
    problems = []
    for name, (low, high) in limits.items():
        value = getattr(values, name)
        if not low <= value <= high:
            limits_given = [f"at least {low:g}"] if low > -np.inf else []
            limits_given += [f"at most {high:,}"] if high < np.inf else []
            problems.append(
                f"config.{path}.{name} = {value!r}: must be "
                f"{' and '.join(limits_given)}."
            )
    return problems


_ANY = np.inf  # Up to what `strict` takes of any number.
_MAX_BLOCKS = 2**12
_MOST = 2**24  # Of rows, tokens, pieces and features; more takes hours to refuse.
_TINY = float(np.finfo(np.float32).tiny)  # The least positive value of a float32.


def _check_data(data: DataConfig) -> list[str]:
    problems = _bounds("data", data, row_length=(2, _MOST), num_workers=(1, 4096))
    if not 0.0 < data.heldout_fraction < 1.0:
        problems.append(
            f"config.data.heldout_fraction = {data.heldout_fraction}: must be between "
            f"0 and 1; evaluation needs held-out documents."
        )
    if not data.source:
        problems.append(
            "config.data.source is empty: 'embedded', a path, glob or 'tfds:NAME'."
        )
    tokenizer = data.tokenizer
    if tokenizer.kind == "file" and not tokenizer.path:
        problems.append(
            "config.data.tokenizer.kind = 'file' needs config.data.tokenizer.path: "
            "tokenizer.json, vocab.txt, a GPT-2 folder or a sentencepiece model."
        )
    problems += _bounds("data.tokenizer", tokenizer, num_sentinels=(0, 2**16))
    # Byte-level BPE starts from 256 bytes; fewer pieces leave nothing to learn.
    if (
        tokenizer.kind != "file"
        and tokenizer.vocab_size < tokenizer.num_sentinels + 300
    ):
        problems.append(
            f"config.data.tokenizer.vocab_size = {tokenizer.vocab_size}: must be at "
            f"least num_sentinels + 300 = {tokenizer.num_sentinels + 300}."
        )
    return problems + _bounds("data.tokenizer", tokenizer, vocab_size=(0, _MOST))


def _check_model(model: BackboneConfig) -> list[str]:
    """Bounds of any backbone's sizes; what they mean, its own class checks."""
    sizes = {
        field.name: (-np.inf, _MAX_BLOCKS if field.name == "num_layers" else _MOST)
        for field in dataclasses.fields(model)
        if type(getattr(model, field.name)) is int
    }
    return _bounds("model", model, **sizes)


def _check_optimizer(optimizer: OptimizerConfig) -> list[str]:
    problems = _bounds(
        "optimizer",
        optimizer,
        learning_rate=(_TINY, _ANY),
        warmup_steps=(0, _ANY),
        final_learning_rate=(0, _ANY),
        decay_fraction=(0, 1),
        epsilon=(_TINY, _ANY),  # A gradient of zero gives 0 / epsilon.
        weight_decay=(0, _ANY),
        clip_norm=(0, _ANY),
        decay_rate=(_TINY, 1),
    )
    for name in ("beta1", "beta2"):
        value = getattr(optimizer, name)
        if not 0.0 <= value < 1.0:
            problems.append(
                f"config.optimizer.{name} = {value}: must be at least 0 and below 1."
            )
    if optimizer.final_learning_rate > optimizer.learning_rate:
        problems.append(
            f"config.optimizer.final_learning_rate = {optimizer.final_learning_rate}: "
            f"must not exceed learning_rate = {optimizer.learning_rate}."
        )
    return problems


def _check_train(train: TrainConfig) -> list[str]:
    problems = _bounds(
        "train",
        train,
        seed=(0, 2**32 - 1),
        batch_size=(1, _MOST),
        num_microbatches=(1, _ANY),
        num_train_steps=(1, 2**31 - 1),
        log_every_steps=(1, _ANY),
        max_skipped_steps=(0, _ANY),
        spike_deviations=(0, _ANY),
        hang_seconds=(0, _ANY),
    )
    if not problems and train.batch_size % train.num_microbatches:
        problems.append(
            f"config.train.batch_size = {train.batch_size} is not divisible by "
            f"config.train.num_microbatches = {train.num_microbatches}: change one."
        )
    if train.extend_vocabulary and not train.init_from:
        problems.append(
            "config.train.extend_vocabulary = True needs config.train.init_from: only "
            "the vocabulary of another run can be extended."
        )
    try:
        re.compile(train.trainable)
    except re.error as error:
        problems.append(
            f"config.train.trainable = {train.trainable!r} is no regular expression: "
            f"{error}. It is matched against whole paths of parameters, such as "
            f"'model/token_embedding'; '.*' trains all of them."
        )
    return problems


def _check_periods(evaluation: EvalConfig, checkpoint: CheckpointConfig) -> list[str]:
    return _bounds(
        "eval",
        evaluation,
        every_steps=(1, _ANY),
        num_batches=(1, _MOST),
        batch_size=(1, _MOST),
    ) + _bounds("checkpoint", checkpoint, every_steps=(1, _ANY), keep_last=(1, _ANY))


def _check_parallel(parallel: ParallelConfig) -> list[str]:
    problems = _bounds("parallel", parallel, fsdp=(1, _ANY), tensor=(1, _ANY))
    if parallel.data != -1 and parallel.data < 1:
        problems.append(
            f"config.parallel.data = {parallel.data}: a number of devices, or -1 for "
            f"all that are left over."
        )
    if parallel.mode == "pmap" and parallel.fsdp * parallel.tensor > 1:
        problems.append(
            f"config.parallel.mode = 'pmap' replicates the parameters: fsdp = "
            f"{parallel.fsdp} and tensor = {parallel.tensor} must be 1, or mode 'jit'."
        )
    return problems


def _check_tensor(model: BackboneConfig, parallel: ParallelConfig) -> list[str]:
    """Tensor parallelism splits nothing unevenly."""
    problems = []
    for name, size in model.tensor_sizes.items():
        if parallel.tensor > 0 and size % parallel.tensor:
            problems.append(
                f"config.model.{name} = {size} is not divisible by "
                f"config.parallel.tensor = {parallel.tensor}: change one of them."
            )
    return problems


CHECKS: dict[Callable[..., list[str]], tuple[str, ...]] = {
    _check_model: ("model",),
    _check_data: ("data",),
    _check_optimizer: ("optimizer",),
    _check_train: ("train",),
    _check_periods: ("eval", "checkpoint"),
    _check_parallel: ("parallel",),
    _check_tensor: ("model", "parallel"),
}


def length_problems(model: BackboneConfig, objective: Objective) -> list[str]:
    """Problems of sequences longer than the model can read."""
    lengths = objective.lengths
    longest = max(lengths.inputs, lengths.encoder)
    if model.max_length is None or longest <= model.max_length:
        return []
    problem = (
        f"config.data.row_length = {objective.row_length} makes sequences of {longest} "
        f"tokens, longer than config.model.max_seq_len = {model.max_length}: shorten "
        f"the rows or raise max_seq_len to {longest}."
    )
    return [problem]


def provisional_vocabulary(tokenizer: TokenizerConfig) -> Vocabulary:
    """A stand-in for the vocabulary that the tokenizer section will give.

    A tokenizer from a file is taken to have whatever an objective needs; the real one
    is checked again when it has been read.
    """
    size = tokenizer.vocab_size
    sentinels = tokenizer.num_sentinels
    if tokenizer.kind == "file":
        size, sentinels = 2**16, 2**10
    is_special = np.zeros(size, bool)
    is_special[:8] = True
    is_special[size - sentinels :] = True
    return Vocabulary(
        vocab_size=size,
        pad_id=0,
        unk_id=1,
        cls_id=2,
        sep_id=3,
        mask_id=4,
        bos_id=5,
        eos_id=6,
        eod_id=7,
        sentinel_ids=tuple(range(size - 1, size - 1 - sentinels, -1)),
        is_special=is_special,
        is_word_start=np.ones(size, bool),
        is_sentence_end=~is_special,
        unigram_counts=np.ones(size, np.int64),
        byte_lengths=np.ones(size, np.int32),
    )
