"""Where values lie when one program runs over a mesh of devices.

Modules know no mesh. Whoever traces a step over one says how a block's parameters and
its input are to lie when the block begins, and how a kernel that XLA cannot split runs
on each device's own part; without that nothing is said.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Array, Float

# (parameters of one block as a tree, hidden states) to the same, with constraints.
PlaceBlock = Callable[[Any, Array], tuple[Any, Array]]

# A function of arrays with rows first, then [.., heads, ..] for those of four axes, to
# one that runs it on each device's rows and heads.
OnEachDevice = Callable[[Callable[..., Array]], Callable[..., Array]]


@dataclasses.dataclass(frozen=True)
class Placement:
    """How a step's values are to lie.

    Attributes:
      block: a block's parameters and input to where they are wanted.
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
    """A block's parameters and input where the step wants them.

    Called inside of the block's rematerialised function, so that parameters that are
    gathered from their shards for the forward pass are dropped and gathered again for
    the backward pass.
    """
    return _PLACEMENT.get().block(params, hidden)


def on_each_device(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function`, run by every device on its own rows and heads.

    Its arguments are [B, T, heads, H] or [B, T]; its result is [B, T, heads, H].
    """
    return _PLACEMENT.get().on_each_device(function)
