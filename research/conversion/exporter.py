"""From a run's parameters to a folder that transformers loads."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from models.backbone import BackboneConfig
from models.transformer.config import TransformerConfig
from objectives.base import Objective
from research.conversion.families import FAMILIES
from research.conversion.family import (
    Family,
    Head,
    Row,
    flatten,
    layers_of,
    matches,
)
from research.training.streamed import Deferred

# Dtype and shape of every tensor by name.
Specs = dict[str, tuple[np.dtype, tuple[int, ...]]]
# Settings that change training, memory or rounding, and not what the network computes.
_IMMATERIAL = {
    "max_seq_len",  # Where positions have a table, its size is in their config.
    "norm_epsilon",  # A constant of some families, 1e-5 or 1e-12.
    "dropout_rate",
    "mlp_dropout_rate",
    "attention_dropout_rate",
    "init",
    "init_stddev",
    "dtype",
    "param_dtype",
    "attention",
    "scan_layers",
    "remat",
}
# Settings that matter for one kind of position only.
_OF_POSITION = {
    "rope_theta": "rope",
    "rope_scaling": "rope",
    "relative_num_buckets": "relative_bias",
    "relative_max_distance": "relative_bias",
}


@dataclasses.dataclass(frozen=True)
class Export:
    """What an export writes.

    Attributes:
      family: the family that expresses the model.
      hf_class: transformers' class.
      hf_config: config.json.
      heads: our name of each head that the class has.
      dropped: names of our heads that the class does not have.
    """

    family: Family
    hf_class: str
    hf_config: dict[str, Any]
    heads: Mapping[str, Head]
    dropped: tuple[str, ...]


def plan(
    config: TransformerConfig,
    heads: Mapping[str, Any],
    *,
    origin: str | None = None,
    carried: Collection[str] = (),
) -> Export:
    """Picks the family and makes its config.

    Args:
      config: the model's settings.
      heads: parameters of the run's heads by name; they go along where the family has
        heads with the same parameters.
      origin: `model_type` of the checkpoint that the run began from, preferred among
        families that express the same network.
      carried: names of tensors that came with it and that nothing here uses.

    Raises:
      ValueError: if no family expresses the settings, naming the nearest one and the
        settings in which it differs.
    """
    differences = {
        name: _differences(family, config)
        for name, family in FAMILIES.items()
        if family.architecture == config.architecture
    }
    name, settings = min(
        differences.items(),
        key=lambda item: (len(item[1]), FAMILIES[item[0]].model_type != origin),
    )
    if settings:
        raise ValueError(
            f"No Hugging Face family expresses this {config.architecture}. The nearest "
            f"is {FAMILIES[name].model_type}, which differs in: "
            + "; ".join(settings)
            + ". Train with these settings to be able to export."
        )
    family = FAMILIES[name]
    found: dict[str, str] = {}
    for our_name, params in heads.items():
        for head in family.heads:
            if head.fits(flatten(params)):
                found.setdefault(head.name, our_name)
    held = family.class_heads(found)
    hf_class = family.classes[held]
    if not held:
        for name, patterns in family.carried.items():
            if any(matches(tensor, patterns) for tensor in carried):
                hf_class = name
    kept = {
        found[h.name]: h for h in family.heads if h.name in held and h.name in found
    }
    hf_config = {
        "architectures": [hf_class],
        "model_type": family.model_type,
        **family.hf_config(config),
    }
    return Export(
        family=family,
        hf_class=hf_class,
        hf_config=hf_config,
        heads=kept,
        dropped=tuple(name for name in heads if name not in kept),
    )


def outlook(config: BackboneConfig) -> str:
    """Whether a model can be exported, and as what; a line for the start of a run."""
    if not isinstance(config, TransformerConfig):
        return f"cannot be exported to transformers: backbone {config.backbone!r}"
    try:
        export = plan(
            dataclasses.replace(config, vocab_size=config.vocab_size or 1), {}
        )
    except ValueError as error:
        return f"cannot be exported to transformers as it is. {error}"
    return f"can be exported to transformers as {export.family.model_type}"


def _differences(family: Family, config: TransformerConfig) -> list[str]:
    """'setting = ours (family: theirs)' for every setting that does not come back.

    A family expresses a network if the config.json it writes is read as that network.
    """
    hf_config = {**family.defaults, **family.hf_config(config)}
    untied = {row.theirs: None for head in family.heads for row in head.optional}
    try:
        read = family.settings(hf_config, {} if config.tie_embeddings else untied)
    except ValueError as error:
        return [str(error)]
    ours, theirs = _resolved(config), _resolved(TransformerConfig(**read))
    found = [
        f"{field} = {ours[field]!r} ({family.model_type}: {theirs[field]!r})"
        for field in ours
        if ours[field] != theirs[field]
        and _OF_POSITION.get(field, config.position) == config.position
    ]
    if "num_token_types" in family.fields and not config.num_token_types:
        # Their models have the embedding, whatever the config says.
        found.append(f"num_token_types = 0 ({family.model_type}: 1 or more)")
    return found


def _resolved(config: TransformerConfig) -> dict[str, Any]:
    """What a config computes: the settings that matter, none of them left open."""
    settings = dataclasses.asdict(config) | {
        "head_dim": config.dim_per_head,
        "num_kv_heads": config.kv_heads,
        "embedding_dim": config.table_dim,
        "attention_scale": config.score_scale,
    }
    if config.architecture == "encoder_decoder":
        settings |= {
            "num_layers": None,
            "num_encoder_layers": config.encoder_layers,
            "num_decoder_layers": config.decoder_layers,
        }
    return {k: v for k, v in settings.items() if k not in _IMMATERIAL}


def dtype_of(specs: Specs) -> str:
    """What config.json says the precision is: that of most numbers."""
    sizes: dict[str, int] = {}
    for dtype, shape in specs.values():
        size = int(np.prod(shape, dtype=np.int64))
        sizes[str(dtype)] = sizes.get(str(dtype), 0) + size
    return max(sizes, key=lambda name: sizes[name])


def special_ids(objective: Objective) -> dict[str, int | None]:
    """The ids that transformers' configs name, as training used them.

    None where there is none: transformers has values of its own for what is absent.
    """
    vocabulary = objective.vocabulary
    begin, end = vocabulary.cls_id, vocabulary.sep_id
    if objective.architecture == "decoder":
        # Packed documents have the same token before and after them.
        begin = end = next(iter(objective.stop_ids), -1)
    elif objective.architecture == "encoder_decoder":
        begin, end = -1, vocabulary.eos_id
    ids = {"pad": vocabulary.pad_id, "bos": begin, "eos": end}
    if objective.architecture == "encoder":
        ids |= {"cls": begin, "sep": end}
    if objective.architecture == "encoder_decoder":
        prompt = objective.prompt
        ids["decoder_start"] = prompt.start_id if prompt else -1
    return {f"{k}_token_id": v if v >= 0 else None for k, v in ids.items()}


def with_their_positions(
    config: TransformerConfig, params: Any, pad_id: int
) -> tuple[TransformerConfig, Any]:
    """The same encoder with a table whose positions begin after `pad_id`.

    transformers' RoBERTa numbers the tokens that are not `pad_token_id` from
    `pad_token_id` + 1. Here the offset is a setting that knows no tokenizer; rows before
    it are never read.
    """
    offset = config.position_offset
    if config.architecture != "encoder" or not offset or pad_id + 1 in (0, offset):
        return config, params
    table = params["model"]["embedder"]["position_embedding"]
    shape = (config.max_seq_len + pad_id + 1, table.shape[1])

    def read() -> np.ndarray:
        moved = np.zeros(shape, table.dtype)
        moved[pad_id + 1 :] = np.asarray(table)[offset:]
        return moved

    moved = Deferred(shape, np.dtype(table.dtype), read)
    model = params["model"]
    embedder = {**model["embedder"], "position_embedding": moved}
    config = dataclasses.replace(config, position_offset=pad_id + 1)
    return config, {**params, "model": {**model, "embedder": embedder}}


def tensors(
    export: Export, params: Any, dtypes: Mapping[str, np.dtype]
) -> tuple[Specs, Callable[[str], np.ndarray]]:
    """Dtypes and shapes of what is written by name, and a function that gives each.

    Args:
      export: the plan.
      params: {'model': ..., 'heads': ...} of deferred arrays; layers stacked by
        `scan_layers` are taken apart.
      dtypes: of the tensors, by their names, that are not stored as they are.
    """
    rows = _rows(export)
    parts: dict[str, list[tuple[Row, np.ndarray]]] = {}
    for path, leaf in _unstacked(params).items():
        pattern, layer = layers_of(path)
        if pattern in rows:
            row, name = rows[pattern]
            parts.setdefault(name.replace("{i}", layer), []).append((row, leaf))

    def load(name: str) -> np.ndarray:
        ordered = sorted(parts[name], key=lambda part: part[0].part or (0, 1))
        return ordered[0][0].to_theirs([np.asarray(leaf) for _, leaf in ordered])

    specs = {}
    for name, sources in parts.items():
        row, leaf = sources[0]
        dtype = dtypes.get(name, np.dtype(leaf.dtype))
        specs[name] = (dtype, row.their_shape(leaf.shape))
    return specs, load


def _rows(export: Export) -> dict[str, tuple[Row, str]]:
    """Our pattern -> its row and their full name."""
    family = export.family
    prefix = "" if export.hf_class == family.classes.get(()) else family.prefix
    rows = {row.ours: (row, prefix + row.theirs) for row in family.rows}
    for our_name, head in export.heads.items():
        for row in (*head.rows, *head.optional):
            rows[f"heads/{our_name}/{row.ours}"] = (row, row.theirs)
    return rows


def _unstacked(params: Any) -> dict[str, Any]:
    """Parameters by path, one entry for each layer also where layers are stacked."""
    # Stacks are taken apart in turn; GPT-2's fused tensors need three at a time.
    whole = functools.lru_cache(maxsize=3)(np.asarray)

    def layer(stack: Deferred, index: int) -> Deferred:
        read = functools.partial(_entry, whole, stack, index)
        return Deferred(stack.shape[1:], stack.dtype, read)

    flat = {}
    for path, leaf in flatten(params).items():
        before, layers, after = path.partition("/layers/")
        if layers and not after.split("/")[0].isdigit():
            for index in range(leaf.shape[0]):
                flat[f"{before}/layers/{index}/{after}"] = layer(leaf, index)
        else:
            flat[path] = leaf
    return flat


def _entry(whole: Callable[[Any], np.ndarray], stack: Any, index: int) -> np.ndarray:
    return whole(stack)[index]
