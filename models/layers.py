"""Linear layers, norms and activations of blocks and heads."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from models import sharding
from models.backbone import BackboneConfig

# Name of the outputs of linear layers, which the remat policy 'dots' keeps: the product
# itself is hidden inside the custom gradient of `matmul`.
PRODUCT = "linear_product"

# Abramowitz and Stegun 1964, 7.1.26: erfc(z) is t * polynomial(t) * exp(-z^2) up to
# 1.5e-7, with t = 1 / (1 + 0.3275911 z), lowest power first.
_ERFC_SCALE = 0.3275911
_ERFC_POLYNOMIAL = (
    0.254829592,
    -0.284496736,
    1.421413741,
    -1.453152027,
    1.061405429,
)


def _normal_cdf(x: Array) -> tuple[Array, Array]:
    """P(X <= x) of a standard normal X in float32, and exp(-x^2 / 2)."""
    exponential = jnp.exp(-0.5 * jnp.square(x))
    t = 1.0 / (1.0 + _ERFC_SCALE * math.sqrt(0.5) * jnp.abs(x))
    polynomial = jnp.full_like(t, _ERFC_POLYNOMIAL[-1])
    for coefficient in _ERFC_POLYNOMIAL[-2::-1]:
        polynomial = polynomial * t + coefficient
    tail = 0.5 * t * polynomial * exponential
    return jnp.where(x >= 0, 1.0 - tail, tail), exponential


@jax.custom_vjp
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x * P(X <= x), the exact GELU (Hendrycks and Gimpel 2016), to float32.

    The same exponential serves the function and its slope, which takes two thirds of
    the time of an error function and its derivative on CPUs.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)[0]).astype(x.dtype)


def _gelu_fwd(x):
    return gelu(x), x


def _gelu_bwd(x, grad):
    wide = x.astype(jnp.float32)
    cdf, exponential = _normal_cdf(wide)
    slope = cdf + wide * exponential / math.sqrt(2 * math.pi)
    return ((grad * slope).astype(x.dtype),)


gelu.defvjp(_gelu_fwd, _gelu_bwd)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}


def matmul(
    x: Float[Array, "*batch I"], kernel: Float[Array, "I O"]
) -> Float[Array, "*batch O"]:
    """x @ kernel, with both gradients as matrix products over flattened rows.

    The transposes that autodiff derives for a batched product keep the batch axes
    apart, which CPUs execute as many small products.
    """
    # Asked here: the backward pass is traced when nothing is placed any more.
    return _matmul(x, kernel, sharding.on_one_device())


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x, kernel, on_one_device):
    del on_one_device
    return (_rows(x) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _matmul_fwd(x, kernel, on_one_device):
    return _matmul(x, kernel, on_one_device), (x, kernel)


def _matmul_bwd(on_one_device, residuals, grad):
    x, kernel = residuals
    rows, grad_rows = _rows(x), _rows(grad)
    grad_x = jax.lax.dot_general(grad_rows, kernel, (((1,), (1,)), ((), ())))
    # Both factors lie with the contracted rows outermost, so one of them has to be
    # turned: the narrower one.
    if kernel.shape[0] > kernel.shape[1]:
        grad_kernel = laid_out(turned(grad_rows, on_one_device) @ rows).T
    else:
        grad_kernel = laid_out(rows.T) @ grad_rows
    return grad_x.reshape(x.shape), grad_kernel


_matmul.defvjp(_matmul_fwd, _matmul_bwd)


def _rows(x: Float[Array, "*batch I"]) -> Float[Array, "rows I"]:
    return x.reshape(-1, x.shape[-1])


def laid_out(x: Array) -> Array:
    """x itself; on CPUs written to memory in this layout before it is used.

    XLA folds a transpose into the product that follows, which reads it in strides:
    up to 40% slower on CPUs than turning the matrix first, and free elsewhere.
    """
    return jax.lax.platform_dependent(
        x, cpu=jax.lax.optimization_barrier, default=lambda x: x
    )


def turned(
    x: Float[Array, "rows cols"], on_one_device: bool
) -> Float[Array, "cols rows"]:
    """x.T, for an x that is the result of a chain of sums, as gradients of the stream.

    XLA fuses such a chain into the transpose and computes it a second time, along the
    columns. On one CPU a loop, into which XLA moves nothing, prevents that: 2% of a
    step. On a mesh the loop's slices would be exchanges between devices.
    """
    half = x.shape[1] // 2
    if x.shape[1] % 2 or not on_one_device:
        return laid_out(x.T)

    def by_halves(x):
        def turn(number, out):
            columns = jax.lax.dynamic_slice_in_dim(x, number * half, half, axis=1)
            return jax.lax.dynamic_update_slice_in_dim(
                out, columns.T, number * half, axis=0
            )

        return jax.lax.fori_loop(0, 2, turn, jnp.zeros_like(x, shape=x.shape[::-1]))

    return jax.lax.platform_dependent(x, cpu=by_halves, default=jnp.transpose)


class Linear(nnx.Module):
    """y = x @ kernel + bias; kernel [I, O], bias [O] or None.

    Args:
      config: dtypes, whether there is a bias, and the initial scale.
      in_dim: I.
      out_dim: O.
      rngs: source of the kernel's key.
      stddev: standard deviation of the initial kernel; None = as configured.
      use_bias: whether there is a bias, initially zero; None = as configured.
    """

    def __init__(
        self,
        config: BackboneConfig,
        in_dim: int,
        out_dim: int,
        rngs: nnx.Rngs,
        *,
        stddev: float | None = None,
        use_bias: bool | None = None,
    ):
        stddev = kernel_stddev(config, in_dim) if stddev is None else stddev
        use_bias = config.use_bias if use_bias is None else use_bias
        self.kernel = normal_param(config, (in_dim, out_dim), stddev, rngs)
        bias = jnp.zeros(out_dim, config.param_dtype)
        self.bias = nnx.Param(bias) if use_bias else None
        self.dtype = config.dtype

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        y = matmul(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        y = checkpoint_name(y, PRODUCT)
        if self.bias is None:
            return y
        bias = self.bias[...].astype(self.dtype)
        return y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)


def kernel_stddev(config: BackboneConfig, fan_in: int) -> float:
    """Standard deviation of an initial kernel: fan_in^-0.5 times a factor for T5."""
    if config.init == "t5":
        return config.init_stddev * fan_in**-0.5
    return config.init_stddev


class Norm(nnx.Module):
    """The configured norm over the last axis, computed in float32.

    'rmsnorm' is x / sqrt(mean(x^2) + epsilon) * scale (Zhang and Sennrich 2019);
    'layernorm' does the same to x - mean(x), and adds a bias if there are biases.
    """

    def __init__(self, config: BackboneConfig, dim: int):
        self.centres = config.norm == "layernorm"
        has_bias = self.centres and config.use_bias
        self.scale = nnx.Param(jnp.ones(dim, config.param_dtype))
        bias = jnp.zeros(dim, config.param_dtype)
        self.bias = nnx.Param(bias) if has_bias else None
        self.epsilon = config.norm_epsilon
        self.dtype = config.dtype

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        x = x.astype(jnp.float32)
        if self.centres:
            x = x - x.mean(-1, keepdims=True)
        mean_square = jnp.square(x).mean(-1, keepdims=True)
        y = x * jax.lax.rsqrt(mean_square + self.epsilon)
        y = y * _broadcast(self.scale, x.ndim)
        if self.bias is not None:
            y = y + _broadcast(self.bias, x.ndim)
        return y.astype(self.dtype)


def _broadcast(param: nnx.Param, ndim: int) -> Float[Array, " ..."]:
    value = param[...].astype(jnp.float32)
    return value.reshape((1,) * (ndim - 1) + value.shape)


def normal_param(
    config: BackboneConfig, shape: tuple[int, ...], stddev: float, rngs: nnx.Rngs
) -> nnx.Param:
    """A table drawn from N(0, stddev)."""
    value = jax.random.normal(rngs.params(), shape, config.param_dtype)
    return nnx.Param(value * jnp.asarray(stddev, config.param_dtype))


def positions_at(
    x: Float[Array, "B T ..."], at: Int[Array, "B K"] | None
) -> Float[Array, "B ..."]:
    """The positions `at` of each row, [B, K, ...]; None = all."""
    if at is None:
        return x
    return jnp.take_along_axis(x, at.reshape(*at.shape, *[1] * (x.ndim - 2)), axis=1)
