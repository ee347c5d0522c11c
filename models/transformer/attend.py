"""Attention: the choice of its kernel, and the explicit implementation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from models import platform, sharding
from models.dropout import DropoutRngs, keep_mask
from models.layers import laid_out
from models.transformer.masks import SPLASH_BLOCK, SegmentMask


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
    configured: str,
    segments: SegmentMask | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(query . key * scale + bias) . value, where the mask is True.

    Args:
      query: N heads.
      key, value: K heads, each shared by N / K query heads and never repeated.
      mask: True = may attend. A row without any True attends evenly; only padding
        has such rows.
      bias: added to the scaled products.
      scale: factor on the products.
      dropout_rate: on the weights.
      rngs: seeds of the dropout; None = deterministic.
      configured: which implementation, as `implementation` takes it.
      segments: what the mask amounts to, if that is segments and order alone.
    """
    if rngs is None or dropout_rate == 0.0:
        rngs, dropout_rate = None, 0.0
    kernel = implementation(
        configured,
        query_shape=query.shape,
        key_length=key.shape[1],
        dtype=query.dtype,
        drops_weights=rngs is not None,
        segments_suffice=segments is not None and bias is None,
    )
    if kernel in FUSED and platform.is_planned():
        return _like_a_fused_kernel(query, key, value, scale)
    if kernel == "explicit":
        return _explicit(query, key, value, mask, bias, rngs, scale, dropout_rate)
    if kernel == "splash":
        # Pallas takes a moment to import, and only TPUs need it.
        from models.transformer import splash

        assert segments is not None, "splash serves segments alone"
        return splash.splash_attention(query, key, value, segments, scale=scale)
    if bias is not None:
        bias = bias.astype(query.dtype if kernel == "cudnn" else jnp.float32)
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        bias,
        mask,
        scale=scale,
        implementation="cudnn" if kernel == "cudnn" else "xla",
    )


def implementation(
    configured: str,
    *,
    query_shape: tuple[int, ...],
    key_length: int,
    dtype: jnp.dtype,
    drops_weights: bool,
    segments_suffice: bool,
) -> str:
    """The kernel that serves: 'explicit', 'xla', 'cudnn' or 'splash'.

    'explicit' is `explicit_attention`, the only one with dropout of the weights and the
    fastest on CPUs; 'xla' and 'cudnn' are those of `jax.nn.dot_product_attention`;
    'splash' is the TPU's flash attention. The fused ones, cuDNN's and splash, never
    hold the weights [B, N, T, S].

    Args:
      configured: one of these, or 'auto' for the fastest that the platform has.
      query_shape: [B, T, N, H].
      key_length: S.
      dtype: of query, key and value.
      drops_weights: whether there is dropout of the weights.
      segments_suffice: whether segments and order say who attends to whom, and nothing
        is added to the products: all that splash can read.
    """
    _, length, _, head_dim = query_shape
    on_planned_cpu = platform.is_planned() and platform.current() == "cpu"
    if drops_weights or (on_planned_cpu and configured in FUSED):
        return "explicit"
    if configured == "auto":
        # Odd lengths are single queries of cached decoding, and lengths that cuDNN's
        # backward pass refuses.
        cudnn_serves = (
            _has_flash()
            and dtype in (jnp.bfloat16, jnp.float16)
            and head_dim % 8 == 0
            and head_dim <= 128
            and length % 2 == 0
            and key_length % 2 == 0
        )
        gpu = "cudnn" if cudnn_serves else "xla"
        kernels = {"cpu": "explicit", "gpu": gpu, "tpu": "splash"}
        configured = kernels.get(platform.current(), "xla")
    if configured == "splash":
        cuts_evenly = key_length == length and length % SPLASH_BLOCK == 0
        return "splash" if segments_suffice and cuts_evenly else "xla"
    return configured


# Kernels that never hold the attention weights.
FUSED = ("cudnn", "splash")


