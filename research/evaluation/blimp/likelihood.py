"""How likely texts are to any pretrained model, by the scoring of its objective.

The objective says what is read and which tokens count (`Objective.scoring`); here rows
are batched by length, and scores of several passes are summed over these.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

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
    """Log-likelihood of each row of tokens, of the kind that `scoring` says, in nats.

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
    lengths = np.array([len(row) for row in rows])
    longest = int(lengths.max())
    limit = run.model_config.max_length
    if limit is not None and longest > limit - _FRAME:
        raise UserError(
            f"a sentence of {longest} tokens is longer than the {limit - _FRAME} that "
            f"model.max_seq_len = {limit} leaves room for."
        )
    is_pseudo = scoring.kind == "pseudo"
    # The sentence of each pass; a pseudo-log-likelihood has one for every token.
    passes_of = lengths if is_pseudo else np.full(len(rows), scoring.num_samples or 1)
    sentence = np.repeat(np.arange(len(rows)), passes_of)
    hidden = np.concatenate([np.arange(count) for count in passes_of])
    score = _compiled(run.model_config, run.objective)
    pending = []
    buckets = batching.usable_buckets(_BUCKETS, longest)
    bucket_of = np.searchsorted(buckets, lengths[sentence])
    for index, length in enumerate(buckets):
        passes = np.flatnonzero(bucket_of == index)
        targets = (1 if is_pseudo else length + _FRAME) * run.vocabulary.vocab_size
        # One size a bucket: a whole batch, or less if there are few passes.
        size = min(_batch_size(targets), 2 ** max(len(passes) - 1, 0).bit_length())
        for start in range(0, len(passes), size):
            chosen = passes[start : start + size]
            padded = batching.pad([rows[i] for i in sentence[chosen]], length, size, 0)
            which = np.zeros(size, np.int32)
            which[: len(chosen)] = hidden[chosen]
            values = score(
                run.params,
                padded["tokens"],
                padded["segment_ids"].sum(-1, dtype=np.int32),
                None if scoring.kind == "exact" else which,
            )
            pending.append((sentence[chosen], values))
    result = np.zeros(len(rows))
    for of, values in pending:
        # Summed in a fixed order, in double precision.
        np.add.at(result, of, np.asarray(values, np.float64)[: len(of)])
    return result


def refusal(objective: Objective) -> str:
    """Why an objective's model gives no likelihood of a text, or ''."""
    if objective.scoring() is not None:
        return ""
    return (
        f"objective {objective.name} defines no likelihood of a text, so it cannot be "
        f"asked which of two sentences is likelier."
    )


def _batch_size(targets: int) -> int:
    """Rows of so many logits each that keep those of a batch within bounds.

    A power of two, the same for rows of about the same length.
    """
    rows = _LOGITS[jax.default_backend()] // targets
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
