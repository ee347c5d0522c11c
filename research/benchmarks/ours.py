"""Train steps of this project, ready to be timed."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objectives import rows
from objectives.types import Lengths, TokenBatch
from research import cli, config_checks
from research import config as config_lib
from research.comparison import flops
from research.training import program, rngs

EXPERIMENTS = pathlib.Path(__file__).parent.parent.parent / "experiments"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ours:
    """One objective's train step.

    Attributes:
      step: runs one step and waits for it.
      corrupt: runs the corruption of one batch alone and waits for it.
      lengths: static lengths of its inputs and targets.
      flops: matrix-product FLOPs of a step, those actually needed.
      tokens: clean tokens of a step.
    """

    step: Callable[[], None]
    corrupt: Callable[[], None]
    lengths: Lengths
    flops: float
    tokens: int


def config_of(experiment: str, changes: Mapping[str, Any]):
    """The config of an experiment with fields changed, 'model.dropout_rate': 0.1."""
    config = cli.load_config(str(EXPERIMENTS / f"{experiment}.py"))
    config.update_from_flattened_dict(dict(changes))
    return config


def make(experiment: str, changes: Mapping[str, Any]) -> Ours:
    """Compiles the step of an experiment on random tokens."""
    run = config_lib.parse(config_of(experiment, changes))
    vocabulary = config_checks.provisional_vocabulary(run.data.tokenizer)
    parts = program.create(run, vocabulary)
    compiled = parts.compile_train_step(parts.objective)
    batch = parts.parallel.place(_batch(run, vocabulary))
    held = {"state": parts.init()}

    def step() -> None:
        held["state"], metrics = compiled(held["state"], batch)
        jax.block_until_ready(metrics)

    def corruption(seed: jax.Array, number: jax.Array, batch: TokenBatch):
        rng = rngs.at(seed, "corruption", number)
        return parts.objective.corrupt(rng, rows.clean(batch, vocabulary))

    corrupted = jax.jit(corruption)
    seed, number = jnp.uint32(0), jnp.int32(0)
    return Ours(
        step=step,
        corrupt=lambda: jax.block_until_ready(corrupted(seed, number, batch)),
        lengths=parts.objective.lengths,
        flops=flops.count(parts.model_config, parts.objective).training
        * run.train.batch_size,
        tokens=run.train.batch_size * run.data.row_length,
    )


def _batch(run: config_lib.RunConfig, vocabulary) -> TokenBatch:
    """Random text in documents of about a hundred tokens."""
    rng = np.random.default_rng(0)
    shape = (run.train.batch_size, run.data.row_length)
    text = np.flatnonzero(~vocabulary.is_special)
    tokens = rng.choice(text, shape).astype(np.int32)
    tokens[rng.random(shape) < 0.01] = vocabulary.eod_id
    documents = np.cumsum((tokens == vocabulary.eod_id).sum(1))
    return TokenBatch(
        tokens=tokens,
        row_ids=np.arange(shape[0], dtype=np.int32),
        first_document=np.concatenate([[0], documents[:-1]]).astype(np.int32),
    )
