"""Rows dealt out among objectives: exact shares, own denominators, shared networks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
import objectives
from experiments import presets
from objectives import Mixture
from objectives.components import examples_of
from tests.helpers import quick_jit, take_rows, tiny_config, toy_batch, toy_vocabulary

VOCABULARY = toy_vocabulary(512, 64)
R = 24


def component(name, architecture, **changes):
    return objectives.create(
        (name,),
        {name: {**presets.OBJECTIVES[name], **changes}},
        vocabulary=VOCABULARY,
        row_length=R,
        architecture=architecture,
    )


def mixture(architecture, components, shares, weights=None):
    return Mixture(
        components=tuple(components.items()),
        shares=shares,
        weights=weights or tuple(1.0 for _ in shares),
        vocabulary=VOCABULARY,
        row_length=R,
        architecture=architecture,
    )


def hybrid(shares=(2, 1), weights=(0.7, 0.3)):
    """Causal and masked LM on a decoder."""
    components = {
        "causal": component("causal_lm", "decoder"),
        "masked": component("masked_lm", "decoder"),
    }
    return mixture("decoder", components, shares, weights)


def writers():
    """Two objectives of equal lengths and direction, which share a pass."""
    components = {
        "causal": component("causal_lm", "decoder"),
        "prefix": component("prefix_lm", "decoder"),
    }
    return mixture("decoder", components, (1, 2))


def denoisers():
    """Two of different lengths with one head, and one with its own."""
    components = {
        "few": component("span_corruption", "encoder_decoder"),
        "many": component("span_corruption", "encoder_decoder", noise_density=0.5),
        "rest": component("prefix_lm", "encoder_decoder"),
    }
    return mixture("encoder_decoder", components, (1, 1, 1))


MIXTURES = {"hybrid": hybrid, "writers": writers, "denoisers": denoisers}


def batch(size):
    return toy_batch(size, R, vocabulary=VOCABULARY)


@functools.cache
def networks(name):
    objective = MIXTURES[name]()
    config = tiny_config(objective.architecture, position="rope", init_stddev=0.3)
    return objective.networks(config, rngs=nnx.Rngs(0))


def test_rows_are_dealt_by_their_number():
    example = hybrid().corrupt(jax.random.key(0), batch(6))
    rows = {name: e.row_ids.tolist() for name, e in example.components.items()}
    assert rows == {"causal": [0, 1, 3, 4], "masked": [2, 5]}


@pytest.mark.parametrize("name", MIXTURES)
def test_a_component_draws_what_it_draws_alone(name):
    objective = MIXTURES[name]()
    rng = jax.random.key(3)
    mixed = quick_jit(objective.corrupt)(rng, batch(6))
    for key, part in objective.components:
        rows = np.asarray(mixed.components[key].row_ids)
        alone = quick_jit(part.corrupt)(rng, take_rows(batch(6), rows))
        jax.tree.map(np.testing.assert_array_equal, mixed.components[key], alone)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("name", MIXTURES)
def test_losses_are_those_of_the_components_on_their_rows(name, deterministic):
    """Whether or not they share a pass of the backbone, with dropout or without."""
    objective, nets = MIXTURES[name](), networks(name)
    mixed = quick_jit(objective.corrupt)(jax.random.key(0), batch(12))

    def losses(part, example):
        rng = jax.random.key(1)
        return part.losses(nets, example, rng=rng, deterministic=deterministic)

    terms, metrics = quick_jit(losses, static_argnums=0)(objective, mixed)
    expected = {}
    for key, part in objective.components:
        found = quick_jit(losses, static_argnums=0)(part, mixed.components[key])
        expected |= {f"{key}/{t}": v for values in found for t, v in values.items()}
    assert {**terms, **metrics}.keys() == expected.keys()
    for key, (total, weight) in {**terms, **metrics}.items():
        np.testing.assert_allclose(total, expected[key][0], rtol=2e-5, err_msg=key)
        np.testing.assert_allclose(weight, expected[key][1], err_msg=key)
    assert set(terms) == set(objective.terms) == set(objective.lengths.targets)


def test_equal_lengths_and_directions_share_a_pass():
    calls = []

    class Counted:
        embedding = networks("writers")["model"].embedding

        def __call__(self, inputs, **settings):
            calls.append(inputs.tokens.shape)
            return networks("writers")["model"](inputs, **settings)

    for name, count in (("writers", 1), ("hybrid", 2)):
        objective = MIXTURES[name]()
        read = {**networks(name), "model": Counted()}

        def losses(objective=objective, read=read):
            return objective.losses(
                read, objective.corrupt(jax.random.key(0), batch(6))
            )

        jax.eval_shape(losses)
        assert len(calls) == count
        calls.clear()


def test_a_component_has_its_own_weight():
    objective = hybrid(weights=(0.7, 0.3))
    weights = {name: term.weight for name, term in objective.terms.items()}
    assert weights == pytest.approx({"causal/clm": 1.4 / 3, "masked/mlm": 0.1})


def test_heads_are_shared_by_name():
    heads = nnx.to_pure_dict(nnx.state(networks("denoisers")["heads"]))
    assert set(networks("denoisers")["heads"].names) == {
        "span_corruption",
        "prefix_lm",
    }
    assert "few" not in heads
    assert denoisers().head_names == ("span_corruption", "prefix_lm")


def test_heads_of_one_name_need_equal_settings():
    different = {
        "one": component("span_boundary", "encoder"),
        "other": component("span_boundary", "encoder", position_dim=8),
    }
    objective = mixture("encoder", different, (1, 1))
    with pytest.raises(ValueError, match="heads of 'other' include 'span_boundary'"):
        objective.networks(tiny_config("encoder"), rngs=nnx.Rngs(0))


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="7 rows .* a multiple of 3"):
        hybrid().corrupt(jax.random.key(0), batch(7))


@pytest.mark.parametrize("shares,weights", [((1,), (1.0, 1.0)), ((1, 0), (1.0, 1.0))])
def test_shares_are_positive_and_one_each(shares, weights):
    with pytest.raises(ValueError, match=r"mixture.shares .* causal, masked"):
        hybrid(shares, weights)


def test_what_is_no_component_is_refused():
    causal = component("causal_lm", "decoder")
    with pytest.raises(ValueError, match="the name 'a/b' holds a '/'"):
        mixture("decoder", {"a/b": causal}, (1,))
    longer = dataclasses.replace(causal, row_length=R + 1)
    with pytest.raises(ValueError, match="takes rows of 25 tokens, not of 24"):
        mixture("decoder", {"a": causal, "b": longer}, (1, 1))


def test_one_backbone_is_built_for_all(monkeypatch):
    built = []
    create = models.create

    def counted(config, *, rngs):
        built.append(config)
        return create(config, rngs=rngs)

    monkeypatch.setattr(models, "create", counted)
    denoisers().networks(tiny_config("encoder_decoder"), rngs=nnx.Rngs(0))
    assert len(built) == 1


def test_parts_and_names():
    objective = hybrid()
    parts = objective.parts()
    assert [(name, part.name, share) for name, part, share in parts] == [
        ("causal", "causal_lm", pytest.approx(2 / 3)),
        ("masked", "masked_lm", pytest.approx(1 / 3)),
    ]
    assert objective.denominator == 3
    assert objective.name == "mixture(causal_lm, masked_lm)"


def test_texts_are_scored_and_prompted_by_the_component_that_writes():
    for order in (("causal", "masked"), ("masked", "causal")):
        parts = dict(hybrid().components)
        objective = mixture("decoder", {n: parts[n] for n in order}, (1, 1))
        assert objective.token_term == "causal/clm"
        assert objective.prompt is not None and not objective.prompt.fills
        scoring = objective.scoring()
        assert scoring.kind == "exact"
        tokens = jnp.asarray(batch(2).tokens)
        lengths = jnp.full(2, R)
        found = objective.log_probs(
            networks("hybrid"), scoring.arrange(tokens, lengths, None)
        )
        alone = parts["causal"]
        expected = alone.log_probs(
            networks("hybrid"), alone.scoring().arrange(tokens, lengths, None)
        )
        np.testing.assert_array_equal(found, expected)
    # What was trained in both directions as well is fine-tuned in both.
    assert objective.attention == "bidirectional"
    assert writers().attention == "causal"


def test_statistics_and_examples_have_the_components_names():
    objective = hybrid()
    mixed = objective.corrupt(jax.random.key(0), batch(6))
    assert list(examples_of(mixed)) == ["causal", "masked"]
    found = objective.statistics(jax.random.key(0), batch(6))
    assert all(name.startswith(("causal/", "masked/")) for name in found)
