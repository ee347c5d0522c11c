"""Fine-tuning on answers that are spans of the input.

Devlin et al. 2019, section 4.2: a start vector S and an end vector E score every
position i by S.h_i and E.h_i; the loss is the mean of both cross-entropies. A question
without an answer (section 4.3) has its span at one position that belongs to no text.

    tokens   [CLS] who ? [SEP] a b c [SEP]     answer b c
    start      0    0  0   0   0 1 0   0
    end        0    0  0   0   0 0 1   0       no answer: both at [CLS]
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from models.backbone import BackboneConfig
from models.dropout import DropoutRngs
from models.inputs import ModelInputs
from models.layers import Linear
from models.pytree import pytree
from objectives.base import Networks
from objectives.finetuning.labelled import Labelled
from objectives.types import AnyArray, Target, Term

# Logit of padding; finite, so that no gradient is NaN.
_PADDING = -1e9


@pytree
class SpanBatch:
    """Framed questions and passages. Every array has the leading axis B.

    Attributes:
      tokens: with the special tokens in place.
      segment_ids: 1 for tokens, 0 for padding, on either side.
      token_type_ids: 0 for the question, 1 for the passage; None for models without.
      starts, ends: first and last position of the answer.
      weights: 0 for rows that only fill up the batch.
      row_ids: number of each row in the step; dropout folds it in.
    """

    tokens: Int[AnyArray, "B L"]
    segment_ids: Int[AnyArray, "B L"]
    token_type_ids: Int[AnyArray, "B L"] | None
    starts: Int[AnyArray, " B"]
    ends: Int[AnyArray, " B"]
    weights: Float[AnyArray, " B"]
    row_ids: Int[AnyArray, " B"]


class SpanHead(nnx.Module):
    """Start and end logits of every position, float32."""

    def __init__(self, config: BackboneConfig, *, rngs: nnx.Rngs):
        exact = dataclasses.replace(config, dtype="float32")
        self.output = Linear(exact, config.emb_dim, 2, rngs, use_bias=True)

    def __call__(self, hidden_states: Float[Array, "B L D"]) -> Float[Array, "B L 2"]:
        return self.output(hidden_states)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanExtraction(Labelled):
    """Start and end of the answer, each one of the row's positions."""

    name: ClassVar[str] = "span_extraction"

    @property
    def terms(self) -> dict[str, Term]:
        return {term: Term(weight=0.5, predicts="labels") for term in ("start", "end")}

    def targets(self, batch: Any) -> dict[str, Target]:
        positions = {"start": batch.starts, "end": batch.ends}
        return {
            term: Target(values=values[:, None], loss_weights=batch.weights[:, None])
            for term, values in positions.items()
        }

    def init_heads(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> SpanHead:
        return SpanHead(config, rngs=rngs)

    def logits(
        self,
        networks: Networks,
        inputs: ModelInputs,
        *,
        rngs: DropoutRngs | None = None,
    ) -> Float[Array, "B L 2"]:
        """Start and end logits; padding is out of reach."""
        hidden_states = networks["model"](inputs, deterministic=rngs is None, rngs=rngs)
        scores = networks["heads"](hidden_states)
        return jnp.where((inputs.segment_ids > 0)[..., None], scores, _PADDING)

    def judged(
        self, term: str, logits: Float[Array, "B L 2"], target: Any
    ) -> tuple[Array, Array, Array]:
        """Cross-entropy over the positions of each row."""
        scores, place = logits[..., ("start", "end").index(term)], target.values
        chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), place, axis=1)[:, 0]
        return -chosen, scores.argmax(1) == place[:, 0], jnp.ones_like(chosen, bool)
