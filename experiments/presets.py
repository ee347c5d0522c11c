"""Sizes, paper presets and objectives' hyperparameters, as plain values.

A preset is expanded into an experiment's config before the config is saved, so a run
never depends on what a name means later.
"""

import ml_collections
from ml_collections.config_dict import placeholder

# The size ladder of Turc et al. 2019 (and BERT base and large), for all architectures.
SIZES = {
    "tiny": {"num_layers": 2, "emb_dim": 128, "num_heads": 2, "mlp_dim": 512},
    "mini": {"num_layers": 4, "emb_dim": 256, "num_heads": 4, "mlp_dim": 1024},
    "small": {"num_layers": 4, "emb_dim": 512, "num_heads": 8, "mlp_dim": 2048},
    "medium": {"num_layers": 8, "emb_dim": 512, "num_heads": 8, "mlp_dim": 2048},
    "base": {"num_layers": 12, "emb_dim": 768, "num_heads": 12, "mlp_dim": 3072},
    "large": {"num_layers": 24, "emb_dim": 1024, "num_heads": 16, "mlp_dim": 4096},
}


def base_model() -> ml_collections.ConfigDict:
    """Every field of models.TransformerConfig."""
    return ml_collections.ConfigDict(
        {
            "backbone": "transformer",
            "architecture": "encoder",  # 'encoder', 'decoder', 'encoder_decoder'
            "vocab_size": placeholder(int),  # None = the tokenizer's
            "emb_dim": 256,
            "embedding_dim": placeholder(int),  # factorised embedding; None = emb_dim
            "num_layers": 4,
            # Of an encoder_decoder; None = num_layers.
            "num_encoder_layers": placeholder(int),
            "num_decoder_layers": placeholder(int),
            "num_heads": 4,
            "num_kv_heads": placeholder(int),  # grouped queries; None = num_heads
            "head_dim": placeholder(int),  # None = emb_dim / num_heads
            "mlp_dim": 1024,
            "max_seq_len": 512,
            # 'learned', 'sinusoidal', 'rope', 'relative_bias', 'alibi'
            "position": "learned",
            "position_offset": 0,  # rows of the table before position 0 (RoBERTa: 2)
            "rope_theta": 10000.0,
            # () or ('linear', factor) or ('llama3', factor, low, high, original_len)
            "rope_scaling": (),
            "relative_num_buckets": 32,
            "relative_max_distance": 128,
            "norm": "layernorm",  # or 'rmsnorm'
            "norm_position": "pre",  # or 'post'
            "norm_epsilon": 1e-6,
            "final_norm": True,
            "embedding_norm": False,
            "activation": "gelu",  # 'relu', 'gelu' (erf), 'gelu_tanh', 'silu'
            "gated_mlp": False,
            "use_bias": True,
            "attention_scale": placeholder(float),  # None = head_dim ** -0.5
            "scale_embeddings": False,  # by sqrt(emb_dim)
            "logit_scale": 1.0,  # on features before the output table (T5 1.0: D^-0.5)
            "tie_embeddings": True,
            "num_token_types": 0,
            "dropout_rate": 0.1,
            "mlp_dropout_rate": 0.0,  # inside the feed-forward layer (T5)
            "attention_dropout_rate": 0.0,
            "init": "normal",  # 'normal', 'gpt2' (scaled residual outputs), 't5'
            "init_stddev": 0.02,
            "dtype": "float32",  # of the computation: 'float32' or 'bfloat16'
            "param_dtype": "float32",
            "attention": "auto",  # 'auto', 'explicit', 'xla', 'cudnn', 'splash'
            "scan_layers": False,
            "remat": "none",  # 'none', 'full', 'dots'
        }
    )


