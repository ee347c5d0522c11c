"""What a Transformer is made of: every setting, checked once."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import jax.numpy as jnp

# Values that the fields with names for values accept.
CHOICES: dict[str, tuple[Any, ...]] = {
    "backbone": ("transformer",),
    "architecture": ("encoder", "decoder", "encoder_decoder"),
    "position": ("learned", "sinusoidal", "rope", "relative_bias", "alibi"),
    "norm": ("layernorm", "rmsnorm"),
    "norm_position": ("pre", "post"),
    "activation": ("relu", "gelu", "gelu_tanh", "silu"),
    "init": ("normal", "gpt2", "t5"),
    "dtype": ("float32", "bfloat16"),
    "param_dtype": ("float32", "bfloat16"),
    "attention": ("auto", "explicit", "xla", "cudnn", "splash"),
    "remat": ("none", "full", "dots"),
}
ROPE_SCALINGS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_len"),
}
_POSITIVE = (
    "emb_dim",
    "num_layers",
    "num_heads",
    "mlp_dim",
    "max_seq_len",
    "rope_theta",
    "relative_num_buckets",
    "relative_max_distance",
    "norm_epsilon",
    "logit_scale",
    "init_stddev",
)
_POSITIVE_OR_NONE = (
    "vocab_size",
    "embedding_dim",
    "num_encoder_layers",
    "num_decoder_layers",
    "num_kv_heads",
    "head_dim",
    "attention_scale",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Settings of one Transformer; BERT, GPT-2, Llama, T5 and BART are values of it.

    Fields that may be None follow from others; code reads the resolved value from the
    property named in brackets. `dataclasses.replace` therefore keeps what was left
    open, open.

    Attributes:
      backbone: the model family, a key of `models.BACKBONES`.
      architecture: the role: 'encoder', 'decoder' or 'encoder_decoder'.
      vocab_size: V, rows of the token embedding; None until a tokenizer is known.
      emb_dim: D, width of the residual stream.
      embedding_dim: E, width of the embedding tables (`table_dim`); a projection to D
        follows where they differ (ELECTRA, ALBERT). None = D.
      num_layers: blocks of the stack.
      num_encoder_layers, num_decoder_layers: of an encoder-decoder
        (`encoder_layers`, `decoder_layers`). None = num_layers.
      num_heads: N, query heads.
      num_kv_heads: heads of keys and values (`kv_heads`), each serving a group of
        query heads (Ainslie et al. 2023). None = N.
      head_dim: H, width of a head (`dim_per_head`). None = D / N.
      mlp_dim: F, width inside the feed-forward layer.
      max_seq_len: rows of a learned position table; other positions extrapolate.
      position: 'learned' table, 'sinusoidal' (Vaswani et al. 2017), 'rope' (Su et al.
        2021), 'relative_bias' (T5 buckets), 'alibi' (Press et al. 2022).
      position_offset: rows of the learned table before position 0 (RoBERTa, BART: 2).
      rope_theta: base of the rotary frequencies.
      rope_scaling: () or ('linear', factor) or ('llama3', factor, low_freq_factor,
        high_freq_factor, original_max_len).
      relative_num_buckets, relative_max_distance: of the relative bias.
      norm: 'layernorm' or 'rmsnorm'.
      norm_position: 'pre' (inside the residual branch) or 'post' (after the sum).
      norm_epsilon: added to the variance.
      final_norm: a norm after the last block.
      embedding_norm: a norm after the sum of embeddings.
      activation: of the feed-forward layer; 'gelu' is the exact one with erf.
      gated_mlp: activation(gate(x)) * up(x) (Shazeer 2020).
      use_bias: whether linear layers and LayerNorms have a bias.
      attention_scale: factor on query-key products (`score_scale`). None = H^-0.5.
      scale_embeddings: multiply token embeddings by sqrt(D).
      logit_scale: factor on features before the output table; for heads to apply.
      tie_embeddings: the output table is the token embedding; for heads to read.
      num_token_types: rows of the token type table; 0 = none.
      dropout_rate: after embeddings and after every sublayer.
      mlp_dropout_rate: inside the feed-forward layer, after the activation.
      attention_dropout_rate: on attention weights.
      init: 'normal' (all N(0, init_stddev)), 'gpt2' (residual outputs divided by
        sqrt(2 * layers)), 't5' (by fan-in, times init_stddev).
      init_stddev: see `init`.
      dtype: of the computation; norms, softmax and losses are float32 in any case.
      param_dtype: of the parameters.
      attention: implementation, 'auto', 'explicit', 'xla', 'cudnn' or 'splash'; see
        `models.transformer.attend`.
      scan_layers: one `jax.lax.scan` over stacked layers: faster to compile, on CPUs
        slower to run; see `shortens_last`.
      remat: what to compute again in the backward pass: 'none', 'full' (all but the
        input of a block), 'dots' (all but the outputs of linear layers).

    Raises:
      ValueError: for a value that is not allowed, naming it and what is.
    """

    backbone: str
    architecture: str
    vocab_size: int | None
    emb_dim: int
    embedding_dim: int | None
    num_layers: int
    num_encoder_layers: int | None
    num_decoder_layers: int | None
    num_heads: int
    num_kv_heads: int | None
    head_dim: int | None
    mlp_dim: int
    max_seq_len: int
    position: str
    position_offset: int
    rope_theta: float
    rope_scaling: tuple[Any, ...]
    relative_num_buckets: int
    relative_max_distance: int
    norm: str
    norm_position: str
    norm_epsilon: float
    final_norm: bool
    embedding_norm: bool
    activation: str
    gated_mlp: bool
    use_bias: bool
    attention_scale: float | None
    scale_embeddings: bool
    logit_scale: float
    tie_embeddings: bool
    num_token_types: int
    dropout_rate: float
    mlp_dropout_rate: float
    attention_dropout_rate: float
    init: str
    init_stddev: float
    dtype: str
    param_dtype: str
    attention: str
    scan_layers: bool
    remat: str

    def __post_init__(self):
        # JSON has no tuples, and the config must be hashable.
        object.__setattr__(self, "rope_scaling", tuple(self.rope_scaling))
        for field, allowed in CHOICES.items():
            _check_choice(field, getattr(self, field), allowed)
        for field in _POSITIVE:
            _check_positive(field, getattr(self, field))
        for field in _POSITIVE_OR_NONE:
            if getattr(self, field) is not None:
                _check_positive(field, getattr(self, field))
        for field in ("position_offset", "num_token_types"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} = {getattr(self, field)}: must be >= 0.")
        for field in ("dropout_rate", "mlp_dropout_rate", "attention_dropout_rate"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise ValueError(
                    f"{field} = {getattr(self, field)}: must be >= 0 and < 1."
                )
        _check_heads(self)
        _check_positions(self)

    @property
    def table_dim(self) -> int:
        """E, width of the embedding tables."""
        return self.emb_dim if self.embedding_dim is None else self.embedding_dim

    @property
    def dim_per_head(self) -> int:
        """H, width of one attention head."""
        return (
            self.emb_dim // self.num_heads if self.head_dim is None else self.head_dim
        )

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def encoder_layers(self) -> int:
        """Blocks on the encoder side."""
        given = self.num_encoder_layers
        return self.num_layers if given is None else given

    @property
    def decoder_layers(self) -> int:
        """Blocks on the decoder side."""
        given = self.num_decoder_layers
        return self.num_layers if given is None else given

    @property
    def shortens_last(self) -> bool:
        """Whether the last layer computes only the positions that are read.

        After a scan that takes a copy of the stack and one of its gradients, which
        whoever computes everything again has no room for.
        """
        return not (self.scan_layers and self.remat == "full")

    @property
    def score_scale(self) -> float:
        """Factor on query-key products."""
        given = self.attention_scale
        return self.dim_per_head**-0.5 if given is None else given

    @property
    def compute_dtype(self) -> jnp.dtype:
        """dtype of activations."""
        return jnp.dtype(self.dtype)


def _check_choice(field: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value in allowed:
        return
    near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    names = ", ".join(repr(name) for name in allowed)
    raise ValueError(f"{field} = {value!r}: must be one of {names}.{hint}")


def _check_positive(field: str, value: Any) -> None:
    if not value > 0:
        raise ValueError(f"{field} = {value}: must be > 0.")


def _check_heads(config: TransformerConfig) -> None:
    if config.head_dim is None and config.emb_dim % config.num_heads:
        raise ValueError(
            f"emb_dim = {config.emb_dim} is not divisible by num_heads = "
            f"{config.num_heads}: change one of them, or set head_dim."
        )
    if config.num_heads % config.kv_heads:
        raise ValueError(
            f"num_heads = {config.num_heads} is not divisible by num_kv_heads = "
            f"{config.kv_heads}: every key head serves equally many query heads."
        )


def _check_positions(config: TransformerConfig) -> None:
    if config.position == "rope" and config.dim_per_head % 2:
        raise ValueError(
            f"head_dim = {config.dim_per_head}: rotary positions rotate pairs, so it "
            f"must be even."
        )
    if config.position_offset and config.position != "learned":
        raise ValueError(
            f"position_offset = {config.position_offset} with position = "
            f"{config.position!r}: only a 'learned' table has an offset; set it to 0."
        )
    if config.relative_num_buckets % 4:
        raise ValueError(
            f"relative_num_buckets = {config.relative_num_buckets}: must be a multiple "
            f"of 4 (two directions, each half exact and half logarithmic)."
        )
    if config.relative_max_distance <= config.relative_num_buckets // 2:
        raise ValueError(
            f"relative_max_distance = {config.relative_max_distance}: must exceed "
            f"relative_num_buckets / 2 = {config.relative_num_buckets // 2}."
        )
    if not config.rope_scaling:
        return
    kind, *factors = config.rope_scaling
    _check_choice("rope_scaling[0]", kind, tuple(ROPE_SCALINGS))
    names = ROPE_SCALINGS[kind]
    if len(factors) != len(names) or not all(f > 0 for f in factors):
        raise ValueError(
            f"rope_scaling = {config.rope_scaling}: {kind!r} takes {len(names)} "
            f"positive numbers: {', '.join(names)}."
        )