def _has_flash() -> bool:
    """Whether cuDNN's flash attention runs on the GPU: NVIDIA's, Ampere or later."""
    if platform.is_planned():
        return True
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    try:
        return float(capability) >= 8.0
    except ValueError:  # AMD names its architectures, as in 'gfx90a'; CPUs have none.
        return False


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _like_a_fused_kernel(query, key, value, scale):
    """Has the products of a fused kernel, and keeps what it keeps; for plans.

    Fused kernels cannot be traced where their platform is missing.
    """
    return explicit_attention(query, key, value, None, None, None, scale, 0.0)


def _like_a_fused_kernel_fwd(query, key, value, scale):
    attended = _like_a_fused_kernel(query, key, value, scale)
    batch, length, heads, _ = query.shape
    log_sums = jnp.zeros((batch, heads, length), jnp.float32)
    return attended, (query, key, value, attended, log_sums)


def _like_a_fused_kernel_bwd(scale, residuals, grad):
    del scale, grad
    return tuple(jnp.zeros_like(x) for x in residuals[:3])


_like_a_fused_kernel.defvjp(_like_a_fused_kernel_fwd, _like_a_fused_kernel_bwd)


# Multiply-adds of one of attention's products from which two halves are faster.
_WORTH_HALVING = 2**23


def _explicit(query, key, value, mask, bias, rngs, scale, dropout_rate):
    """`explicit_attention`, on one CPU as two halves of the rows.

    XLA computes a batch of small products on one core; two batches that do not depend
    on each other run on two cores: 3% of a step of masked LM, 1 to 3% of causal LM.
    """
    num_rows = query.shape[0]
    whole = (
        platform.current() != "cpu"
        or not sharding.on_one_device()
        or num_rows < 2
        or query.size * key.shape[1] < _WORTH_HALVING
    )
    if whole:
        return explicit_attention(
            query, key, value, mask, bias, rngs, scale, dropout_rate
        )

    def attended(rows: slice) -> Array:
        def own(pairs: Array | None) -> Array | None:
            return pairs if pairs is None or pairs.shape[0] == 1 else pairs[rows]

        return explicit_attention(
            query[rows],
            key[rows],
            value[rows],
            own(mask),
            own(bias),
            None if rngs is None else rngs.of(rows),
            scale,
            dropout_rate,
        )

    half = num_rows // 2
    return jnp.concatenate([attended(slice(half)), attended(slice(half, None))])


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def explicit_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Bool[Array, "#B 1 #T S"] | None,
    bias: Float[Array, "#B N T S"] | None,
    rngs: DropoutRngs | None,
    scale: float,
    dropout_rate: float,
) -> Float[Array, "B T N H"]:
    """Attention as two batched products with a float32 softmax between them.

    Its backward pass is written out: every product reads both operands along their
    rows, the softmax needs no second reduction over the keys (Dao et al. 2022,
    appendix B: the sum of weight times slope is output times gradient), and dropout's
    mask is drawn again instead of stored.
    """
    return _forward(query, key, value, mask, bias, rngs, scale, dropout_rate)[0]


def _forward(query, key, value, mask, bias, rngs, scale, dropout_rate):
    keys, values = jnp.transpose(key, _BNTH), jnp.transpose(value, _BNTH)
    weights = _weights(query, keys, mask, bias, scale)
    dropped = _by_group(_dropped(weights, rngs, dropout_rate), keys.shape[1])
    attended = jnp.einsum("bkts,bksh->bkth", dropped, values)
    residuals = (query, keys, values, weights, attended, bias, rngs)
    return _ungrouped(attended, query.shape), residuals


def attend_to_cache(
    query: Float[Array, "B T N H"],
    keys: Float[Array, "B K S H"],
    values: Float[Array, "B K S H"],
    *,
    mask: Bool[Array, "#B 1 #T S"],
    bias: Float[Array, "#B N T S"] | None,
    scale: float,
) -> Float[Array, "B T N H"]:
    """`attend` for decoding, with keys and values in the layout of the cache.

    With few queries and many keys, transposing the keys would cost more than the
    products.
    """
    weights = _by_group(_weights(query, keys, mask, bias, scale), keys.shape[1])
    attended = jnp.einsum("bkts,bksh->bkth", weights, values)
    return _ungrouped(attended, query.shape)