# After Vaswani et al. 2017: the norm follows the sum with the residual.
_POST_NORM = {
    "norm_position": "post",
    "final_norm": False,
    "embedding_norm": True,
    "attention_dropout_rate": 0.1,
}
_BERT = {
    **_POST_NORM,
    "architecture": "encoder",
    "norm_epsilon": 1e-12,
    "num_token_types": 2,
}
_T5 = {
    "architecture": "encoder_decoder",
    "position": "relative_bias",
    "norm": "rmsnorm",
    "use_bias": False,
    "attention_scale": 1.0,
    "init": "t5",
    "init_stddev": 1.0,
}
# What a family's papers chose, beside its sizes, where base_model() has another value.
FAMILIES = {
    "bert": _BERT,  # Devlin et al. 2019
    # Liu et al. 2019: no second sentence type, positions after two unused rows.
    "roberta": dict(_BERT, norm_epsilon=1e-5, num_token_types=1, position_offset=2),
    # Warner et al. 2024, without the windows of its local attention.
    "modernbert": {
        "architecture": "encoder",
        "position": "rope",
        "embedding_norm": True,
        "gated_mlp": True,
        "norm_epsilon": 1e-5,
    },
    # Radford et al. 2019.
    "gpt2": {
        "architecture": "decoder",
        "max_seq_len": 1024,
        "norm_epsilon": 1e-5,
        "activation": "gelu_tanh",
        "attention_dropout_rate": 0.1,
        "init": "gpt2",
    },
    # Touvron et al. 2023.
    "llama": {
        "architecture": "decoder",
        "max_seq_len": 4096,
        "position": "rope",
        "norm": "rmsnorm",
        "norm_epsilon": 1e-5,
        "activation": "silu",
        "gated_mlp": True,
        "use_bias": False,
        "tie_embeddings": False,
        "dropout_rate": 0.0,
    },
    # Raffel et al. 2020; the scale of the logits is emb_dim ** -0.5.
    "t5": {
        **_T5,
        "activation": "relu",
        "mlp_dropout_rate": 0.1,
        "attention_dropout_rate": 0.1,
    },
    # Shazeer 2020 and Xue et al. 2021: gated, untied, no dropout in pretraining.
    "t5_1_1": {
        **_T5,
        "activation": "gelu_tanh",
        "gated_mlp": True,
        "tie_embeddings": False,
        "dropout_rate": 0.0,
    },
    # Lewis et al. 2020.
    "bart": {
        **_POST_NORM,
        "architecture": "encoder_decoder",
        "max_seq_len": 1024,
        "position_offset": 2,
        "norm_epsilon": 1e-5,
        "mlp_dropout_rate": 0.1,
    },
}


def _sized(family: str, size: tuple[int, int, int, int], **overrides) -> dict:
    """A family's choices with (num_layers, emb_dim, num_heads, mlp_dim)."""
    fields = ("num_layers", "emb_dim", "num_heads", "mlp_dim")
    return {**FAMILIES[family], **dict(zip(fields, size, strict=True)), **overrides}


_BASE = (12, 768, 12, 3072)
# Models of the papers: a family's choices with a size.
MODELS = {
    "bert_base": _sized("bert", _BASE),
    "bert_large": _sized("bert", (24, 1024, 16, 4096)),
    "roberta_base": _sized("roberta", _BASE),
    # Clark et al. 2020: BERT, the small one with embeddings of another width.
    "electra_small": _sized("bert", (12, 256, 4, 1024), embedding_dim=128),
    "electra_base": _sized("bert", _BASE),
    "gpt2_small": _sized("gpt2", _BASE),
    # Llama's settings at the size of GPT-2 small.
    "llama": _sized("llama", (12, 768, 12, 2048)),
    "llama2_7b": _sized("llama", (32, 4096, 32, 11008)),
    "llama3_1_8b": _sized(
        "llama",
        (32, 4096, 32, 14336),
        num_kv_heads=8,
        max_seq_len=131072,
        rope_theta=500000.0,
        rope_scaling=("llama3", 8.0, 1.0, 4.0, 8192),
    ),
    "t5_small": _sized("t5", (6, 512, 8, 2048), logit_scale=512**-0.5),
    "t5_base": _sized("t5", _BASE, logit_scale=768**-0.5),
    "t5_1_1_small": _sized("t5_1_1", (8, 512, 6, 1024), head_dim=64),
    "t5_1_1_base": _sized("t5_1_1", (12, 768, 12, 2048)),
    "bart_base": _sized("bart", (6, 768, 12, 3072)),
}


