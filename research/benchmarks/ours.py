"""Train steps of this project, ready to be timed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from objectives.types import TokenBatch
from objectives.vocabulary import Vocabulary
from research.config import checks, experiments
from research.config import parse as config_lib
from research.data.store import TokenStore
from research.training import flops, loop, program, rngs
from research.training.steps import compile_train_step

_STORED_TOKENS = 2**22


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One measured training step.

    Attributes:
      label: as printed.
      experiment: whose objective is trained.
      changes: of its config.
      published: tokens/s that somebody reported, and where; None = there is a peer.
      dropouts: fields that have the rate of dropout, where a suite changes it.
    """

    label: str
    experiment: str
    changes: dict[str, Any]
    published: str | None = None
    dropouts: tuple[str, ...] = ("model.dropout_rate", "model.attention_dropout_rate")


def sizes(num_layers: int, emb_dim: int, num_heads: int, mlp_dim: int) -> dict:
    """Changes of a config that set the sizes of its model."""
    return {
        "model.num_layers": num_layers,
        "model.emb_dim": emb_dim,
        "model.num_heads": num_heads,
        "model.mlp_dim": mlp_dim,
    }


def vocabulary_of(size: int) -> dict[str, int]:
    """Changes of a config that set its vocabulary's size."""
    return {"model.vocab_size": size, "data.tokenizer.vocab_size": size}


def config_of(experiment: str, changes: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config of an experiment with fields changed, 'model.dropout_rate': 0.1."""
    config = experiments.load_config(str(experiments.FOLDER / f"{experiment}.py"))
    config.update_from_flattened_dict(dict(changes))
    return config


class Ours:
    """The compiled train step of an experiment, on random tokens.

    Attributes:
      run: its config.
      program: of the run.
      compiled: its train step, as XLA has it.
      flops: matrix-product FLOPs of a step, those actually needed.
      tokens: clean tokens of a step.
    """

    def __init__(
        self,
        experiment: str,
        changes: Mapping[str, Any],
        *,
        devices: list[jax.Device] | None = None,
    ):
        """Compiles the step for these devices; None = all there are."""
        self.run = config_lib.parse(config_of(experiment, changes))
        vocabulary = checks.provisional_vocabulary(self.run.data.tokenizer)
        self.program = program.create(self.run, vocabulary, devices=devices)
        objective = self.program.objective
        self.compiled = compile_train_step(self.program, objective.at(0))
        batch_size = self.run.train.batch_size
        counted = flops.count(self.program.model_config, objective)
        self.flops = counted.training * batch_size
        self.tokens = batch_size * self.run.data.row_length
        self._state, self._constants = self.program.init()
        self._store = _store(vocabulary)
        self._batch = next(self._batches())

        def corrupt(seed: jax.Array, number: jax.Array, batch: TokenBatch):
            return objective.corrupt(rngs.at(seed, "corruption", number), batch)

        self._corrupt = jax.jit(corrupt)

    def _batches(self):
        return loop.train_batches(self.program, self._store, first_step=0)

    def _step(self, batch: TokenBatch) -> Any:
        self._state, metrics = self.compiled(self._state, self._constants, batch)
        return metrics

    def steps(self, count: int = 1) -> None:
        """Runs so many steps and waits for the last."""
        metrics = [self._step(self._batch) for _ in range(count)]
        jax.block_until_ready(metrics[-1])

    def corrupt(self) -> None:
        """Runs the corruption of a batch alone and waits for it."""
        arguments = (jnp.uint32(0), jnp.int32(0), self._batch)
        jax.block_until_ready(self._corrupt(*arguments))

    def input_wait(self, count: int) -> float:
        """Share of the time of so many steps that they wait for batches.

        Batches are drawn and shipped as in training.
        """
        batches = self._batches()
        jax.block_until_ready(self._step(next(batches)))
        begin, waited = time.perf_counter(), 0.0
        for _ in range(count):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            metrics = self._step(batch)
        jax.block_until_ready(metrics)
        return waited / (time.perf_counter() - begin)


def _store(vocabulary: Vocabulary) -> TokenStore:
    """Random text in documents of about a hundred tokens."""
    rng = np.random.default_rng(0)
    text = np.flatnonzero(~vocabulary.is_special)
    tokens = rng.choice(text, _STORED_TOKENS).astype(np.uint32)
    tokens[rng.random(_STORED_TOKENS) < 0.01] = vocabulary.eod_id
    ends = np.flatnonzero(tokens == vocabulary.eod_id)
    return TokenStore(
        tokens=tokens,
        document_starts=np.concatenate([[0], ends[:-1] + 1]),
        unigram_counts=np.bincount(tokens, minlength=vocabulary.vocab_size),
        header={},
        split="train",
    )
