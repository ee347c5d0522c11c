"""Layer-wise learning rates, freezing, and fresh top layers, by each parameter's depth.

Layer i of L, counted from 1, has depth i, embeddings 0, what comes after the last layer
L + 1, and heads L + 2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Int

from models.backbone import BackboneConfig
from research.errors import UserError

Params = dict[str, Any]


def multipliers(params: Params, config: BackboneConfig, layer_decay: float) -> Params:
    """A factor on the learning rate of each parameter: layer_decay^(L + 2 - depth).

    As in ELECTRA's reference code. Stacked layers have a factor each.

    Args:
      params: {'model': ..., 'heads': ...}.
      config: of the backbone.
      layer_decay: 1 = the same rate everywhere.
    """

    def factor(path, leaf):
        below_heads = config.num_blocks + 2 - _depth(_names(path), config)
        factors = np.float32(layer_decay**below_heads)
        return jnp.asarray(_along_layers(factors, leaf))

    return jax.tree_util.tree_map_with_path(factor, params)


def split(
    tree: Params, config: BackboneConfig, frozen_layers: int
) -> tuple[Params, Params]:
    """(what learns, what does not): the first `frozen_layers` layers and the embeddings
    do not learn; 0 = everything learns.

    Leaves of stacked layers are cut along their first axis, so they may have a part in
    both trees. `join` is the inverse.

    Raises:
      UserError: if the model has fewer layers.
    """
    if not frozen_layers:
        return tree, {}
    if not 0 < frozen_layers <= config.num_blocks:
        raise UserError(
            f"frozen_layers = {frozen_layers}: the model has {config.num_blocks} "
            f"layers; give 0 (everything learns) to {config.num_blocks}."
        )
    learned: dict[tuple[Any, ...], Any] = {}
    frozen: dict[tuple[Any, ...], Any] = {}
    for path, leaf in traverse_util.flatten_dict(tree).items():
        is_frozen = _depth(path, config) <= frozen_layers
        if not is_frozen.ndim:
            (frozen if is_frozen else learned)[path] = leaf
            continue
        count = int(is_frozen.sum())
        if count:
            frozen[path] = leaf[:count]
        if count < len(is_frozen):
            learned[path] = leaf[count:]
    return traverse_util.unflatten_dict(learned), traverse_util.unflatten_dict(frozen)


def join(params: Params, constants: Params, step: Int[Array, ""] | int = 0) -> Params:
    """The whole tree of what learns and what does not; pure."""
    del step
    joined = dict(params)
    for key, frozen in constants.items():
        learned = joined.get(key)
        if learned is None:
            joined[key] = frozen
        elif isinstance(learned, dict):
            joined[key] = join(learned, frozen)
        else:  # Layers of a stack, the frozen ones first.
            joined[key] = jnp.concatenate([frozen, learned])
    return joined


def with_fresh_top(
    model: Params, fresh: Params, config: BackboneConfig, num_fresh: int
) -> Params:
    """The backbone's parameters with its last layers, and the norm after, `fresh`."""
    top = config.num_blocks

    def choose(path, old, new):
        depth = _depth(("model", *_names(path)), config)
        is_top = (depth > top - num_fresh) & (depth <= top + 1) & (num_fresh > 0)
        return jnp.where(_along_layers(is_top, old), new, old)

    return jax.tree_util.tree_map_with_path(choose, model, fresh)


def _depth(path: tuple[Any, ...], config: BackboneConfig) -> np.ndarray:
    """Depth of a parameter of {'model', 'heads'}: 0-d, or [layers] where stacked."""
    network, *names = (str(name) for name in path)
    if network == "heads":
        return np.array(config.num_blocks + 2)
    return np.asarray(config.layer_depth(tuple(names)))


def _along_layers(values: np.ndarray, leaf: Any) -> np.ndarray:
    """Values of stacked layers, shaped to multiply the leaf along its first axis."""
    return values.reshape(-1, *[1] * (leaf.ndim - 1)) if values.ndim else values


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(key.key for key in path)
