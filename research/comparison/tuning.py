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

    None without tuning, until all trials have ended, and if each rate has a failed trial.
    """
    tried = losses(results, arm)
    expected = len(results.config.tuning.seeds)
    rates = results.config.tuning.learning_rates
    if not rates or any(len(tried.get(rate, [])) < expected for rate in rates):
        return None
    means = {rate: float(np.mean(tried[rate])) for rate in rates}
    least = min(rates, key=lambda rate: (means[rate], rate))
    return least if math.isfinite(means[least]) else None


def beyond_edge(results: Results, arm: str) -> float | None:
    """The rate to try next if the best one is the lowest or highest tried, else None.

    As far from the best one as that is from its neighbour, as a ratio.
    """
    chosen = best(results, arm)
    rates = sorted(set(results.config.tuning.learning_rates))
    if chosen is None or len(rates) < 2 or chosen in rates[1:-1]:
        return None
    neighbour = rates[1] if chosen == rates[0] else rates[-2]
    return chosen * chosen / neighbour
