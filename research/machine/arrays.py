"""One file that holds an unfinished run, replaced at once or not at all."""

from __future__ import annotations

import json
import pathlib
import zipfile
from typing import Any

import jax
import numpy as np

from research.machine import files

_META = "meta"


def save(path: pathlib.Path, tree: Any, meta: dict[str, Any]) -> None:
    """Writes the leaves of `tree` and a JSON-able `meta`.

    A reader sees the former file or the new one, never a part.
    """
    leaves = [np.asarray(leaf) for leaf in jax.device_get(jax.tree.leaves(tree))]
    # Types that numpy does not know itself (bfloat16) are stored as their bytes.
    arrays: dict[str, Any] = {
        f"leaf{i}": np.frombuffer(x.tobytes(), np.uint8) for i, x in enumerate(leaves)
    }
    arrays[_META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load(path: pathlib.Path, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """(tree, meta) with the structure, shapes and types of `like`.

    Returns:
      None if there is no file, or none that fits: it is then of no use.
    """
    leaves, structure = jax.tree.flatten(like)
    try:
        with np.load(path) as arrays:
            meta = json.loads(arrays[_META].tobytes())
            raw = [arrays[f"leaf{i}"] for i in range(len(leaves))]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    if any(
        x.nbytes != y.size * y.dtype.itemsize for x, y in zip(raw, leaves, strict=True)
    ):
        return None
    values = [
        np.frombuffer(x.tobytes(), y.dtype).reshape(y.shape)
        for x, y in zip(raw, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, values), meta
