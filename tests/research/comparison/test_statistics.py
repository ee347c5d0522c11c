"""Simulations with a known truth: coverage, false positives, power."""

import itertools

import numpy as np
import pytest
import scipy.stats

from research.comparison import statistics

SIMULATIONS = 2500
TRUE_DIFFERENCE = 1.3


def simulated_scores(rng, *, seeds, examples, shift, fixed_effects=None):
    """Two-level results: seed effects shared by paired arms, and of each arm's own.

    Returns the arms and the difference that holds for exactly these examples.
    """
    shared = rng.normal(0, 2.0, (seeds, 1))
    example = rng.normal(0, 3.0, (1, examples))
    arms = []
    own_examples = []
    for offset in (0.0, shift):
        own_seed = rng.normal(0, 0.7, (seeds, 1))
        own_example = rng.normal(0, 2.0, (1, examples))
        noise = rng.normal(0, 1.5, (seeds, examples))
        table = offset + shared + example + own_seed + own_example + noise
        own_examples.append(own_example.mean())
        arms.append(
            statistics.Scores(
                seeds=tuple(range(seeds)), means=table.mean(1), examples=table
            )
        )
    return arms[0], arms[1], shift + own_examples[1] - own_examples[0]


def compare(reference, treatment, examples="fixed"):
    return statistics.difference(
        treatment, reference, alpha=0.05, power=0.8, examples=examples
    )


@pytest.mark.parametrize(
    "seeds,examples", [(3, "fixed"), (5, "fixed"), (10, "fixed"), (25, "fixed")]
)
def test_intervals_cover_the_difference_on_these_examples(seeds, examples):
    rng = np.random.default_rng(seeds)
    covered = 0
    for _ in range(SIMULATIONS):
        a, b, truth = simulated_scores(
            rng, seeds=seeds, examples=40, shift=TRUE_DIFFERENCE
        )
        result = compare(a, b, examples)
        assert result.examples == "fixed"
        covered += result.low <= truth <= result.high
    print(f"{seeds} seeds, fixed examples: coverage {covered / SIMULATIONS:.1%}")
    assert abs(covered / SIMULATIONS - 0.95) <= 0.015


@pytest.mark.slow
@pytest.mark.parametrize("num_examples", [30, 300])
def test_multi_bootstrap_covers_the_difference_on_new_examples(num_examples):
    rng = np.random.default_rng(num_examples)
    covered = 0
    for _ in range(SIMULATIONS):
        a, b, _ = simulated_scores(
            rng, seeds=25, examples=num_examples, shift=TRUE_DIFFERENCE
        )
        result = compare(a, b, "sampled")
        assert result.method == "multi-bootstrap" and result.examples == "sampled"
        covered += result.low <= TRUE_DIFFERENCE <= result.high
    print(f"25 seeds, sampled examples: coverage {covered / SIMULATIONS:.1%}")
    assert abs(covered / SIMULATIONS - 0.95) <= 0.015


@pytest.mark.slow
def test_multi_bootstrap_covers_accuracies_of_skewed_seeds():
    """Zero-one examples and exponential seed effects, as accuracies have."""
    rng = np.random.default_rng(5)
    covered = 0
    truth_rng = np.random.default_rng(6)
    logits = [truth_rng.exponential(0.6, 400_000) + shift for shift in (0.5, 0.9)]
    population = truth_rng.normal(0, 1, 400_000)
    rates = [np.mean(1 / (1 + np.exp(-(x + population)))) for x in logits]
    truth = rates[1] - rates[0]
    for _ in range(SIMULATIONS):
        item = rng.normal(0, 1, (1, 150))
        arms = []
        for shift in (0.5, 0.9):
            logit = rng.exponential(0.6, (25, 1)) + shift + item
            right = rng.random((25, 150)) < 1 / (1 + np.exp(-logit))
            table = right.astype(np.float64)
            arms.append(
                statistics.Scores(
                    seeds=tuple(range(25)), means=table.mean(1), examples=table
                )
            )
        result = compare(*arms, "sampled")
        covered += result.low <= truth <= result.high
    assert abs(covered / SIMULATIONS - 0.95) <= 0.02


