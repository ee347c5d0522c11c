"""Scores against closed forms, of constant and of majority predictors above all."""

import math

import numpy as np
import pytest

from research.evaluation.finetuning import metrics
from research.evaluation.glue import sources
from research.evaluation.glue.summary import majority_scores
from research.evaluation.glue.tasks import TASKS
from tests.helpers import DATA
from tests.research.evaluation.glue import made_up
from tests.research.evaluation.toy import needs_glue


def labels_of(positive: int, negative: int) -> np.ndarray:
    return np.repeat(np.array([1, 0], np.int32), [positive, negative])


@pytest.mark.parametrize(("positive", "negative"), [(68, 32), (1, 9), (5, 5)])
def test_constant_predictors(positive, negative):
    labels = labels_of(positive, negative)
    share = positive / (positive + negative)
    for value in (0, 1):
        constant = np.full_like(labels, value)
        scores = metrics.score(("matthews", "accuracy", "f1"), labels, constant)
        assert scores["matthews"] == 0.0
        assert scores["accuracy"] == pytest.approx(share if value else 1 - share)
        # F1 of all-positive predictions: precision p, recall 1.
        assert scores["f1"] == pytest.approx(2 * share / (1 + share) if value else 0.0)


def test_constant_scores_correlate_with_nothing():
    scores = np.array([0.0, 2.5, 5.0], np.float32)
    constant = np.full(3, 2.7, np.float32)
    names = ("pearson", "spearman", "pearson_spearman")
    for pair in ((scores, constant), (constant, scores)):
        assert metrics.score(names, *pair) == dict.fromkeys(names, 0.0)


def test_against_definitions():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200).astype(np.int32)
    predictions = np.where(rng.random(200) < 0.7, labels, 1 - labels).astype(np.int32)
    tp = int(((labels == 1) & (predictions == 1)).sum())
    tn = int(((labels == 0) & (predictions == 0)).sum())
    fp = int(((labels == 0) & (predictions == 1)).sum())
    fn = int(((labels == 1) & (predictions == 0)).sum())
    matthews = (tp * tn - fp * fn) / math.sqrt(
        (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    )
    found = metrics.score(
        ("matthews", "accuracy", "f1", "f1_accuracy"), labels, predictions
    )
    assert found["matthews"] == pytest.approx(matthews)
    assert found["accuracy"] == pytest.approx((tp + tn) / 200)
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["f1_accuracy"] == pytest.approx((found["f1"] + found["accuracy"]) / 2)


def test_correlations():
    x = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    assert metrics.spearman(x, x**3) == pytest.approx(1.0)
    assert metrics.pearson(x, x**3) < 0.96
    assert metrics.pearson(x, 7 - 2 * x) == pytest.approx(-1.0)


def test_rows_must_match():
    with pytest.raises(ValueError, match="3 labels for 2 predictions"):
        metrics.score(("accuracy",), np.zeros(3), np.zeros(2))


def test_majority_of_train_scored_on_dev(tmp_path):
    made_up.write(tmp_path)
    data = sources.load(str(tmp_path), [TASKS["mrpc"]]).tasks["mrpc"]
    dev = data.splits["dev"].labels
    train = data.splits["train"].labels
    assert train.mean() > 0.5  # The majority class is 1.
    share = dev.mean()
    scores = majority_scores(data)["dev"]
    assert scores["accuracy"] == pytest.approx(share)
    assert scores["f1"] == pytest.approx(2 * share / (1 + share))


@needs_glue
def test_majority_on_the_official_files():
    source = sources.load(str(DATA / "glue"), TASKS.values())
    # (metric, split): rows of the dev set in the train set's majority class / all.
    expected = {
        "cola": ("accuracy", "dev", 721 / 1043),
        "sst2": ("accuracy", "dev", 444 / 872),
        "mrpc": ("f1", "dev", 2 * 279 / (408 + 279)),
        "stsb": ("pearson", "dev", 0.0),
        "qqp": ("accuracy", "dev", 5394 / 7653),
        "mnli": ("accuracy", "dev_matched", 3479 / 9815),
        "qnli": ("accuracy", "dev", 2702 / 5463),
        "rte": ("accuracy", "dev", 146 / 277),
        "wnli": ("accuracy", "dev", 40 / 71),
    }
    for name, (metric, split, value) in expected.items():
        found = majority_scores(source.tasks[name])[split][metric]
        assert found == pytest.approx(value), name
