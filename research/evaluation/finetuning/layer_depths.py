"""Which layer a parameter belongs to: layer-wise rates, freezing, fresh top layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.backbone import BackboneConfig

Params = dict[str, Any]


def multipliers(
    params: Params, config: BackboneConfig, *, layer_decay: float, frozen_layers: int
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
    top = config.num_blocks + 2

    def factor(path, leaf):
        depth = _depth(path, config)
        frozen = (depth <= frozen_layers) & (frozen_layers > 0)
        values = np.where(frozen, 0.0, layer_decay ** (top - depth))
        return jnp.asarray(_along_layers(values.astype(np.float32), leaf))

    return jax.tree_util.tree_map_with_path(factor, params)


def with_fresh_top(
    model: Params, fresh: Params, config: BackboneConfig, num_fresh: int
) -> Params:
    """The backbone's parameters with its last layers, and the norm after, `fresh`."""
    top = config.num_blocks

    def choose(path, old, new):
        depth = np.asarray(config.layer_depth(_names(path)))
        is_top = (depth > top - num_fresh) & (depth <= top + 1) & (num_fresh > 0)
        return jnp.where(_along_layers(is_top, old), new, old)

    return jax.tree_util.tree_map_with_path(choose, model, fresh)


def last_name(path: tuple[Any, ...]) -> str:
    """The parameter's own name."""
    return _names(path[-1:])[0]


def _depth(path: tuple[Any, ...], config: BackboneConfig) -> np.ndarray:
    """Depth of a parameter of {'model', 'heads'}: 0-d, or [layers] where stacked."""
    network, *names = _names(path)
    if network == "heads":
        return np.array(config.num_blocks + 2)
    return np.asarray(config.layer_depth(tuple(names)))


def _along_layers(values: np.ndarray, leaf: Any) -> np.ndarray:
    """Values of stacked layers, shaped to multiply the leaf along its first axis."""
    return values.reshape(-1, *[1] * (leaf.ndim - 1)) if values.ndim else values


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(
        str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))
        for key in path
    )
