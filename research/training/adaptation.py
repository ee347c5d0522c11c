"""What is learned and what is not, and how both together give the networks' weights.

`params` are what training moves, `constants` what it does not: networks that an objective
freezes, and whatever `train.trainable` does not match. Constants are an argument of the
compiled step and no part of its gradients, clipping, moments or checkpoints; a resumed
run makes them again and compares their fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Int, UInt32

Params = dict[str, Any]
EVERYTHING = ".*"  # As `train.trainable`.
# (params, constants, step) to the weights of every network.
Effective = Callable[[Params, Params, Int[Array, ""]], Params]


def learns(trainable: str, frozen: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a parameter is learned, by its path such as 'heads/masked_lm/dense/bias'.

    Args:
      trainable: a regular expression that must match the whole path.
      frozen: networks none of whose parameters are learned.
    """
    pattern = re.compile(trainable)

    def is_learned(path: str) -> bool:
        return path.split("/")[0] not in frozen and bool(pattern.fullmatch(path))

    return is_learned


def paths(tree: Params) -> dict[str, Any]:
    """Leaves by their path."""
    flat = traverse_util.flatten_dict(tree)
    return {"/".join(map(str, path)): leaf for path, leaf in flat.items()}


def split(tree: Params, is_learned: Callable[[str], bool]) -> tuple[Params, Params]:
    """(params, constants): nested dicts that each hold their part of the leaves."""
    flat = traverse_util.flatten_dict(tree, keep_empty_nodes=True)
    learned = {path for path in flat if is_learned("/".join(map(str, path)))}
    params = {path: leaf for path, leaf in flat.items() if path in learned}
    constants = {path: leaf for path, leaf in flat.items() if path not in learned}
    return traverse_util.unflatten_dict(params), traverse_util.unflatten_dict(constants)


def join(params: Params, constants: Params, step: Int[Array, ""]) -> Params:
    """The inverse of `split`: weights are their own parameters or constants."""
    del step
    return _merged(params, constants)


def _merged(first: Params, second: Params) -> Params:
    merged = dict(first)
    for key, value in second.items():
        known = merged.get(key)
        merged[key] = _merged(known, value) if isinstance(known, dict) else value
    return merged


@jax.jit
def fingerprint(tree: Any) -> UInt32[Array, ""]:
    """A checksum of all bits of a tree, the same on any mesh: integers add exactly."""
    total = jnp.zeros((), jnp.uint32)
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        width = leaf.dtype.itemsize * 8
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{width}"))
        bits = bits.astype(jnp.uint32).reshape(-1)
        # Odd factors, so that no two places or leaves can be exchanged.
        place = jnp.arange(bits.size, dtype=jnp.uint32) * np.uint32(2654435762) + 1
        total += (bits * place).sum(dtype=jnp.uint32) * np.uint32(2 * number + 1)
    return total
