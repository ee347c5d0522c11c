"""Parameters of another run: rows of old tokens, drawn values for everything new."""

import dataclasses

import jax
import numpy as np
import pytest

from research.errors import UserError
from research.training import checkpoints, initialise, program, streamed, workdir
from tests.helpers import toy_vocabulary
from tests.research.training import tiny

OLD, NEW = 512, 520


def build(size: int, objective: str = "masked_lm", **overrides):
    return program.create(
        tiny.run_config(objective, **overrides),
        toy_vocabulary(size, 16),
        devices=jax.devices()[:1],
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A workdir with parameters of a vocabulary of OLD tokens."""
    folder = tmp_path_factory.mktemp("source")
    params = build(OLD).init_weights()
    streamed.save_params(folder / "checkpoints", params, step=3)
    workdir.save_config(folder, tiny.config())
    return folder, checkpoints.flatten(params)


def test_appended_tokens_get_rows_and_the_old_keep_theirs(source):
    folder, old = source
    parts = build(NEW, train__init_from=str(folder), train__seed=1)
    fresh = checkpoints.flatten(jax.tree.map(np.asarray, parts.init_weights()))
    said = []
    found = checkpoints.flatten(initialise.weights(parts, say=said.append))
    for name in ("model/token_embedding", "heads/masked_lm/output/bias"):
        assert found[name].shape[0] == NEW
        np.testing.assert_array_equal(found[name][:OLD], old[name])
        np.testing.assert_array_equal(found[name][OLD:], fresh[name][OLD:])
    kernel = "model/stack/layers/0/mlp/up/kernel"
    np.testing.assert_array_equal(found[kernel], old[kernel])
    assert not np.array_equal(found[kernel], fresh[kernel])
    assert said == [f"parameters of {folder} at step 3"]


def test_heads_that_the_other_run_lacks_are_drawn_and_named(source):
    folder, _ = source
    parts = build(
        OLD,
        "causal_lm",
        train__init_from=str(folder),
        model__tie_embeddings=False,
    )
    said = []
    initialise.weights(parts, say=said.append)
    assert said[1].startswith("drawn anew")
    assert "heads/causal_lm/output/kernel" in said[1]


def test_another_backbone_is_refused_by_name(source):
    folder, _ = source
    parts = build(OLD, train__init_from=str(folder), model__num_layers=2)
    with pytest.raises(UserError, match="layers/1/.*: missing there"):
        initialise.weights(parts, say=print)
    smaller = build(500, train__init_from=str(folder))
    with pytest.raises(UserError, match="token_embedding"):
        initialise.weights(smaller, say=print)


def test_what_an_objective_lacks_is_found():
    vocabulary = toy_vocabulary(OLD, 16)
    lacking = dataclasses.replace(vocabulary, mask_id=-1, sep_id=-1)
    assert initialise.missing_tokens(tiny.run_config(), vocabulary) == ()
    missing = initialise.missing_tokens(tiny.run_config(), lacking)
    assert set(missing) == {"mask_id", "sep_id"}
    no_sentinels = dataclasses.replace(vocabulary, sentinel_ids=())
    missing = initialise.missing_tokens(
        tiny.run_config("span_corruption"), no_sentinels
    )
    assert "sentinel_ids" in missing
