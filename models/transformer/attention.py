"""Multi-head attention: projections to heads, attention, projection back."""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Bool, Float

from models.dropout import DropoutRngs
from models.layers import Linear, kernel_stddev
from models.transformer.attend import attend, attend_to_cache
from models.transformer.config import TransformerConfig
from models.transformer.masks import SegmentMask
from models.transformer.positions import rotate

RopeTables = tuple[Float[Array, "B T 1 h"], Float[Array, "B T 1 h"]]


class Attention(nnx.Module):
    """Multi-head attention.

    Kernels: query [D, N*H], key and value [D, K*H], out [N*H, D]; heads are the major
    axis of the joint one, so that sharding it over a divisor of K keeps heads whole.
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
        self.query = Linear(config, dim, width, rngs, stddev=query_stddev)
        self.key = Linear(config, dim, kv_width, rngs)
        self.value = Linear(config, dim, kv_width, rngs)
        self.out = Linear(config, width, dim, rngs, stddev=output_stddev)
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
        segments: SegmentMask | None = None,
    ) -> Float[Array, "B T D"]:
        """Attends and projects back to the width of the residual stream."""
        attended = attend(
            query,
            key,
            value,
            mask=mask,
            bias=bias,
            segments=segments,
            scale=self.config.score_scale,
            dropout_rate=self.config.attention_dropout_rate,
            rngs=rngs,
            configured=self.config.attention,
        )
        return self.out(attended.reshape(*query.shape[:2], -1))

    def to_cache(
        self,
        query: Float[Array, "B T N H"],
        keys: Float[Array, "B K S H"],
        values: Float[Array, "B K S H"],
        *,
        mask: Bool[Array, "#B 1 #T S"],
        bias: Float[Array, "#B N T S"] | None,
    ) -> Float[Array, "B T D"]:
        """Attends to the keys and values of a cache, without dropout."""
        scale = self.config.score_scale
        attended = attend_to_cache(
            query, keys, values, mask=mask, bias=bias, scale=scale
        )
        return self.out(attended.reshape(*query.shape[:2], -1))
