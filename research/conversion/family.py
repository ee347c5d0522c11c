"""The description of a Hugging Face family: its settings and its kinds of tensors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

Settings = dict[str, Any]
Tensors = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of tensor: our name, their name, and how the layouts differ.

    ``{i}`` in both names stands for the number of a layer, 0, 1, ....

    Attributes:
      ours: path in our parameters, 'model/...', or inside a head, 'dense/kernel'.
      theirs: name in the checkpoint, without the prefix of a bare backbone.
      transpose: torch's Linear holds [O, I], ours [I, O].
      part: (k, n): ours is the k-th of n equal parts of theirs along our last axis
        (fused query, key and value).
    """

    ours: str
    theirs: str
    transpose: bool = False
    part: tuple[int, int] | None = None

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        """Their tensor in our layout, a view."""
        tensor = tensor.T if self.transpose else tensor
        if self.part is None:
            return tensor
        number, count = self.part
        return np.split(tensor, count, axis=-1)[number]

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of their tensor where ours has this one."""
        count = 1 if self.part is None else self.part[1]
        shape = (*shape[:-1], count * shape[-1])
        return shape[::-1] if self.transpose else shape

    def to_theirs(self, tensors: list[np.ndarray]) -> np.ndarray:
        """Our tensors (the parts of one fused tensor, in order) in their layout."""
        tensor = tensors[0] if len(tensors) == 1 else np.concatenate(tensors, axis=-1)
        return tensor.T if self.transpose else tensor


def linear(ours: str, theirs: str, *, bias: bool = True) -> list[Row]:
    """Kernel (transposed) and bias of one linear layer."""
    rows = [Row(f"{ours}/kernel", f"{theirs}.weight", transpose=True)]
    if bias:
        rows.append(Row(f"{ours}/bias", f"{theirs}.bias"))
    return rows


def norm(ours: str, theirs: str, *, bias: bool = True) -> list[Row]:
    """Scale and bias of one norm."""
    rows = [Row(f"{ours}/scale", f"{theirs}.weight")]
    if bias:
        rows.append(Row(f"{ours}/bias", f"{theirs}.bias"))
    return rows


def norm_and_linear(pairs: Mapping[str, str], *, bias: bool = True) -> list[Row]:
    """Rows of several modules: ours -> theirs, a norm where ours ends in 'norm'."""
    rows = []
    for ours, theirs in pairs.items():
        make = norm if ours.endswith("norm") else linear
        rows += make(ours, theirs, bias=bias)
    return rows


@dataclasses.dataclass(frozen=True)
class Head:
    """A head that some classes of a family have.

    A head of a run is this one if it has the same parameters, whichever objective it
    belongs to.

    Attributes:
      name: what `Family.classes` calls it.
      rows: its tensors.
      optional: tensors that only some have: biases, or the output table of one that does
        not share the token embedding.
    """

    name: str
    rows: tuple[Row, ...] = ()
    optional: tuple[Row, ...] = ()

    def fits(self, parameters: Collection[str]) -> bool:
        """Whether a head of ours with these parameters is this one."""
        needed = {row.ours for row in self.rows}
        return needed <= set(parameters) <= needed | {row.ours for row in self.optional}


@dataclasses.dataclass(frozen=True)
class Family:
    """One Hugging Face model family.

    Attributes:
      model_type: `model_type` of config.json.
      prefix: what the names of a full model's backbone begin with, and a bare one's
        lack.
      fixed: our settings that every model of the family has; `settings` puts the
        others to them.
      fields: our field -> their field, copied as they are.
      defaults: their config's fields that older files leave out.
      activation: their field that names the activation, '' if it names more than that.
      read: the settings that need more than a copy, from their config and their
        tensors; raises ValueError for what our blocks do not express.
      write: their config's other fields, from our settings.
      rows: tensors of the backbone.
      heads: the heads that a checkpoint may hold.
      classes: transformers' class for the names of its heads.
      repeats: tensors that repeat others (tied weights), pattern -> name of the other.
      ignored: patterns of tensors that are constants, or that their code never reads.
      zero: patterns of tensors that must be zero, and are then left out.
      carried: class -> patterns of tensors that it has besides, and that nothing here
        uses; they are kept beside the run and written back until it is trained.
    """

    model_type: str
    prefix: str
    fixed: Mapping[str, Any]
    fields: Mapping[str, str]
    defaults: Mapping[str, Any]
    activation: str
    read: Callable[[Mapping[str, Any], Tensors], Settings]
    rows: tuple[Row, ...]
    heads: tuple[Head, ...]
    classes: Mapping[tuple[str, ...], str]
    write: Callable[[Any], Settings] = lambda config: {}
    repeats: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    zero: tuple[str, ...] = ()
    carried: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """Ours."""
        return self.fixed["architecture"]

    def settings(self, hf_config: Mapping[str, Any], tensors: Tensors) -> Settings:
        """Every field of our TransformerConfig.

        Args:
          hf_config: their config.json, with `defaults`.
          tensors: theirs, by their names without the prefix.

        Raises:
          ValueError: for a setting that our blocks do not express.
        """
        found = {**self.fixed}
        found |= {ours: hf_config[theirs] for ours, theirs in self.fields.items()}
        if self.activation:
            found["activation"] = activation(
                hf_config[self.activation], self.model_type
            )
        return found | self.read(hf_config, tensors)

    def hf_config(self, config: Any) -> dict[str, Any]:
        """The fields of their config.json for our settings."""
        written = {
            theirs: getattr(config, ours) for ours, theirs in self.fields.items()
        }
        if self.activation:
            written[self.activation] = THEIR_ACTIVATIONS[config.activation]
        return written | self.write(config)

    def class_heads(self, present: Collection[str]) -> tuple[str, ...]:
        """The heads of the class that has most of those present.

        A head without tensors of its own is always present.
        """
        held = {h.name for h in self.heads if not h.rows or h.name in present}
        return max((c for c in self.classes if set(c) <= held), key=len)


def flatten(tree: Any) -> dict[str, Any]:
    """{'model/stack/layers/0/...': leaf} of a nested dict."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def layers_of(path: str) -> tuple[str, str]:
    """('.../layers/{i}/...', '3') for the path of a parameter of layer 3."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        if index and parts[index - 1] == "layers" and part.isdigit():
            return "/".join([*parts[:index], "{i}", *parts[index + 1 :]]), part
    return path, ""


def matches(name: str, patterns: Collection[str]) -> bool:
    """Whether a tensor's name is of one of these kinds."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def has_own_output(tensors: Tensors, output: str, table: str) -> bool:
    """Whether there is an output table that does not repeat the token embedding.

    transformers ties the two where the config says so, unless both are stored and differ.
    """
    if output not in tensors:
        return False
    return table not in tensors or not np.array_equal(tensors[output], tensors[table])


