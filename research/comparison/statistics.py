"""Uncertainty of a comparison: intervals, tests, corrections, detectable differences.

The unit is the pretraining seed. A seed sets initialisation, data order and corruption
in the same way in every arm, so two arms are compared on their differences seed by seed.
Scores are first averaged over the fine-tuning seeds of a pretraining seed.

Below `MIN_BOOTSTRAP_SEEDS` seeds the differences of per-seed means get a t interval and
a t test; the evaluation's examples are then taken as fixed. From there on the
multi-bootstrap (Sellam et al. 2022, "The MultiBERTs", section 4) resamples seeds and
examples together, so that the result speaks of new examples as well.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

# With fewer seeds, bootstrap intervals are too short.
MIN_BOOTSTRAP_SEEDS = 20
NUM_RESAMPLES = 2000
_RESAMPLING_SEED = 20_220_211  # a report rebuilt from the same results is the same

EXAMPLES = ("fixed", "sampled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """One arm's results on one metric.

    Attributes:
      seeds: pretraining seeds, ascending.
      means: score of each seed, fine-tuning seeds averaged. [S]
      examples: score of each seed on each example, where the score is a mean over
        examples; None otherwise. [S, X]
    """

    seeds: tuple[int, ...]
    means: np.ndarray
    examples: np.ndarray | None

    @classmethod
    def average(
        cls,
        results: Mapping[int, Sequence[float]],
        examples: Mapping[int, Sequence[np.ndarray]] | None,
    ) -> Scores:
        """Averages fine-tuning seeds inside each pretraining seed.

        Args:
          results: pretraining seed -> one score per fine-tuning seed.
          examples: pretraining seed -> per-example scores of each fine-tuning seed.
        """
        seeds = tuple(sorted(results))
        means = np.array([np.mean(results[seed]) for seed in seeds], np.float64)
        if examples is None:
            return cls(seeds=seeds, means=means, examples=None)
        rows = [np.mean(np.asarray(examples[seed]), axis=0) for seed in seeds]
        return cls(seeds=seeds, means=means, examples=np.array(rows, np.float64))

    def example_error(self) -> float | None:
        """Standard error over examples of a single seed's score; None for several."""
        if self.examples is None or len(self.seeds) > 1:
            return None
        values = self.examples[0]
        return float(values.std(ddof=1) / len(values) ** 0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds with its interval; limits are None below two seeds.

    Seeds whose score is not finite are left out; the mean is NaN if there is no other.
    """

    mean: float
    low: float | None
    high: float | None
    stddev: float | None
    num_seeds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Treatment minus reference over the seeds that both arms have.

    Attributes:
      mean: mean difference; NaN without a common seed.
      low, high: interval at 1 - alpha, None where it cannot be estimated.
      p_value: two-sided, of no difference; None where there is no test.
      num_seeds: seeds that both arms have.
      detectable: smallest true difference found with the given power, at the observed
        spread; None where the spread cannot be estimated.
      method: 'paired t', 'multi-bootstrap', or why there is no test.
      examples: 'fixed' or 'sampled'.
    """

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    num_seeds: int
    detectable: float | None
    method: str
    examples: str

    @property
    def tested(self) -> bool:
        """Whether there is a test at all."""
        return self.p_value is not None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        if self.low is None or self.high is None:
            return False
        return self.low > 0 or self.high < 0


def mean_interval(values: np.ndarray, *, alpha: float) -> Interval:
    """t interval of the mean of per-seed values [S]."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    count = len(values)
    mean = float(values.mean()) if count else np.nan
    if count < 2:
        return Interval(mean=mean, low=None, high=None, stddev=None, num_seeds=count)
    stddev = float(values.std(ddof=1))
    half = float(scipy.special.stdtrit(count - 1, 1 - alpha / 2)) * stddev / count**0.5
    return Interval(
        mean=mean, low=mean - half, high=mean + half, stddev=stddev, num_seeds=count
    )


def difference(
    treatment: Scores, reference: Scores, *, alpha: float, power: float, examples: str
) -> Difference:
    """Treatment minus reference, by the method that the number of seeds allows.

    Args:
      alpha: one minus the level of the interval, and the size of the test behind
        `detectable`.
      power: for `detectable`, e.g. 0.8.
      examples: 'sampled' generalises over examples where the method can (enough seeds
        and per-example scores of the same examples in both arms); 'fixed' never does.
    """
    common = sorted(set(treatment.seeds) & set(reference.seeds))
    of_treatment = [treatment.seeds.index(seed) for seed in common]
    of_reference = [reference.seeds.index(seed) for seed in common]
    means = treatment.means[of_treatment] - reference.means[of_reference]
    failed = [str(seed) for seed, x in zip(common, means) if not np.isfinite(x)]
    if failed:
        # Leaving such seeds out would favour arms that fail, so there is no test.
        reason = f"no finite score at seed {', '.join(failed)}: no test"
        return _untested(means[np.isfinite(means)], reason)
    if len(common) < 2:
        reason = "no common seed" if not common else "one seed: no test"
        return _untested(means, reason)
    if np.ptp(means) <= 1e-12 * max(1.0, float(np.abs(means).max())):
        # Coarse scores can give the same difference at every seed. Its spread of exactly
        # zero would make any difference certain.
        return _untested(means, "no spread over seeds: no test")
    if len(common) < MIN_BOOTSTRAP_SEEDS:
        return _paired_t(means, alpha=alpha, power=power)
    table = means[:, None]
    treated, referred = treatment.examples, reference.examples
    if examples == "sampled" and treated is not None and referred is not None:
        if treated.shape[1] != referred.shape[1]:
            raise ValueError(
                f"The arms were scored on {treated.shape[1]} and "
                f"{referred.shape[1]} examples; paired resampling needs the "
                f"same examples. Evaluate them again, or take examples='fixed'."
            )
        table = treated[of_treatment] - referred[of_reference]
    return _multi_bootstrap(table, alpha=alpha, power=power)


def _untested(means: np.ndarray, reason: str) -> Difference:
    return Difference(
        mean=float(means.mean()) if len(means) else np.nan,
        low=None,
        high=None,
        p_value=None,
        num_seeds=len(means),
        detectable=None,
        method=reason,
        examples="fixed",
    )


def _paired_t(differences: np.ndarray, *, alpha: float, power: float) -> Difference:
    interval = mean_interval(differences, alpha=alpha)
    assert interval.stddev is not None
    count = len(differences)
    error = interval.stddev / count**0.5
    p_value = 2 * scipy.special.stdtr(count - 1, -abs(interval.mean) / error)
    return Difference(
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        p_value=float(p_value),
        num_seeds=count,
        detectable=detectable_difference(error, count - 1, alpha=alpha, power=power),
        method="paired t",
        examples="fixed",
    )


def detectable_difference(
    standard_error: float, degrees: float, *, alpha: float, power: float
) -> float:
    """Smallest true difference that a two-sided t test finds with the given power.

    "Finds" means in its true direction: the tail on the wrong side is left out.
    """
    # Rounded for the cache: a tenth of a degree changes nothing that is printed.
    return _noncentrality(round(degrees, 1), alpha, power) * standard_error


@functools.lru_cache(maxsize=4096)
def _noncentrality(degrees: float, alpha: float, power: float) -> float:
    """Where the noncentral t distribution puts `power` above the critical value."""
    critical = scipy.special.stdtrit(degrees, 1 - alpha / 2)

    def excess(noncentrality: float) -> float:
        return float(scipy.stats.nct.sf(critical, degrees, noncentrality)) - power

    largest = critical + 5.0
    while excess(largest) < 0:
        largest *= 2
    return float(scipy.optimize.brentq(excess, 0.0, largest))


@functools.lru_cache(maxsize=8)
def _resampling_weights(size: int, stream: int) -> np.ndarray:
    """How often each of `size` items is drawn in each resample. [NUM_RESAMPLES, size]"""
    rng = np.random.default_rng([_RESAMPLING_SEED, stream])
    draws = rng.integers(size, size=(NUM_RESAMPLES, size))
    draws += size * np.arange(NUM_RESAMPLES)[:, None]
    counts = np.bincount(draws.ravel(), minlength=NUM_RESAMPLES * size)
    return counts.reshape(NUM_RESAMPLES, size).astype(np.float64)


def _multi_bootstrap(table: np.ndarray, *, alpha: float, power: float) -> Difference:
    """Percentile interval over joint resamples of seeds and examples. table [S, X].

    The plain percentile interval of S seeds is too short by sqrt((S - 1) / S) and by
    using the normal for the t distribution, and counts the interaction of seeds and
    examples three times. Its levels are therefore moved so that its scale is the
    unbiased standard error of the crossed design with Satterthwaite's degrees of
    freedom (the expanded percentile interval of Hesterberg 2015, section 4.5, with
    two factors); its shape stays the bootstrap's.
    """
    seeds, examples = table.shape
    resampled_seeds = _resampling_weights(seeds, 0) @ table / seeds
    if examples == 1:
        estimates = resampled_seeds[:, 0]
    else:
        weights = _resampling_weights(examples, 1) / examples
        estimates = np.einsum("rx,rx->r", resampled_seeds, weights)
    mean = float(table.mean())
    error, degrees = _crossed_standard_error(table)
    stretch = error / float(estimates.std())
    # Level of the lower limit.
    level = scipy.special.ndtr(scipy.special.stdtrit(degrees, alpha / 2) * stretch)
    low, high = np.quantile(estimates, [level, 1 - level])
    below = np.sum(estimates < 0) + 0.5 * np.sum(estimates == 0)
    if 0 < below < NUM_RESAMPLES:
        share = (below + 0.5) / (NUM_RESAMPLES + 1)
        statistic = abs(scipy.special.ndtri(share)) / stretch
        p_value = 2 * scipy.special.stdtr(degrees, -statistic)
    else:
        # If all resamples are on one side of 0, they only tell that p is below
        # 1 / NUM_RESAMPLES, which Holm's correction may multiply beyond alpha. A t test
        # with the interval's scale gives the value, with no more degrees of freedom
        # than the seeds have: in a tail without resamples, many examples do not make up
        # for few seeds.
        tail_degrees = min(degrees, seeds - 1.0)
        p_value = 2 * scipy.special.stdtr(tail_degrees, -abs(mean) / error)
    return Difference(
        mean=mean,
        low=float(low),
        high=float(high),
        p_value=float(p_value),
        num_seeds=seeds,
        detectable=detectable_difference(error, degrees, alpha=alpha, power=power),
        method="multi-bootstrap",
        examples="fixed" if examples == 1 else "sampled",
    )


def _crossed_standard_error(table: np.ndarray) -> tuple[float, float]:
    """Standard error of the grand mean of seeds x examples, and its degrees of freedom.

    Both factors are random and crossed, one value a cell: the variance of the mean is
    (MS_seeds + MS_examples - MS_interaction) / (S X) in mean squares.
    """
    seeds, examples = table.shape
    if examples == 1:
        return float(table[:, 0].std(ddof=1)) / seeds**0.5, seeds - 1.0
    grand = table.mean()
    of_seeds = table.mean(1) - grand
    of_examples = table.mean(0) - grand
    rest = table - grand - of_seeds[:, None] - of_examples[None, :]
    squares = np.array(
        [
            examples * np.sum(of_seeds**2) / (seeds - 1),
            seeds * np.sum(of_examples**2) / (examples - 1),
            np.sum(rest**2) / ((seeds - 1) * (examples - 1)),
        ]
    )
    freedom = np.array(
        [seeds - 1, examples - 1, (seeds - 1) * (examples - 1)], np.float64
    )
    # At least the seeds' own mean square, because the subtraction is noisy.
    total = max(squares[0] + squares[1] - squares[2], squares[0])
    degrees = total**2 / np.sum(squares**2 / freedom)
    return float((total / (seeds * examples)) ** 0.5), float(degrees)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down adjustment; untested comparisons (None) stay untested.

    An adjusted value below alpha controls the chance of any false discovery in the
    family at alpha, under any dependence (Holm 1979).
    """
    tested = {name: p for name, p in p_values.items() if p is not None}
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    running = 0.0
    for rank, name in enumerate(sorted(tested, key=lambda n: tested[n])):
        running = max(running, (len(tested) - rank) * tested[name])
        adjusted[name] = min(1.0, running)
    return adjusted


def outcome(
    compared: Difference,
    *,
    alpha: float,
    adjusted_p: float | None,
    higher_is_better: bool = True,
) -> str:
    """'win', 'loss', 'tie' (no difference shown) or 'untested', for the treatment."""
    if compared.p_value is None:
        return "untested"
    p_value = compared.p_value if adjusted_p is None else adjusted_p
    if p_value >= alpha:
        return "tie"
    return "win" if (compared.mean > 0) == higher_is_better else "loss"