@pytest.mark.parametrize("seeds", [3, 5, 10, 25])
def test_verdicts_find_nothing_where_nothing_is(seeds):
    """Family of four arms against a reference: any false verdict in at most alpha."""
    rng = np.random.default_rng(100 + seeds)
    false_verdicts = 0
    for _ in range(SIMULATIONS):
        shared = rng.normal(0, 1, seeds)
        arms = [
            statistics.Scores(
                seeds=tuple(range(seeds)),
                means=shared + rng.normal(0, 0.5, seeds),
                examples=None,
            )
            for _ in range(5)
        ]
        results = {str(i): compare(arms[0], arms[i]) for i in range(1, 5)}
        adjusted = statistics.holm({k: r.p_value for k, r in results.items()})
        outcomes = {
            statistics.outcome(results[k], alpha=0.05, adjusted_p=adjusted[k])
            for k in results
        }
        false_verdicts += bool(outcomes - {"tie"})
    noise = 3 * (0.05 * 0.95 / SIMULATIONS) ** 0.5
    print(f"{seeds} seeds: a false verdict in {false_verdicts / SIMULATIONS:.1%}")
    assert false_verdicts / SIMULATIONS <= 0.05 + noise


@pytest.mark.parametrize("seeds", [3, 5, 10, 25])
def test_power_at_the_detectable_difference(seeds):
    rng = np.random.default_rng(200 + seeds)
    spread = 0.5 * 2**0.5
    truth = statistics.detectable_difference(
        spread / seeds**0.5, seeds - 1, alpha=0.05, power=0.8
    )
    found = 0
    for _ in range(SIMULATIONS):
        a = statistics.Scores(
            seeds=tuple(range(seeds)), means=rng.normal(0, 0.5, seeds), examples=None
        )
        b = statistics.Scores(
            seeds=a.seeds, means=rng.normal(truth, 0.5, seeds), examples=None
        )
        result = compare(a, b)
        found += statistics.outcome(result, alpha=0.05, adjusted_p=None) == "win"
    print(f"{seeds} seeds: power {found / SIMULATIONS:.1%} at {truth:.2f}")
    assert abs(found / SIMULATIONS - 0.8) <= 0.03


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_power_after_the_correction_at_its_detectable_difference(seeds):
    """One arm of three differs by what alpha / 3 detects: Holm finds it that often."""
    rng = np.random.default_rng(300 + seeds)
    tests, spread = 3, 0.5 * 2**0.5
    truth = statistics.detectable_difference(
        spread / seeds**0.5, seeds - 1, alpha=0.05 / tests, power=0.8
    )
    found = 0
    for _ in range(SIMULATIONS):
        means = rng.normal(0, 0.5, (tests + 1, seeds))
        means[1] += truth
        arms = [
            statistics.Scores(seeds=tuple(range(seeds)), means=row, examples=None)
            for row in means
        ]
        results = {i: compare(arms[0], arms[i]) for i in range(1, tests + 1)}
        adjusted = statistics.holm({str(i): r.p_value for i, r in results.items()})
        outcome = statistics.outcome(results[1], alpha=0.05, adjusted_p=adjusted["1"])
        found += outcome == "win"
    print(
        f"{seeds} seeds, {tests} arms: power {found / SIMULATIONS:.1%} at {truth:.2f}"
    )
    # Rejecting another arm first eases the test, and only then.
    assert 0.8 - 0.03 <= found / SIMULATIONS <= 0.87


def test_detectable_difference_matches_textbook_values():
    """n = 34 pairs find half a standard deviation with 80% power (Cohen 1988)."""
    found = statistics.detectable_difference(34**-0.5, 33, alpha=0.05, power=0.8)
    np.testing.assert_allclose(found, 0.495, atol=0.002)


def test_paired_t_equals_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=7), rng.normal(0.4, size=7)
    scores = [
        statistics.Scores(seeds=tuple(range(7)), means=x, examples=None) for x in (a, b)
    ]
    result = compare(*scores)
    expected = scipy.stats.ttest_rel(b, a)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(result.p_value, expected.pvalue, rtol=1e-9)
    np.testing.assert_allclose([result.low, result.high], interval, rtol=1e-9)


def test_interval_and_test_agree_in_the_bootstrap():
    rng = np.random.default_rng(3)
    for shift in np.linspace(0, 1.2, 40):
        a, b, _ = simulated_scores(rng, seeds=22, examples=60, shift=shift)
        result = compare(a, b, "sampled")
        excluded = result.low > 0 or result.high < 0
        if abs(result.p_value - 0.05) > 0.005:
            assert excluded == (result.p_value < 0.05)


@pytest.mark.parametrize("examples", ["fixed", "sampled"])
def test_a_huge_difference_survives_any_correction(examples):
    """The number of resamples is no limit of what can be found."""
    rng = np.random.default_rng(7)
    a, b, _ = simulated_scores(rng, seeds=20, examples=60, shift=30.0)
    result = compare(a, b, examples)
    assert result.method == "multi-bootstrap" and result.examples == examples
    of_seeds = scipy.stats.ttest_rel(b.means, a.means).pvalue
    assert of_seeds <= result.p_value < 1e-6
    family = {"huge": result.p_value, **{str(i): 0.5 for i in range(1000)}}
    assert statistics.holm(family)["huge"] < 0.05