def checked(config: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """A config.json whose fields have the types that `kinds` gives, and sane values.

    Args:
      config: the fields, all of those in `kinds` among them.
      kinds: 'int', 'float', 'bool', 'str' or 'dict' of fields, with ' | None' where that is
        allowed. Numbers that count something are at least 1.

    Raises:
      ValueError: naming the field, its value and what is allowed.
    """
    found = dict(config)
    for field, kind in kinds.items():
        value, (name, *optional) = config[field], kind.split(" | ")
        if value is None and optional:
            continue
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name == "int":
            least = 0 if field.endswith("_id") else 1
            allowed = f"a whole number from {least} to {_LARGEST:,}"
            is_right = isinstance(value, int) and is_number
            is_right = is_right and least <= value <= _LARGEST
        elif name == "float":
            allowed = "a number from 0 to 1e9"
            is_right = is_number and 0 <= value <= 1e9
            found[field] = float(value) if is_right else value
        else:
            allowed = _OTHER_KINDS[name][1]
            is_right = isinstance(value, _OTHER_KINDS[name][0])
        if not is_right:
            raise ValueError(f"config.json: {field} = {value!r} must be {allowed}.")
    return found


def require(config: Mapping[str, Any], family: str, **allowed: Any) -> None:
    """Refuses settings of a Hugging Face config that our blocks do not express.

    `allowed` maps a field to the one value (or tuple of values) we express; a field
    that is absent has it.

    Raises:
      ValueError: naming the family, the setting, its value and what is expressed.
    """
    for field, values in allowed.items():
        values = values if isinstance(values, tuple) else (values,)
        given = config.get(field, values[0])
        if given not in values:
            expressed = " or ".join(repr(value) for value in values)
            raise ValueError(
                f"A {family} with {field} = {given!r} cannot be expressed: "
                f"only {expressed}."
            )


# Of sizes; the largest vocabularies and context lengths have millions.
_LARGEST = 2**24
_OTHER_KINDS = {
    "bool": (bool, "true or false"),
    "str": (str, "a text"),
    "dict": (dict, "an object"),
}
# Activations: theirs -> ours. Transformers has several names for the tanh form.
ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
THEIR_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "silu": "silu",
}


def activation(name: str, family: str) -> str:
    """Our name of their activation.

    Raises:
      ValueError: for one we do not have.
    """
    if name not in ACTIVATIONS:
        raise ValueError(
            f"A {family} with activation {name!r} cannot be expressed: "
            f"only {', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[name]


# Settings that a family has where it says nothing else.
COMMON: Settings = {
    "backbone": "transformer",
    "embedding_dim": None,
    "num_encoder_layers": None,
    "num_decoder_layers": None,
    "num_kv_heads": None,
    "head_dim": None,
    "position_offset": 0,
    "rope_theta": 10000.0,
    "rope_scaling": (),
    "relative_num_buckets": 32,
    "relative_max_distance": 128,
    "final_norm": False,
    "embedding_norm": False,
    "gated_mlp": False,
    "use_bias": True,
    "attention_scale": None,
    "scale_embeddings": False,
    "logit_scale": 1.0,
    "tie_embeddings": True,
    "num_token_types": 0,
    "mlp_dropout_rate": 0.0,
    "init": "normal",
    "dtype": "float32",
    "param_dtype": "float32",
    "attention": "auto",
    "scan_layers": False,
    "remat": "none",
}
