"""The inputs of every backbone."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Bool, Int

from models.pytree import pytree


@pytree
class ModelInputs:
    """One batch of model inputs; an encoder-decoder's encoder side is nested.

    Attributes:
      tokens: token ids, after corruption.
      segment_ids: which packed document a token belongs to, 1.., 0 = padding.
        Attention never crosses two different segment ids.
      positions: position of a token inside its document (or row).
      token_type_ids: sentence A/B (0/1) for models with token types.
      bidirectional: positions that every position of their segment may see, on
        top of the decoder's causal mask (a prefix). Encoders ignore it.
      encoder: inputs of the encoder, for an encoder-decoder only. Cross-attention
        joins equal segment ids.
      reads: how a decoder reads the rows; encoders ignore it. Static, because the
        attention kernel and the buckets of relative positions depend on it:
        'causal': each position sees those before it, and those of `bidirectional`;
        'both': each position sees its whole segment, as in an encoder, whatever
          `bidirectional` is.
      has_gaps: whether something may stand between the tokens of a segment, so that
        their positions do not rise by one from index to index. Static: relative biases
        are then made for each row instead of once for all.
    """

    tokens: Int[Array, "B L"]
    segment_ids: Int[Array, "B L"]
    positions: Int[Array, "B L"]
    token_type_ids: Int[Array, "B L"] | None = None
    bidirectional: Bool[Array, "B L"] | None = None
    encoder: ModelInputs | None = None
    reads: str = dataclasses.field(default="causal", metadata={"static": True})
    has_gaps: bool = dataclasses.field(default=False, metadata={"static": True})
