"""Flash attention on TPUs by JAX's splash kernel, which never holds the weights.

Dao et al. 2022 (arXiv:2205.14135) for the method. The kernel skips what a causal mask
hides, reads packed documents from segment ids and shares key heads among query heads
without repeating them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jaxtyping import Array, Float

from models import sharding
from models.transformer.masks import SPLASH_BLOCK, SegmentMask

# Positions of a block, largest first. Every block of queries reads all keys again, so
# large blocks read less.
_BLOCKS = (512, 256, SPLASH_BLOCK)


def splash_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    segments: SegmentMask,
    *,
    scale: float,
) -> Float[Array, "B T N H"]:
    """softmax(query . key * scale) . value over the keys that `segments` shows.

    Elsewhere than on a TPU the kernel is interpreted: slow, the same numbers.
    """

    def attend(query, key, value, segment_ids):
        kernel = _kernel(query.shape[1], query.shape[2], causal=segments.causal)

        def of_row(query, key, value, ids):
            ids = splash_attention_kernel.SegmentIds(q=ids, kv=ids)
            return kernel(query, key, value, segment_ids=ids)

        by_head = [jnp.swapaxes(x, 1, 2) for x in (query, key, value)]
        return jnp.swapaxes(jax.vmap(of_row)(*by_head, segment_ids), 1, 2)

    query = query * jnp.asarray(scale, query.dtype)
    return sharding.current().on_each_device(attend)(query, key, value, segments.ids)


def _kernel(length: int, num_heads: int, *, causal: bool):
    block = next(size for size in _BLOCKS if length % size == 0)
    kind = (
        splash_attention_mask.CausalMask if causal else splash_attention_mask.FullMask
    )
    return splash_attention_kernel.make_splash_mha_single_device(
        mask=splash_attention_mask.MultiHeadMask([kind((length, length))] * num_heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        interpret=jax.default_backend() != "tpu",
    )
