"""What arms share is checked, and what differs is shown."""

import pytest

from experiments import base, comparison_base, presets
from research.comparison import arms
from research.config.parse import flatten
from research.errors import UserError
from tests.research.comparison import fixtures


def test_differences_are_objective_and_architecture():
    config = fixtures.parsed()
    found = arms.differing_fields(config.arms)
    assert set(found["model.architecture"].values()) == {
        "decoder",
        "encoder",
        "encoder_decoder",
    }
    assert found["objective.masked_lm.noise_density"] == {
        "causal_lm": arms.MISSING,
        "masked_lm": 0.15,
        "span_corruption": arms.MISSING,
    }
    outside = [f for f in found if not f.startswith("objective.")]
    assert outside == ["model.architecture"]


def test_every_field_is_either_shared_differing_or_set_by_the_budget():
    config = fixtures.parsed()
    every = {f for arm in config.arms for f in flatten(arm.config)}
    shared = set(arms.shared_fields(list(config.arms)))
    differing = set(arms.differing_fields(config.arms))
    assert not shared & differing
    assert every - shared - differing <= set(arms.budgets.FITTED)


def test_a_difference_in_what_is_claimed_equal_is_refused():
    config = fixtures.comparison()
    config.arms.masked_lm.config.train.batch_size = 7
    with pytest.raises(UserError, match=r"train\.batch_size: .*masked_lm=7"):
        fixtures.config_lib.parse(config)
    config.varies = (*config.varies, "train.batch_size")
    assert "train.batch_size" in arms.differing_fields(
        fixtures.config_lib.parse(config).arms
    )


def test_unknown_names_in_varies_are_refused_with_the_nearest():
    config = fixtures.comparison(varies=("objective", "model.architectur"))
    with pytest.raises(UserError, match=r"Did you mean model\.architecture"):
        fixtures.config_lib.parse(config)


def test_no_arms_are_refused():
    with pytest.raises(UserError, match="at least one arm"):
        arms.check([], ())


def test_shared_fields_follow_their_reference_unless_an_arm_has_its_own():
    config = fixtures.comparison(arms=["causal_lm"])
    run = base.get_config()
    run.objective = presets.objective("masked_lm")
    comparison_base.add_arm(
        config,
        "other",
        label="Other",
        experiment="masked_lm",
        run=run,
        optimizer={"learning_rate": 0.5},
        data={"tokenizer": {"vocab_size": 99}},
    )
    config.shared.optimizer.learning_rate = 0.25
    config.shared.train.batch_size = 12
    config.shared.data.tokenizer.vocab_size = 77
    first, other = config.arms.causal_lm.config, config.arms.other.config
    assert first.optimizer.learning_rate == 0.25
    assert other.optimizer.learning_rate == 0.5
    assert first.train.batch_size == other.train.batch_size == 12
    assert first.data.tokenizer.vocab_size == 77
    assert other.data.tokenizer.vocab_size == 99
