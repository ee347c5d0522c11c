"""Choice of an arm's learning rate, by the held-out loss of its trials."""

from __future__ import annotations

import math

import numpy as np

from research.comparison.results import Results


def losses(results: Results, arm: str) -> dict[float, list[float]]:
    """Held-out losses of the finished trials, by learning rate; infinite if it failed."""
    found: dict[float, list[float]] = {}
    for (name, rate, _), run in results.trials.items():
        if name != arm:
            continue
        if run.state == "done":
            found.setdefault(rate, []).append(run.summary["heldout_loss"])
        elif run.state == "failed":
            found.setdefault(rate, []).append(math.inf)
    return found


def best(results: Results, arm: str) -> float | None:
    """The learning rate with the lowest mean loss.

    None until all trials have ended, and if each rate has a failed trial.
    """
    tried = losses(results, arm)
    expected = len(results.config.tuning.seeds)
    rates = results.config.tuning.learning_rates
    if any(len(tried.get(rate, [])) < expected for rate in rates):
        return None
    means = {rate: float(np.mean(tried[rate])) for rate in rates}
    least = min(rates, key=lambda rate: (means[rate], rate))
    return least if math.isfinite(means[least]) else None
