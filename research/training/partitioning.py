"""How each parameter is split over the axes of a mesh, by rules for its name."""

from __future__ import annotations

import itertools
import re
from typing import Any

from jax.sharding import AbstractMesh, Mesh, PartitionSpec

import models

# Mesh axes. Rows are split over the first two.
DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
ROWS = (DATA, FSDP)

# What a dimension of a parameter is, and the mesh axis that it is split over: D width
# of hidden states, V vocabulary, H heads times their width, F feed-forward.
AXIS_OF_DIMENSION = {"D": FSDP, "V": TENSOR, "H": TENSOR, "F": TENSOR, "-": None}

# Names of parameters of heads to their dimensions, first match.
HEAD_RULES: tuple[tuple[str, str], ...] = (
    (r"output/kernel$", "V D"),
    (r"output/bias$", "V"),
    (r"kernel$", "D -"),
)


def param_spec(
    name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """How a parameter is split: the first rule whose pattern its name matches.

    The rules of backbones come before those of heads, which match any kernel. Leading
    dimensions that a rule does not name (stacked layers) are never split. A dimension
    that its mesh axis does not divide stays whole, as does everything without a rule
    (norms, other biases).
    """
    backbones = (backbone.partition_rules for backbone in models.BACKBONES.values())
    for pattern, dimensions in itertools.chain(*backbones, HEAD_RULES):
        if re.search(pattern, name):
            letters = dimensions.split()
            break
    else:
        return PartitionSpec()
    letters = ["-"] * (len(shape) - len(letters)) + letters[-len(shape) :]
    axes = []
    for letter, size in zip(letters, shape, strict=True):
        axis = AXIS_OF_DIMENSION[letter]
        divides = axis is not None and size % mesh.shape[axis] == 0
        axes.append(axis if divides and mesh.shape[axis] > 1 else None)
    return PartitionSpec(*axes)


def path_name(path: tuple[Any, ...]) -> str:
    """'model/stack/layers/0/mlp/up/kernel' of a path in a tree or in NNX's state."""
    names = [str(_key(part)) for part in path]
    return "/".join(names[:-1] if names[-1] == "value" else names)


def _key(part: Any) -> Any:
    for attribute in ("key", "name", "idx"):
        if hasattr(part, attribute):
            return getattr(part, attribute)
    return part
