"""Multi-head attention with grouped keys, biases, dropout and a cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from models.config import TransformerConfig
from models.dropout import DropoutRngs, dropout
from models.layers import Linear, kernel_stddev, make_linear
from models.positions import rotate

RopeTables = tuple[Float[Array, "B T 1 h"], Float[Array, "B T 1 h"]]


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    *,
    mask: Bool[Array, "#B 1 #T S"] | None,
    bias: Float[Array, "#B N T S"] | None,
    scale: float,
    dropout_rate: float,
    rngs: DropoutRngs | None,
    implementation: str,
) -> Float[Array, "B T N H"]:
    """softmax(query . key * scale + bias) . value, where the mask is True.

    Args:
      query: N heads.
      key, value: K heads, each shared by N / K query heads and never repeated.
      mask: True = may attend. A row without any True attends evenly, to no harm: it
        belongs to padding.
      bias: added to the scaled products.
      scale: factor on the products.
      dropout_rate: on the weights; needs the explicit path.
      rngs: seeds of the dropout; None = deterministic.
      implementation: 'auto', 'xla' or 'cudnn'.
    """
    if rngs is not None and dropout_rate > 0.0:
        return _attend_with_dropout(
            query, key, value, mask, bias, scale, dropout_rate, rngs
        )
    if implementation == "auto":
        implementation = "cudnn" if _cudnn_serves(query, key) else "xla"
    if bias is not None:
        bias = bias.astype(query.dtype if implementation == "cudnn" else jnp.float32)
    return jax.nn.dot_product_attention(
        query, key, value, bias, mask, scale=scale, implementation=implementation
    )


def _cudnn_serves(query: Array, key: Array) -> bool:
    """Whether cuDNN's flash attention takes these arrays."""
    head_dim = query.shape[-1]
    return (
        jax.default_backend() == "gpu"
        and query.dtype in (jnp.bfloat16, jnp.float16)
        and head_dim % 8 == 0
        and head_dim <= 128
        # Single queries of cached decoding, and lengths its backward pass refuses.
        and query.shape[1] % 2 == 0
        and key.shape[1] % 2 == 0
    )


def _attend_with_dropout(query, key, value, mask, bias, scale, rate, rngs):
    batch, queries, heads, dim = query.shape
    groups = key.shape[2]
    query = query.reshape(batch, queries, groups, heads // groups, dim)
    scores = jnp.einsum(
        "btkgh,bskh->bkgts", query, key, preferred_element_type=jnp.float32
    )
    scores = scores.reshape(batch, heads, *scores.shape[3:]) * scale
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min / 2)
    weights = dropout(jax.nn.softmax(scores, axis=-1), rate, rngs).astype(value.dtype)
    weights = weights.reshape(batch, groups, heads // groups, *weights.shape[2:])
    attended = jnp.einsum("bkgts,bskh->btkgh", weights, value)
    return attended.reshape(batch, queries, heads, dim)


class Attention(nnx.Module):
    """Projections of multi-head attention.

    Kernels: query [D, N*H], key and value [D, K*H], out [N*H, D]; heads are the major
    part of the joint axis, so that sharding it over a divisor of K keeps heads whole.
    """

    def __init__(
        self, config: TransformerConfig, *, output_stddev: float, rngs: nnx.Rngs
    ):
        dim = config.emb_dim
        width = config.num_heads * config.dim_per_head
        kv_width = config.kv_heads * config.dim_per_head
        query_stddev = kernel_stddev(config, dim)
        if config.init == "t5":
            # T5 does not scale its scores; the query's kernel begins scaled instead.
            query_stddev *= config.dim_per_head**-0.5
        self.query = make_linear(config, dim, width, rngs, stddev=query_stddev)
        self.key = make_linear(config, dim, kv_width, rngs)
        self.value = make_linear(config, dim, kv_width, rngs)
        self.out = make_linear(config, width, dim, rngs, stddev=output_stddev)
        self.config = config

    def queries(
        self, x: Float[Array, "B T D"], rope: RopeTables | None
    ) -> Float[Array, "B T N H"]:
        """Query heads, rotated if there are rotary tables."""
        return self._heads(self.query, x, rope)

    def keys_values(
        self, x: Float[Array, "B S D"], rope: RopeTables | None
    ) -> tuple[Float[Array, "B S K H"], Float[Array, "B S K H"]]:
        """Key heads, rotated if there are rotary tables, and value heads."""
        return self._heads(self.key, x, rope), self._heads(self.value, x, None)

    def _heads(self, linear: Linear, x: Array, rope: RopeTables | None) -> Array:
        heads = linear(x).reshape(*x.shape[:2], -1, self.config.dim_per_head)
        return heads if rope is None else rotate(heads, rope)

    def __call__(
        self,
        query: Float[Array, "B T N H"],
        key: Float[Array, "B S K H"],
        value: Float[Array, "B S K H"],
        *,
        mask: Bool[Array, "#B 1 #T S"] | None,
        bias: Float[Array, "#B N T S"] | None,
        rngs: DropoutRngs | None,
    ) -> Float[Array, "B T D"]:
        """Attends and projects back to the width of the residual stream."""
        attended = attend(
            query,
            key,
            value,
            mask=mask,
            bias=bias,
            scale=self.config.score_scale,
            dropout_rate=self.config.attention_dropout_rate,
            rngs=rngs,
            implementation=self.config.attention,
        )
        return self.out(attended.reshape(*query.shape[:2], -1))
