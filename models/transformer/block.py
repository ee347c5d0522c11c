"""The Transformer block, the same for every architecture."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from models.dropout import DropoutRngs, dropout, fold
from models.layers import ACTIVATIONS, Linear, Norm, kernel_stddev, positions_at
from models.pytree import pytree
from models.transformer.attention import Attention, RopeTables
from models.transformer.cache import LayerCache
from models.transformer.config import TransformerConfig
from models.transformer.masks import SegmentMask

# Dropout sites of a block.
_WEIGHTS, _ATTENTION, _CROSS_WEIGHTS, _CROSS_ATTENTION, _HIDDEN, _MLP = range(6)


@pytree
class Context:
    """The inputs of a block beside the hidden states, the same for all blocks of a stack.

    Attributes:
      mask: who attends to whom in self-attention.
      bias: added to self-attention's scores.
      rope: rotary tables of the queries and keys.
      encoded: the encoder's output; None without one, or when a cache holds its keys.
      cross_mask: who attends to whom in cross-attention.
      index: the first free slot of the cache; None without one.
      segments: the mask as segment ids, for fused kernels; None where the mask says
        more than those.
      at: the positions that the block gives; None = all. Mask, bias and cross_mask
        are those of the Q queries: all T positions, or these K.
    """

    mask: Bool[Array, "#B 1 #Q S"]
    bias: Float[Array, "#B N Q S"] | None = None
    rope: RopeTables | None = None
    encoded: Float[Array, "B E D"] | None = None
    cross_mask: Bool[Array, "#B 1 #Q E"] | None = None
    index: Int[Array, ""] | None = None
    segments: SegmentMask | None = None
    at: Int[Array, "B K"] | None = None

    def only(self, at: Int[Array, "B K"]) -> Context:
        """The context of a block that computes only the positions `at`."""
        return dataclasses.replace(
            self,
            mask=_queries_at(self.mask, at),
            segments=None,
            bias=None if self.bias is None else _queries_at(self.bias, at),
            cross_mask=(
                None if self.cross_mask is None else _queries_at(self.cross_mask, at)
            ),
            at=at,
        )

    @property
    def query_rope(self) -> RopeTables | None:
        """Rotary tables of the queries."""
        if self.rope is None:
            return None
        cosine, sine = (positions_at(table, self.at) for table in self.rope)
        return cosine, sine


class MLP(nnx.Module):
    """down(activation(up(x))), or down(activation(gate(x)) * up(x))."""

    def __init__(
        self, config: TransformerConfig, *, output_stddev: float, rngs: nnx.Rngs
    ):
        dim, width = config.emb_dim, config.mlp_dim
        self.gate = Linear(config, dim, width, rngs) if config.gated_mlp else None
        self.up = Linear(config, dim, width, rngs)
        self.down = Linear(config, width, dim, rngs, stddev=output_stddev)
        self.config = config

    def __call__(
        self, x: Float[Array, "B L D"], *, rngs: DropoutRngs | None
    ) -> Float[Array, "B L D"]:
        activation = ACTIVATIONS[self.config.activation]
        if self.gate is None:
            hidden = activation(self.up(x))
        else:
            hidden = activation(self.gate(x)) * self.up(x)
        return self.down(dropout(hidden, self.config.mlp_dropout_rate, rngs))


class Block(nnx.Module):
    """Self-attention, cross-attention if there is an encoder, and an MLP."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        cross_attention: bool,
        num_layers: int,
        rngs: nnx.Rngs,
        has_normed_input: bool = False,
    ):
        dim = config.emb_dim
        attention_stddev = _output_stddev(
            config, config.num_heads * config.dim_per_head, num_layers
        )
        mlp_stddev = _output_stddev(config, config.mlp_dim, num_layers)
        # A norm of what a norm has just given would do nothing.
        self.attention_norm = None if has_normed_input else Norm(config, dim)
        self.attention = Attention(config, output_stddev=attention_stddev, rngs=rngs)
        self.cross_attention_norm = Norm(config, dim) if cross_attention else None
        self.cross_attention = (
            Attention(config, output_stddev=attention_stddev, rngs=rngs)
            if cross_attention
            else None
        )
        self.mlp_norm = Norm(config, dim)
        self.mlp = MLP(config, output_stddev=mlp_stddev, rngs=rngs)
        self.config = config

    def __call__(
        self,
        hidden: Float[Array, "B T D"],
        context: Context,
        *,
        rngs: DropoutRngs | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[Float[Array, "B Q D"], LayerCache | None]:
        """The block's output [B, K, D] with `context.at`, and its cache with the new
        keys and values.
        """

        def self_attention(x):
            nonlocal cache
            query = self.attention.queries(
                positions_at(x, context.at), context.query_rope
            )
            key, value = self.attention.keys_values(x, context.rope)
            if cache is not None:
                cache = cache.append(key, value, context.index)
                return self.attention.to_cache(
                    query,
                    cache.keys,
                    cache.values,
                    mask=context.mask,
                    bias=context.bias,
                )
            return self.attention(
                query,
                key,
                value,
                mask=context.mask,
                bias=context.bias,
                segments=context.segments,
                rngs=fold(rngs, _WEIGHTS),
            )

        def cross_attention(x):
            query = self.cross_attention.queries(x, None)
            if cache is not None:
                return self.cross_attention.to_cache(
                    query,
                    cache.cross_keys,
                    cache.cross_values,
                    mask=context.cross_mask,
                    bias=None,
                )
            key, value = self.cross_attention.keys_values(context.encoded, None)
            return self.cross_attention(
                query,
                key,
                value,
                mask=context.cross_mask,
                bias=None,
                rngs=fold(rngs, _CROSS_WEIGHTS),
            )

        hidden = self._residual(
            hidden,
            self.attention_norm,
            self_attention,
            fold(rngs, _ATTENTION),
            at=context.at,
        )
        if self.cross_attention is not None:
            hidden = self._residual(
                hidden,
                self.cross_attention_norm,
                cross_attention,
                fold(rngs, _CROSS_ATTENTION),
            )
        hidden = self._residual(
            hidden,
            self.mlp_norm,
            lambda x: self.mlp(x, rngs=fold(rngs, _HIDDEN)),
            fold(rngs, _MLP),
        )
        return hidden, cache

    def _residual(self, hidden, norm, sublayer, rngs, at=None):
        rate = self.config.dropout_rate
        stream = positions_at(hidden, at)
        if self.config.norm_position == "pre":
            read = hidden if norm is None else norm(hidden)
            return stream + dropout(sublayer(read), rate, rngs)
        return norm(stream + dropout(sublayer(hidden), rate, rngs))


def _queries_at(pairs: Array, at: Int[Array, "B K"]) -> Array:
    """Rows `at` of [#B, #N, #T, S]: [B, #N, K, S], or as it is where T is 1."""
    if pairs.shape[2] == 1:
        return pairs
    if pairs.shape[0] == 1:
        # One table serves all rows: indexing it avoids a copy of it for every row.
        return jnp.moveaxis(pairs[0][:, at], 0, 1)
    return jnp.take_along_axis(pairs, at[:, None, :, None], axis=2)


def _output_stddev(config: TransformerConfig, fan_in: int, num_layers: int) -> float:
    """Of the kernels that write to the residual stream (GPT-2, section 2.3)."""
    stddev = kernel_stddev(config, fan_in)
    return stddev / math.sqrt(2 * num_layers) if config.init == "gpt2" else stddev
