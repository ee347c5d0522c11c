"""From a Hugging Face folder to parameters under our names."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from models.transformer.config import TransformerConfig
from research.conversion import origin, safetensors
from research.conversion.families import FAMILIES
from research.conversion.family import (
    Family,
    Head,
    Row,
    checked,
    flatten,
    layers_of,
    matches,
)
from research.machine import files
from research.training.streamed import Deferred

# Names of norms in checkpoints that came from TensorFlow (bert-base-uncased).
_OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}

# Dtypes of weights. Integers would be converted without a word.
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face checkpoint, read as far as its headers.

    Attributes:
      family: what it is.
      hf_config: its config.json.
      settings: every field of our TransformerConfig.
      heads: the heads it holds, by the family's names.
      tensors: its tensors, by their names without the backbone's prefix.
    """

    family: Family
    hf_config: Mapping[str, Any]
    settings: dict[str, Any]
    heads: tuple[str, ...]
    tensors: safetensors.Tensors

    @property
    def hf_class(self) -> str:
        """transformers' class with these heads."""
        return self.family.classes[self.heads]

    def heads_for(self, heads: Mapping[str, Any]) -> dict[str, Head]:
        """Of a run's heads by name, those that the checkpoint holds."""
        return {
            name: head
            for name, params in heads.items()
            for head in self.family.heads
            if head.name in self.heads and head.fits(flatten(params))
        }


def read(folder: pathlib.Path) -> Checkpoint:
    """Reads config.json and the headers of the weights.

    Raises:
      ValueError: for a folder that is no checkpoint, a family or setting that we do
        not express, or files that are cut; each says what to do.
    """
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(
            f"{folder} has no config.json: give a folder with config.json, "
            f"model.safetensors and the tokenizer's files."
        )
    hf_config = files.read_json(path)
    for file in (path, folder / origin.GENERATION):
        if file.exists():
            _check_ids(file)
    family = _family(hf_config)
    tensors = safetensors.open_folder(folder).renamed(
        lambda name: _bare(family, _modern(name))
    )
    hf_config = {**family.defaults, **hf_config}
    absent = sorted(set(family.fields.values()) - set(hf_config))
    if absent:
        raise ValueError(
            f"{path} of model_type {family.model_type!r} does not say "
            f"{', '.join(absent)}: give the config.json that belongs to the weights."
        )
    hf_config = checked(hf_config, _kinds(family))
    settings = family.settings(hf_config, tensors)
    layers = {n: settings[n] for n in settings if n.endswith("_layers")}
    if max(count or 0 for count in layers.values()) > len(tensors):
        # Before as many layers are built.
        raise ValueError(f"{path}: {layers}, but there are {len(tensors)} tensors.")
    return Checkpoint(
        family=family,
        hf_config=hf_config,
        settings=settings,
        heads=_heads(family, tensors.keys()),
        tensors=tensors,
    )


def _check_ids(path: pathlib.Path) -> None:
    """Refuses special tokens that are no ids; generation stops at some of them."""
    for field, value in files.read_json(path).items():
        ids = value if isinstance(value, list) else [value]
        is_right = all(number is None or type(number) is int for number in ids)
        if field.endswith("_token_id") and not is_right:
            raise ValueError(f"{path}: {field} = {value!r} must be an id, or several.")


def _kinds(family: Family) -> dict[str, str]:
    """The type of each field of a config.json that is read."""
    kinds = {
        name: "int | None" if value is None else type(value).__name__
        for name, value in family.defaults.items()
    }
    ours = {
        field.name: str(field.type) for field in dataclasses.fields(TransformerConfig)
    }
    return {theirs: ours[name] for name, theirs in family.fields.items()} | kinds


def _family(hf_config: Mapping[str, Any]) -> Family:
    model_type = str(hf_config.get("model_type"))
    if model_type == "t5" and "gated" in str(hf_config.get("feed_forward_proj")):
        return FAMILIES["t5_gated"]
    if model_type not in FAMILIES:
        known = sorted({family.model_type for family in FAMILIES.values()})
        raise ValueError(
            f"config.json says model_type = {model_type!r}, which our blocks do not "
            f"express. Families that convert: {', '.join(known)}."
        )
    return FAMILIES[model_type]


def _heads(family: Family, names: Collection[str]) -> tuple[str, ...]:
    """The heads whose tensors are all there."""
    return family.class_heads(
        [
            head.name
            for head in family.heads
            if all(_bare(family, row.theirs) in names for row in head.rows)
        ]
    )


