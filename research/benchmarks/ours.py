"""Train steps of this project, ready to be timed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objectives.types import Lengths, TokenBatch
from objectives.vocabulary import Vocabulary
from research.config import checks, experiments
from research.config import parse as config_lib
from research.config.sections import RunConfig
from research.data.store import TokenStore
from research.training import flops, loop, program, rngs
from research.training.program import Program
from research.training.steps import compile_train_step

_STORED_TOKENS = 2**22


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ours:
    """One objective's train step.

    Attributes:
      program: of the run.
      compiled: its train step, as XLA has it.
      step: runs one step and waits for it.
      steps: runs so many steps and waits for the last.
      corrupt: runs the corruption of one batch alone and waits for it.
      lengths: static lengths of its inputs and targets.
      input_wait: share of the time of so many steps that they wait for batches, drawn
        and shipped as in training.
      flops: matrix-product FLOPs of a step, those actually needed.
      tokens: clean tokens of a step.
    """

    program: Program
    compiled: Any
    step: Callable[[], None]
    steps: Callable[[int], None]
    corrupt: Callable[[], None]
    input_wait: Callable[[int], float]
    lengths: Lengths
    flops: float
    tokens: int


def config_of(experiment: str, changes: Mapping[str, Any]):
    """The config of an experiment with fields changed, 'model.dropout_rate': 0.1."""
    config = experiments.load_config(str(experiments.FOLDER / f"{experiment}.py"))
    config.update_from_flattened_dict(dict(changes))
    return config


def make(
    experiment: str,
    changes: Mapping[str, Any],
    *,
    devices: list[jax.Device] | None = None,
) -> Ours:
    """Compiles the step of an experiment on random tokens; on all devices for None."""
    run = config_lib.parse(config_of(experiment, changes))
    vocabulary = checks.provisional_vocabulary(run.data.tokenizer)
    parts = program.create(run, vocabulary, devices=devices)
    compiled = compile_train_step(parts, parts.objective.at(0))
    batch = parts.parallel.place(_batch(run, vocabulary))
    state, constants = parts.init()
    held = {"state": state}

    def steps(count: int) -> None:
        metrics = None
        for _ in range(count):
            held["state"], metrics = compiled(held["state"], constants, batch)
        jax.block_until_ready(metrics)

    def input_wait(count: int) -> float:
        batches = loop.train_batches(parts, _store(vocabulary), first_step=0)
        held["state"], _ = compiled(held["state"], constants, next(batches))
        jax.block_until_ready(held["state"])
        begin, waited = time.perf_counter(), 0.0
        for _ in range(count):
            asked = time.perf_counter()
            fresh = next(batches)
            waited += time.perf_counter() - asked
            held["state"], _ = compiled(held["state"], constants, fresh)
        jax.block_until_ready(held["state"])
        return waited / (time.perf_counter() - begin)

    def corruption(seed: jax.Array, number: jax.Array, batch: TokenBatch):
        rng = rngs.at(seed, "corruption", number)
        return parts.objective.corrupt(rng, batch)

    corrupted = jax.jit(corruption)
    seed, number = jnp.uint32(0), jnp.int32(0)
    return Ours(
        program=parts,
        compiled=compiled,
        step=lambda: steps(1),
        steps=steps,
        corrupt=lambda: jax.block_until_ready(corrupted(seed, number, batch)),
        input_wait=input_wait,
        lengths=parts.objective.lengths,
        flops=flops.count(parts.model_config, parts.objective).training
        * run.train.batch_size,
        tokens=run.train.batch_size * run.data.row_length,
    )


def _text(size: int, vocabulary: Vocabulary) -> np.ndarray:
    """Random text in documents of about a hundred tokens, int32 [size]."""
    rng = np.random.default_rng(0)
    text = np.flatnonzero(~vocabulary.is_special)
    tokens = rng.choice(text, size).astype(np.int32)
    tokens[rng.random(size) < 0.01] = vocabulary.eod_id
    return tokens


def _store(vocabulary: Vocabulary) -> TokenStore:
    """The same as a token store."""
    tokens = _text(_STORED_TOKENS, vocabulary)
    ends = np.flatnonzero(tokens == vocabulary.eod_id)
    return TokenStore(
        tokens=tokens.astype(np.uint32),
        document_starts=np.concatenate([[0], ends[:-1] + 1]),
        unigram_counts=np.bincount(tokens, minlength=vocabulary.vocab_size),
        header={},
        split="train",
    )


def _batch(run: RunConfig, vocabulary: Vocabulary) -> TokenBatch:
    """The same as one batch."""
    shape = (run.train.batch_size, run.data.row_length)
    tokens = _text(shape[0] * shape[1], vocabulary).reshape(shape)
    documents = np.cumsum((tokens == vocabulary.eod_id).sum(1))
    return TokenBatch(
        tokens=tokens,
        row_ids=np.arange(shape[0], dtype=np.int32),
        first_document=np.concatenate([[0], documents[:-1]]).astype(np.int32),
    )
