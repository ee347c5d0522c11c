"""The step: exact accumulation, dropout by row, and what is not finite."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives.types import Target
from research.training import optimizer, state, step
from tests.helpers import quick_jit, take_rows
from tests.research.training import tiny

GRADIENTS_ONLY = dict(
    name="adamw",
    learning_rate=1.0,
    warmup_steps=0,
    schedule="constant",
    clip_norm=0.0,
    weight_decay=0.0,
)


@dataclasses.dataclass(frozen=True)
class _Identity:
    """An update rule that returns the gradients themselves."""

    transformation = optimizer.optax.scale(-1.0)

    @staticmethod
    def schedule(step):
        return jnp.float32(1.0)

    @staticmethod
    def apply(grads, opt_state, params, rate, trained):
        return jax.tree.map(jnp.subtract, params, grads), opt_state


@functools.cache
def program(objective: str):
    return tiny.program(objective, model__dropout_rate=0.1)


def first_state(parts) -> state.TrainState:
    params = state.init_params(parts.model_config, parts.objective, jax.random.key(0))
    return state.TrainState(
        seed=jnp.uint32(1),
        step=jnp.int32(3),
        skipped=jnp.int32(0),
        params=params,
        opt_state=_Identity.transformation.init(params),
    )


@functools.cache
def gradient_step(objective: str, num_microbatches: int):
    """Loss metrics and gradients (old minus new parameters) of one step."""
    parts = program(objective)
    train_step = quick_jit(
        step.make_train_step(
            parts.objective,
            parts.modules,
            _Identity(),
            num_microbatches=num_microbatches,
        )
    )

    def run(before, batch):
        after, metrics = train_step(before, {}, batch)
        grads = jax.tree.map(jnp.subtract, before.params, after.params)
        return grads, metrics

    return run


@pytest.mark.parametrize(
    "objective", ["masked_lm", pytest.param("span_corruption", marks=pytest.mark.slow)]
)
def test_microbatches_give_the_large_batch_exactly(objective):
    before = first_state(program(objective))
    whole_grads, whole = gradient_step(objective, 1)(before, tiny.batch(0))
    parts_grads, parts = gradient_step(objective, 4)(before, tiny.batch(0))
    for name, (value, weight) in whole.sums.items():
        np.testing.assert_allclose(parts.sums[name][0], value, rtol=2e-6, err_msg=name)
        np.testing.assert_allclose(parts.sums[name][1], weight, err_msg=name)
    for a, b in zip(
        jax.tree.leaves(whole_grads), jax.tree.leaves(parts_grads), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_uneven_rows_are_weighted_by_targets_not_by_microbatches():
    """A mean of the microbatches' means would differ by far more than rounding."""
    before = first_state(program("masked_lm"))
    batch = tiny.batch(0)
    tokens = np.array(batch.tokens)
    tokens[::4, 4:] = 0  # Padding: every fourth row has few targets.
    batch = dataclasses.replace(batch, tokens=tokens)
    _, whole = gradient_step("masked_lm", 1)(before, batch)
    _, parts = gradient_step("masked_lm", 4)(before, batch)
    np.testing.assert_allclose(parts.sums["loss"][0], whole.sums["loss"][0], rtol=2e-6)


def test_rows_may_come_in_any_order():
    """Corruption and dropout belong to the row's number, not to its place."""
    before = first_state(program("masked_lm"))
    run = gradient_step("masked_lm", 1)
    order = np.array([3, 1, 7, 0, 2, 6, 5, 4])
    _, straight = run(before, tiny.batch(0))
    _, shuffled = run(before, take_rows(tiny.batch(0), order))
    np.testing.assert_allclose(
        shuffled.sums["loss"][0], straight.sums["loss"][0], rtol=2e-6
    )


def test_seed_and_step_change_what_is_drawn():
    before = first_state(program("masked_lm"))
    run = gradient_step("masked_lm", 1)

    def loss(**changes):
        changed = dataclasses.replace(before, **changes)
        return float(run(changed, tiny.batch(0))[1].sums["loss"][0])

    losses = {loss(), loss(seed=jnp.uint32(2)), loss(step=jnp.int32(4))}
    assert len(losses) == 3
    assert loss() == loss()


def test_microbatches_deal_rows_like_cards():
    dealt = step.microbatches(jnp.arange(8), 2)
    np.testing.assert_array_equal(dealt, [[0, 2, 4, 6], [1, 3, 5, 7]])


def test_a_term_without_targets_is_zero_with_finite_gradients():
    parts = program("masked_lm")

    class Empty:
        """The objective with no target in any row."""

        def __getattr__(self, name):
            return getattr(parts.objective, name)

        def corrupt(self, rng, batch):
            example = parts.objective.corrupt(rng, batch)
            targets = {
                name: Target(
                    values=target.values,
                    loss_weights=jnp.zeros_like(target.loss_weights),
                    positions=target.positions,
                )
                for name, target in example.targets.items()
            }
            return example.replace(targets=targets)

    train_step = step.make_train_step(
        Empty(), parts.modules, _Identity(), num_microbatches=1
    )
    after, metrics = quick_jit(train_step)(first_state(parts), {}, tiny.batch(0))
    assert float(metrics.sums["loss"][0]) == 0.0
    assert bool(metrics.finite)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters():
    parts = program("masked_lm")
    rule = parts.optimizer
    train_step = quick_jit(
        step.make_train_step(parts.objective, parts.modules, rule, num_microbatches=2)
    )
    good = state.init_state(first_state(parts).params, rule, 0)
    good, metrics = train_step(good, {}, tiny.batch(0))
    assert bool(metrics.finite)
    embedding = good.params["model"]["token_embedding"].at[20, 0].set(jnp.nan)
    bad_model = {**good.params["model"], "token_embedding": embedding}
    bad = dataclasses.replace(good, params={**good.params, "model": bad_model})
    batch = tiny.batch(1)
    tokens = np.array(batch.tokens)
    tokens[0] = 20
    after, metrics = train_step(bad, {}, dataclasses.replace(batch, tokens=tokens))
    assert not bool(metrics.finite)
    assert int(after.step) == int(bad.step) + 1
    assert int(after.skipped) == int(metrics.skipped) == 1
    same = (after.params, after.opt_state), (bad.params, bad.opt_state)
    for a, b in zip(*map(jax.tree.leaves, same), strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluation_counts_targets_and_repeats_itself():
    parts = program("masked_lm")
    eval_step = quick_jit(step.make_eval_step(parts.objective, parts.modules))
    params = first_state(parts).params
    seed = jnp.uint32(0)
    first = eval_step(params, {}, jnp.int32(0), tiny.batch(0), seed, jnp.int32(0))
    again = eval_step(params, {}, jnp.int32(0), tiny.batch(0), seed, jnp.int32(0))
    other = eval_step(params, {}, jnp.int32(0), tiny.batch(0), seed, jnp.int32(1))
    value, weight = first.sums["mlm"]
    assert float(value) == float(again.sums["mlm"][0]) != float(other.sums["mlm"][0])
    counts = np.asarray(first.targets["mlm"])
    assert counts.sum() == float(weight) > 0
    # Only text is ever a target.
    assert counts[parts.objective.vocabulary.is_special].sum() == 0
    correct, of = first.sums["mlm_accuracy"]
    assert 0 <= float(correct) <= float(of) == float(weight)
