"""How likely texts are to any pretrained model, by the scoring of its objective.

The objective says what is read and which tokens count (`Objective.scoring`); here rows
are batched by length, and a pseudo-log-likelihood is summed over its passes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float

from models.backbone import BackboneConfig
from objectives.base import Objective
from research.errors import UserError
from research.evaluation.finetuning import batching
from research.training import state as state_lib
from research.training.trained_run import TrainedRun

# Logits held at a time, over all rows of a batch.
_LOGITS = {"cpu": 2**24, "gpu": 2**29, "tpu": 2**29}
_MAX_ROWS = 512
# Special tokens around a sentence, at most.
_FRAME = 3
# Few shapes, for every one is compiled; close where most sentences are.
_BUCKETS = (6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def log_likelihoods(run: TrainedRun, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Log-likelihood, or pseudo-log-likelihood, of each row of tokens, in nats.

    Args:
      rows: token ids of each sentence, without special tokens.

    Returns:
      float64 [rows].

    Raises:
      UserError: if the objective defines no likelihood, or a row is too long.
    """
    scoring = run.objective.scoring()
    if scoring is None:
        raise UserError(refusal(run.objective))
    scorer = _Scorer(run, scoring.kind)
    longest = max(len(row) for row in rows)
    limit = run.model_config.max_length
    if limit is not None and longest > limit - _FRAME:
        raise UserError(
            f"a sentence of {longest} tokens is longer than the {limit - _FRAME} that "
            f"model.max_seq_len = {limit} leaves room for."
        )
    if scorer.is_pseudo:
        return _pseudo(scorer, rows)
    return _left_to_right(scorer, rows)


def refusal(objective: Objective) -> str:
    """Why an objective's model gives no likelihood of a text, or ''."""
    if objective.scoring() is not None:
        return ""
    return (
        f"objective {objective.name} defines no likelihood of a text, so it cannot be "
        f"asked which of two sentences is likelier."
    )


class _Scorer:
    """The compiled side: log-probabilities of a batch's targets."""

    def __init__(self, run: TrainedRun, kind: str):
        self.run = run
        self.is_pseudo = kind == "pseudo"
        self._score = _compiled(run.model_config, run.objective)

    def __call__(
        self, tokens: np.ndarray, lengths: np.ndarray, hidden: np.ndarray | None = None
    ) -> Array:
        """Summed log-probabilities of padded rows, or of the tokens at `hidden`. [B]"""
        return self._score(self.run.params, tokens, lengths, hidden)

    def batch_size(self, length: int) -> int:
        """Rows that keep the logits of a batch within bounds."""
        targets = 1 if self.is_pseudo else length + _FRAME
        vocab_size = self.run.vocabulary.vocab_size
        rows = _LOGITS[jax.default_backend()] // (targets * vocab_size)
        # A power of two, the same for rows of about the same length.
        return 2 ** max(0, min(_MAX_ROWS, rows).bit_length() - 1)


@functools.lru_cache(maxsize=8)
def _compiled(
    config: BackboneConfig, objective: Objective
) -> Callable[..., Float[Array, " B"]]:
    """(weights, tokens, lengths, hidden or None) -> log-probabilities."""
    modules = state_lib.create_modules(config, objective)
    scoring = objective.scoring()
    assert scoring is not None, "log_likelihoods refuses it"

    def score(weights, tokens, lengths, hidden) -> Float[Array, " B"]:
        example = scoring.arrange(tokens, lengths, hidden)
        return objective.log_probs(modules.merge(weights), example)

    return jax.jit(score)


def _left_to_right(scorer: _Scorer, rows: Sequence[np.ndarray]) -> np.ndarray:
    lengths = np.array([len(row) for row in rows])
    buckets = batching.usable_buckets(_BUCKETS, int(lengths.max()))
    result = np.zeros(len(rows))
    pending = []
    for length, size, chosen in _batches(scorer, lengths, buckets):
        tokens, real = _padded([rows[i] for i in chosen], length, size)
        pending.append((chosen, scorer(tokens, real)))
    for chosen, values in pending:
        result[chosen] = np.asarray(values)[: len(chosen)]
    return result


def _pseudo(scorer: _Scorer, rows: Sequence[np.ndarray]) -> np.ndarray:
    lengths = np.array([len(row) for row in rows])
    sentence = np.repeat(np.arange(len(rows)), lengths)
    hidden = np.concatenate([np.arange(length) for length in lengths])
    buckets = batching.usable_buckets(_BUCKETS, int(lengths.max()))
    result = np.zeros(len(rows))
    pending = []
    for length, size, chosen in _batches(scorer, lengths[sentence], buckets):
        tokens, real = _padded([rows[i] for i in sentence[chosen]], length, size)
        which = np.zeros(size, np.int32)
        which[: len(chosen)] = hidden[chosen]
        pending.append((chosen, scorer(tokens, real, which)))
    for chosen, values in pending:
        # Summed in a fixed order, in double precision.
        np.add.at(
            result, sentence[chosen], np.asarray(values, np.float64)[: len(chosen)]
        )
    return result


def _batches(
    scorer: _Scorer, lengths: np.ndarray, buckets: tuple[int, ...]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(length, size, rows of at most that many), of all rows by bucket.

    A bucket has one size: a whole batch, or less if it has few rows.
    """
    bucket_of = np.searchsorted(buckets, lengths)
    for index, length in enumerate(buckets):
        rows = np.flatnonzero(bucket_of == index)
        size = min(scorer.batch_size(length), 2 ** max(len(rows) - 1, 0).bit_length())
        for start in range(0, len(rows), size):
            yield length, size, rows[start : start + size]


def _padded(
    rows: Sequence[np.ndarray], length: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32 [count, length] and lengths [count]; filler rows have length 1."""
    tokens = np.zeros((count, length), np.int32)
    lengths = np.ones(count, np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
        lengths[index] = len(row)
    return tokens, lengths
