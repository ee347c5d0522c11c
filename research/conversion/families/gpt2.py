"""GPT-2: a decoder with pre-norm blocks and a fused query, key and value."""

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
    norm,
    require,
)

_LAYER = "model/stack/layers/{i}"


def _conv1d(ours: str, theirs: str, part: tuple[int, int] | None = None) -> list[Row]:
    """Their Conv1D already holds [I, O]."""
    return [
        Row(f"{ours}/kernel", f"{theirs}.weight", part=part),
        Row(f"{ours}/bias", f"{theirs}.bias", part=part),
    ]


def _read(hf: Mapping[str, Any], tensors: Tensors) -> Settings:
    del tensors
    require(hf, "GPT-2", scale_attn_weights=True, add_cross_attention=False)
    require(hf, "GPT-2", scale_attn_by_inverse_layer_idx=False)
    require(hf, "GPT-2", tie_word_embeddings=True)
    return {"mlp_dim": hf["n_inner"] or 4 * hf["n_embd"]}


def _write(config: Any) -> Settings:
    return {
        "n_inner": config.mlp_dim,
        "embd_pdrop": config.dropout_rate,
    }


GPT2 = Family(
    model_type="gpt2",
    prefix="transformer.",
    fixed={
        **COMMON,
        "architecture": "decoder",
        "position": "learned",
        "norm": "layernorm",
        "norm_position": "pre",
        "final_norm": True,
        "init": "gpt2",
    },
    fields={
        "vocab_size": "vocab_size",
        "emb_dim": "n_embd",
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "max_seq_len": "n_positions",
        "norm_epsilon": "layer_norm_epsilon",
        "dropout_rate": "resid_pdrop",
        "attention_dropout_rate": "attn_pdrop",
        "init_stddev": "initializer_range",
    },
    defaults={
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "initializer_range": 0.02,
    },
    activation="activation_function",
    read=_read,
    write=_write,
    rows=(
        Row("model/token_embedding", "wte.weight"),
        Row("model/embedder/position_embedding", "wpe.weight"),
        *norm(f"{_LAYER}/attention_norm", "h.{i}.ln_1"),
        *_conv1d(f"{_LAYER}/attention/query", "h.{i}.attn.c_attn", (0, 3)),
        *_conv1d(f"{_LAYER}/attention/key", "h.{i}.attn.c_attn", (1, 3)),
        *_conv1d(f"{_LAYER}/attention/value", "h.{i}.attn.c_attn", (2, 3)),
        *_conv1d(f"{_LAYER}/attention/out", "h.{i}.attn.c_proj"),
        *norm(f"{_LAYER}/mlp_norm", "h.{i}.ln_2"),
        *_conv1d(f"{_LAYER}/mlp/up", "h.{i}.mlp.c_fc"),
        *_conv1d(f"{_LAYER}/mlp/down", "h.{i}.mlp.c_proj"),
        *norm("model/stack/final_norm", "ln_f"),
    ),
    heads=(Head("LM"),),
    classes={("LM",): "GPT2LMHeadModel"},
    repeats={r"lm_head\.weight": "wte.weight"},
    # The causal mask, once stored as buffers.
    ignored=(r"h\.\d+\.attn\.(bias|masked_bias)",),
)
