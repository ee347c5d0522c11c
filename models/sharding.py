"""Sharding of values inside of modules, when one program runs over a mesh of devices.

Modules do not know the mesh. The code that traces a step over one sets a `Placement`:
how a block's parameters and input are sharded when the block begins, and how a kernel
that XLA cannot partition runs on each device's own part. Without one, nothing is
constrained.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Array, Float

# (parameters of one block as a tree, hidden states) -> the same with constraints.
PlaceBlock = Callable[[Any, Array], tuple[Any, Array]]

# A function of arrays [B, T] and [B, T, heads, H] -> the same function, run by each
# device on its own rows and heads.
OnEachDevice = Callable[[Callable[..., Array]], Callable[..., Array]]


@dataclasses.dataclass(frozen=True)
class Placement:
    """How a step's values are sharded.

    Attributes:
      block: constrains a block's parameters and input.
      on_each_device: see `OnEachDevice`.
    """

    block: PlaceBlock
    on_each_device: OnEachDevice


ANYWHERE = Placement(
    block=lambda params, hidden: (params, hidden),
    on_each_device=lambda function: function,
)
_PLACEMENT: contextvars.ContextVar[Placement] = contextvars.ContextVar(
    "placement", default=ANYWHERE
)


@contextlib.contextmanager
def placing(placement: Placement) -> Iterator[None]:
    """Applies `placement` to every block that is traced inside."""
    token = _PLACEMENT.set(placement)
    try:
        yield
    finally:
        _PLACEMENT.reset(token)


def on_one_device() -> bool:
    """Whether no step over a mesh is being traced."""
    return _PLACEMENT.get() is ANYWHERE


def place_block(
    params: Any, hidden: Float[Array, "B T D"]
) -> tuple[Any, Float[Array, "B T D"]]:
    """Constrains a block's parameters and input to the shardings of the step.

    Called inside the block's rematerialised function: parameters are gathered from
    their shards for the forward pass, dropped, and gathered again for the backward
    pass, so that whole parameters of one block at a time are in memory.
    """
    return _PLACEMENT.get().block(params, hidden)


def on_each_device(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function` of [B, T, heads, H] and [B, T], run by each device on its own part.

    The result is [B, T, heads, H].
    """
    return _PLACEMENT.get().on_each_device(function)
