"""The platform that a computation is traced for: this machine's, or that of a plan."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_PLANNED: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "planned", default=None
)


@contextlib.contextmanager
def planned_for(platform: str) -> Iterator[None]:
    """Traces inside are for `platform` ('cpu', 'gpu', 'tpu') and are never run.

    Shapes and what the backward pass keeps are then those of the platform, on a machine
    that may have another. For 'cpu', every product is in the trace.
    """
    token = _PLANNED.set(platform)
    try:
        yield
    finally:
        _PLANNED.reset(token)


def is_planned() -> bool:
    """Whether the trace is never run."""
    return _PLANNED.get() is not None


def current() -> str:
    """'cpu', 'gpu' or 'tpu'."""
    return _PLANNED.get() or jax.default_backend()
