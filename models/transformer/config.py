"""Settings of a Transformer, with their checks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from models import platform as platforms
from models.backbone import BackboneConfig, check_choice
from models.transformer import attend, masks

# Values that the fields with names for values accept, beside those of every backbone.
CHOICES: dict[str, tuple[Any, ...]] = {
    "backbone": ("transformer",),
    "position": ("learned", "sinusoidal", "rope", "relative_bias", "alibi"),
    "norm_position": ("pre", "post"),
    "attention": ("auto", "explicit", "xla", "cudnn", "splash"),
}
ROPE_SCALINGS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_len"),
}
_POSITIVE = (
    "num_layers",
    "num_heads",
    "mlp_dim",
    "max_seq_len",
    "rope_theta",
    "relative_num_buckets",
    "relative_max_distance",
)
_POSITIVE_OR_NONE = (
    "embedding_dim",
    "num_encoder_layers",
    "num_decoder_layers",
    "num_kv_heads",
    "head_dim",
    "attention_scale",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig(BackboneConfig):
    """Settings of one Transformer; BERT, GPT-2, Llama, T5 and BART are values of it.

    Fields that may be None follow from others; code reads the resolved value from the
    property named in brackets. `dataclasses.replace` therefore keeps what was left
    open, open.

    Attributes:
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
      norm_position: 'pre' (inside the residual branch) or 'post' (after the sum).
      final_norm: a norm after the last block.
      embedding_norm: a norm after the sum of embeddings. With 'pre' the first block then
        has no norm before attention (ModernBERT), which a scan over layers cannot do.
      gated_mlp: activation(gate(x)) * up(x) (Shazeer 2020).
      attention_scale: factor on query-key products (`score_scale`). None = H^-0.5.
      scale_embeddings: multiply token embeddings by sqrt(D).
      mlp_dropout_rate: inside the feed-forward layer, after the activation; the
        `dropout_rate` is that after embeddings and after every sublayer.
      attention_dropout_rate: on attention weights.
      attention: implementation, 'auto', 'explicit', 'xla', 'cudnn' or 'splash'; see
        `models.transformer.attend`.
      scan_layers: one `jax.lax.scan` over stacked layers: faster to compile, on CPUs
        slower to run; see `shortens_last`.

    Raises:
      ValueError: for a value that is not allowed, naming it and what is.
    """

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
    norm_position: str
    final_norm: bool
    embedding_norm: bool
    gated_mlp: bool
    attention_scale: float | None
    scale_embeddings: bool
    mlp_dropout_rate: float
    attention_dropout_rate: float
    attention: str
    scan_layers: bool

    def __post_init__(self):
        # JSON has no tuples, and the config must be hashable.
        object.__setattr__(self, "rope_scaling", tuple(self.rope_scaling))
        super().__post_init__()
        self.check_choices(CHOICES)
        self.check_positive(*_POSITIVE)
        self.check_positive(*_POSITIVE_OR_NONE, optional=True)
        self.check_rates("mlp_dropout_rate", "attention_dropout_rate")
        if self.position_offset < 0:
            raise ValueError(f"position_offset = {self.position_offset}: must be >= 0.")
        _check_heads(self)
        _check_positions(self)
        if self.scan_layers and self.norms_embeddings_only:
            raise ValueError(
                "scan_layers = True with embedding_norm = True and norm_position = 'pre': "
                "the first block has no norm before attention, and a scan needs blocks "
                "that are all alike. Set scan_layers to False."
            )

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
    def norms_embeddings_only(self) -> bool:
        """Whether the norm of the embeddings is that of the first block too."""
        return self.embedding_norm and self.norm_position == "pre"

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

        After a scan this copies the stack and its gradients, so it is not done under
        remat 'full', which is chosen where memory is short.
        """
        return not (self.scan_layers and self.remat == "full")

    @property
    def score_scale(self) -> float:
        """Factor on query-key products."""
        given = self.attention_scale
        return self.dim_per_head**-0.5 if given is None else given

    @property
    def max_length(self) -> int | None:
        """Positions that a learned table has; other schemes extrapolate."""
        return self.max_seq_len if self.position == "learned" else None

    @property
    def tensor_sizes(self) -> dict[str, int]:
        """Heads and the feed-forward width, which are split whole."""
        sizes = {"num_heads": self.num_heads, "mlp_dim": self.mlp_dim}
        if self.num_kv_heads is not None:
            sizes["num_kv_heads"] = self.num_kv_heads
        return sizes

    @property
    def num_blocks(self) -> int:
        """Blocks of all stacks; an encoder-decoder's decoder follows its encoder."""
        if self.architecture == "encoder_decoder":
            return self.encoder_layers + self.decoder_layers
        return self.num_layers

    def layer_depth(self, path: tuple[str, ...]) -> int | np.ndarray:
        """Depth of a parameter; the norm after an encoder counts to its last block."""
        if any("embed" in name or name == "relative_bias" for name in path):
            return 0
        before, count = {
            "encoder_stack": (0, self.encoder_layers),
            "decoder_stack": (self.encoder_layers, self.decoder_layers),
        }.get(path[0], (0, self.num_layers))
        if "layers" not in path:
            end = before + count
            return end + 1 if end == self.num_blocks else end
        index = path[path.index("layers") + 1]
        if index.isdigit():
            return before + int(index) + 1
        return before + 1 + np.arange(count)

    def advice(self, platform: str) -> list[str]:
        """Names dropout of attention weights where it costs the fused kernel."""
        with platforms.planned_for(platform):
            kernel = attend.implementation(
                self.attention,
                query_shape=(1, masks.SPLASH_BLOCK, self.num_heads, self.dim_per_head),
                key_length=masks.SPLASH_BLOCK,
                dtype=self.compute_dtype,
                drops_weights=False,
                segments_suffice=self.position not in ("alibi", "relative_bias"),
            )
        if self.attention_dropout_rate == 0.0 or kernel not in attend.FUSED:
            return []
        text = (
            "attention keeps its weights, for their dropout: "
            "--config.model.attention_dropout_rate=0 attends by one fused kernel"
        )
        return [text]

    def with_dropout(self, rate: float) -> TransformerConfig:
        """The same with other dropout of hidden states and of attention weights."""
        return dataclasses.replace(self, dropout_rate=rate, attention_dropout_rate=rate)


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
    check_choice("rope_scaling[0]", kind, tuple(ROPE_SCALINGS))
    names = ROPE_SCALINGS[kind]
    if len(factors) != len(names) or not all(f > 0 for f in factors):
        raise ValueError(
            f"rope_scaling = {config.rope_scaling}: {kind!r} takes {len(names)} "
            f"positive numbers: {', '.join(names)}."
        )
