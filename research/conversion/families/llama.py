"""Llama 2 and 3: RMSNorm, rotary positions, grouped queries, gated MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.conversion.family import (
    COMMON,
    Family,
    Head,
    Row,
    Settings,
    Tensors,
    checked,
    has_own_output,
    norm_and_linear,
    require,
)

_LAYER = "model/stack/layers/{i}"
# Our rope_scaling is (kind, *these fields).
_ROPE_FIELDS = {
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


def _rope(hf: Mapping[str, Any]) -> Settings:
    """rope_theta and rope_scaling, from either form of the config."""
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    checked({"rope_parameters": rope}, {"rope_parameters": "dict"})
    rope = {"rope_theta": hf.get("rope_theta", 10000.0), **rope}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        fields: tuple[str, ...] = ()
    elif isinstance(kind, str) and kind in _ROPE_FIELDS:
        fields = _ROPE_FIELDS[kind]
    else:
        raise ValueError(
            f"A Llama with rope_type = {kind!r} cannot be expressed: only default, "
            f"{', '.join(_ROPE_FIELDS)}."
        )
    rope = checked(
        dict.fromkeys(fields) | rope, dict.fromkeys(("rope_theta", *fields), "float")
    )
    scaling = (kind, *(rope[field] for field in fields)) if fields else ()
    return {"rope_theta": rope["rope_theta"], "rope_scaling": scaling}


def _read(hf: Mapping[str, Any], tensors: Tensors) -> Settings:
    require(hf, "Llama", attention_bias=False, mlp_bias=False, pretraining_tp=1)
    return {
        **_rope(hf),
        "num_kv_heads": hf["num_key_value_heads"] or hf["num_attention_heads"],
        "head_dim": hf["head_dim"] or hf["hidden_size"] // hf["num_attention_heads"],
        "tie_embeddings": hf["tie_word_embeddings"]
        and not has_own_output(tensors, "lm_head.weight", "embed_tokens.weight"),
    }


def _write(config: Any) -> Settings:
    rope: Settings = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling:
        kind, *values = config.rope_scaling
        rope |= {"rope_type": kind, **dict(zip(_ROPE_FIELDS[kind], values))}
    if "original_max_position_embeddings" in rope:
        field = "original_max_position_embeddings"
        rope[field] = int(rope[field])
    return {
        # Both forms: rope_parameters since transformers 5, the others before.
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope if config.rope_scaling else None,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.dim_per_head,
        "tie_word_embeddings": config.tie_embeddings,
    }


LLAMA = Family(
    model_type="llama",
    prefix="model.",
    fixed={
        **{k: v for k, v in COMMON.items() if not k.startswith("rope_")},
        "architecture": "decoder",
        "position": "rope",
        "norm": "rmsnorm",
        "norm_position": "pre",
        "final_norm": True,
        "gated_mlp": True,
        "use_bias": False,
        "dropout_rate": 0.0,
    },
    fields={
        "vocab_size": "vocab_size",
        "emb_dim": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "mlp_dim": "intermediate_size",
        "max_seq_len": "max_position_embeddings",
        "norm_epsilon": "rms_norm_eps",
        "attention_dropout_rate": "attention_dropout",
        "init_stddev": "initializer_range",
    },
    defaults={
        "hidden_act": "silu",
        "num_key_value_heads": None,
        "head_dim": None,
        "rms_norm_eps": 1e-6,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
    },
    activation="hidden_act",
    read=_read,
    write=_write,
    rows=(
        Row("model/token_embedding", "embed_tokens.weight"),
        *norm_and_linear(
            {
                f"{_LAYER}/attention_norm": "layers.{i}.input_layernorm",
                f"{_LAYER}/attention/query": "layers.{i}.self_attn.q_proj",
                f"{_LAYER}/attention/key": "layers.{i}.self_attn.k_proj",
                f"{_LAYER}/attention/value": "layers.{i}.self_attn.v_proj",
                f"{_LAYER}/attention/out": "layers.{i}.self_attn.o_proj",
                f"{_LAYER}/mlp_norm": "layers.{i}.post_attention_layernorm",
                f"{_LAYER}/mlp/gate": "layers.{i}.mlp.gate_proj",
                f"{_LAYER}/mlp/up": "layers.{i}.mlp.up_proj",
                f"{_LAYER}/mlp/down": "layers.{i}.mlp.down_proj",
                "model/stack/final_norm": "norm",
            },
            bias=False,
        ),
    ),
    heads=(Head("LM", optional=(Row("output/kernel", "lm_head.weight"),)),),
    classes={("LM",): "LlamaForCausalLM"},
    ignored=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
)