def model(size: str, *, architecture: str, **overrides) -> ml_collections.ConfigDict:
    """A model of the size ladder: `size` in SIZES, `architecture` its role."""
    config = base_model()
    config.update(SIZES[size], architecture=architecture, **overrides)
    return config


def paper_model(name: str, **overrides) -> ml_collections.ConfigDict:
    """A paper's model, `name` in MODELS; e.g. with another size's fields over it."""
    config = base_model()
    config.update({**MODELS[name], **overrides})
    return config


_SEQUENCE_TO_SEQUENCE = {
    "loss_weight": 1.0,
    "z_loss": 0.0,
    # 0 = the batch's number of targets, 1 = T5X's plain sum, or a constant
    "loss_normalizing_factor": 0.0,
    "bidirectional_inputs": True,  # a decoder sees its inputs both ways
    "isolate_documents": False,  # the documents of a row are merged, as in T5
}
_CAUSAL = {
    "loss_weight": 1.0,
    "isolate_documents": False,  # attention and positions restart at each document
    "z_loss": 0.0,
}
# Hyperparameters of each objective, every field given.
OBJECTIVES: dict[str, dict] = {
    "causal_lm": _CAUSAL,
    "masked_lm": {
        "loss_weight": 1.0,
        "noise_density": 0.15,
        "mask_prob": 0.8,
        "random_prob": 0.1,
        "replacement": "uniform",  # or 'unigram'
        "replace_per": "token",  # one 80/10/10 draw a 'token', or a 'unit' selected
        "unit": "token",  # what is selected: 'token', 'word', 'ngram' (of words)
        "max_ngram": 3,  # words, for unit 'ngram'
        # 'exact' (BERT: rounded share), 'stochastic' (RoBERTa: floor(share + u)),
        # 'bernoulli' (independent draws)
        "budget": "exact",
        "isolate_documents": False,
    },
    "next_sentence": {
        "loss_weight": 1.0,
        # what label 1 is: 'other_document' (BERT's next sentence prediction) or
        # 'swapped' (ALBERT's sentence order prediction)
        "negatives": "other_document",
    },
    "replaced_token": {
        "loss_weight": 1.0,  # of the generator
        "rtd_weight": 50.0,
        "noise_density": 0.15,
        "mask_prob": 0.85,
        "draws": "without_replacement",  # or 'with_replacement'
        # embedding tables of generator and model: 'shared' (ELECTRA), 'separate',
        # 'disentangled' (DeBERTaV3: the model learns the difference)
        "sharing": "shared",
        "generator_width": 0.25,  # share of the model's widths
        "generator_depth": 1.0,  # share of the model's layers
        "isolate_documents": False,
    },
    "span_boundary": {
        "loss_weight": 1.0,
        "sbo_weight": 1.0,  # 0 = span masking alone
        "noise_density": 0.15,
        "geometric_p": 0.2,
        "max_span_length": 10,  # words
        "mask_prob": 0.8,
        "random_prob": 0.1,
        "replacement": "unigram",  # or 'uniform'
        "replace_per": "span",  # one 80/10/10 draw a 'span', or a 'token'
        "max_pair_targets": 15,  # tokens of a span with a boundary target
        "position_dim": 200,
        "isolate_documents": False,
    },
    "span_corruption": {
        **_SEQUENCE_TO_SEQUENCE,
        "noise": "spans",  # exact counts, or 'iid': each token by itself
        "noise_density": 0.15,
        "mean_noise_span_length": 3.0,
        "markers": "sentinels",  # or 'none': drop corrupted tokens
    },
    "prefix_lm": {
        **_SEQUENCE_TO_SEQUENCE,
        "noise_density": 0.5,  # mean share of the tokens after the prefix
    },
    "text_infilling": {
        **_SEQUENCE_TO_SEQUENCE,
        "noise_density": 0.3,
        "mean_noise_span_length": 3.5,  # of a Poisson distribution, in units
        "random_prob": 0.1,
        "unit": "word",  # or 'token'
        "permute_sentences": 1.0,  # share of each document's sentences
    },
    "deshuffling": _SEQUENCE_TO_SEQUENCE,
    "masked_diffusion": {
        "loss_weight": 1.0,
        "schedule": "uniform",  # or 'cosine', 36% masks on average
        "weighting": "bound",  # or 'none': no bound is learned
        "shift": False,  # True: read one position earlier, by causal_lm's head
        "isolate_documents": False,
    },
    "masked_next_token": {
        "loss_weight": 1.0,
        "noise_density": 0.15,
        "mask_prob": 0.8,
        "random_prob": 0.1,
        "replacement": "uniform",  # or 'unigram'
        "max_span_length": 3,
        "isolate_documents": False,
    },
    "fill_in_the_middle": {**_CAUSAL, "fim_rate": 0.5, "spm_rate": 0.5},
    "multi_token": {
        **_CAUSAL,
        "future_weights": (1.0,),  # of the tokens 2, 3, .. positions ahead
        "heads": "own",  # or 'shared': the same logits for all of them
    },
}


