"""Held-out loss, beside what a constant prediction would get.

The unigram baseline of a term is the loss of the best prediction that ignores its input:

    labels, sentinels, [EOD]   their share among the held-out targets
    all other tokens           the training split's unigram counts, plus one each,
                               times what is left

It is a cross-entropy on exactly the targets that the loss was computed on. A term whose
loss is above it has learnt nothing but frequencies; the margin is in nats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from objectives.base import Objective
from objectives.vocabulary import Vocabulary
from research.training.step import EvalSums


@dataclasses.dataclass(frozen=True)
class HeldoutLoss:
    """Result of one evaluation.

    Attributes:
      loss: weighted sum of the terms, as in training.
      values: mean of every term and metric.
      baselines: unigram baseline of each term, in the term's own normalisation.
    """

    loss: float
    values: Mapping[str, float]
    baselines: Mapping[str, float]

    def margin(self, term: str) -> float:
        """How far a term is below its baseline, in nats."""
        return self.baselines[term] - self.values[term]

    def flat(self) -> dict[str, float]:
        """Everything by name, for metrics.jsonl: `TERM_unigram` are the baselines."""
        baselines = {f"{term}_unigram": v for term, v in self.baselines.items()}
        return {"loss": self.loss, **self.values, **baselines}

    def line(self) -> str:
        """'loss 5.204  mlm 5.204 (unigram 6.810, margin 1.606)'."""
        parts = [f"loss {self.loss:.3f}"]
        for term, baseline in self.baselines.items():
            parts.append(
                f"{term} {self.values[term]:.3f} (unigram {baseline:.3f}, margin "
                f"{self.margin(term):.3f})"
            )
        return "  ".join(parts)


def evaluate(
    eval_step: Callable[..., EvalSums],
    weights: tuple[Any, Any, jax.Array],
    batches: Iterable[Any],
    *,
    seed: jax.Array,
    numbers: Iterable[jax.Array],
    objective: Objective,
) -> HeldoutLoss:
    """The held-out loss of (params, constants, step); all arguments are on the devices.

    `numbers` are those of the batches: they and the seed choose the corruption.
    """
    # Dispatched one after another; fetched together, so that nothing waits in between.
    results = [
        eval_step(*weights, batch, seed, number)
        for batch, number in zip(batches, numbers, strict=False)
    ]
    total = _add(jax.device_get(results))
    values = {
        name: float(value / weight)
        for name, (value, weight) in total.sums.items()
        if weight > 0
    }
    baselines = {}
    for term, counts in total.targets.items():
        weight = total.sums[term][1]
        if weight > 0:
            baselines[term] = float(
                _baseline(term, np.asarray(counts), objective) / weight
            )
    loss = sum(
        term.weight * values[name]
        for name, term in objective.terms.items()
        if name in values
    )
    return HeldoutLoss(loss=float(loss), values=values, baselines=baselines)


def _add(results: list[EvalSums]) -> EvalSums:
    """The sums of all batches, in float64."""
    doubled = [jax.tree.map(lambda x: np.asarray(x, np.float64), r) for r in results]
    return jax.tree.map(lambda *parts: np.sum(parts, axis=0), *doubled)


def _baseline(term: str, counts: np.ndarray, objective: Objective) -> float:
    if objective.terms[term].predicts == "labels":
        return constant_sum(counts)
    return unigram_sum(counts, objective.vocabulary)


def constant_sum(counts: np.ndarray) -> float:
    """Summed -log p of labels whose shares are known: (3, 1) gives 2.249."""
    used = counts[counts > 0]
    return float(-(used * np.log(used / counts.sum())).sum())


def unigram_sum(counts: np.ndarray, vocabulary: Vocabulary) -> float:
    """Summed -log p of targets under the unigram baseline.

    Args:
      counts: float [V], weighted occurrences of each token among the targets.
      vocabulary: its counts and which tokens are special.

    With counts (2, 1, 1) of which the first token is special, and training counts
    (0, 5, 2), p = (1/2, 6/18, 3/18): the special one has its share, the others the
    rest in proportion 6 to 3. The sum is 2 log 2 + log 3 + log 6 = 4.277.
    """
    total = counts.sum()
    if total == 0:
        return 0.0
    special = vocabulary.is_special
    share = np.where(special, counts / total, 0.0)
    smoothed = np.where(special, 0.0, vocabulary.unigram_counts + 1.0)
    probabilities = share + (1.0 - share.sum()) * smoothed / smoothed.sum()
    used = counts > 0
    return float(-(counts[used] * np.log(probabilities[used])).sum())
