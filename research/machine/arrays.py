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
    wanted = dict(_named(like))
    try:
        found = files.read_arrays(path)
        meta = files.parse_json(str(found.pop(_META, "")), str(path))
    except (FileNotFoundError, files.Damaged):
        return None
    if found.keys() != wanted.keys() or any(
        (found[name].shape, found[name].dtype.itemsize)
        != (leaf.shape, leaf.dtype.itemsize)
        for name, leaf in wanted.items()
    ):
        return None
    # numpy reads a type that it does not know, bfloat16, as bytes.
    values = [found[name].view(leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), values), meta


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
