"""A run small enough to compile in seconds: its config, program, batches and corpus."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest

from experiments import base, presets
from objectives.types import TokenBatch
from research.config import parse as config_lib
from research.config.sections import RunConfig
from research.training import program as program_lib
from research.training import steps
from research.training.program import Program
from tests.helpers import toy_batch, toy_vocabulary

ROW_LENGTH = 22
BATCH_SIZE = 8


def config(objective: str = "masked_lm", **overrides: Any) -> ml_collections.ConfigDict:
    """A config of one layer; overrides are dotted names, 'train__seed' for train.seed."""
    architecture = {"masked_lm": "encoder", "causal_lm": "decoder"}.get(
        objective, "encoder_decoder"
    )
    values = base.get_config()
    values.model = presets.model(
        "tiny",
        architecture=architecture,
        num_layers=1,
        emb_dim=32,
        num_heads=4,
        mlp_dim=64,
        max_seq_len=32,
    )
    values.objective = presets.objective(objective)
    values.data.row_length = ROW_LENGTH
    values.data.num_workers = 1
    values.data.tokenizer.vocab_size = 512
    values.data.tokenizer.num_sentinels = 16
    values.optimizer.warmup_steps = 2
    values.optimizer.learning_rate = 1e-2
    values.train.batch_size = BATCH_SIZE
    values.train.num_train_steps = 8
    values.train.log_every_steps = 2
    values.eval.update(every_steps=4, num_batches=2, batch_size=BATCH_SIZE)
    values.checkpoint.every_steps = 4
    flat = {name.replace("__", "."): value for name, value in overrides.items()}
    values.update_from_flattened_dict(flat)
    return values


def run_config(objective: str = "masked_lm", **overrides: Any) -> RunConfig:
    """The same, checked."""
    return config_lib.parse(config(objective, **overrides))


def program(
    objective: str = "masked_lm",
    *,
    devices: list[jax.Device] | None = None,
    **overrides: Any,
) -> Program:
    """The program of a config over the toy vocabulary."""
    return program_lib.create(
        run_config(objective, **overrides),
        toy_vocabulary(512, 16),
        devices=devices or jax.devices()[:1],
    )


def batch(step: int, batch_size: int = BATCH_SIZE) -> TokenBatch:
    """The rows of a step."""
    vocabulary = toy_vocabulary(512, 16)
    return toy_batch(batch_size, ROW_LENGTH, vocabulary=vocabulary, seed=step)


def write_corpus(folder: pathlib.Path, num_documents: int = 400) -> str:
    """Documents of made-up words with Zipf's frequencies; returns the folder."""
    rng = np.random.default_rng(0)
    syllables = ["ka", "lo", "mi", "ne", "ru", "sa", "ti", "vo"]
    words = ["".join(rng.choice(syllables, 1 + i % 3)) for i in range(60)]
    weights = 1 / np.arange(1, 61)
    weights /= weights.sum()
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_documents):
        text = " ".join(rng.choice(words, 60, p=weights)) + ".\n"
        (folder / f"{number:03d}.txt").write_text(text)
    return str(folder)


@contextlib.contextmanager
def shared_steps() -> Iterator[None]:
    """Runs of one config compile their steps once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("compile_train_step", "compile_eval_step"):
            patch.setattr(steps, name, _once(getattr(steps, name)))
        yield


def _once(compile_one: Callable) -> Callable:
    compiled: dict = {}

    def compile_step(program, *arguments):
        key = (repr(program.config), program.objective, *arguments)
        if key not in compiled:
            compiled[key] = compile_one(program, *arguments)
        return compiled[key]

    return compile_step
