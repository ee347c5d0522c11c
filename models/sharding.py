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

from jaxtyping import Array


@dataclasses.dataclass(frozen=True)
class Placement:
    """How a step's values are sharded.

    Attributes:
      block: constrains a block's parameters (a tree) and its input [B, T, D]. A block
        calls it inside its rematerialised function: parameters are gathered from their
        shards for the forward pass, dropped, and gathered again for the backward pass,
        so that whole parameters of one block at a time are in memory.
      on_each_device: turns a function of arrays [B, T, heads, H] and [B, T] with a
        result [B, T, heads, H] into one that each device runs on its own rows and heads.
    """

    block: Callable[[Any, Array], tuple[Any, Array]]
    on_each_device: Callable[[Callable[..., Array]], Callable[..., Array]]


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


def current() -> Placement:
    """How the step that is being traced shards its values."""
    return _PLACEMENT.get()


def on_one_device() -> bool:
    """Whether no step over a mesh is being traced."""
    return _PLACEMENT.get() is ANYWHERE
