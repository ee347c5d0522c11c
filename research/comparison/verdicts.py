"""Which differences between arms a comparison may claim.

Only the declared primary metric is tested, against the reference arm, with Holm's
correction over the arms. An arm whose held-out loss is hardly below the entropy of its
targets has learnt token frequencies only: it is "on its plateau", and no difference from
or to it is claimed, because the budget was too small to test it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from research.comparison import statistics
from research.comparison.config import FLOOR, Contrast, Statistics
from research.comparison.results import Run
from research.comparison.statistics import Difference, Scores
from research.evaluation.interface import Metric

# Nats below the entropy of its targets that an arm needs to have left its plateau.
PLATEAU_MARGIN = 0.05
# How a measured difference relates to a published one, if an arm is on its plateau.
NOT_TESTABLE = "not testable at this budget"
# (metric, arm) -> arm minus reference.
Differences = Mapping[tuple[str, str], Difference]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learning:
    """How far an arm's held-out loss is below what token frequencies alone give.

    Attributes:
      loss: held-out loss at the end of the budget, mean over seeds.
      unigram: entropy of the arm's own targets.
      content_unigram: the same if special targets (sentinels, end of sequence) cost
        nothing; a loss below it shows that the arm has learnt something about text.
      margin: `unigram` minus `loss`.
      on_plateau: whether `loss` is not clearly below `content_unigram`.
    """

    loss: float
    unigram: float
    content_unigram: float
    margin: float
    on_plateau: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """One arm against the reference on the primary metric.

    Attributes:
      compared: arm minus reference, with the `detectable` of the corrected test; None
        without scores of both.
      adjusted_p: Holm's; None without a test.
      outcome: 'win', 'tie' (no difference shown), 'loss', 'untested', 'plateau' (one of
        the two is on its plateau) or 'incomparable' (the metric does not compare arms of
        different architectures).
    """

    arm: str
    compared: Difference | None
    adjusted_p: float | None
    outcome: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What verdicts are drawn from.

    Attributes:
      scores: (metric, arm, point) -> scores; point None is random initialisation.
      metrics: by name.
      architectures: arm -> architecture.
      on_plateau: arms that have learnt token frequencies only.
      settings: of the statistics.
    """

    scores: Mapping[tuple[str, str, float | None], Scores]
    metrics: Mapping[str, Metric]
    architectures: Mapping[str, str]
    on_plateau: frozenset[str]
    settings: Statistics

    def compare(
        self, metric: str, arm: str, reference: str, *, alpha: float | None = None
    ) -> Difference | None:
        """Arm minus reference at the end of the budget; None without scores of both.

        Args:
          reference: an arm, or FLOOR for the arm's own random initialisation.
          alpha: of interval and test; None is that of the settings.
        """
        other = (arm, None) if reference == FLOOR else (reference, 1.0)
        treatment = self.scores.get((metric, arm, 1.0))
        untreated = self.scores.get((metric, *other))
        if treatment is None or untreated is None:
            return None
        return statistics.difference(
            treatment,
            untreated,
            alpha=self.settings.alpha if alpha is None else alpha,
            power=self.settings.power,
            examples=self.settings.examples,
        )

    def comparable(self, metric: str, arm: str, reference: str) -> bool:
        """Whether the metric measures the same thing for both arms."""
        return (
            not self.metrics[metric].within_architecture
            or self.architectures[arm] == self.architectures[reference]
        )

    def testable(self, arm: str, reference: str) -> bool:
        """Whether both arms have left their plateaus, as far as that is known."""
        return not self.on_plateau & {arm, reference}

    def differences(self, arms: Sequence[str], reference: str) -> Differences:
        """Every other arm minus the reference, on every metric that compares them."""
        return {
            (metric, arm): compared
            for metric in self.metrics
            for arm in arms
            if arm != reference
            and self.comparable(metric, arm, reference)
            and (compared := self.compare(metric, arm, reference)) is not None
        }


def learning(runs: Sequence[Run]) -> Learning | None:
    """How much an arm learnt, from its finished runs; None without any."""
    if not runs:
        return None
    loss, unigram, content_unigram = (
        float(np.mean([run.summary[name] for run in runs]))
        for name in ("heldout_loss", "unigram_loss", "content_unigram_loss")
    )
    return Learning(
        loss=loss,
        unigram=unigram,
        content_unigram=content_unigram,
        margin=unigram - loss,
        on_plateau=loss > content_unigram - PLATEAU_MARGIN,
    )


def primary(
    evidence: Evidence,
    differences: Differences,
    metric: str,
    reference: str,
    arms: Sequence[str],
) -> list[Verdict]:
    """Every arm against the reference on one metric, corrected over the arms."""
    others = [arm for arm in arms if arm != reference]
    alpha = evidence.settings.alpha
    obstacles = {arm: _obstacle(evidence, metric, arm, reference) for arm in others}
    compared = {arm: differences.get((metric, arm)) for arm in others}
    p_values = {
        arm: None if found is None or obstacles[arm] else found.p_value
        for arm, found in compared.items()
    }
    adjusted = statistics.holm(p_values)
    num_tests = max(1, sum(p is not None for p in p_values.values()))
    found = []
    for arm in others:
        difference, outcome = compared[arm], obstacles[arm] or "untested"
        if difference is not None and difference.tested:
            # Of Holm's first and strictest step: later steps detect at least as much.
            strict = evidence.compare(metric, arm, reference, alpha=alpha / num_tests)
            assert strict is not None
            difference = dataclasses.replace(difference, detectable=strict.detectable)
        if difference is not None and not obstacles[arm]:
            outcome = statistics.outcome(
                difference,
                alpha=alpha,
                adjusted_p=adjusted[arm],
                higher_is_better=evidence.metrics[metric].higher_is_better,
            )
        found.append(
            Verdict(
                arm=arm,
                compared=difference,
                adjusted_p=adjusted[arm],
                outcome=outcome,
            )
        )
    return found


def _obstacle(evidence: Evidence, metric: str, arm: str, reference: str) -> str:
    """The outcome if the arm cannot be tested against the reference, else ''."""
    if metric in evidence.metrics and not evidence.comparable(metric, arm, reference):
        return "incomparable"
    return "" if evidence.testable(arm, reference) else "plateau"


def relation(evidence: Evidence, contrast: Contrast, found: Difference | None) -> str:
    """How a measured difference relates to the published one, in words of the report."""
    if found is None:
        return "no scores yet"
    if not evidence.testable(contrast.arm, contrast.reference):
        return NOT_TESTABLE
    if not found.tested:
        return "no test"
    if not found.excludes_zero:
        return "not shown"
    higher = evidence.metrics[contrast.metric].higher_is_better
    better = found.mean if higher else -found.mean
    return "agrees" if better * contrast.published > 0 else "opposite"
