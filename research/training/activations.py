"""What the forward pass keeps for the backward pass, counted from an abstract trace.

JAX hands residuals from the forward to the backward pass as arrays. Their shapes are
known without computing anything, for every objective, backbone and remat policy, so no
formula has to follow the code. XLA then fuses, reorders and reuses buffers, so the
count is an estimate: tests hold it against what XLA allocates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from models.dropout import DropoutRngs
from objectives import cross_entropy
from objectives.base import Objective
from objectives.types import Example
from research.training import flops, state
from research.training.state import Modules

# Rows of the two traces whose difference is the cost of a row: even, for objectives that
# pair rows, and no number of heads, by which axes are told apart.
_FEW, _MORE = 34, 38
# Float32 arrays of the size of a chunk of logits that are alive at a time.
_LOGITS_ALIVE = 2

Line = tuple[float, float]  # Bytes for each row, and constant ones.
# How much of an array of this shape a device holds, and at all.
Share = Callable[[tuple[int, ...]], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes on one device as linear functions of its rows: (per row, constant).

    Attributes:
      saved: kept from the forward to the backward pass under the remat policy.
      block: what the backward pass of one block needs beside it, its gradients or
        what it computes again.
      logit_elements: logits of a row, of all terms together.
      max_logits: logits that are alive at a time, at most.
    """

    saved: Line
    block: Line
    logit_elements: int
    max_logits: int

    def saved_bytes(self, rows: int) -> float:
        """Kept for the backward pass, for so many rows at a time."""
        return self.saved[0] * rows + self.saved[1]

    def working_bytes(self, rows: int) -> float:
        """Alive only for a moment: a chunk of logits, then one block's backward pass."""
        logits = min(self.logit_elements * rows, self.max_logits)
        return max(self.block[0] * rows + self.block[1], 4 * _LOGITS_ALIVE * logits)


def count(
    config: Any,
    objective: Objective,
    *,
    platform: str,
    num_row_shards: int,
    tensor: int,
) -> Activations:
    """Activations of a model on a device of a mesh.

    Args:
      config: with the vocabulary's size.
      objective: over the vocabulary.
      platform: 'gpu', 'tpu' or 'cpu': what attention keeps depends on it.
      num_row_shards: devices that rows are split over.
      tensor: devices that heads and feed-forward features are split over.
    """
    share = _share(config, tensor, keeps_weights(config, objective, platform))

    def line(remat: str, **changes: Any) -> Line:
        # Scanned layers are traced once, not one by one.
        settings: dict[str, Any] = {"scan_layers": True, "remat": remat} | changes
        traced = dataclasses.replace(config, attention="explicit", **settings)
        modules = state.create_modules(traced, objective)
        few, more = (
            residual_bytes(objective, modules, rows, share) for rows in (_FEW, _MORE)
        )
        per_row = (more - few) / (_MORE - _FEW)
        return per_row, few - per_row * _FEW

    lines = {remat: line(remat) for remat in {"none", "full", config.remat}}
    layers = num_blocks(config)
    blocks = _less(lines["none"], lines["full"])
    if layers > 1 and _reads_less(config, objective):
        last = _less(line("none", num_layers=1), line("full", num_layers=1))
        block = _less(blocks, last, layers - 1)
    else:
        block = _less(blocks, (0.0, 0.0), layers)
    vocab_size = config.vocab_size or 0
    limit = cross_entropy.chunk_elements(platform)
    return Activations(
        saved=lines[config.remat],
        block=block,
        logit_elements=sum(objective.lengths.targets.values()) * vocab_size // tensor,
        max_logits=limit // (num_row_shards * tensor),
    )


def _less(more: Line, less: Line, layers: int = 1) -> Line:
    """A difference, or a layer's share of it."""
    return (more[0] - less[0]) / layers, (more[1] - less[1]) / layers


def computes_less_at_last(config: Any, objective: Objective) -> bool:
    """Whether the last block gives fewer positions than the others."""
    return config.shortens_last and _reads_less(config, objective)


def _reads_less(config: Any, objective: Objective) -> bool:
    is_one_stack = config.architecture != "encoder_decoder"
    return is_one_stack and flops.count_read(objective) < objective.lengths.inputs


def num_blocks(config: Any) -> int:
    """Blocks of all stacks."""
    if config.architecture == "encoder_decoder":
        return config.encoder_layers + config.decoder_layers
    return config.num_layers


def residual_bytes(
    objective: Objective,
    modules: Modules,
    rows: int,
    share: Share = lambda shape: 1.0,
) -> float:
    """Bytes that pass from the forward to the backward pass of so many rows.

    Parameters and inputs, which exist anyway, do not count.
    """

    def loss(params: Any, example: Example) -> jax.Array:
        model, heads = modules.merge(params)
        rngs = DropoutRngs.from_key(jax.random.key(0), example.row_ids)
        terms, _ = objective.losses(
            model, heads, example, rngs=rngs, deterministic=False
        )
        return sum((terms[name][0] for name in objective.terms), jnp.float32(0))

    def residuals(params: Any, example: Example) -> list[jax.Array]:
        return jax.tree.leaves(jax.vjp(lambda p: loss(p, example), params)[1])

    example = flops.abstract_example(objective, rows)
    jaxpr = jax.make_jaxpr(residuals)(modules.params, example).jaxpr
    inputs = {id(variable) for variable in (*jaxpr.invars, *jaxpr.constvars)}
    for equation in jaxpr.eqns:  # Parameters of some of the stacked blocks.
        if equation.primitive.name in ("slice", "squeeze") and (
            id(equation.invars[0]) in inputs
        ):
            inputs |= {id(variable) for variable in equation.outvars}
    kept = {id(v): v.aval for v in jaxpr.outvars if id(v) not in inputs}
    return sum(
        share(aval.shape) * math.prod(aval.shape) * aval.dtype.itemsize
        for aval in kept.values()
        if hasattr(aval, "dtype")
    )


def _share(config: Any, tensor: int, keeps_weights: bool) -> Share:
    """Heads and feed-forward features are split; fused attention keeps no weights."""
    heads = {config.num_heads, config.kv_heads}

    def share(shape: tuple[int, ...]) -> float:
        is_pairs = len(shape) >= 4 and shape[-3] == config.num_heads
        if is_pairs and shape[-1] != config.dim_per_head and not keeps_weights:
            return 0.0
        in_heads = len(shape) >= 4 and bool(heads & {shape[-2], shape[-3]})
        in_features = len(shape) >= 3 and shape[-1] == config.mlp_dim
        return 1.0 / tensor if in_heads or in_features else 1.0

    return share


def keeps_weights(config: Any, objective: Objective, platform: str) -> bool:
    """Whether attention keeps its weights [B, N, T, S]; see models.attend."""
    if config.attention not in ("auto", "cudnn", "splash"):
        return True
    lengths = objective.lengths
    if platform == "tpu" or config.attention == "splash":
        inputs = flops.abstract_example(objective, _FEW).inputs
        return (
            config.attention_dropout_rate > 0.0
            or config.architecture == "encoder_decoder"
            or config.position in ("alibi", "relative_bias")
            or inputs.bidirectional is not None
            or lengths.inputs % 128 > 0
        )
    if config.attention == "cudnn":
        return config.attention_dropout_rate > 0.0
    fused = (
        platform == "gpu"
        and config.dtype == "bfloat16"
        and config.attention_dropout_rate == 0.0
        and config.dim_per_head % 8 == 0
        and config.dim_per_head <= 128
        and lengths.inputs % 2 == 0
        and lengths.encoder % 2 == 0
    )
    return not fused
