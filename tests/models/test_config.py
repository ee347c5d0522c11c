"""What TransformerConfig accepts, and what it says about the rest."""

import dataclasses

import pytest
from flax import nnx

import models
from experiments import presets
from tests.models import tiny


def test_fields_are_those_of_the_base_config():
    names = {field.name for field in dataclasses.fields(models.TransformerConfig)}
    assert names == set(presets.base_model())


def test_there_are_no_defaults():
    for field in dataclasses.fields(models.TransformerConfig):
        assert field.default is dataclasses.MISSING, field.name


def test_open_fields_follow_from_others():
    config = tiny.config()
    assert (config.kv_heads, config.dim_per_head, config.table_dim) == (4, 4, 16)
    assert (config.encoder_layers, config.decoder_layers) == (2, 2)
    assert config.score_scale == 0.5
    wider = dataclasses.replace(config, emb_dim=32)
    assert (wider.dim_per_head, wider.table_dim) == (8, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "encodr"}, r"'encodr': must be one of .*mean 'encoder'"),
        ({"position": "rotary"}, r"position = 'rotary': must be one of 'learned'"),
        ({"activation": "gelu_new"}, "Did you mean 'gelu_tanh'"),
        ({"emb_dim": 0}, "emb_dim = 0: must be > 0"),
        ({"num_kv_heads": 3}, "num_heads = 4 is not divisible by num_kv_heads = 3"),
        ({"emb_dim": 18}, "emb_dim = 18 is not divisible by num_heads = 4"),
        ({"position": "rope", "head_dim": 5}, "head_dim = 5"),
        ({"dropout_rate": 1.0}, "dropout_rate = 1.0: must be >= 0 and < 1"),
        ({"position": "alibi", "position_offset": 2}, "position_offset = 2"),
        ({"rope_scaling": ("linear",)}, "'linear' takes 1 positive numbers: factor"),
        ({"rope_scaling": ("yarn", 2.0)}, r"'yarn': must be one of 'linear', 'llama3'"),
        ({"relative_num_buckets": 30}, "relative_num_buckets = 30"),
        ({"relative_max_distance": 16}, "relative_max_distance = 16"),
    ],
)
def test_errors_name_what_was_given_and_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.config(**changes)


def test_json_lists_become_tuples():
    assert hash(tiny.config(rope_scaling=["linear", 2.0]))


def test_a_model_needs_a_vocabulary():
    config = tiny.config(vocab_size=None)
    with pytest.raises(ValueError, match="vocab_size = None"):
        models.create(config, rngs=nnx.Rngs(0))


# Numbers of parameters of the published models, without heads and poolers.
PUBLISHED = {
    "bert_base": (30522, 108_891_648),
    "roberta_base": (50265, 124_055_040),
    "gpt2_small": (50257, 124_439_808),
    "t5_small": (32128, 60_506_624),
    "t5_base": (32128, 222_903_552),
    "bart_base": (50265, 139_420_416),
    "llama2_7b": (32000, 6_607_343_616),
    "llama3_1_8b": (128256, 7_504_924_672),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_presets_have_the_published_number_of_parameters(name):
    vocab_size, expected = PUBLISHED[name]
    section = presets.paper_model(name, vocab_size=vocab_size, scan_layers=False)
    config = models.TransformerConfig(**section.to_dict())
    shapes = nnx.eval_shape(lambda: models.create(config, rngs=nnx.Rngs(0)))
    count = sum(leaf.size for _, leaf in nnx.to_flat_state(nnx.state(shapes)))
    assert count == expected


@pytest.mark.parametrize("name", sorted(presets.MODELS))
def test_presets_are_valid(name):
    models.TransformerConfig(**presets.paper_model(name).to_dict())
