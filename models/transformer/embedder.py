"""Embeddings of tokens, positions and token types."""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from models.dropout import DropoutRngs, dropout
from models.inputs import ModelInputs
from models.layers import Linear, Norm, normal_param
from models.transformer.config import TransformerConfig
from models.transformer.positions import check_length, sinusoidal


class Embedder(nnx.Module):
    """Sum of token, position and token type embeddings, normed and projected to D."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        dim = config.table_dim
        num_positions = config.position_offset + config.max_seq_len

        def table(rows: int) -> nnx.Param:
            return normal_param(config, (rows, dim), config.init_stddev, rngs)

        learned = config.position == "learned"
        self.position_embedding = table(num_positions) if learned else None
        types = config.num_token_types
        self.token_type_embedding = table(types) if types else None
        self.norm = Norm(config, dim) if config.embedding_norm else None
        factorised = dim != config.emb_dim
        self.projection = (
            Linear(config, dim, config.emb_dim, rngs) if factorised else None
        )
        self.config = config

    def __call__(
        self,
        token_embedding: Float[Array, "V E"],
        inputs: ModelInputs,
        *,
        rngs: DropoutRngs | None = None,
    ) -> Float[Array, "B L D"]:
        """Embeds tokens; `token_embedding` may be shared with the other side."""
        config = self.config
        dtype = config.compute_dtype
        check_length(inputs.tokens.shape[1], config)
        x = token_embedding[inputs.tokens].astype(dtype)
        if config.scale_embeddings:
            x = x * jnp.asarray(math.sqrt(config.emb_dim), dtype)
        if self.position_embedding is not None:
            rows = inputs.positions + config.position_offset
            x = x + self.position_embedding[...][rows].astype(dtype)
        elif config.position == "sinusoidal":
            x = x + sinusoidal(inputs.positions, config.table_dim).astype(dtype)
        if self.token_type_embedding is not None:
            types = inputs.token_type_ids
            if types is None:
                types = jnp.zeros_like(inputs.tokens)
            x = x + self.token_type_embedding[...][types].astype(dtype)
        if self.norm is not None:
            x = self.norm(x)
        x = dropout(x, config.dropout_rate, rngs)
        return x if self.projection is None else self.projection(x)
