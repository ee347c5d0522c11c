"""BART: post-norm encoder-decoder with learned positions on both sides."""

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
    norm_and_linear,
    require,
)


def _attention(ours: str, theirs: str) -> dict[str, str]:
    parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    return {f"{ours}/{o}": f"{theirs}.{t}" for o, t in parts.items()}


def _side(side: str) -> list[Row]:
    ours = f"model/{side}_stack/layers/{{i}}"
    theirs = f"{side}.layers.{{i}}"
    modules = {
        f"model/{side}_embedder/norm": f"{side}.layernorm_embedding",
        **_attention(f"{ours}/attention", f"{theirs}.self_attn"),
        f"{ours}/attention_norm": f"{theirs}.self_attn_layer_norm",
        f"{ours}/mlp/up": f"{theirs}.fc1",
        f"{ours}/mlp/down": f"{theirs}.fc2",
        f"{ours}/mlp_norm": f"{theirs}.final_layer_norm",
    }
    if side == "decoder":
        modules |= {
            **_attention(f"{ours}/cross_attention", f"{theirs}.encoder_attn"),
            f"{ours}/cross_attention_norm": f"{theirs}.encoder_attn_layer_norm",
        }
    position = f"model/{side}_embedder/position_embedding"
    return [
        Row(position, f"{side}.embed_positions.weight"),
        *norm_and_linear(modules),
    ]


def _read(hf: Mapping[str, Any], tensors: Tensors) -> Settings:
    del tensors
    require(
        hf,
        "BART",
        decoder_ffn_dim=hf["encoder_ffn_dim"],
        decoder_attention_heads=hf["encoder_attention_heads"],
        normalize_before=False,
        add_final_layer_norm=False,
        normalize_embedding=True,
        tie_word_embeddings=True,
    )
    return {
        "num_encoder_layers": hf["encoder_layers"],
        "num_decoder_layers": hf["decoder_layers"],
    }


def _write(config: Any) -> Settings:
    return {
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "decoder_ffn_dim": config.mlp_dim,
        "decoder_attention_heads": config.num_heads,
    }


BART = Family(
    model_type="bart",
    prefix="model.",
    fixed={
        **COMMON,
        "architecture": "encoder_decoder",
        "position": "learned",
        "position_offset": 2,
        "norm": "layernorm",
        "norm_position": "post",
        "embedding_norm": True,
        # A constant of the implementation, not of the config.
        "norm_epsilon": 1e-5,
    },
    fields={
        "vocab_size": "vocab_size",
        "emb_dim": "d_model",
        "num_layers": "encoder_layers",
        "num_heads": "encoder_attention_heads",
        "mlp_dim": "encoder_ffn_dim",
        "max_seq_len": "max_position_embeddings",
        "scale_embeddings": "scale_embedding",
        "dropout_rate": "dropout",
        "mlp_dropout_rate": "activation_dropout",
        "attention_dropout_rate": "attention_dropout",
        "init_stddev": "init_std",
    },
    defaults={
        "decoder_layers": 12,
        "activation_function": "gelu",
        "scale_embedding": False,
        "dropout": 0.1,
        "activation_dropout": 0.0,
        "attention_dropout": 0.0,
        "init_std": 0.02,
    },
    activation="activation_function",
    read=_read,
    write=_write,
    rows=(
        Row("model/token_embedding", "shared.weight"),
        *_side("encoder"),
        *_side("decoder"),
    ),
    heads=(Head("LM"),),
    classes={("LM",): "BartForConditionalGeneration"},
    # A buffer that no BART has ever filled.
    zero=(r"final_logits_bias",),
    repeats={
        r"(encoder|decoder)\.embed_tokens\.weight": "shared.weight",
        r"lm_head\.weight": "shared.weight",
    },
)
