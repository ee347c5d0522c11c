"""What is learned and what is not: split, joined, trained, and frozen networks."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import objectives
from objectives.causal_lm import CausalLM
from research.errors import UserError
from research.training import (
    adaptation,
    checkpoints,
    flops,
    initialise,
    pretraining,
    rngs,
    trained_run,
)
from research.training import program as program_lib
from research.training import steps as steps_lib
from tests.helpers import quick_jit, toy_vocabulary
from tests.research.training import tiny


def steps(parts, count=2):
    """States after `count` steps, constants, and the metrics of each."""
    state, constants = parts.init()
    train = steps_lib.compile_train_step(parts, parts.objective.at(0))
    metrics = []
    for step in range(count):
        state, found = train(state, constants, parts.parallel.place(tiny.batch(step)))
        metrics.append(found)
    return state, constants, metrics


def test_split_and_join_are_inverse():
    tree = {"model": {"layers": {0: {"kernel": 1, "bias": 2}}}, "heads": {"a": {}}}
    is_learned = adaptation.learns(r".*bias", frozen=())
    params, constants = adaptation.split(tree, is_learned)
    assert params == {"model": {"layers": {0: {"bias": 2}}}}
    assert constants["model"] == {"layers": {0: {"kernel": 1}}}
    assert adaptation.join(params, constants, 0) == tree


def test_the_pattern_matches_whole_paths():
    is_learned = adaptation.learns(r"heads/.*", frozen=("heads",))
    assert not is_learned("heads/masked_lm/dense/bias")
    is_learned = adaptation.learns(r"heads", frozen=())
    assert not is_learned("heads/masked_lm/dense/bias")


@pytest.fixture(scope="module")
def biases():
    """A run that learns its biases alone, and what it did."""
    parts = tiny.program(train__trainable=r".*bias", model__dropout_rate=0.0)
    return parts, *steps(parts)


def test_only_what_is_trainable_moves(biases):
    parts, state, constants, _ = biases
    first, _ = parts.init()
    before = checkpoints.flatten(first.params)
    after = checkpoints.flatten(state.params)
    assert before.keys() == after.keys()
    assert all(name.endswith("bias") for name in after)
    assert any(not np.array_equal(after[name], before[name]) for name in after)
    weights = adaptation.join(state.params, constants, jnp.int32(0))
    shapes = jax.tree.map(lambda x: x.shape, weights)
    assert shapes == jax.tree.map(lambda x: x.shape, parts.modules.params)


def test_constants_have_no_moments_and_no_part_in_the_norm(biases):
    _, state, _, metrics = biases
    assert all(
        name.endswith("bias") or "count" in name
        for name in checkpoints.flatten({"opt": state.opt_state})
    )
    # The gradient's norm is that of the same gradients of a run that learns all.
    whole = tiny.program(model__dropout_rate=0.0)
    everything, first_constants = whole.init()

    def loss(params, example):
        networks = whole.modules.merge(params)
        terms, _ = whole.objective.losses(networks, example)
        return terms["mlm"][0] / terms["mlm"][1]

    example = whole.objective.corrupt(rngs.at(0, "corruption", 0), tiny.batch(0))
    grads = quick_jit(jax.grad(loss))(everything.params, example)
    squares = [
        np.square(leaf).sum()
        for name, leaf in checkpoints.flatten(grads).items()
        if name.endswith("bias")
    ]
    norm = metrics[0].sums["grad_norm"][0]
    np.testing.assert_allclose(norm, np.sqrt(np.sum(squares)), rtol=1e-3)
    assert not jax.tree.leaves(first_constants)


def test_nothing_to_learn_is_refused():
    with pytest.raises(
        UserError, match=r"trainable = 'head' matches no parameter.*such as heads/"
    ):
        tiny.program(train__trainable="head")


def test_fewer_gradients_cost_fewer_flops():
    config, objective = tiny.program().model_config, tiny.program().objective
    whole = flops.count(config, objective)
    head = flops.count(config, objective, r"heads/.*")
    assert head.forward == whole.forward
    assert whole.forward < head.training < 0.7 * whole.training


def test_a_fingerprint_sees_every_bit_and_place():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
    first = int(adaptation.fingerprint(tree))
    assert first == int(adaptation.fingerprint(jax.tree.map(jnp.copy, tree)))
    swapped = {**tree, "a": tree["a"][::-1]}
    nudged = {**tree, "b": tree["b"].at[1].set(1.0078125)}
    assert (
        len({first, *(int(adaptation.fingerprint(t)) for t in (swapped, nudged))}) == 3
    )


def test_changed_constants_are_refused(tmp_path):
    constants = {"model": {"kernel": jnp.ones(3)}}
    initialise.check_constants(tmp_path, constants, has_begun=False)
    initialise.check_constants(tmp_path, constants, has_begun=True)
    changed = {"model": {"kernel": jnp.full(3, 2.0)}}
    with pytest.raises(UserError, match="does not train are not those it began with"):
        initialise.check_constants(tmp_path, changed, has_begun=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anchored(CausalLM):
    """Causal LM that is held near a frozen copy of the backbone it began with."""

    name: ClassVar[str] = "anchored"
    frozen: ClassVar[tuple[str, ...]] = ("reference",)

    pull: float

    def networks(self, config, *, rngs):
        networks = super().networks(config, rngs=rngs)
        return {**networks, "reference": models.create(config, rngs=rngs)}

    @property
    def terms(self):
        return {
            **super().terms,
            "distance": objectives.Term(weight=self.pull, predicts="score"),
        }

    @property
    def lengths(self):
        lengths = super().lengths
        return dataclasses.replace(
            lengths, targets={**lengths.targets, "distance": self.row_length}
        )

    def corrupt(self, rng, example):
        example = super().corrupt(rng, example)
        target = example.targets["clm"]
        return example.replace(targets={"clm": target, "distance": target})

    def losses(self, networks, example, *, rng=None, deterministic=True):
        states = {
            name: networks[name](example.inputs, deterministic=True)
            for name in ("model", "reference")
        }
        only = example.replace(targets={"clm": example.targets["clm"]})
        hidden = self.states_of_terms(states["model"], only, None)
        terms, metrics = self.read_losses(
            networks, only, hidden, with_accuracy=deterministic
        )
        gap = jnp.square(states["model"] - states["reference"]).mean(-1)
        weights = example.targets["distance"].loss_weights
        terms["distance"] = ((gap * weights).sum(), weights.sum())
        return terms, metrics


@pytest.fixture
def anchored(monkeypatch):
    """A run of two networks, one of them frozen: nothing in research/ knows it."""
    monkeypatch.setitem(objectives.OBJECTIVES, "anchored", Anchored)
    config = tiny.config("causal_lm")
    config.objective = {
        "name": ("anchored",),
        "anchored": {**config.objective.causal_lm.to_dict(), "pull": 0.5},
    }
    return config


def test_an_objective_with_a_frozen_network_trains(anchored, tmp_path):
    run = tiny.config_lib.parse(anchored)
    parts = program_lib.create(run, toy_vocabulary(512, 16), devices=jax.devices()[:1])
    assert set(parts.constants) == {"reference"}
    assert set(parts.state.params) == {"model", "heads"}
    counted = flops.count(parts.model_config, parts.objective)
    alone = flops.count(parts.model_config, tiny.program("causal_lm").objective)
    # The reference is read and never differentiated.
    extra = counted.forward - alone.forward
    assert extra > 0.2 * alone.forward
    assert counted.training == pytest.approx(alone.training + extra, rel=0.02)
    _, constants, metrics = steps(parts, 3)
    drawn = parts.init_weights()
    jax.tree.map(
        np.testing.assert_array_equal, constants, {"reference": drawn["reference"]}
    )
    first, last = (m.sums for m in (metrics[0], metrics[-1]))
    assert {"clm", "distance"} <= first.keys()
    assert float(last["loss"][0]) < float(first["loss"][0])


def test_a_run_with_constants_is_loaded_whole(tmp_path):
    """What it did not learn is made again as it was, and checked."""
    corpus = tmp_path / "text.txt"
    corpus.write_text(
        "\n\n".join(f"a line of words number {n}." * 8 for n in range(80))
    )

    config = tiny.config(
        train__trainable=r"heads/.*", data__source=str(corpus), train__num_train_steps=2
    )
    config.data.cache_dir = str(tmp_path / "cache")
    pretraining.pretrain(config, tmp_path / "run", say=lambda line: None)
    found = trained_run.load(tmp_path / "run")
    drawn = trained_run.random_init(found, seed=0)
    jax.tree.map(
        np.testing.assert_array_equal, found.params["model"], drawn.params["model"]
    )
    assert not np.array_equal(
        found.params["heads"]["masked_lm"]["dense"]["kernel"],
        drawn.params["heads"]["masked_lm"]["dense"]["kernel"],
    )
    saved, _ = checkpoints.load_params(tmp_path / "run" / "checkpoints")
    assert all(name.startswith("heads/") for name in checkpoints.flatten(saved))
