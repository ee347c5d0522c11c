"""A run whose model reads tables of another network is loaded with tables of its own."""

import functools

import numpy as np
import pytest

from experiments import presets
from research.errors import UserError
from research.generation import language_model
from research.training import checkpoints, pretraining, state, trained_run
from tests.research.training import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("complete")
    config = tiny.config("masked_lm", train__num_train_steps=2)
    config.objective = presets.objective(
        "replaced_token",
        replaced_token=dict(sharing="disentangled", generator_width=1.0),
    )
    config.data.source = tiny.write_corpus(folder / "text")
    config.data.cache_dir = str(folder / "cache")
    config.eval.update(every_steps=2)
    pretraining.pretrain(config, folder / "run", say=lambda line: None)
    return config, folder


def table(params, *path):
    return np.asarray(functools.reduce(lambda tree, name: tree[name], path, params))


def test_what_is_loaded_stands_alone(run):
    _, folder = run
    found = trained_run.load(folder / "run")
    saved, _ = checkpoints.load_params(folder / "run" / "checkpoints")
    difference = table(saved, "difference", "token_embedding")
    assert np.abs(difference).max() > 0
    np.testing.assert_array_equal(
        table(found.params, "model", "token_embedding"),
        table(saved, "generator", "backbone", "token_embedding") + difference,
    )
    modules = state.create_modules(found.model_config, found.objective)
    with pytest.raises(ValueError, match="no language-model head to write with"):
        language_model.language_model(found.objective, modules)


def test_another_run_begins_with_complete_tables(run):
    config, folder = run
    config = config.copy_and_resolve_references()
    config.objective = presets.objective("masked_lm")
    config.train.update(init_from=str(folder / "run"), num_train_steps=1)
    config.optimizer.update(warmup_steps=1, learning_rate=1e-30, weight_decay=0.0)
    pretraining.pretrain(config, folder / "next", say=lambda line: None)
    before, after = (trained_run.load(folder / name) for name in ("run", "next"))
    np.testing.assert_array_equal(
        table(before.params, "model", "token_embedding"),
        table(after.params, "model", "token_embedding"),
    )


def test_a_run_without_the_other_network_is_no_beginning(run):
    """The model's own tables are idle: those of the other run would go unused."""
    config, folder = run
    plain = config.copy_and_resolve_references()
    plain.objective = presets.objective("masked_lm")
    pretraining.pretrain(plain, folder / "plain", say=lambda line: None)
    config = config.copy_and_resolve_references()
    config.train.init_from = str(folder / "plain")
    with pytest.raises(UserError, match="generator/backbone.*: missing there"):
        pretraining.pretrain(config, folder / "refused", say=lambda line: None)
