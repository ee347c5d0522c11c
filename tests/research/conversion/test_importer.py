"""Folders whose config.json disagrees with what it should hold, or with the tensors."""

import json
import math

import numpy as np
import pytest

from experiments import presets
from models.transformer.config import TransformerConfig
from research.conversion import exporter, importer, safetensors
from research.conversion.families import FAMILIES
from research.errors import UserError
from research.training import streamed

# The presets of each family.
PRESETS = {
    "bert": "bert",
    "roberta": "roberta",
    "modernbert": "modernbert",
    "gpt2": "gpt2",
    "llama": "llama",
    "t5": "t5",
    "t5_gated": "t5_1_1",
    "bart": "bart",
}
WRONG = ("x", "", [], {}, -1, 10**9, math.nan, math.inf, 1e300, None, True, {"a": 1})


def make_folder(folder, name, tensors=(), **changes):
    """A folder with the config of a small model, and tensors that nobody reads."""
    small = dict(num_layers=2, emb_dim=64, num_heads=4, mlp_dim=96, vocab_size=40)
    scale = {"logit_scale": 64**-0.5} if name == "t5" else {}
    model = presets.base_model()
    model.update(presets.FAMILIES[PRESETS[name]], **small, **scale)
    export = exporter.plan(TransformerConfig(**model.to_dict()), {})
    assert export.family is FAMILIES[name]
    (folder / "config.json").write_text(json.dumps({**export.hf_config, **changes}))
    held = {f"t{number}": np.zeros(1, np.float32) for number in range(4)}
    held |= dict(tensors)
    specs = {name: (tensor.dtype, tensor.shape) for name, tensor in held.items()}
    safetensors.write(folder / "model.safetensors", specs, held.__getitem__)
    return export


@pytest.mark.parametrize("name", PRESETS)
def test_fields_of_other_types_or_out_of_bounds(name, tmp_path):
    """Every field and value either gives a config, or a message that a user can read."""
    fields = make_folder(tmp_path, name).hf_config
    settings = importer.read(tmp_path).settings
    refused = 0
    for field in [*fields, "rope_scaling", "scale_decoder_outputs", "eos_token_id"]:
        for value in WRONG:
            make_folder(tmp_path, name, **{field: value})
            try:
                found = importer.read(tmp_path)
                importer.transformer_config(found)
            except ValueError as error:
                assert str(error)
                refused += 1
            else:
                assert found.settings["num_layers"] == settings["num_layers"]
    assert refused > 5 * len(fields)


OTHER = np.ones((40, 64), np.float32)
SAME = np.zeros((40, 64), np.float32)


@pytest.mark.parametrize(
    ("name", "said", "output", "tied", "scale"),
    [
        # transformers ties T5 whatever the field says, unless both are there and differ;
        # what the field says is whether features are scaled.
        ("t5", None, None, True, 0.125),
        ("t5", None, SAME, True, 0.125),
        ("t5", True, SAME, True, 0.125),
        ("t5", True, OTHER, False, 0.125),
        ("t5", False, SAME, True, 1.0),
        ("t5_gated", False, OTHER, False, 1.0),
        ("llama", True, None, True, 1.0),
        ("llama", True, SAME, True, 1.0),
        ("llama", True, OTHER, False, 1.0),
        ("llama", False, SAME, False, 1.0),
        ("llama", None, SAME, False, 1.0),
    ],
)
def test_tied_tables(name, said, output, tied, scale, tmp_path):
    table = "model.embed_tokens.weight" if name == "llama" else "shared.weight"
    tensors = {table: SAME} | ({} if output is None else {"lm_head.weight": output})
    make_folder(tmp_path, name, tensors)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    for field in ("tie_word_embeddings", "scale_decoder_outputs"):
        values.pop(field, None)
    if said is not None:
        values["tie_word_embeddings"] = said
    path.write_text(json.dumps(values))
    settings = importer.read(tmp_path).settings
    assert (settings["tie_embeddings"], settings["logit_scale"]) == (tied, scale)


def test_a_checkpoint_that_orbax_would_skip(tmp_path):
    params = {"model": {"a": np.zeros(2, np.float32)}}
    streamed.save_params(tmp_path, params)
    with pytest.raises(UserError, match="step 0 already"):
        streamed.save_params(tmp_path, params)
