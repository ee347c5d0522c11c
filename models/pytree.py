"""Frozen dataclasses that JAX can flatten."""

from __future__ import annotations

import dataclasses
from typing import TypeVar, dataclass_transform

import jax

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def pytree(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen, keyword-only dataclass and a pytree.

    Fields with ``metadata={'static': True}`` are part of the tree's structure: another
    value compiles another program. JAX rebuilds trees with leaves that are no arrays
    (shapes, shardings, None), so rebuilding bypasses ``__init__`` and with it the shape
    checks of the tests.
    """
    data_class = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = dataclasses.fields(data_class)  # type: ignore[arg-type]
    static = tuple(f.name for f in fields if f.metadata.get("static"))
    names = tuple(f.name for f in fields if not f.metadata.get("static"))

    def flatten_with_keys(value):
        children = [(jax.tree_util.GetAttrKey(n), getattr(value, n)) for n in names]
        return children, tuple(getattr(value, n) for n in static)

    def unflatten(static_values, children):
        value = object.__new__(data_class)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(value, name, child)
        for name, child in zip(static, static_values, strict=True):
            object.__setattr__(value, name, child)
        return value

    jax.tree_util.register_pytree_with_keys(data_class, flatten_with_keys, unflatten)
    return data_class  # type: ignore[return-value]
