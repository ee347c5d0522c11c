"""A backbone of a few lines: each position is the average of what it may see.

It stands outside models/ and has a config class of its own, so tests that run on it show
that nothing else asks for a Transformer.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from ml_collections.config_dict import placeholder

from models.backbone import BackboneConfig
from models.dropout import dropout
from models.inputs import ModelInputs
from models.layers import Linear, normal_param
from models.pytree import pytree

NAME = "average"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AverageConfig(BackboneConfig):
    """`own_weight`: what a position's own embedding counts beside the average."""

    own_weight: float

    def __post_init__(self):
        super().__post_init__()
        self.check_choices({"architecture": ("encoder", "decoder"), "remat": ("none",)})
        self.check_positive("own_weight")


@pytree
class AverageCache:
    """Tokens and segments read so far [B, S], and the number of slots written."""

    tokens: jax.Array
    segments: jax.Array
    index: jax.Array

    def take(self, rows):
        """The cache of other rows."""
        return dataclasses.replace(
            self, tokens=self.tokens[rows], segments=self.segments[rows]
        )


class Average(nnx.Module):
    """linear(average of the visible embeddings + own_weight * own embedding)."""

    config_class: ClassVar[type[BackboneConfig]] = AverageConfig
    partition_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"token_embedding$", "V D"),
        (r"mix/kernel$", "D -"),
    )

    def __init__(self, config: AverageConfig, *, rngs: nnx.Rngs):
        assert config.vocab_size is not None
        shape = (config.vocab_size, config.emb_dim)
        self.token_embedding = normal_param(config, shape, config.init_stddev, rngs)
        self.mix = Linear(config, config.emb_dim, config.emb_dim, rngs)
        self.config = config

    @property
    def embedding(self):
        """The token embedding [V, D]."""
        return self.token_embedding[...]

    def __call__(self, inputs, *, at=None, deterministic=True, rngs=None):
        """Hidden states [B, L, D]."""
        columns = jnp.arange(inputs.tokens.shape[1])
        visible = _visible(inputs, inputs.segment_ids, columns, self.config)
        own = self.embedding[inputs.tokens].astype(self.config.dtype)
        hidden = self._mixed(visible, own, own)
        if not deterministic:
            hidden = dropout(hidden, self.config.dropout_rate, rngs)
        return hidden if at is None else jnp.take_along_axis(hidden, at[..., None], 1)

    def init_cache(self, batch_size, max_length, encoder=None):
        """An empty cache."""
        del encoder
        slots = jnp.zeros((batch_size, max_length), jnp.int32)
        return AverageCache(tokens=slots, segments=slots, index=jnp.int32(0))

    def decode_step(self, inputs, cache):
        """Hidden states of the next tokens, and the cache with them."""
        write, index = jax.lax.dynamic_update_slice, cache.index
        tokens = write(cache.tokens, inputs.tokens, (0, index))
        segments = write(cache.segments, inputs.segment_ids, (0, index))
        index = index + inputs.tokens.shape[1]
        columns = cache.index + jnp.arange(inputs.tokens.shape[1])
        visible = _visible(inputs, segments, columns, self.config)
        embedding = self.embedding.astype(self.config.dtype)
        hidden = self._mixed(visible, embedding[tokens], embedding[inputs.tokens])
        return hidden, AverageCache(tokens=tokens, segments=segments, index=index)

    def _mixed(self, visible, values, own):
        total = jnp.einsum("bts,bsd->btd", visible.astype(values.dtype), values)
        count = jnp.maximum(visible.sum(-1, keepdims=True), 1).astype(values.dtype)
        return self.mix(total / count + self.config.own_weight * own)


def _visible(inputs: ModelInputs, segments, columns, config) -> jax.Array:
    """[B, T, S]: which of the keys each query averages."""
    visible = inputs.segment_ids[:, :, None] == segments[:, None, :]
    if config.architecture == "encoder" or inputs.reads == "both":
        return visible
    order = columns[:, None] >= jnp.arange(segments.shape[1])[None]
    return visible & order[None]


def section(architecture: str = "encoder", **changes) -> ml_collections.ConfigDict:
    """The model section of an experiment."""
    values = {
        "backbone": NAME,
        "architecture": architecture,
        "vocab_size": placeholder(int),
        "emb_dim": 32,
        "norm": "layernorm",
        "norm_epsilon": 1e-6,
        "activation": "gelu",
        "use_bias": True,
        "logit_scale": 1.0,
        "tie_embeddings": True,
        "num_token_types": 0,
        "dropout_rate": 0.0,
        "init": "normal",
        "init_stddev": 0.1,
        "dtype": "float32",
        "param_dtype": "float32",
        "remat": "none",
        "own_weight": 0.5,
    }
    return ml_collections.ConfigDict({**values, **changes})
