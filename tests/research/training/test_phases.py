"""Runs in phases and mixtures: what waits is left alone, and resuming is exact."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import presets
from research.errors import UserError
from research.training import checkpoints, pretraining
from research.training import program as program_lib
from research.training import steps as steps_lib
from tests.helpers import toy_vocabulary
from tests.research.training import tiny


def section(kind):
    masked = presets.objective("masked_lm")
    if kind == "phases":
        return presets.phases(
            clm=(presets.objective("causal_lm"), 0.5), mlm=(masked, 1.0)
        )
    return presets.mixture(
        causal=(presets.objective("causal_lm"), 3), masked=(masked, 1)
    )


def config(kind, **overrides):
    settings = {"model__position": "rope", "model__dropout_rate": 0.1, **overrides}
    config = tiny.config("causal_lm", **settings)
    config.objective = section(kind)
    return config


def program(kind, **overrides):
    return program_lib.create(
        tiny.config_lib.parse(config(kind, **overrides)),
        toy_vocabulary(512, 16),
        devices=jax.devices()[:1],
    )


def take(parts, state, constants, step):
    train = steps_lib.compile_train_step(parts, parts.objective.at(step))
    batch = parts.parallel.place(tiny.batch(step))
    return jax.device_get(train(state, constants, batch))


def test_a_head_that_waits_is_left_alone_and_wakes_with_a_count_of_its_own():
    """No decay, no moments; its first update is the learning rate, not 3.16 of it."""
    parts = program(
        "phases",
        train__num_train_steps=6,
        optimizer__schedule="constant",
        optimizer__warmup_steps=0,
        optimizer__learning_rate=1e-3,
        optimizer__weight_decay=0.5,
        optimizer__clip_norm=0.0,
        optimizer__epsilon=1e-30,
        optimizer__beta2=0.999,
    )
    state, constants = parts.init()
    first = jax.device_get(state)
    switch = parts.objective.switches[0]
    assert switch == 3
    for step in range(switch):
        state, _ = take(parts, jax.device_put(state), constants, step)
    waited, fresh = (checkpoints.flatten(s.params) for s in (state, first))
    for name, value in waited.items():
        same = np.array_equal(value, fresh[name])
        assert same == name.startswith("heads/masked_lm"), name
    before = state.opt_state["units"].inner_states
    assert int(before["heads/masked_lm"].inner_state["adam"].count) == 0
    assert int(before["model"].inner_state["adam"].count) == switch
    state, metrics = take(parts, jax.device_put(state), constants, switch)
    assert "mlm/mlm" in metrics.sums and "clm/clm" not in metrics.sums
    after = state.opt_state["units"].inner_states
    assert int(after["heads/masked_lm"].inner_state["adam"].count) == 1
    assert int(after["model"].inner_state["adam"].count) == switch + 1
    # Adam's first step of anything that has a gradient is the learning rate.
    woken = checkpoints.flatten(state.params)
    name = "heads/masked_lm/dense/bias"
    moved = np.abs(woken[name] - waited[name])
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_a_mixture_is_the_weighted_sum_of_its_components(num_microbatches):
    parts = program("mixture", train__num_microbatches=num_microbatches)
    state, constants = parts.init()
    _, metrics = take(parts, state, constants, 0)
    means = {
        name: float(value / weight) for name, (value, weight) in metrics.sums.items()
    }
    expected = 0.75 * means["causal/clm"] + 0.25 * means["masked/mlm"]  # By shares.
    assert means["loss"] == pytest.approx(expected, rel=1e-6)
    once = program("mixture", train__num_microbatches=1)
    state, constants = once.init()
    _, whole = take(once, state, constants, 0)
    for name in ("loss", "grad_norm", "causal/clm", "masked/mlm"):
        np.testing.assert_allclose(
            metrics.sums[name][0], whole.sums[name][0], rtol=1e-5, err_msg=name
        )


def test_held_out_terms_are_those_of_the_objectives_alone():
    """On all rows, so that a mixture's component compares with its objective."""
    parts = program("mixture")
    state, constants = parts.init()
    batch = parts.parallel.place(tiny.batch(5))
    number = jnp.int32(0)
    evaluate = steps_lib.compile_eval_step(parts)
    mixed = evaluate(state.params, constants, state.step, batch, state.seed, number)
    alone = tiny.config_lib.parse(tiny.config("causal_lm", model__position="rope"))
    single = program_lib.create(
        alone, toy_vocabulary(512, 16), devices=jax.devices()[:1]
    )
    params = {**state.params, "heads": {}}
    evaluate = steps_lib.compile_eval_step(single)
    found = evaluate(params, {}, state.step, batch, state.seed, number)
    for value, expected in zip(
        mixed.sums["causal/clm"], found.sums["clm"], strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert set(mixed.targets) == {"causal/clm", "masked/mlm"}


def test_a_batch_that_does_not_divide_is_refused_with_what_fits():
    with pytest.raises(UserError, match=r"shares over 4.* has 2 rows.* one of 2 fit"):
        program("mixture", train__num_microbatches=4)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run in phases: its config and result."""
    folder = tmp_path_factory.mktemp("phases")
    tiny.write_corpus(folder / "corpus")
    settings = config(
        "phases",
        data__source=str(folder / "corpus"),
        data__cache_dir=str(folder / "cache"),
        data__heldout_fraction=0.1,
        train__num_train_steps=6,
        train__log_every_steps=1,
        eval__every_steps=3,
        checkpoint__every_steps=4,
    )
    with tiny.shared_steps():
        whole = pretraining.pretrain(settings, folder / "whole", say=lambda line: None)
        yield settings, whole


@pytest.mark.parametrize("stop_at", [2, 3])
def test_resuming_across_a_switch_is_exact(undisturbed, tmp_path, stop_at):
    settings, whole = undisturbed

    def stop(line):
        if line.startswith(f"step {stop_at - 1}/6"):
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = pretraining.pretrain(settings, tmp_path, say=stop)
    assert stopped.step < 6
    resumed = pretraining.pretrain(settings, tmp_path, say=lambda line: None)
    jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)
    assert resumed.heldout.flat() == whole.heldout.flat()
    assert {"clm/clm", "mlm/mlm"} <= resumed.heldout.values.keys()
    assert resumed.heldout.loss == resumed.heldout.values["mlm/mlm"]
