"""Configs that cannot be run are refused before any work."""

import pytest

from research.comparison import runner
from research.errors import UserError
from tests.research.comparison import fixtures


def test_evaluations_that_an_arm_cannot_do_are_refused_before_any_work(tmp_path):
    config = fixtures.comparison()
    config.arms.causal_lm.config.objective = fixtures.presets.objective("causal_lm")
    config.evaluations.blimp = {"kind": "blimp", "source": "x", "pairs_per_paradigm": 1}
    run = fixtures.base.get_config()
    run.model.architecture = "encoder_decoder"
    run.objective = fixtures.presets.objective("deshuffling")
    fixtures.comparison_base.add_arm(
        config, "shuffled", label="Deshuffling", experiment="deshuffling", run=run
    )
    with pytest.raises(UserError, match="blimp cannot judge the arm 'shuffled'"):
        runner.run(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_contrasts_on_metrics_that_nothing_gives_are_refused(tmp_path):
    config = fixtures.comparison()
    config.contrasts.first = fixtures.comparison_base.contrast(
        "masked_lm",
        "causal_lm",
        "acceptability/acuracy",
        published=1.0,
        of="MNLI",
        source="nowhere",
    )
    with pytest.raises(UserError, match="Did you mean acceptability/accuracy"):
        runner.run(config, tmp_path)


@pytest.mark.parametrize(
    "name", ["a/b", 'x"><img src=x>', "=cmd", "..", "", "a\n", "é"]
)
@pytest.mark.parametrize("section", ["arms", "evaluations"])
def test_names_that_are_no_folders_are_refused(tmp_path, section, name):
    raw = fixtures.parsed().raw
    raw = {**raw, section: {**raw[section], name: next(iter(raw[section].values()))}}
    with pytest.raises(UserError, match=f"config.{section}: the name .* letters"):
        runner.run(raw, tmp_path)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"primary.metric": "glue/average"}, "Valid: acceptability/accuracy"),
        ({"primary.metric": "acceptability/f1"}, "Valid: acceptability/accuracy"),
        ({"primary.reference": "causal"}, "Did you mean causal_lm"),
        ({"points": (0.5,)}, "with 1"),
        ({"seeds": (1, 1)}, "each seed once"),
        ({"seeds": ()}, "at least one pretraining seed"),
        ({"seeds": (-1, 0)}, "none below 0"),
        ({"budget.axis": "token"}, "config.budget: axis = 'token': .* mean tokens"),
        ({"statistics.examples": "random"}, "one of fixed, sampled"),
        ({"tuning.learning_rates": (1e-3,), "tuning.seeds": (0,)}, r"share \[0\]"),
    ],
)
def test_contradictions_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        runner.run(fixtures.comparison(**changes), tmp_path)


@pytest.mark.parametrize(
    "field,value,message",
    [
        ("seeds", ("a", 1), r"config.seeds\[0\] = 'a': must be int, got str"),
        ("seeds", 3, "config.seeds = 3: must be tuple, got int"),
        ("varies", "objective", "config.varies = 'objective': must be tuple, got str"),
        ("points", (None, 1.0), r"config.points\[0\] = None: must be float"),
        ("name", 7, "config.name = 7: must be str"),
        ("title", None, "config.title = None: must be str"),
        ("floor", 1, "config.floor = 1: must be bool"),
    ],
)
def test_values_of_a_wrong_type_are_refused(tmp_path, field, value, message):
    config = fixtures.comparison()
    with config.ignore_type():
        config[field] = value
    with pytest.raises(UserError, match=message):
        runner.run(config, tmp_path)


def test_unknown_fields_and_kinds_name_the_nearest(tmp_path):
    config = fixtures.comparison()
    with config.unlocked():
        config.budget.amont = 3.0
    with pytest.raises(UserError, match="Did you mean amount"):
        runner.run(config, tmp_path)
    config = fixtures.comparison()
    config.evaluations.acceptability["kind"] = "acceptabilty"
    with pytest.raises(UserError, match="Did you mean acceptability"):
        runner.run(config, tmp_path)
