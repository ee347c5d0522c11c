"""A tree of arrays and a JSON-able dict in one file, written atomically."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import numpy as np

from research.machine import files

_META = "meta"


def save(path: pathlib.Path, tree: Any, meta: dict[str, Any]) -> None:
    """Writes the leaves of `tree`, by their paths in it, and `meta`."""
    leaves = {name: np.asarray(leaf) for name, leaf in _named(jax.device_get(tree))}
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **leaves, **{_META: json.dumps(meta)})


def load(path: pathlib.Path, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """(tree, meta) with the structure, shapes and types of `like`.

    Returns:
      None if there is no file, or it is damaged, or holds another tree.
    """
    wanted = _named(like)
    try:
        with np.load(path) as file:
            meta = json.loads(str(file[_META]))
            leaves = [file[name] for name, _ in wanted]
            known = len(file.files) == len(wanted) + 1
    # A damaged zip file raises errors of a dozen classes.
    except Exception:  # noqa: BLE001
        return None
    pairs = list(zip(leaves, [leaf for _, leaf in wanted], strict=True))
    if not known or any(
        (found.shape, found.dtype.itemsize) != (leaf.shape, leaf.dtype.itemsize)
        for found, leaf in pairs
    ):
        return None
    # numpy reads a type that it does not know, bfloat16, as bytes.
    values = [found.view(leaf.dtype) for found, leaf in pairs]
    return jax.tree.unflatten(jax.tree.structure(like), values), meta


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
