"""Composition, and errors that come before any device work."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np
import pytest
from flax import nnx

import objectives
from experiments import presets
from tests.helpers import (
    CLS,
    MASK,
    SEP,
    quick_jit,
    tiny_config,
    toy_batch,
    toy_vocabulary,
)

VOCABULARY = toy_vocabulary()


def create(*names, params=None, architecture="encoder", row_length=30, **overrides):
    if params is None:
        section = presets.objective(*names, **overrides).to_dict()
        params = {name: section[name] for name in names}
    return objectives.create(
        names,
        params,
        vocabulary=VOCABULARY,
        row_length=row_length,
        architecture=architecture,
    )


def test_a_name_alone_is_a_composition_of_one_stage():
    params = {"masked_lm": presets.OBJECTIVES["masked_lm"]}
    alone = objectives.create(
        "masked_lm",
        params,
        vocabulary=VOCABULARY,
        row_length=30,
        architecture="encoder",
    )
    assert alone == create("masked_lm")
    assert alone.name == "masked_lm" and len(alone.stages) == 1


def test_bert_frames_pairs_and_masks_them():
    bert = create(
        "next_sentence", "masked_lm", next_sentence={"loss_weight": 0.5}, row_length=62
    )
    assert bert.name == "next_sentence+masked_lm"
    assert {n: t.weight for n, t in bert.terms.items()} == {"nsp": 0.5, "mlm": 1.0}
    assert bert.lengths == objectives.Lengths(
        inputs=65, encoder=0, targets={"nsp": 1, "mlm": 10}
    )
    batch = toy_batch(8, 62, vocabulary=VOCABULARY)
    example = quick_jit(bert.corrupt)(jax.random.key(0), batch)
    tokens = np.asarray(example.inputs.tokens)
    assert (tokens[:, 0] == CLS).all() and (tokens[:, 1:] != CLS).all()
    assert ((tokens == SEP).sum(1) <= 2).all()
    target = example.targets["mlm"]
    # The budget counts the pair's three special tokens.
    real = np.asarray(example.inputs.segment_ids).sum(1)
    expected = [max(round(0.15 * int(n)), 1) for n in real]
    assert np.asarray(target.loss_weights).sum(1).tolist() == expected
    at = np.take_along_axis(tokens, np.asarray(target.positions), axis=1)
    live = np.asarray(target.loss_weights) > 0
    assert 0.5 < (at[live] == MASK).mean() < 1.0


def test_heads_are_named_by_their_stage():
    bert = create("next_sentence", "masked_lm")
    heads = bert.init_heads(tiny_config("encoder"), rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(heads))
    assert set(params) == {"next_sentence", "masked_lm"}
    assert set(params["masked_lm"]) == {"dense", "norm", "output"}
    assert params["next_sentence"]["kernel"].shape == (2, 16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spy(objectives.Objective):
    """A stage that notes the keys it is given."""

    name: ClassVar[str] = "spy"

    seen: list

    @property
    def terms(self):
        return {}

    def corrupt(self, rng, example):
        self.seen.append(tuple(jax.random.key_data(rng).tolist()))
        return example


def test_stages_draw_from_different_keys():
    """Two stages that used one key would be correlated."""
    given = {"vocabulary": VOCABULARY, "row_length": 6, "architecture": "encoder"}
    seen = []
    stages = (Spy(seen=seen, **given), Spy(seen=seen, **given))
    spies = objectives.Composed(stages=stages, **given)
    spies.corrupt(jax.random.key(0), toy_batch(2, 6, vocabulary=VOCABULARY))
    whole = tuple(jax.random.key_data(jax.random.key(0)).tolist())
    assert len({*seen, whole}) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "objective.name is empty"),
        (("masked_ml",), "Did you mean 'masked_lm'.*Valid ones: .*'causal_lm'"),
        (("masked_lm", "masked_lm"), "only once"),
        (("causal_lm",), "'causal_lm' cannot train architecture 'encoder'.*'decoder'"),
        (
            ("masked_lm", "next_sentence"),
            "'next_sentence' cannot follow 'masked_lm'.*starts from clean",
        ),
        (("masked_lm", "span_boundary"), "'span_boundary' cannot follow 'masked_lm'"),
    ],
)
def test_wrong_names_are_refused(names, message):
    params = {name: presets.OBJECTIVES.get(name, {}) for name in names}
    with pytest.raises(ValueError, match=message):
        create(*names, params=params)


def test_causal_lm_cannot_follow_masked_lm():
    with pytest.raises(ValueError, match="cannot follow"):
        create("masked_lm", "causal_lm", architecture="decoder")


def test_wrong_hyperparameters_are_refused():
    good = presets.OBJECTIVES["masked_lm"]
    unknown = {"masked_lm": {**good, "mask_prop": 0.8}}
    with pytest.raises(ValueError, match=r"masked_lm\.mask_prop.*Did you mean 'mask_p"):
        create("masked_lm", params=unknown)
    short = {"masked_lm": {k: v for k, v in good.items() if k != "budget"}}
    with pytest.raises(ValueError, match="lacks 'budget'"):
        create("masked_lm", params=short)
    with pytest.raises(ValueError, match="objective.masked_lm is missing"):
        create("masked_lm", params={})
    with pytest.raises(ValueError, match="hyperparameters of 'causal_lm'"):
        create("masked_lm", params={"masked_lm": good, "causal_lm": {}})


@pytest.mark.parametrize("name", ["masked_lm", "span_boundary"])
def test_pairs_cannot_have_isolated_documents(name):
    with pytest.raises(ValueError, match=r"isolate_documents = True after"):
        create("next_sentence", name, **{name: {"isolate_documents": True}})


@pytest.mark.parametrize("name", sorted(objectives.OBJECTIVES))
def test_presets_give_every_hyperparameter(name):
    assert set(presets.OBJECTIVES[name]) == set(objectives.hyperparameters(name))
    assert objectives.OBJECTIVES[name].name == name
