"""What the targets of an objective give away without any learning.

The unigram baseline of a run (research/training/heldout.py) knows how often each
target occurs. Objectives with sentinels have targets that are nearly given, so an arm
can be far below that baseline and know nothing about text. The content baseline
therefore gives it the special targets for free, and only charges text for its
frequencies.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from objectives.base import Objective
from research.config.sections import RunConfig
from research.data import loader
from research.data.run_data import Data
from research.training import rngs, step
from research.training.heldout import constant_sum, unigram_sum


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """What a run predicts on its held-out rows.

    Attributes:
      content_unigram_loss: weighted sum of the terms' content baselines, in nats.
      per_row: loss-bearing targets of a row, over all terms.
    """

    content_unigram_loss: float
    per_row: float


def targets(config: RunConfig, objective: Objective, data: Data) -> Targets:
    """Counts the targets of the held-out batches that the run evaluates on."""
    settings = config.eval
    batches = loader.heldout_batches(
        data.heldout,
        row_length=config.data.row_length,
        batch_size=settings.batch_size,
        num_batches=settings.num_batches,
    )
    seed = jnp.uint32(config.train.seed)
    total: dict[str, np.ndarray] = {}
    weights: dict[str, float] = {}
    num_rows = 0
    for number, batch in enumerate(batches):
        num_rows += batch.tokens.shape[0]
        found = _count(objective, batch, seed, jnp.int32(number))
        for term, (counts, weight) in found.items():
            total[term] = total.get(term, 0.0) + np.asarray(counts, np.float64)
            weights[term] = weights.get(term, 0.0) + float(weight)
    loss = sum(
        objective.terms[term].weight
        * _content_sum(term, counts, objective)
        / max(weights[term], 1e-9)
        for term, counts in total.items()
    )
    shares = {name: share for name, _, share in objective.parts()}
    per_row = sum(
        float(counts.sum()) * shares[term.rpartition("/")[0]]
        for term, counts in total.items()
    ) / max(num_rows, 1)
    return Targets(content_unigram_loss=float(loss), per_row=per_row)


@functools.partial(jax.jit, static_argnums=0)
def _count(objective: Objective, batch, seed, number):
    """Occurrences of each target, and the denominator, of every term of a batch."""
    rng = rngs.at(seed, "evaluation", number)
    result = {}
    for name, part, _ in objective.parts():
        example = part.corrupt(rng, batch)
        weights = step.term_weights(part, example)
        for term, counts in step.target_counts(part, example).items():
            result[f"{name}/{term}" if name else term] = (counts, weights[term])
    return result


def _content_sum(term: str, counts: np.ndarray, objective: Objective) -> float:
    if objective.terms[term].predicts == "labels":
        return constant_sum(counts)
    # With counts (9, 1, 1) of which the first token is special, and training counts
    # (0, 5, 2), p = (-, 6/9, 3/9): the sum is log 3/2 + log 3 = 1.504.
    text = np.where(objective.vocabulary.is_special, 0.0, counts)
    return unigram_sum(text, objective.vocabulary)