def _weights(query, keys, mask, bias, scale) -> Float[Array, "B N T S"]:
    """Attention weights in the keys' dtype, after a float32 softmax."""
    num_groups = keys.shape[1]
    # [B, K, G * T, H]: the G query heads of a key head are more queries to it.
    queries = jnp.transpose(_grouped(query * _like(scale, query), num_groups), _BKGTH)
    queries = queries.reshape(*queries.shape[:2], -1, queries.shape[-1])
    scores = jnp.einsum(
        "bkth,bksh->bkts", queries, keys, preferred_element_type=jnp.float32
    )
    scores = scores.reshape(query.shape[0], query.shape[2], -1, keys.shape[2])
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        # Finite, so that a row without any key has finite weights and slopes.
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min / 2)
    return jax.nn.softmax(scores, axis=-1).astype(keys.dtype)


def _backward(scale, dropout_rate, residuals, grad):
    query, keys, values, weights, attended, bias, rngs = residuals
    num_groups = keys.shape[1]
    grads = jnp.transpose(_grouped(grad, num_groups), _BKGTH).reshape(attended.shape)
    slope = jnp.einsum(
        "bkth,bksh->bkts", grads, values, preferred_element_type=jnp.float32
    ).reshape(weights.shape)
    slope = _dropped(slope, rngs, dropout_rate)
    shift = (grads.astype(jnp.float32) * attended.astype(jnp.float32)).sum(-1)
    shift = shift.reshape(*weights.shape[:3], 1)
    scores_grad = weights.astype(jnp.float32) * (slope - shift)
    bias_grad = None
    if bias is not None:
        axes = tuple(i for i in range(4) if bias.shape[i] != scores_grad.shape[i])
        bias_grad = scores_grad.sum(axes, keepdims=True).astype(bias.dtype)
    scores_grad = _by_group(scores_grad.astype(query.dtype), num_groups)
    query_grad = jnp.einsum("bkts,bksh->bkth", scores_grad, keys)
    query_grad = _ungrouped(query_grad, query.shape) * _like(scale, query)

    # Gradients of keys and values are computed as [H, S] from factors transposed to
    # [H, T], so that both operands of the product are read along their rows.
    def transposed(x):
        x = jnp.transpose(_grouped(x, num_groups), (0, 2, 4, 3, 1))
        return laid_out(x.reshape(*x.shape[:3], -1))

    def over_queries(factor, per_pair):
        product = jnp.einsum("bkht,bkts->bkhs", transposed(factor), per_pair)
        return jnp.transpose(laid_out(product), (0, 3, 1, 2))

    dropped = _by_group(_dropped(weights, rngs, dropout_rate), num_groups)
    value_grad = over_queries(grad, dropped)
    key_grad = over_queries(query * _like(scale, query), scores_grad)
    return query_grad, key_grad, value_grad, None, bias_grad, None


explicit_attention.defvjp(_forward, _backward)

_BNTH = (0, 2, 1, 3)
_BKGTH = (0, 2, 3, 1, 4)


def _like(scale: float, x: Array) -> Array:
    return jnp.asarray(scale, x.dtype)


def _grouped(x: Array, num_groups: int) -> Array:
    """[B, T, N, H] to [B, T, K, G, H]."""
    return x.reshape(*x.shape[:2], num_groups, -1, x.shape[-1])


def _by_group(pairs: Array, num_groups: int) -> Array:
    """[B, N, T, S] to [B, K, G * T, S]."""
    return pairs.reshape(pairs.shape[0], num_groups, -1, pairs.shape[-1])


def _ungrouped(x: Array, shape: tuple[int, ...]) -> Array:
    """[B, K, G * T, H] to [B, T, N, H]."""
    batch, queries, heads, dim = shape
    return jnp.transpose(x.reshape(batch, heads, queries, dim), _BNTH)


def _dropped(pairs: Array, rngs: DropoutRngs | None, rate: float) -> Array:
    if rngs is None:
        return pairs
    keep = keep_mask(rngs, pairs.shape, rate)
    return jnp.where(keep, pairs * _like(1.0 / (1.0 - rate), pairs), 0)
