"""T5 1.0 and 1.1: relative position bias, RMSNorm, unscaled scores, no biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.conversion.family import (
    COMMON,
    THEIR_ACTIVATIONS,
    Family,
    Head,
    Row,
    Settings,
    Tensors,
    activation,
    has_own_output,
    norm_and_linear,
    require,
)


def _attention(ours: str, theirs: str) -> dict[str, str]:
    parts = {"query": "q", "key": "k", "value": "v", "out": "o"}
    return {f"{ours}/{o}": f"{theirs}.{t}" for o, t in parts.items()}


def _side(side: str, *, mlp_layer: int) -> list[Row]:
    ours = f"model/{side}_stack/layers/{{i}}"
    theirs = f"{side}.block.{{i}}.layer"
    modules = {
        f"{ours}/attention_norm": f"{theirs}.0.layer_norm",
        **_attention(f"{ours}/attention", f"{theirs}.0.SelfAttention"),
        f"{ours}/mlp_norm": f"{theirs}.{mlp_layer}.layer_norm",
        f"{ours}/mlp/down": f"{theirs}.{mlp_layer}.DenseReluDense.wo",
        f"model/{side}_stack/final_norm": f"{side}.final_layer_norm",
    }
    if side == "decoder":
        modules |= {
            f"{ours}/cross_attention_norm": f"{theirs}.1.layer_norm",
            **_attention(f"{ours}/cross_attention", f"{theirs}.1.EncDecAttention"),
        }
    bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return [
        *norm_and_linear(modules, bias=False),
        Row(f"model/{side}_stack/relative_bias", bias),
    ]


def _up(gated: bool) -> list[Row]:
    """The first layer of the MLP: wi, or wi_0 (the gate) and wi_1."""
    names = {"gate": "wi_0", "up": "wi_1"} if gated else {"up": "wi"}
    modules = {
        f"model/{side}_stack/layers/{{i}}/mlp/{ours}": (
            f"{side}.block.{{i}}.layer.{layer}.DenseReluDense.{theirs}"
        )
        for side, layer in (("encoder", 1), ("decoder", 2))
        for ours, theirs in names.items()
    }
    return norm_and_linear(modules, bias=False)


def _read(hf: Mapping[str, Any], tensors: Tensors) -> Settings:
    *gate, act = hf["feed_forward_proj"].split("-")
    # 'gated-gelu' has always meant the tanh form.
    act = "gelu_new" if gate and act == "gelu" else act
    require({"gate": gate}, "T5", gate=([], ["gated"]))
    # The name of their field misleads: tables are tied unless both are stored and
    # differ, and the field says whether features are scaled.
    scaled = hf.get("scale_decoder_outputs", hf["tie_word_embeddings"])
    require(hf, "T5", scale_decoder_outputs=(scaled, True, False))
    return {
        "activation": activation(act, "T5"),
        "num_encoder_layers": hf["num_layers"],
        "num_decoder_layers": hf["num_decoder_layers"] or hf["num_layers"],
        "tie_embeddings": not has_own_output(
            tensors, "lm_head.weight", "shared.weight"
        ),
        "logit_scale": hf["d_model"] ** -0.5 if scaled else 1.0,
        # The relative bias reaches any distance; 512 is what T5 was trained on.
        "max_seq_len": 512,
    }


def _write(config: Any) -> Settings:
    act = THEIR_ACTIVATIONS[config.activation]
    if config.gated_mlp:
        act = "gated-gelu" if act == "gelu_new" else f"gated-{act}"
    scaled = config.logit_scale != 1.0
    return {
        "feed_forward_proj": act,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "d_kv": config.dim_per_head,
        # Before transformers 5 one field said both whether the output table is tied
        # and whether features are scaled.
        "tie_word_embeddings": scaled,
        "scale_decoder_outputs": scaled,
    }


def _family(gated: bool) -> Family:
    settings = {
        **COMMON,
        "architecture": "encoder_decoder",
        "position": "relative_bias",
        "norm": "rmsnorm",
        "norm_position": "pre",
        "final_norm": True,
        "use_bias": False,
        "attention_scale": 1.0,
        "gated_mlp": gated,
        "init": "t5",
        "attention_dropout_rate": 0.0,
    }
    return Family(
        model_type="t5",
        prefix="",
        fixed=settings,
        fields={
            "vocab_size": "vocab_size",
            "emb_dim": "d_model",
            "num_layers": "num_layers",
            "num_heads": "num_heads",
            "head_dim": "d_kv",
            "mlp_dim": "d_ff",
            "relative_num_buckets": "relative_attention_num_buckets",
            "relative_max_distance": "relative_attention_max_distance",
            "norm_epsilon": "layer_norm_epsilon",
            "dropout_rate": "dropout_rate",
            "mlp_dropout_rate": "dropout_rate",
            "init_stddev": "initializer_factor",
        },
        defaults={
            "feed_forward_proj": "relu",
            "tie_word_embeddings": True,
            "num_decoder_layers": None,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-6,
            "dropout_rate": 0.1,
            "initializer_factor": 1.0,
        },
        activation="",
        read=_read,
        write=_write,
        rows=(
            Row("model/token_embedding", "shared.weight"),
            *_side("encoder", mlp_layer=1),
            *_side("decoder", mlp_layer=2),
            *_up(gated),
        ),
        heads=(Head("LM", optional=(Row("output/kernel", "lm_head.weight"),)),),
        classes={("LM",): "T5ForConditionalGeneration"},
        repeats={r"(encoder|decoder)\.embed_tokens\.weight": "shared.weight"},
        ignored=(
            # Early checkpoints hold a bias of the cross-attention that is not used.
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
        ),
    )


T5 = _family(gated=False)
T5_GATED = _family(gated=True)
