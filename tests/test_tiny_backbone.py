"""Everything of a run on a backbone that research/ has never heard of."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

import models
from experiments import base, comparison_base, presets
from research.comparison import config as comparison_config
from research.comparison import jobs
from research.comparison import pretraining as comparison_pretraining
from research.config import parse as config_lib
from research.errors import UserError
from research.evaluation.finetuning.finetune import finetune
from research.planning import plan
from research.planning.show import show
from research.training import flops, pretraining, workdir
from tests import tiny_backbone
from tests.models import tiny as tiny_models
from tests.research.comparison import fixtures
from tests.research.evaluation import toy
from tests.research.training import tiny


@pytest.fixture(autouse=True)
def average(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, tiny_backbone.NAME, tiny_backbone.Average)


def config(objective="masked_lm", **overrides):
    values = tiny.config(objective, **overrides)
    architecture = values.model.architecture
    values.model = tiny_backbone.section(architecture)
    return values


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny.write_corpus(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("objective", ["masked_lm", "causal_lm"])
def test_it_is_pretrained(objective, corpus, tmp_path):
    settings = config(
        objective,
        data__source=corpus,
        data__cache_dir=str(tmp_path / "cache"),
        train__num_train_steps=2,
        train__log_every_steps=1,
        optimizer__warmup_steps=1,
        eval__every_steps=2,
    )
    pretraining.pretrain(settings, tmp_path / "run")
    lines = workdir.read_metrics(tmp_path / "run")
    assert lines[-1]["step"] == 2
    assert np.isfinite([line["loss"] for line in lines]).all()


def test_its_flops_are_those_of_its_products():
    made = plan.create(config_lib.parse(config("causal_lm")), "h200", None)
    length, dim = made.program.objective.lengths.inputs, 32
    vocabulary = made.program.model_config.vocab_size
    # The average, the mixing layer, and the output table.
    wanted = 2 * length * dim * (length + dim + vocabulary)
    counted = flops.count(made.program.model_config, made.program.objective)
    assert counted.forward == pytest.approx(wanted, rel=0.01)


def test_its_plan():
    made = plan.create(config_lib.parse(config()), "h200", None)
    assert {"token embedding", "mix", "heads"} == set(made.parameters)
    assert made.memory.activations > 0
    console = Console(file=io.StringIO(), width=100)
    show(made, None, console)
    assert "largest batch that fits" in console.file.getvalue()


def test_it_is_an_arm_of_a_comparison(corpus, tmp_path):
    values = fixtures.comparison(
        arms=("causal_lm",),
        **{
            "shared.data.source": corpus,
            "shared.data.cache_dir": str(tmp_path / "cache"),
            "shared.data.tokenizer.vocab_size": 512,
            "shared.data.tokenizer.num_sentinels": 16,
            "shared.data.heldout_fraction": 0.1,
            "budget.axis": "flops",
        },
    )
    run = base.get_config()
    run.model = tiny_backbone.section()
    run.objective = presets.objective("masked_lm")
    comparison_base.add_arm(
        values, "average", label="Average", experiment="masked_lm", run=run
    )
    values.varies = (*values.varies, "model")
    parsed = comparison_config.parse(values)
    costs = {
        arm.name: comparison_pretraining.step_cost(arm, None) for arm in parsed.arms
    }
    assert 0 < costs["average"].flops < costs["causal_lm"].flops
    budget = dataclasses.replace(parsed.budget, amount=16 * costs["average"].flops)
    parsed = dataclasses.replace(parsed, budget=budget)
    job = next(
        job for job in jobs.plan(parsed) if job.kind == "run" and job.arm == "average"
    )
    summary = comparison_pretraining.run(parsed, job, tmp_path, print)["summary"]
    assert summary["num_steps"] == 16
    assert summary["flops"] == pytest.approx(budget.amount)
    assert np.isfinite(summary["heldout_loss"])


def test_it_is_fine_tuned():
    section = tiny_backbone.section(vocab_size=toy.VOCAB)
    made = tiny_backbone.AverageConfig(**section.to_dict())
    model = models.create(made, rngs=nnx.Rngs(0))
    backbone = dataclasses.replace(
        toy.backbone(),
        model_config=made,
        params={"model": nnx.to_pure_dict(nnx.state(model)), "heads": {}},
    )
    given = toy.settings(
        num_epochs=3, learning_rate=3e-2, layer_decay=0.9, dropout_rate=0.0
    )
    result = finetune(backbone, toy.word_task(), given, seed=0)
    assert result.scores["dev"]["accuracy"] >= 0.9


def test_a_cache_gives_what_the_whole_sequence_gives():
    section = tiny_backbone.section("decoder", vocab_size=23)
    made = tiny_backbone.AverageConfig(**section.to_dict())
    model = models.create(made, rngs=nnx.Rngs(0))
    inputs = tiny_models.inputs(((10,), (10,)))
    cache, steps = model.init_cache(2, 10), []
    for column in range(10):
        part = jax.tree.map(lambda x, c=column: x[:, c : c + 1], inputs)
        hidden, cache = model.decode_step(part, cache)
        steps.append(hidden)
    np.testing.assert_allclose(np.concatenate(steps, 1), model(inputs), atol=1e-5)


def test_no_field_of_another_backbone_stands_in_its_section():
    with pytest.raises(UserError, match="has no field 'num_heads'"):
        values = config()
        values.model.num_heads = 4
        config_lib.parse(values)
