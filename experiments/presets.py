"""Sizes, paper presets and objectives' hyperparameters, as plain values.

A preset is expanded into an experiment's config before the config is saved, so a run
never depends on what a name means later.
"""

import ml_collections
from ml_collections.config_dict import placeholder

# The size ladder of Turc et al. 2019 (and BERT base and large), for all architectures.
SIZES = {
    "tiny": dict(num_layers=2, emb_dim=128, num_heads=2, mlp_dim=512),
    "mini": dict(num_layers=4, emb_dim=256, num_heads=4, mlp_dim=1024),
    "small": dict(num_layers=4, emb_dim=512, num_heads=8, mlp_dim=2048),
    "medium": dict(num_layers=8, emb_dim=512, num_heads=8, mlp_dim=2048),
    "base": dict(num_layers=12, emb_dim=768, num_heads=12, mlp_dim=3072),
    "large": dict(num_layers=24, emb_dim=1024, num_heads=16, mlp_dim=4096),
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
            "num_encoder_layers": placeholder(int),  # encoder_decoder; None = num_layers
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
            "attention": "auto",  # 'auto', 'xla', 'cudnn'
            "scan_layers": False,
            "remat": "none",  # 'none', 'full', 'dots'
        }
    )


def model(size: str, *, architecture: str, **overrides) -> ml_collections.ConfigDict:
    """A model of the size ladder: `size` in SIZES, `architecture` its role."""
    config = base_model()
    config.update(SIZES[size], architecture=architecture, **overrides)
    return config


# Hyperparameters of each objective, every field given.
OBJECTIVES = {
    "causal_lm": dict(
        loss_weight=1.0,
        isolate_documents=False,  # attention and positions restart at each document
        z_loss=0.0,
    ),
    "masked_lm": dict(
        loss_weight=1.0,
        noise_density=0.15,
        mask_prob=0.8,
        random_prob=0.1,
        replacement="uniform",  # or 'unigram'
        unit="token",  # what is selected: 'token', 'word', 'ngram' (of words)
        # 'exact' (BERT: rounded share), 'stochastic' (RoBERTa: floor(share + u)),
        # 'bernoulli' (independent draws)
        budget="exact",
        isolate_documents=False,
    ),
}


def objective(*names: str, **overrides) -> ml_collections.ConfigDict:
    """The objective section for one stage or several, composed left to right.

    `overrides` map a stage's name to the hyperparameters to change.
    """
    section = ml_collections.ConfigDict({"name": tuple(names)})
    for name in names:
        section[name] = {**OBJECTIVES[name], **overrides.get(name, {})}
    return section