def objective(*names: str, **overrides) -> ml_collections.ConfigDict:
    """The objective section for one stage or several, composed left to right.

    `overrides` map a stage's name to the hyperparameters to change.
    """
    section = ml_collections.ConfigDict({"name": tuple(names)})
    for name in names:
        section[name] = {**OBJECTIVES[name], **overrides.get(name, {})}
    return section


def mixture(**components: tuple) -> ml_collections.ConfigDict:
    """The objective section of a mixture: NAME=(section, share), or with a weight.

    Each component's loss counts by its share of the rows, times a third value if there
    is one: mixture(causal=(objective("causal_lm"), 3), masked=(..., 1, 2.0)).
    """
    shares = tuple(values[1] for values in components.values())
    weights = tuple(
        float(values[2]) if len(values) > 2 else 1.0 for values in components.values()
    )
    inner = {name: values[0] for name, values in components.items()}
    return ml_collections.ConfigDict(
        {"mixture": tuple(components), "shares": shares, "weights": weights, **inner}
    )


def phases(**components: tuple) -> ml_collections.ConfigDict:
    """The objective section of phases: NAME=(section, share of the run it ends at)."""
    ends = tuple(float(end) for _, end in components.values())
    inner = {name: section for name, (section, _) in components.items()}
    return ml_collections.ConfigDict(
        {"phases": tuple(components), "ends": ends, **inner}
    )


def finetune(**overrides) -> dict:
    """How a run is fine-tuned: every field; the values are for small classification tasks."""
    settings = {
        "style": "head",  # or 'text_to_text', 'text_to_text_free'
        "readout": "auto",  # 'cls' for an encoder, 'last' else; or 'mean'
        "batch_size": 32,
        "eval_batch_size": 128,
        "num_epochs": 5,
        "max_length": 64,
        "bucket_lengths": (16, 32),
        "learning_rate": 1e-3,
        "schedule": "linear",
        "warmup_fraction": 0.1,
        "final_fraction": 0.0,
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-6,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "layer_decay": 1.0,
        "frozen_layers": 0,
        "reinit_layers": 0,
        "dropout_rate": 0.1,  # None = as pretrained
        "selection": "last",
        "selection_metric": "accuracy",
        "patience": 0,
        "unit_scores": False,
        "z_loss": 0.0,  # of answers that a model writes, style = 'text_to_text'
        "min_answer_length": 8,  # room for an answer of so many tokens
    }
    return {**settings, **overrides}
