"""SQuAD's exact match and F1, the best span of a passage, and the no-answer threshold.

Rajpurkar et al. 2016 and 2018: answers are normalised and compared with the gold answer
that fits best. A question without an answer scores 1 if nothing is answered, else 0.
"""

from __future__ import annotations

import collections
import dataclasses
import re
import string
from collections.abc import Mapping, Sequence

import numpy as np

TITLES = {
    "exact_match": "EM",
    "f1": "F1",
    "has_answer_exact_match": "EM, has an answer",
    "has_answer_f1": "F1, has an answer",
    "no_answer_exact_match": "EM, has none",
    "no_answer_f1": "F1, has none",
}
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces."""
    text = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1 if some gold answer is the same after normalisation; no golds = no answer."""
    return float(normalise(prediction) in _normalised(golds))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Largest F1 of shared words over the gold answers."""
    return max(_f1(normalise(prediction), gold) for gold in _normalised(golds))


def _normalised(golds: Sequence[str]) -> list[str]:
    """Those of which something is left, as in SQuAD 2.0's script; else no answer."""
    return [text for gold in golds if (text := normalise(gold))] or [""]


def _f1(prediction: str, gold: str) -> float:
    first, second = prediction.split(), gold.split()
    if not first or not second:
        return float(first == second)
    shared = sum((collections.Counter(first) & collections.Counter(second)).values())
    return 2 * shared / (len(first) + len(second))


def score(
    predictions: Mapping[str, str], golds: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Mean exact match and F1 in [0, 1]; apart for questions with and without answers.

    Args:
      predictions: answer of each question id; '' = no answer.
      golds: gold answers of every question id; () = it has none.

    Raises:
      ValueError: a question has no prediction, or there are no questions.
    """
    missing = golds.keys() - predictions.keys()
    if missing or not golds:
        raise ValueError(
            f"{len(missing)} of {len(golds)} questions have no prediction."
        )
    groups = {"": list(golds)}
    with_answer = [name for name in golds if golds[name]]
    if len(with_answer) < len(golds):
        groups["has_answer_"] = with_answer
        groups["no_answer_"] = [name for name in golds if not golds[name]]
    scores = {}
    for prefix, names in groups.items():
        if names:
            pairs = [(predictions[name], golds[name]) for name in names]
            scores[f"{prefix}exact_match"] = float(
                np.mean([exact_match(*pair) for pair in pairs])
            )
            scores[f"{prefix}f1"] = float(np.mean([f1(*pair) for pair in pairs]))
    return scores


def best_span(
    starts: np.ndarray, ends: np.ndarray, max_answer_tokens: int
) -> tuple[int, int, float]:
    """(start, end, score) of the highest sum with start <= end, not too long.

    Args:
      starts, ends: logits of the passage's tokens [n], n at least 1.
      max_answer_tokens: longest span, in tokens.
    """
    size = len(ends)
    width = min(max_answer_tokens, size)
    padded = np.concatenate([ends, np.full(width - 1, -np.inf, ends.dtype)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    offsets = windows.argmax(-1)
    sums = starts + windows[np.arange(size), offsets]
    start = int(sums.argmax())
    return start, start + int(offsets[start]), float(sums[start])


@dataclasses.dataclass(frozen=True)
class Answer:
    """The best answer to a question and how much likelier no answer is.

    Attributes:
      text: the best span.
      null_odds: score of no answer minus that of the span.
    """

    text: str
    null_odds: float


def with_threshold(answers: Mapping[str, Answer], threshold: float) -> dict[str, str]:
    """Text of each question; '' where no answer is likelier by more than `threshold`."""
    return {
        name: "" if answer.null_odds > threshold else answer.text
        for name, answer in answers.items()
    }


def best_threshold(
    answers: Mapping[str, Answer], golds: Mapping[str, Sequence[str]]
) -> float:
    """The threshold with the highest mean F1 on these questions.

    Raising the threshold answers one question after the other, in order of their odds;
    each changes the sum of F1 by what its answer gains over answering nothing.
    """
    names = sorted(golds, key=lambda name: answers[name].null_odds)
    gains = [
        f1(answers[name].text, golds[name]) - f1("", golds[name]) for name in names
    ]
    odds = np.array([answers[name].null_odds for name in names])
    totals = np.cumsum(gains)
    # Questions with equal odds are answered together or not at all.
    last = np.flatnonzero(np.append(np.diff(odds) != 0, True))
    best = last[totals[last].argmax()]
    if totals[best] <= 0:
        return float(np.nextafter(odds[0], -np.inf))
    return float(odds[best])
