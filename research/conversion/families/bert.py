"""BERT, RoBERTa, DistilBERT and ELECTRA: encoders with post-norm blocks."""

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
    linear,
    norm,
    norm_and_linear,
    require,
)

_ENCODER: Settings = {
    **COMMON,
    "architecture": "encoder",
    "position": "learned",
    "norm": "layernorm",
    "norm_position": "post",
    "embedding_norm": True,
}
_FIELDS = {
    "vocab_size": "vocab_size",
    "emb_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
    "max_seq_len": "max_position_embeddings",
    "num_token_types": "type_vocab_size",
    "norm_epsilon": "layer_norm_eps",
    "dropout_rate": "hidden_dropout_prob",
    "attention_dropout_rate": "attention_probs_dropout_prob",
    "init_stddev": "initializer_range",
}
_DEFAULTS = {
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "initializer_range": 0.02,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "embedding_size": 128,
}


_TABLE = "embeddings.word_embeddings.weight"
# The first layer of the next-sentence head, in models without the rest of it.
_POOLER = r"pooler\.dense\.(weight|bias)"


def _embedder(names: str, *, token_types: bool = True) -> list[Row]:
    rows = [
        Row("model/token_embedding", f"{names}.word_embeddings.weight"),
        Row("model/embedder/position_embedding", f"{names}.position_embeddings.weight"),
    ]
    if token_types:
        ours = "model/embedder/token_type_embedding"
        rows.append(Row(ours, f"{names}.token_type_embeddings.weight"))
    return rows + norm("model/embedder/norm", f"{names}.LayerNorm")


def _blocks(names: str, modules: Mapping[str, str]) -> list[Row]:
    return norm_and_linear(
        {
            f"model/stack/layers/{{i}}/{ours}": f"{names}.{{i}}.{theirs}"
            for ours, theirs in modules.items()
        }
    )


_BERT_BLOCK = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp/up": "intermediate.dense",
    "mlp/down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}


def masked_lm_head(dense: str, layer_norm: str, bias: str) -> Head:
    """Dense, activation, norm, and the token embedding with a bias."""
    scale, norm_bias = norm("norm", layer_norm)
    rows = (*linear("dense", dense), scale, Row("output/bias", bias))
    return Head("masked LM", rows, optional=(norm_bias,))


def _read_bert(hf: Mapping[str, Any], tensors: Tensors) -> Settings:
    del tensors
    require(hf, "BERT", is_decoder=False, add_cross_attention=False)
    require(hf, "BERT", position_embedding_type="absolute", tie_word_embeddings=True)
    return {}


BERT = Family(
    model_type="bert",
    prefix="bert.",
    fixed=_ENCODER,
    fields=_FIELDS,
    defaults=_DEFAULTS,
    activation="hidden_act",
    read=_read_bert,
    rows=(*_embedder("embeddings"), *_blocks("encoder.layer", _BERT_BLOCK)),
    heads=(
        masked_lm_head(
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.bias",
        ),
        Head(
            "next sentence",
            (
                *linear("dense", "bert.pooler.dense"),
                # A class table, like theirs: classes first.
                Row("kernel", "cls.seq_relationship.weight"),
                Row("bias", "cls.seq_relationship.bias"),
            ),
        ),
    ),
    classes={
        ("next sentence", "masked LM"): "BertForPreTraining",
        ("masked LM",): "BertForMaskedLM",
        ("next sentence",): "BertForNextSentencePrediction",
        (): "BertModel",
    },
    repeats={
        r"cls\.predictions\.decoder\.weight": _TABLE,
        r"cls\.predictions\.decoder\.bias": "cls.predictions.bias",
    },
    ignored=(r".*embeddings\.position_ids",),
    carried={"BertModel": (_POOLER,)},
)


def _read_roberta(hf: Mapping[str, Any], tensors: Tensors) -> Settings:
    del tensors
    require(hf, "RoBERTa", is_decoder=False, add_cross_attention=False)
    require(hf, "RoBERTa", position_embedding_type="absolute", tie_word_embeddings=True)
    # Positions begin after pad_token_id; the rows before are never read.
    offset = hf["pad_token_id"] + 1
    return {
        "position_offset": offset,
        "max_seq_len": hf["max_position_embeddings"] - offset,
    }


