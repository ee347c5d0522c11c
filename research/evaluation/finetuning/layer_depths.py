"""Which layer a parameter belongs to: layer-wise rates, freezing, fresh top layers."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.transformer.config import TransformerConfig

Params = dict[str, Any]


def num_layers(config: TransformerConfig) -> int:
    """L, layers of the whole model; an encoder-decoder's decoder follows its encoder."""
    if config.architecture == "encoder_decoder":
        return config.encoder_layers + config.decoder_layers
    return config.num_layers


def multipliers(
    params: Params, config: TransformerConfig, *, layer_decay: float, frozen_layers: int
) -> Params:
    """A factor on the learning rate of each parameter, from its depth.

    Layer i of L, counted from 1, has depth i, embeddings 0, the norm after the last
    layer L + 1 and heads L + 2; the factor is layer_decay^(L + 2 - depth), as in
    ELECTRA's reference code. Depths up to `frozen_layers` get 0, embeddings included.

    Args:
      params: {'model': ..., 'heads': ...}.
      config: of the backbone.
      layer_decay: 1 = the same rate everywhere.
      frozen_layers: k, the first layers that do not learn; 0 = all learn.
    """
    top = num_layers(config) + 2.0

    def factor(path, leaf):
        depth = _depth(_names(path), config)
        frozen = (depth <= frozen_layers) & (frozen_layers > 0)
        values = np.where(frozen, 0.0, layer_decay ** (top - depth))
        return jnp.asarray(_along_layers(values.astype(np.float32), leaf))

    return jax.tree_util.tree_map_with_path(factor, params)


def with_fresh_top(
    model: Params, fresh: Params, config: TransformerConfig, num_fresh: int
) -> Params:
    """The backbone's parameters with its last layers, and the norm after, `fresh`."""
    top = num_layers(config)

    def choose(path, old, new):
        depth = _depth(("model", *_names(path)), config)
        is_top = (depth > top - num_fresh) & (depth <= top + 1) & (num_fresh > 0)
        return jnp.where(_along_layers(is_top, old), new, old)

    return jax.tree_util.tree_map_with_path(choose, model, fresh)


def last_name(path: tuple[Any, ...]) -> str:
    """The parameter's own name."""
    return _names(path[-1:])[0]


def _depth(names: tuple[str, ...], config: TransformerConfig) -> np.ndarray:
    """Depth of a parameter: 0-d, or [layers] for layers that are stacked; float64."""
    if names[0] == "heads":
        return np.array(num_layers(config) + 2.0)
    if any("embed" in name or name == "relative_bias" for name in names):
        return np.array(0.0)
    offset = config.encoder_layers if "decoder_stack" in names else 0
    count = {
        "encoder_stack": config.encoder_layers,
        "decoder_stack": config.decoder_layers,
    }.get(names[1], config.num_layers)
    if "layers" not in names:  # The norm after a stack.
        is_last = offset + count == num_layers(config)
        return np.array(float(offset + count + is_last))
    index = names[names.index("layers") + 1]
    if re.fullmatch(r"\d+", index):
        return np.array(offset + int(index) + 1.0)
    return offset + 1.0 + np.arange(count)


def _along_layers(values: np.ndarray, leaf: Any) -> np.ndarray:
    """Values of stacked layers, shaped to multiply the leaf along its first axis."""
    return values.reshape(-1, *[1] * (leaf.ndim - 1)) if values.ndim else values


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(
        str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))
        for key in path
    )
