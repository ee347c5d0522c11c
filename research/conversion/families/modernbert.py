"""ModernBERT: an encoder with pre-norm blocks, rotary positions and a gated MLP.

Its embeddings are normed, so its first block has no norm before attention. Published
models alternate between global attention and windows, which blocks here do not; the
class expresses global attention in all of them as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.conversion.families.bert import masked_lm_head
from research.conversion.family import (
    COMMON,
    THEIR_ACTIVATIONS,
    Family,
    Row,
    Settings,
    Tensors,
    checked,
    norm,
    norm_and_linear,
    require,
)

_LAYER = "model/stack/layers/{i}"
_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


def _fused(ours: str, theirs: str, parts: tuple[str, ...]) -> list[Row]:
    """Several linear layers that are one of theirs."""
    rows = []
    for number, part in enumerate(parts):
        of = number, len(parts)
        kernel, bias = f"{ours}/{part}/kernel", f"{ours}/{part}/bias"
        rows += [
            Row(kernel, f"{theirs}.weight", transpose=True, part=of),
            Row(bias, f"{theirs}.bias", part=of),
        ]
    return rows


def _read(hf: Mapping[str, Any], tensors: Tensors) -> Settings:
    del tensors
    require(
        hf,
        "ModernBERT",
        # Published ones say how often a layer is global.
        layer_types=hf.get("layer_types") and [_GLOBAL] * hf["num_hidden_layers"],
        attention_bias=hf["norm_bias"],
        mlp_bias=hf["norm_bias"],
        classifier_bias=True,
        decoder_bias=True,
        tie_word_embeddings=True,
        classifier_activation=hf["hidden_activation"],
    )
    if not hf.get("layer_types"):
        require(hf, "ModernBERT", global_attn_every_n_layers=1)
    ropes = hf.get("rope_parameters") or {}
    checked({"rope_parameters": ropes}, {"rope_parameters": "dict"})
    rope = ropes.get(_GLOBAL) or {}
    checked({_GLOBAL: rope}, {_GLOBAL: "dict"})
    require(rope, "ModernBERT", rope_type="default")
    rope = {"rope_theta": hf.get("global_rope_theta", 160000.0), **rope}
    return {
        "rope_theta": checked(rope, {"rope_theta": "float"})["rope_theta"],
        "use_bias": hf["norm_bias"],
    }


def _write(config: Any) -> Settings:
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    return {
        "layer_types": [_GLOBAL] * config.num_layers,
        # Its own default for layers with local windows, of which there are none.
        "rope_parameters": {_GLOBAL: rope, _LOCAL: {**rope, "rope_theta": 10000.0}},
        # Before transformers 5.
        "global_attn_every_n_layers": 1,
        "global_rope_theta": config.rope_theta,
        "norm_bias": config.use_bias,
        "attention_bias": config.use_bias,
        "mlp_bias": config.use_bias,
        "classifier_bias": True,
        "decoder_bias": True,
        "classifier_activation": THEIR_ACTIVATIONS[config.activation],
    }


MODERNBERT = Family(
    model_type="modernbert",
    prefix="model.",
    fixed={
        **{k: v for k, v in COMMON.items() if k != "rope_theta"},
        "architecture": "encoder",
        "position": "rope",
        "norm": "layernorm",
        "norm_position": "pre",
        "embedding_norm": True,
        "final_norm": True,
        "gated_mlp": True,
        "dropout_rate": 0.0,
    },
    fields={
        "vocab_size": "vocab_size",
        "emb_dim": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "mlp_dim": "intermediate_size",
        "max_seq_len": "max_position_embeddings",
        "norm_epsilon": "norm_eps",
        "mlp_dropout_rate": "mlp_dropout",
        "attention_dropout_rate": "attention_dropout",
        "init_stddev": "initializer_range",
    },
    defaults={
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "norm_bias": False,
        "mlp_dropout": 0.0,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        # What transformers takes for what is absent, and blocks here have not.
        "global_attn_every_n_layers": 3,
        "classifier_bias": False,
    },
    activation="hidden_activation",
    read=_read,
    write=_write,
    rows=(
        Row("model/token_embedding", "embeddings.tok_embeddings.weight"),
        *norm("model/embedder/norm", "embeddings.norm"),
        *_fused(
            f"{_LAYER}/attention", "layers.{i}.attn.Wqkv", ("query", "key", "value")
        ),
        *_fused(f"{_LAYER}/mlp", "layers.{i}.mlp.Wi", ("gate", "up")),
        *norm_and_linear(
            {
                f"{_LAYER}/attention_norm": "layers.{i}.attn_norm",
                f"{_LAYER}/attention/out": "layers.{i}.attn.Wo",
                f"{_LAYER}/mlp_norm": "layers.{i}.mlp_norm",
                f"{_LAYER}/mlp/down": "layers.{i}.mlp.Wo",
                "model/stack/final_norm": "final_norm",
            }
        ),
    ),
    heads=(masked_lm_head("head.dense", "head.norm", "decoder.bias"),),
    classes={("masked LM",): "ModernBertForMaskedLM", (): "ModernBertModel"},
    repeats={r"decoder\.weight": "embeddings.tok_embeddings.weight"},
)
