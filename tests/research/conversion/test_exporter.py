"""Which networks a Hugging Face family expresses, and which heads go along."""

import dataclasses

import numpy as np
import pytest

from experiments import (
    bart_base,
    bert_base,
    gpt2_small,
    presets,
    t5_1_1_base,
    t5_base,
)
from models.transformer.config import TransformerConfig
from research.conversion import exporter

PRESETS = {
    "BertModel": bert_base,
    "GPT2LMHeadModel": gpt2_small,
    "T5ForConditionalGeneration": t5_base,
    "BartForConditionalGeneration": bart_base,
}


def config_of(experiment, **changes):
    values = experiment.get_config().model.to_dict()
    config = TransformerConfig(**{**values, "vocab_size": 1000})
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize("hf_class", PRESETS)
def test_presets_are_expressed(hf_class):
    assert exporter.plan(config_of(PRESETS[hf_class]), {}).hf_class == hf_class


def test_the_outlook_says_what_to_set():
    """Plain encoders become ModernBERTs with three settings."""
    config = TransformerConfig(**presets.base_model().to_dict())
    said = exporter.outlook(config)
    settings = {"position": "rope", "embedding_norm": True, "gated_mlp": True}
    assert "cannot be exported" in said and "nearest is modernbert" in said
    assert all(f"{name} = " in said for name in settings)
    said = exporter.outlook(dataclasses.replace(config, **settings))
    assert said == "can be exported to transformers as modernbert"


@pytest.mark.parametrize(
    ("experiment", "changes"),
    [
        (bert_base, {"norm_position": "pre"}),
        (gpt2_small, {"num_kv_heads": 2}),
        (t5_base, {"logit_scale": 0.5}),
        (t5_1_1_base, {"logit_scale": 0.5}),
        # 'gated-gelu' has always meant the tanh form.
        (t5_1_1_base, {"activation": "gelu"}),
    ],
)
def test_another_network_is_refused_naming_what_differs(experiment, changes):
    (field,) = changes
    with pytest.raises(ValueError, match=f"differs in: {field} = "):
        exporter.plan(config_of(experiment, **changes), {})


def test_heads_go_by_their_parameters_not_by_their_names():
    masked = {
        "dense": {"kernel": 0, "bias": 0},
        "norm": {"scale": 0, "bias": 0},
        "output": {"bias": 0},
    }
    other = {"dense": {"kernel": np.zeros(1)}}
    export = exporter.plan(config_of(bert_base), {"any": masked, "own": other})
    assert export.hf_class == "BertForMaskedLM"
    assert list(export.heads) == ["any"] and export.dropped == ("own",)
