"""The data that flows through an objective: clean rows in, examples out."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from models.inputs import ModelInputs
from models.pytree import pytree

# Batches come from the host, or are mere shapes.
AnyArray = Array | np.ndarray | jax.ShapeDtypeStruct


@pytree
class TokenBatch:
    """Clean tokens, all that the host ever ships.

    A row is a slice of one endless stream of documents separated by ``[EOD]``.

    Attributes:
      tokens: R clean token ids a row.
      row_ids: number of the row in the global step, 0 .. batch_size - 1.
      first_document: corpus-wide number of the document the row begins in; later
        documents follow by counting ``[EOD]``.
    """

    tokens: Int[AnyArray, "B R"]
    row_ids: Int[AnyArray, " B"]
    first_document: Int[AnyArray, " B"]


@pytree
class Target:
    """What one loss term has to predict.

    Attributes:
      values: token ids [B, K], or one label per example [B, 1].
      loss_weights: how much each value counts, 0 = ignored (dead slots).
      positions: where in the sequence each value sits; None = position k of K = L.
        Dead slots point to position 0 with weight 0.
      span_starts, span_ends: inclusive limits of the span a value lies in
        (span boundary objective).
      divisor: what a row adds to its term's denominator; None = the sum of its
        loss weights.
    """

    values: Int[Array, "B K"] | Float[Array, "B K"]
    loss_weights: Float[Array, "B K"]
    positions: Int[Array, "B K"] | None = None
    span_starts: Int[Array, "B K"] | None = None
    span_ends: Int[Array, "B K"] | None = None
    divisor: Float[Array, " B"] | None = None

    def denominators(self) -> Float[Array, " B"]:
        """What each row adds to the term's denominator."""
        return self.loss_weights.sum(-1) if self.divisor is None else self.divisor


@pytree
class Example:
    """Model inputs and weighted targets; every array has the leading axis B.

    Attributes:
      inputs: what the backbone reads.
      targets: one Target per loss term, keyed by the term's name.
      row_ids: number of each row in the global step; dropout folds it in.
      document_ids: corpus-wide document number of every token of ``inputs.tokens``
        (of the encoder's tokens for an encoder-decoder), -1 for special tokens and
        padding that belong to none. Stages use it; models never see it.
      metrics: named per-row counts [B] worth logging, e.g. rows without a partner.
      framed: static; whether ``[CLS]`` and ``[SEP]`` are already in place, so that a
        later stage does not add them again.
    """

    inputs: ModelInputs
    targets: dict[str, Target]
    row_ids: Int[Array, " B"]
    document_ids: Int[Array, "B L"]
    metrics: dict[str, Float[Array, " B"]] = dataclasses.field(default_factory=dict)
    framed: bool = dataclasses.field(default=False, metadata={"static": True})

    def replace(self, **changes: Any) -> Example:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """One loss term of an objective.

    Attributes:
      weight: its factor in the loss.
      predicts: 'tokens' of the vocabulary, 'labels' (classes of their own) or a 'score'.
      z_loss: factor on the squared log-partition in its cross-entropy.
      label_names: names of the classes, for terms that predict labels.
    """

    weight: float
    predicts: str
    z_loss: float = 0.0
    label_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptFrame:
    """What stands around a prompt, as the network was trained to read it.

    Attributes:
      before, after: token ids.
      start_id: what an encoder-decoder's decoder reads first.
      fills: whether the network predicts the ``[MASK]`` tokens of a prompt; if not, it
        continues the prompt.
      after_prefix: how many tokens at the end of a decoder's framed prompt are read
        causally, all others being read in both directions; None = all are causal.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    start_id: int = 0
    fills: bool = False
    after_prefix: int | None = None


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Static lengths that follow from the row length.

    Attributes:
      inputs: length of ``ModelInputs.tokens`` (the decoder side, for an
        encoder-decoder).
      encoder: length of ``ModelInputs.encoder.tokens``; 0 without an encoder side.
      targets: K of each term, the number of positions its head reads.
    """

    inputs: int
    targets: dict[str, int]
    encoder: int = 0
