"""Where values lie when one program runs over a mesh of devices.

Modules know no mesh. Whoever traces a step over one says how a block's parameters and
its input are to lie when the block begins; without that nothing is said.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Array, Float

# (parameters of one block as a tree, hidden states) to the same, with constraints.
PlaceBlock = Callable[[Any, Array], tuple[Any, Array]]

_PLACE_BLOCK: contextvars.ContextVar[PlaceBlock | None] = contextvars.ContextVar(
    "place_block", default=None
)


@contextlib.contextmanager
def placing_blocks(place: PlaceBlock) -> Iterator[None]:
    """Applies `place` to every block that is traced inside."""
    token = _PLACE_BLOCK.set(place)
    try:
        yield
    finally:
        _PLACE_BLOCK.reset(token)


def place_block(
    params: Any, hidden: Float[Array, "B T D"]
) -> tuple[Any, Float[Array, "B T D"]]:
    """A block's parameters and input where the step wants them.

    Called inside of the block's rematerialised function, so that parameters that are
    gathered from their shards for the forward pass are dropped and gathered again for
    the backward pass.
    """
    place = _PLACE_BLOCK.get()
    return (params, hidden) if place is None else place(params, hidden)