def _write_roberta(config: Any) -> Settings:
    return {
        "max_position_embeddings": config.max_seq_len + config.position_offset,
        # At least 0: without an offset this is another network.
        "pad_token_id": max(config.position_offset - 1, 0),
    }


ROBERTA = Family(
    model_type="roberta",
    prefix="roberta.",
    fixed=_ENCODER,
    fields={k: v for k, v in _FIELDS.items() if k != "max_seq_len"},
    defaults={**_DEFAULTS, "max_position_embeddings": 512, "pad_token_id": 1},
    activation="hidden_act",
    read=_read_roberta,
    write=_write_roberta,
    rows=BERT.rows,
    heads=(masked_lm_head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),),
    classes={("masked LM",): "RobertaForMaskedLM", (): "RobertaModel"},
    repeats={
        r"lm_head\.decoder\.weight": _TABLE,
        r"lm_head\.decoder\.bias": "lm_head.bias",
    },
    ignored=(r".*embeddings\.position_ids",),
    carried={"RobertaModel": (_POOLER,)},
)


def _read_distilbert(hf: Mapping[str, Any], tensors: Tensors) -> Settings:
    del tensors
    require(hf, "DistilBERT", sinusoidal_pos_embds=(False, True))
    require(hf, "DistilBERT", tie_word_embeddings=True)
    # Sinusoidal tables are stored like learned ones, and not trained.
    return {}


DISTILBERT = Family(
    model_type="distilbert",
    prefix="distilbert.",
    fixed={**_ENCODER, "norm_epsilon": 1e-12},
    fields={
        "vocab_size": "vocab_size",
        "emb_dim": "dim",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "mlp_dim": "hidden_dim",
        "max_seq_len": "max_position_embeddings",
        "dropout_rate": "dropout",
        "attention_dropout_rate": "attention_dropout",
        "init_stddev": "initializer_range",
    },
    defaults={
        "activation": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "initializer_range": 0.02,
    },
    activation="activation",
    read=_read_distilbert,
    rows=(
        *_embedder("embeddings", token_types=False),
        *_blocks(
            "transformer.layer",
            {
                "attention/query": "attention.q_lin",
                "attention/key": "attention.k_lin",
                "attention/value": "attention.v_lin",
                "attention/out": "attention.out_lin",
                "attention_norm": "sa_layer_norm",
                "mlp/up": "ffn.lin1",
                "mlp/down": "ffn.lin2",
                "mlp_norm": "output_layer_norm",
            },
        ),
    ),
    heads=(
        masked_lm_head("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    ),
    classes={("masked LM",): "DistilBertForMaskedLM", (): "DistilBertModel"},
    repeats={r"vocab_projector\.weight": _TABLE},
)


def _read_electra(hf: Mapping[str, Any], tensors: Tensors) -> Settings:
    del tensors
    require(hf, "ELECTRA", is_decoder=False, position_embedding_type="absolute")
    require(hf, "ELECTRA", tie_word_embeddings=True)
    return {}


ELECTRA = Family(
    model_type="electra",
    prefix="electra.",
    fixed={k: v for k, v in _ENCODER.items() if k != "embedding_dim"},
    fields={**_FIELDS, "embedding_dim": "embedding_size"},
    defaults=_DEFAULTS,
    activation="hidden_act",
    read=_read_electra,
    write=lambda config: {"embedding_size": config.table_dim},
    rows=(*BERT.rows, *linear("model/embedder/projection", "embeddings_project")),
    heads=(
        masked_lm_head(
            "generator_predictions.dense",
            "generator_predictions.LayerNorm",
            "generator_lm_head.bias",
        ),
        Head(
            "replaced tokens",
            (
                *linear("dense", "discriminator_predictions.dense"),
                *linear("score", "discriminator_predictions.dense_prediction"),
            ),
        ),
    ),
    classes={
        ("masked LM",): "ElectraForMaskedLM",
        ("replaced tokens",): "ElectraForPreTraining",
        (): "ElectraModel",
    },
    repeats={r"generator_lm_head\.weight": _TABLE},
    ignored=(r".*embeddings\.position_ids",),
    # A checkpoint has no generator to go on with: it becomes a run of another objective.
    carried={"ElectraForPreTraining": (r"discriminator_predictions\..*",)},
)
