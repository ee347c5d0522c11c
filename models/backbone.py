"""The interface of a backbone: its config, and the methods that other code calls."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from models.dropout import DropoutRngs
from models.inputs import ModelInputs

# Values that the fields with names for values accept, for every backbone.
CHOICES: dict[str, tuple[Any, ...]] = {
    "architecture": ("encoder", "decoder", "encoder_decoder"),
    "norm": ("layernorm", "rmsnorm"),
    "activation": ("relu", "gelu", "gelu_tanh", "silu"),
    "init": ("normal", "gpt2", "t5"),
    "dtype": ("float32", "bfloat16"),
    "param_dtype": ("float32", "bfloat16"),
    "remat": ("none", "full", "dots"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Settings that every backbone has: what heads, losses and the run read.

    Each backbone has a subclass with its own fields. The properties and methods follow
    from the config alone, so that no module has to be built to ask. Their defaults hold
    for a backbone of one layer that reads sequences of any length.

    Attributes:
      backbone: a key of `models.BACKBONES`.
      architecture: the role: 'encoder', 'decoder' or 'encoder_decoder'.
      vocab_size: V, rows of the token embedding; None until a tokenizer is known.
      emb_dim: D, width of the hidden states.
      norm: 'layernorm' or 'rmsnorm'.
      norm_epsilon: added to the variance.
      activation: of feed-forward layers and heads; 'gelu' is the exact one with erf.
      use_bias: whether linear layers and LayerNorms have a bias.
      logit_scale: factor on features before the output table; for heads to apply.
      tie_embeddings: the output table is the token embedding; for heads to read.
      num_token_types: rows of the token type table; 0 = none.
      dropout_rate: of the hidden states.
      init: 'normal' (all N(0, init_stddev)), 'gpt2' (residual outputs divided by
        sqrt(2 * layers)), 't5' (by fan-in, times init_stddev).
      init_stddev: see `init`.
      dtype: of the computation; norms, softmax and losses are float32 in any case.
      param_dtype: of the parameters.
      remat: what to compute again in the backward pass: 'none', 'full' (all but the
        input of a block), 'dots' (all but the outputs of linear layers).

    Raises:
      ValueError: for a value that is not allowed, naming it and what is.
    """

    backbone: str
    architecture: str
    vocab_size: int | None
    emb_dim: int
    norm: str
    norm_epsilon: float
    activation: str
    use_bias: bool
    logit_scale: float
    tie_embeddings: bool
    num_token_types: int
    dropout_rate: float
    init: str
    init_stddev: float
    dtype: str
    param_dtype: str
    remat: str

    def __post_init__(self):
        self.check_choices(CHOICES)
        self.check_positive("emb_dim", "norm_epsilon", "logit_scale", "init_stddev")
        self.check_positive("vocab_size", optional=True)
        self.check_rates("dropout_rate")
        if self.num_token_types < 0:
            raise ValueError(f"num_token_types = {self.num_token_types}: must be >= 0.")

    @property
    def table_dim(self) -> int:
        """E, width of the token embedding."""
        return self.emb_dim

    @property
    def compute_dtype(self) -> jnp.dtype:
        """dtype of activations."""
        return jnp.dtype(self.dtype)

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest sequence, a field `max_seq_len`; None = any."""
        return None

    @property
    def tensor_sizes(self) -> dict[str, int]:
        """Fields that tensor parallelism splits: its devices must divide their values."""
        return {}

    @property
    def num_blocks(self) -> int:
        """Layers of the whole backbone, the largest depth of a layer."""
        return 1

    def layer_depth(self, path: tuple[str, ...]) -> int | np.ndarray:
        """Depth of a parameter, for layer-wise rates and freezing.

        Args:
          path: names from the backbone down to the parameter.

        Returns:
          0 for embeddings, 1 .. num_blocks for layers, num_blocks + 1 for what comes
          after them. An array for stacked layers: the depth of each.
        """
        return 0 if any("embed" in name for name in path) else 1

    def with_dropout(self, rate: float) -> BackboneConfig:
        """The same with other dropout, as fine-tuning sets it."""
        return dataclasses.replace(self, dropout_rate=rate)

    def advice(self, platform: str) -> list[str]:
        """Settings that would be faster or smaller on a platform, for plans."""
        del platform
        return []

    def check_choices(self, choices: dict[str, tuple[Any, ...]]) -> None:
        """Refuses values that are not among those allowed for their field."""
        for field, allowed in choices.items():
            check_choice(field, getattr(self, field), allowed)

    def check_positive(self, *fields: str, optional: bool = False) -> None:
        """Refuses values that are not above 0; `optional` lets None pass."""
        for field in fields:
            value = getattr(self, field)
            if not (optional and value is None) and not value > 0:
                raise ValueError(f"{field} = {value}: must be > 0.")

    def check_rates(self, *fields: str) -> None:
        """Refuses probabilities that are not in [0, 1)."""
        for field in fields:
            if not 0.0 <= getattr(self, field) < 1.0:
                raise ValueError(
                    f"{field} = {getattr(self, field)}: must be >= 0 and < 1."
                )


def check_choice(field: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Refuses a value that is not among those allowed, naming the nearest."""
    if value in allowed:
        return
    near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    names = ", ".join(repr(name) for name in allowed)
    raise ValueError(f"{field} = {value!r}: must be one of {names}.{hint}")


@runtime_checkable
class Backbone(Protocol):
    """A Flax module that turns token ids into hidden states.

    Built by `models.create(config, rngs=...)`. `init_cache` and `decode_step` are called
    for decoders and encoder-decoders only. Parameters below a name 'layers' are those
    that the backbone passes to `models.sharding`, block by block; all others
    are gathered from their shards before the backbone runs.

    Attributes:
      config_class: the subclass of BackboneConfig that it is built from.
      partition_rules: patterns of parameter paths, first match, with a letter for each
        of the last dimensions: 'D' is split over the mesh axis fsdp, 'V', 'H' and 'F'
        over tensor, '-' over none; see research.training.parallelism.
    """

    config_class: ClassVar[type[BackboneConfig]]
    partition_rules: ClassVar[tuple[tuple[str, str], ...]]

    def __init__(self, config: Any, *, rngs: Any): ...

    @property
    def config(self) -> BackboneConfig:
        """What it was built from."""
        ...

    @property
    def embedding(self) -> Float[Array, "V E"]:
        """The token embedding, the output table of tied heads."""
        ...

    def __call__(
        self,
        inputs: ModelInputs,
        *,
        at: Int[Array, "B K"] | None = None,
        deterministic: bool = True,
        rngs: DropoutRngs | None = None,
    ) -> Float[Array, "B L D"]:
        """Hidden states of every position, in the compute dtype.

        Args:
          inputs: tokens with segment ids and positions.
          at: positions to give alone, [B, K, D], where the rest is not needed.
          deterministic: no dropout.
          rngs: the rows' dropout seeds, needed unless deterministic.
        """
        ...

    def init_cache(
        self, batch_size: int, max_length: int, encoder: ModelInputs | None = None
    ) -> Any:
        """A cache for `max_length` tokens, which holds the encoder's output if given.

        A pytree with a method `take(rows)`: the cache of other rows with the same
        prompts, for beam search.
        """
        ...

    def decode_step(
        self, inputs: ModelInputs, cache: Any
    ) -> tuple[Float[Array, "B T D"], Any]:
        """Hidden states of the next T tokens, and the cache that includes them.

        T > 1 reads a prompt in one call. Rows may differ in length: padding has segment
        0, and `positions` count each row's own tokens. `inputs.encoder` is not read.
        """
        ...