def test_small_p_values_are_as_rare_as_they_say():
    """Where no resample crosses 0, too."""
    rng = np.random.default_rng(8)
    count = 5 * SIMULATIONS
    p_values = []
    for _ in range(count):
        a, b = (
            statistics.Scores(seeds=tuple(range(20)), means=means, examples=None)
            for means in rng.normal(size=(2, 20))
        )
        p_values.append(compare(a, b).p_value)
    for level in (0.0002, 0.001, 0.01, 0.05, 0.5):
        noise = 3 * (level * (1 - level) / count) ** 0.5
        # Percentiles of 2000 resamples are a little coarse far out.
        assert abs(np.mean(np.array(p_values) <= level) - level) <= noise + 0.1 * level


def test_fine_tuning_seeds_are_averaged_inside():
    scores = statistics.Scores.average(
        {4: [0.2, 0.4], 1: [0.5]},
        {4: [np.array([0, 1.0]), np.array([1, 1.0])], 1: [np.array([1, 0.0])]},
    )
    assert scores.seeds == (1, 4)
    np.testing.assert_allclose(scores.means, [0.5, 0.3])
    np.testing.assert_allclose(scores.examples, [[1, 0], [0.5, 1]])


def test_only_common_seeds_are_compared():
    a = statistics.Scores(
        seeds=(0, 1, 2), means=np.array([0.0, 1.0, 2.0]), examples=None
    )
    b = statistics.Scores(
        seeds=(1, 2, 3), means=np.array([2.0, 5.0, 99.0]), examples=None
    )
    result = compare(a, b)
    assert result.num_seeds == 2 and result.mean == 2.0


@pytest.mark.parametrize("seeds", [(), (3,)])
def test_no_test_below_two_seeds(seeds):
    a = statistics.Scores(seeds=seeds, means=np.zeros(len(seeds)), examples=None)
    b = statistics.Scores(seeds=seeds, means=np.ones(len(seeds)), examples=None)
    result = compare(a, b)
    assert result.p_value is None and result.low is None and "seed" in result.method
    assert statistics.outcome(result, alpha=0.05, adjusted_p=None) == "untested"


def test_equal_differences_are_no_certainty():
    a = statistics.Scores(seeds=(0, 1), means=np.array([0.5, 0.6]), examples=None)
    b = statistics.Scores(seeds=(0, 1), means=np.array([0.6, 0.7]), examples=None)
    assert compare(a, b).p_value is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("seeds", [1, 2, 5, 25])
def test_a_score_that_is_not_finite_leaves_no_verdict(seeds, bad):
    """In either arm, below and above the number of seeds of the bootstrap."""
    rng = np.random.default_rng(seeds)
    a, b, _ = simulated_scores(rng, seeds=seeds, examples=30, shift=30.0)
    for arm in (a, b):
        whole = arm.means[-1], arm.examples[-1].copy()
        arm.means[-1], arm.examples[-1] = bad, bad
        for examples in statistics.EXAMPLES:
            result = compare(a, b, examples)
            assert result.p_value is result.low is result.detectable is None
            assert f"no finite score at seed {seeds - 1}" in result.method
            assert result.num_seeds == seeds - 1
            assert np.isfinite(result.mean) == (seeds > 1)
        interval = statistics.mean_interval(arm.means, alpha=0.05)
        assert interval.num_seeds == seeds - 1 and interval.mean != bad
        arm.means[-1], arm.examples[-1] = whole


def test_holm_equals_its_definition():
    rng = np.random.default_rng(1)
    for _ in range(50):
        p = rng.random(4) ** 3
        names = list("abcd")
        adjusted = statistics.holm({**dict(zip(names, p)), "untested": None})
        assert adjusted["untested"] is None
        for alpha in (0.01, 0.05, 0.2):
            rejected = set()
            for rank, (value, name) in enumerate(sorted(zip(p, names))):
                if value > alpha / (4 - rank):
                    break
                rejected.add(name)
            assert rejected == {n for n in names if adjusted[n] <= alpha}


def test_holm_is_monotone():
    p_values = {"a": 0.01, "b": 0.02, "c": 0.02, "d": 0.9}
    adjusted = statistics.holm(p_values)
    for x, y in itertools.pairwise(sorted(p_values, key=p_values.get)):
        assert adjusted[x] <= adjusted[y]


def test_examples_must_be_equal():
    a = statistics.Scores(
        seeds=tuple(range(20)), means=np.arange(20.0), examples=np.ones((20, 5))
    )
    b = statistics.Scores(
        seeds=tuple(range(20)), means=np.arange(20.0) ** 2, examples=np.ones((20, 6))
    )
    with pytest.raises(ValueError, match="6 and 5 examples"):
        compare(a, b, "sampled")