def params_from(checkpoint: Checkpoint, abstract: Any) -> tuple[Any, dict[str, Any]]:
    """Parameters in the structure of `abstract`, and tensors to carry along.

    Parameters are `Deferred`: each is read from its file when it is needed. Heads that
    the checkpoint does not hold are left out.

    Args:
      checkpoint: what `read` gave.
      abstract: shapes of the parameters, {'model': ..., 'heads': ...}.

    Raises:
      ValueError: naming every tensor that is missing, left over or of another shape.
    """
    family = checkpoint.family
    heads = checkpoint.heads_for(abstract["heads"])
    abstract = {
        "model": abstract["model"],
        "heads": {name: abstract["heads"][name] for name in heads},
    }
    rows = {row.ours: row for row in family.rows}
    for our_name, head in heads.items():
        rows |= {f"heads/{our_name}/{r.ours}": r for r in (*head.rows, *head.optional)}
    dtypes = checkpoint.tensors.dtypes()
    missing, wrong, used, leaves = [], [], set(), []
    for path, leaf in flatten(abstract).items():
        pattern, layer = layers_of(path)
        row = rows.get(pattern)
        name = _bare(family, row.theirs).replace("{i}", layer) if row else path
        if row is None or name not in checkpoint.tensors:
            missing.append(f"{name} (for {path})")
            continue
        used.add(name)
        shape, expected = checkpoint.tensors.shape(name), row.their_shape(leaf.shape)
        if shape != expected:
            wrong.append(f"{name}: {shape}, expected {expected} (for {path})")
        if dtypes[name] not in _FLOATS:
            wrong.append(
                f"{name}: {dtypes[name]}, expected one of {', '.join(_FLOATS)}"
            )
        leaves.append(_deferred(checkpoint, row, name, leaf.shape))
    left = [name for name in checkpoint.tensors if name not in used]
    patterns = [p for of_class in family.carried.values() for p in of_class]
    carried = {n: checkpoint.tensors[n] for n in left if matches(n, patterns)}
    nonzero = [
        name
        for name in left
        if matches(name, family.zero) and np.any(checkpoint.tensors[name])
    ]
    differing = [
        f"{name} ({other})"
        for name in left
        for pattern, other in family.repeats.items()
        if matches(name, [pattern])
        and other in checkpoint.tensors
        and not np.array_equal(checkpoint.tensors[name], checkpoint.tensors[other])
    ]
    # Heads that the run does not have, and output tables that repeat the embedding.
    unused = {
        re.escape(_bare(family, row.theirs))
        for head in family.heads
        for row in (*(head.rows if head not in heads.values() else ()), *head.optional)
    }
    known = (*family.repeats, *family.ignored, *patterns, *family.zero, *unused)
    extra = [name for name in left if not matches(name, known)]
    _refuse(
        missing=missing,
        wrong=wrong,
        extra=extra,
        nonzero=nonzero,
        differing=differing,
    )
    structure = jax.tree.structure(abstract)
    return jax.tree.unflatten(structure, leaves), carried


def _bare(family: Family, name: str) -> str:
    """A name without the prefix that a bare backbone's tensors lack."""
    return name.removeprefix(family.prefix)


def _modern(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _deferred(
    checkpoint: Checkpoint, row: Row, name: str, shape: tuple[int, ...]
) -> Deferred:
    """A float32 parameter, whatever precision the checkpoint was stored in."""

    def read() -> np.ndarray:
        tensor = row.to_ours(checkpoint.tensors[name])
        return np.asarray(tensor, np.float32)

    return Deferred(shape, np.dtype(np.float32), read)


def _refuse(**problems: list[str]) -> None:
    titles = {
        "missing": "missing tensors",
        "wrong": "tensors of another shape than config.json says, or no floats",
        "extra": "tensors that no module here has",
        "nonzero": "tensors that must be zero",
        "differing": "tensors that must repeat another one",
    }
    lines = [
        f"  {titles[kind]}: {'; '.join(names)}"
        for kind, names in problems.items()
        if names
    ]
    if lines:
        raise ValueError(
            "The weights do not match config.json and its family:\n"
            + "\n".join(lines)
            + "\nCheck that the folder holds one whole checkpoint of that config."
        )


def transformer_config(checkpoint: Checkpoint) -> TransformerConfig:
    """The checkpoint's settings as a checked config."""
    return TransformerConfig(**checkpoint.settings)
