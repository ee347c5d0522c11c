"""Scores of predictions, by scikit-learn and scipy. All lie in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.stats
import sklearn.metrics


def _is_constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) == 0)


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of class 1; 0 where it is neither present nor predicted."""
    return float(
        sklearn.metrics.f1_score(labels, predictions, pos_label=1, zero_division=0.0)
    )


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Linear correlation; 0 where it is undefined because one side is constant."""
    if _is_constant(labels) or _is_constant(predictions):
        return 0.0
    return float(scipy.stats.pearsonr(labels, predictions).statistic)


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Rank correlation; 0 where it is undefined because one side is constant."""
    if _is_constant(labels) or _is_constant(predictions):
        return 0.0
    return float(scipy.stats.spearmanr(labels, predictions).statistic)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    # 0 where either side is constant.
    "matthews": sklearn.metrics.matthews_corrcoef,
    "accuracy": sklearn.metrics.accuracy_score,
    "f1": f1,
    "pearson": pearson,
    "spearman": spearman,
    # The means that the leaderboard's average is made of.
    "f1_accuracy": lambda y, p: (f1(y, p) + sklearn.metrics.accuracy_score(y, p)) / 2,
    "pearson_spearman": lambda y, p: (pearson(y, p) + spearman(y, p)) / 2,
}
TITLES = {
    "matthews": "MCC",
    "accuracy": "acc",
    "f1": "F1",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "f1_accuracy": "mean of F1 and acc",
    "pearson_spearman": "mean of Pearson and Spearman",
}


def score(
    names: tuple[str, ...], labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
    """The named scores.

    Args:
      names: keys of METRICS.
      labels: classes or scores [rows].
      predictions: predicted classes or scores [rows].

    Raises:
      ValueError: different numbers of rows, or no rows.
    """
    if labels.shape != predictions.shape or labels.size == 0:
        raise ValueError(
            f"{labels.shape[0]} labels for {predictions.shape[0]} predictions: both "
            f"must have the same number of rows, at least one."
        )
    return {name: float(METRICS[name](labels, predictions)) for name in names}


def majority(labels: np.ndarray) -> float | int:
    """The most frequent class, or the mean score, of a train set."""
    if np.issubdtype(labels.dtype, np.integer):
        return int(np.bincount(labels).argmax())
    return float(labels.mean())
