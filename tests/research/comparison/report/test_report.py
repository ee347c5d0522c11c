"""Reports claim what the results allow, and say what is missing."""

import re
import shutil

import numpy as np
import pytest

from research.comparison import findings, jobs, outcomes, results, statistics
from research.comparison.report import build as report
from research.comparison.report import formats
from research.comparison.report.figures import style
from research.comparison.view import opening
from research.errors import UserError
from tests.research.comparison import fixtures


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures take seconds, and these tests ask for words."""
    monkeypatch.setattr(style, "draw", lambda plot, folder, name: "<svg></svg>")


def build(workdir, config, **settings):
    """A finished comparison's findings and its report's text."""
    fixtures.fill(workdir, config, **settings)
    return rebuild(workdir)


def rebuild(workdir):
    found = report.build(workdir)
    return found, (workdir / "report.md").read_text()


def edit_results(workdir, config, change):
    """Applies `change(job, result)` to every result of an evaluation."""
    for job in jobs.plan(config):
        if job.kind == "evaluation":
            path = workdir / job.folder / outcomes.DONE
            values = outcomes.read(path)
            change(job, values["result"])
            outcomes.write(path, values)


def test_clear_differences_are_claimed_with_interval_and_corrected_p(tmp_path):
    found, text = build(tmp_path, fixtures.parsed())
    assert [v.outcome for v in found.verdicts] == ["win", "win"]
    assert re.search(r"\*\*Masked LM\*\* is better than \*\*Causal LM\*\*.*95%", text)
    assert "corrected p" in text


def test_unclear_differences_are_not_claimed_and_their_limit_is_stated(tmp_path):
    found, text = build(tmp_path, fixtures.parsed(), spread=2.0)
    assert {v.outcome for v in found.verdicts} == {"tie"}
    assert "No difference shown" in text and "would be found 80% of the time" in text
    assert "is better than" not in text and "is worse than" not in text


def test_what_is_detectable_is_so_after_the_correction(tmp_path):
    """Two arms are tested, so the weaker of them meets half of alpha."""
    fixtures.fill(tmp_path, fixtures.parsed(), spread=2.0)
    loaded = results.load(tmp_path)
    metric = loaded.config.primary.metric
    for verdict in findings.find(loaded).verdicts:
        pair = [loaded.scores_of(metric, a, 1.0) for a in (verdict.arm, "causal_lm")]
        alone = statistics.difference(*pair, alpha=0.025, power=0.8, examples="fixed")
        assert verdict.compared.detectable == alone.detectable
        assert verdict.compared.p_value == alone.p_value


def test_one_seed_gives_no_p_values_and_says_so(tmp_path):
    _, text = build(tmp_path, fixtures.parsed(seeds=(0,)))
    first, second = re.search(
        r"What one seed shows(?:\W*\n)*> - (.*)\n> - (.*)", text
    ).groups()
    assert "No winner can be named with one seed" in first
    assert "`--config.seeds='(0, 1, 2)'`" in first
    assert second.startswith("**Masked LM** minus **Causal LM**")
    assert second.endswith("points, 1 seed.")
    assert "no intervals" in text
    assert "is better than" not in text and "corrected p" not in text


def test_a_comparison_that_has_just_begun_reports_no_scores(tmp_path):
    fixtures.save_config(tmp_path, fixtures.parsed())
    _, text = rebuild(tmp_path)
    assert "no scores" in text.lower() and "is better than" not in text


def test_seeds_that_failed_are_counted(tmp_path):
    config = fixtures.parsed()
    broken = jobs.run_folder("masked_lm", 1)
    fixtures.save_config(tmp_path, config)
    for job in jobs.plan(config):
        if broken not in (job.folder, *job.needs):
            fixtures.finish(tmp_path, config, job)
    for _ in range(outcomes.MAX_ATTEMPTS):
        outcomes.write_failure(tmp_path / broken, RuntimeError("disk full"))
    _, text = rebuild(tmp_path)
    assert "**failed**: pretraining masked_lm, seed 1. RuntimeError: disk full" in text
    assert re.search(r"\*\*Masked LM\*\* is better.*2 of 3 seeds", text)
    assert re.search(r"\*\*Span corruption\*\* is better.*[^f] 3 seeds", text)
    assert "1 run or evaluation failed for good" in text


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_a_failed_seed(tmp_path, bad):
    config = fixtures.parsed(seeds=tuple(range(5)))
    fixtures.fill(tmp_path, config)

    def spoil(job, result):
        if (job.arm, job.seed, job.point) == ("masked_lm", 3, 1.0):
            result["scores"]["accuracy"] = [bad]

    edit_results(tmp_path, config, spoil)
    found, text = rebuild(tmp_path)
    assert {v.arm: v.outcome for v in found.verdicts} == {
        "masked_lm": "untested",
        "span_corruption": "win",
    }
    assert "evaluating masked_lm, seed 3, acceptability. not finite: accuracy" in text
    assert re.search(
        r"\*\*Masked LM\*\* minus .*4 of 5 seeds.*no finite score at", text
    )
    assert "nan" not in text


def test_arms_that_differ_in_more_than_one_thing_are_pointed_out(tmp_path):
    config = fixtures.comparison(arms=("masked_lm", "causal_lm"))
    run = fixtures.base.get_config()
    run.model.architecture = "encoder"
    for name, changes in {
        "rate": {"noise_density": 0.4},
        "two": {"noise_density": 0.4, "mask_prob": 1.0, "random_prob": 0.0},
    }.items():
        run.objective = fixtures.presets.objective("masked_lm", masked_lm=changes)
        fixtures.comparison_base.add_arm(
            config, name, label=name, experiment="masked_lm", run=run
        )
    parsed = fixtures.config_lib.parse(config)
    fixtures.save_config(tmp_path, parsed)
    found, text = rebuild(tmp_path)
    assert {name for name, arm in found.arms.items() if arm.confounded} == {"two"}
    (line,) = re.findall(r".*differs from \*\*Masked LM\*\* in more.*", text)
    assert "**two**" in line and "`objective.masked_lm.mask_prob`" in line
    assert "two differs from masked_lm" in opening(parsed)


@pytest.mark.parametrize(
    "rates,tried", [((1e-4, 1e-3), 1e-2), ((1e-3, 2e-3), 5e-4), ((1e-3,), None)]
)
def test_a_best_rate_at_the_edge_names_the_next_one(tmp_path, rates, tried):
    """Made-up trials do best at 1e-3."""
    tuning = {"tuning.learning_rates": rates, "tuning.seeds": (9,)}
    found, text = build(tmp_path, fixtures.parsed(**tuning))
    for arm in found.arms.values():
        assert arm.chosen_rate == 1e-3
        assert arm.next_rate == (None if tried is None else pytest.approx(tried))
    assert ("Try 0.0" in text) == (tried is not None)
    assert ("edge of the grid" in report.closing(found, tmp_path)) == bool(tried)


def test_arms_stand_in_the_order_of_the_config(tmp_path):
    order = ("span_corruption", "causal_lm", "masked_lm")
    config = fixtures.parsed(arms=order)
    assert tuple(arm.name for arm in config.arms) == order
    found, text = build(tmp_path, config)
    assert tuple(found.arms) == order
    rows = re.findall(r"^\| \*\*(.*?)\*\* ", text, re.MULTILINE)
    assert rows == [fixtures.ARMS[name][0] for name in order]


def test_an_arm_on_its_plateau_claims_nothing(tmp_path):
    found, text = build(tmp_path, fixtures.parsed(), losses={"masked_lm": 5.97})
    outcomes_ = {v.arm: v.outcome for v in found.verdicts}
    assert outcomes_ == {"masked_lm": "plateau", "span_corruption": "win"}
    assert "not testable (plateau)" in text
    assert "**Masked LM** is still on its unigram plateau" in text
    assert "Masked LM** is better" not in text
    assert "Masked LM** against its own random initialisation" not in text


def test_a_reference_on_its_plateau_makes_all_untestable(tmp_path):
    found, _ = build(tmp_path, fixtures.parsed(), losses={"causal_lm": 6.2})
    assert {v.outcome for v in found.verdicts} == {"plateau"}


def test_metrics_within_an_architecture_are_not_compared_across(tmp_path):
    config = fixtures.parsed()
    fixtures.fill(tmp_path, config)

    def within(job, result):
        result["metrics"]["accuracy"]["within_architecture"] = True

    edit_results(tmp_path, config, within)
    found, text = rebuild(tmp_path)
    assert {v.outcome for v in found.verdicts} == {"incomparable"}
    assert "not comparable across architectures" in text
    assert "## Differences" not in text


@pytest.mark.parametrize(
    "architecture,reason",
    [
        ("encoder", "not testable at this budget"),
        ("decoder", "not comparable across architectures"),
    ],
)
def test_a_plateau_is_no_difference_of_architecture(tmp_path, architecture, reason):
    config = fixtures.comparison(arms=("masked_lm", "causal_lm"))
    objective = "masked_lm" if architecture == "encoder" else "causal_lm"
    run = fixtures.base.get_config()
    run.model.architecture = architecture
    run.objective = fixtures.presets.objective(objective)
    del config.arms.causal_lm
    fixtures.comparison_base.add_arm(
        config, "causal_lm", label="Other", experiment=objective, run=run
    )
    config = fixtures.config_lib.parse(config)
    fixtures.fill(tmp_path, config, losses={"causal_lm": 6.2})

    def within(job, result):
        result["metrics"]["accuracy"]["within_architecture"] = True

    edit_results(tmp_path, config, within)
    _, text = rebuild(tmp_path)
    found = re.search(r"\*\*Other\*\* against \*\*Masked LM\*\* on .*: (.*)\.", text)
    assert found.group(1) == reason


def method_of(text):
    """The section that says how the numbers were made."""
    return text.split("## Method")[1].split("\n## ")[0]


def test_the_table_says_of_each_metric_how_its_examples_were_taken(tmp_path):
    """Sampled was asked for, but one metric has no scores of single examples."""
    config = fixtures.comparison(
        arms=("causal_lm", "masked_lm"), seeds=tuple(range(20)), floor=False
    )
    config.statistics.examples = "sampled"
    config.evaluations.whole = (
        config.evaluations.acceptability.copy_and_resolve_references()
    )
    config = fixtures.config_lib.parse(config)
    fixtures.fill(tmp_path, config)

    def score_examples(job, result):
        if job.evaluation == "acceptability":
            rng = np.random.default_rng([job.seed or 0, *job.arm.encode()])
            right = rng.integers(2, size=30).tolist()
            result["scores"] = {"accuracy": [float(np.mean(right))]}
            result["examples"] = {"accuracy": [right]}

    edit_results(tmp_path, config, score_examples)
    _, text = rebuild(tmp_path)
    assert re.search(r"acceptability/accuracy .*multi-bootstrap \| sampled", text)
    assert re.search(r"whole/accuracy .*multi-bootstrap \| fixed", text)


def test_the_method_names_the_corpus_with_its_size_and_digest(tmp_path):
    text = method_of(build(tmp_path, fixtures.parsed())[1])
    assert (
        "Corpus embedded: 10.9 MB of text in 1,234 documents, digest 0f1e2d3c." in text
    )


def test_the_test_goes_by_the_seeds_that_finished(tmp_path):
    config = fixtures.parsed(
        seeds=tuple(range(20)), **{"statistics.examples": "sampled"}
    )
    fixtures.fill(tmp_path, config)
    shutil.rmtree(
        tmp_path / jobs.evaluation_folder("acceptability", "masked_lm", 3, 1.0)
    )
    _, text = rebuild(tmp_path)
    assert re.search(r"\| Masked LM \|.* paired t \| fixed", text)
    assert re.search(r"\| Span corruption \|.* multi-bootstrap ", text)


def test_what_only_some_results_note_is_printed_with_whose_it_is(tmp_path):
    config = fixtures.parsed()
    fixtures.fill(tmp_path, config)

    def note(job, result):
        if job.arm == "masked_lm" and job.seed in (0, 2) and job.point == 1.0:
            result["notes"].append("1 of 3 fine-tuning runs failed")

    edit_results(tmp_path, config, note)
    _, text = rebuild(tmp_path)
    assert (
        "10 held-out sentences; 1 of 3 fine-tuning runs failed: Masked LM seed 0, "
        "Masked LM seed 2." in text
    )


def test_a_mixture_is_named_by_its_components(tmp_path):
    config = fixtures.comparison(arms=("causal_lm",))
    run = fixtures.base.get_config()
    run.model.architecture = "encoder_decoder"
    denoiser = fixtures.presets.objective("span_corruption")
    prefix = fixtures.presets.objective("prefix_lm")
    run.objective = fixtures.presets.mixture(
        short=(denoiser, 1), long=(denoiser, 1), prefix=(prefix, 2)
    )
    fixtures.comparison_base.add_arm(
        config, "masked_lm", label="Mixture", experiment="ul2_small", run=run
    )
    _, text = build(tmp_path, fixtures.config_lib.parse(config))
    assert "| mixture(span_corruption × 2, prefix_lm) | encoder-decoder |" in text


def test_half_a_comparison_says_what_is_missing(tmp_path):
    config = fixtures.parsed()
    fixtures.save_config(tmp_path, config)
    assert "Incomplete: 0 of 27 jobs" in rebuild(tmp_path)[1]
    for job in jobs.plan(config)[:13]:
        fixtures.finish(tmp_path, config, job)
    found, text = rebuild(tmp_path)
    assert len(found.problems) == 14
    assert "Incomplete: 13 of 27 jobs" in text
    assert "runs/causal_lm/seed-2" in text


def test_a_folder_without_a_comparison_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no comparison"):
        report.build(tmp_path)


@pytest.mark.parametrize(
    "value,expected",
    [
        (1234, "1,234"),
        (6198.4, "6,198"),
        (1234567, "1.23 M"),
        (8.41e12, "8.41 T"),
        (0.5, "0.5"),
    ],
)
def test_large_numbers(value, expected):
    assert formats.large(value) == expected


def test_signs():
    assert formats.number(-0.04, 1, plus=True) == "+0.0"
    assert formats.number(-1.26, 1, plus=True) == "\N{MINUS SIGN}1.3"
    assert formats.p_value(0.0004) == "< 0.001"
