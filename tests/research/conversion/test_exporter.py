"""Which networks a Hugging Face family expresses, and which heads go along."""

import dataclasses

import numpy as np
import pytest

from experiments import bart_base, bert_base, gpt2_small, t5_1_1_base, t5_base
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


@pytest.mark.parametrize(
    ("experiment", "changes"),
    [
        (bert_base, {"norm_position": "pre"}),
        (gpt2_small, {"num_kv_heads": 2}),
        (t5_base, {"logit_scale": 0.5}),
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
