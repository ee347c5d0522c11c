"""What a comparison may claim, in numbers and in words.

Only the declared primary metric is tested, against the reference arm, with Holm's
correction over the arms. An arm that has learnt no more than how often each target
occurs claims nothing and is claimed against by nobody: the budget was too small to
test it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from research.comparison import statistics
from research.comparison.results import Results
from research.comparison.statistics import Difference, Scores
from research.evaluation.interface import Metric

# Nats below the entropy of its targets that an arm needs to have left its plateau.
PLATEAU_MARGIN = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learning:
    """How far an arm's held-out loss is below what frequencies alone give.

    Attributes:
      loss: held-out loss at the end of the budget, mean over seeds.
      unigram: entropy of the arm's own targets.
      content_unigram: the same with special targets (sentinels, end of sequence) for
        free; what an arm has to beat to have learnt anything about text.
      num_seeds: finished runs.
    """

    loss: float
    unigram: float
    content_unigram: float
    num_seeds: int

    @property
    def margin(self) -> float:
        """Nats below the unigram entropy."""
        return self.unigram - self.loss

    @property
    def on_plateau(self) -> bool:
        """Whether it has learnt no more than frequencies and the targets' frame."""
        return self.loss > self.content_unigram - PLATEAU_MARGIN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """One arm against the reference on one metric.

    Attributes:
      compared: arm minus reference; its `detectable` is of the corrected test.
      adjusted_p: Holm's; None where there is no test, or none was declared.
      outcome: 'win', 'tie', 'loss', 'untested', or 'plateau' (not testable).
    """

    arm: str
    reference: str
    metric: str
    compared: Difference | None
    adjusted_p: float | None
    outcome: str


def learning(results: Results, arm: str) -> Learning | None:
    """How much an arm learnt; None without a finished run."""
    runs = results.finished_runs(arm)
    if not runs:
        return None
    mean = {
        name: float(np.mean([run.summary[name] for run in runs]))
        for name in ("heldout_loss", "unigram_loss", "content_unigram_loss")
    }
    return Learning(
        loss=mean["heldout_loss"],
        unigram=mean["unigram_loss"],
        content_unigram=mean["content_unigram_loss"],
        num_seeds=len(runs),
    )


def compare(
    results: Results, metric: str, arm: str, reference: str, *, alpha: float
) -> Difference | None:
    """Arm minus reference at the end of the budget; None without scores of both."""
    pair = [results.arm_scores(metric, name, 1.0) for name in (arm, reference)]
    return _difference(results, pair, alpha)


def against_reference(results: Results) -> dict[tuple[str, str], Difference]:
    """(arm, metric) -> arm minus reference, of all that mean the same for both."""
    config = results.config
    reference = config.primary.reference
    return {
        (arm.name, metric): compared
        for metric, meaning in results.metrics().items()
        for arm in config.arms
        if arm.name != reference
        and comparable(results, meaning, arm.name, reference)
        and (
            compared := compare(
                results, metric, arm.name, reference, alpha=config.statistics.alpha
            )
        )
        is not None
    }


def above_floor(results: Results, metric: str, arm: str) -> Difference | None:
    """Arm minus its own random initialisation."""
    alpha = results.config.statistics.alpha
    pair = [results.arm_scores(metric, arm, point) for point in (1.0, None)]
    return _difference(results, pair, alpha)


def _difference(
    results: Results, pair: list[Scores | None], alpha: float
) -> Difference | None:
    treatment, reference = pair
    if treatment is None or reference is None:
        return None
    settings = results.config.statistics
    return statistics.difference(
        treatment,
        reference,
        alpha=alpha,
        power=settings.power,
        examples=settings.examples,
    )


def primary(results: Results) -> list[Verdict]:
    """Every arm against the reference on the primary metric, corrected."""
    config = results.config
    reference, metric = config.primary.reference, config.primary.metric
    arms = [arm.name for arm in config.arms if arm.name != reference]
    meaning = results.metrics().get(metric)
    alpha = config.statistics.alpha
    compared = {
        arm: compare(results, metric, arm, reference, alpha=alpha) for arm in arms
    }
    untestable = {
        arm: not testable(results, arm, reference)
        or not comparable(results, meaning, arm, reference)
        for arm in arms
    }
    p_values = {
        arm: None if result is None or untestable[arm] else result.p_value
        for arm, result in compared.items()
    }
    adjusted = statistics.holm(p_values)
    num_tests = max(1, sum(p is not None for p in p_values.values()))
    sign = 1.0 if meaning is None or meaning.higher_is_better else -1.0
    verdicts = []
    for arm in arms:
        result = compared[arm]
        if result is not None and result.tested:
            strict = compare(results, metric, arm, reference, alpha=alpha / num_tests)
            assert strict is not None
            # Holm's first step is the strictest: with more luck, less is detectable.
            result = dataclasses.replace(result, detectable=strict.detectable)
        outcome = "untested"
        if untestable[arm]:
            outcome = "plateau"
        elif result is not None:
            outcome = statistics.outcome(
                dataclasses.replace(result, mean=sign * result.mean),
                alpha=alpha,
                adjusted_p=adjusted[arm],
            )
        verdicts.append(
            Verdict(
                arm=arm,
                reference=reference,
                metric=metric,
                compared=result,
                adjusted_p=adjusted[arm],
                outcome=outcome,
            )
        )
    return verdicts


def testable(results: Results, *arms: str) -> bool:
    """Whether all of the arms have left their plateaus, as far as they are known."""
    learnt = [learning(results, arm) for arm in arms]
    return not any(state is not None and state.on_plateau for state in learnt)


def comparable(
    results: Results, meaning: Metric | None, arm: str, reference: str
) -> bool:
    """Whether a metric means the same for both arms."""
    if meaning is None or not meaning.within_architecture:
        return True
    roles = {
        results.config.arm(name).config["model"]["architecture"]
        for name in (arm, reference)
    }
    return len(roles) == 1


def win_counts(results: Results, metrics: list[str]) -> np.ndarray:
    """Wins, ties and losses of each arm against each, over metrics. [arms, arms, 3]

    Exploratory: each comparison at the level of a single test. Arms on their plateau
    and metrics that do not compare count nothing.
    """
    arms = [arm.name for arm in results.config.arms]
    meanings = results.metrics()
    alpha = results.config.statistics.alpha
    counts = np.zeros((len(arms), len(arms), 3), np.int64)
    order = {"win": 0, "tie": 1, "loss": 2}
    on_plateau = {arm for arm in arms if not testable(results, arm)}
    for metric in metrics:
        sign = 1.0 if meanings[metric].higher_is_better else -1.0
        for i, first in enumerate(arms):
            for j, second in enumerate(arms):
                if i == j or on_plateau & {first, second}:
                    continue
                if not comparable(results, meanings[metric], first, second):
                    continue
                result = compare(results, metric, first, second, alpha=alpha)
                if result is None or not result.tested:
                    continue
                signed = dataclasses.replace(result, mean=sign * result.mean)
                outcome = statistics.outcome(signed, alpha=alpha, adjusted_p=None)
                counts[i, j, order[outcome]] += 1
    return counts
