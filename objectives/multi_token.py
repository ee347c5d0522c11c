"""Multi-token prediction: every position predicts the next tokens, not only the next."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from models.backbone import BackboneConfig
from models.inputs import ModelInputs
from models.layers import ACTIVATIONS, Linear
from objectives.causal_lm import CausalLM
from objectives.corruption import rows
from objectives.heads import Heads, LMHead, Readout
from objectives.types import Example, Lengths, Target, Term
from objectives.validation import check_choice


class FutureHead(nnx.Module):
    """h + W2 act(W1 h) before the table that all offsets share (Cai et al. 2024).

    W2 begins at zero, so that a fresh head reads what the next token's reads.
    """

    def __init__(self, config: BackboneConfig, *, rngs: nnx.Rngs):
        dim = config.emb_dim
        self.inner = Linear(config, dim, dim, rngs, use_bias=True)
        self.outer = Linear(config, dim, dim, rngs, use_bias=True)
        self.outer.kernel[...] = jnp.zeros((dim, dim), config.param_dtype)
        self.activation = config.activation

    def __call__(self, states: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        return states + self.outer(ACTIVATIONS[self.activation](self.inner(states)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiToken(CausalLM):
    """Causal LM with further targets: the tokens 2, 3, .. positions ahead.

    Gloeckle et al. 2024 (section 2), with a lighter head than their transformer layer
    for each offset; `heads` = 'shared' has none, and asks the same logits for several
    tokens at once. Each offset has a term of its own, divided by its own targets: 'clm'
    for the next token, 'mtp2', 'mtp3', .. for those behind it.

        inputs                  the  cat  sat  [EOD]  a    dog
        clm                     cat  sat  [EOD]  a    dog  -
        mtp2                    sat  [EOD]  a    dog  -    -
        mtp2 weights, isolated  1    1    0    0      0    0

    With 'shared' heads the best logits are those of a mixture of the coming tokens, so
    the last phase of a run has to be causal_lm alone for calibrated predictions: make
    it `phases`. Texts are scored and written by the next token's logits.

    Attributes:
      future_weights: weight of each further offset, nearest first: (0.5,) adds one.
      heads: 'own', a residual layer for each further offset, or 'shared'.
    """

    name: ClassVar[str] = "multi_token"

    future_weights: tuple[float, ...]
    heads: str

    def __post_init__(self):
        super().__post_init__()
        check_choice(self, "heads", ("shared", "own"))
        if not self.future_weights or min(self.future_weights) <= 0:
            raise ValueError(
                f"multi_token.future_weights = {self.future_weights}: give a weight "
                f"above 0 for each further offset, e.g. (0.5, 0.25)."
            )
        if len(self.future_weights) + 2 > self.row_length:
            raise ValueError(
                f"multi_token.future_weights has {len(self.future_weights)} further "
                f"offsets, and rows of {self.row_length} tokens have targets for "
                f"{self.row_length - 2} at most."
            )

    @property
    def head_name(self) -> str:
        """With 'shared' heads causal_lm's, so that phases of both share it."""
        return "causal_lm" if self.heads == "shared" else self.name

    @property
    def _offsets(self) -> dict[str, int]:
        """Distance of each further term's token from the position that predicts it."""
        return {f"mtp{n}": n for n in range(2, 2 + len(self.future_weights))}

    @property
    def terms(self) -> dict[str, Term]:
        further = {
            term: Term(weight=self.loss_weight * weight, predicts="tokens")
            for term, weight in zip(self._offsets, self.future_weights, strict=True)
        }
        return super().terms | further

    @property
    def lengths(self) -> Lengths:
        lengths = super().lengths
        targets = dict.fromkeys(self.terms, self.row_length)
        return dataclasses.replace(lengths, targets=targets)

    def corrupt(self, rng: Array, example: Example) -> Example:
        """Shifts tokens left by one, two, ..; draws nothing."""
        example = super().corrupt(rng, example)
        further = {
            term: rows.tokens_ahead(example.inputs, offset)
            for term, offset in self._offsets.items()
        }
        targets = {
            term: Target(values=values, loss_weights=is_there.astype(jnp.float32))
            for term, (values, is_there) in further.items()
        }
        return example.replace(targets=example.targets | targets)

    def init_heads(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        head = LMHead(config, rngs=rngs)
        if self.heads == "shared":
            return head
        own = {term: FutureHead(config, rngs=rngs) for term in self._offsets}
        return Heads({"next": head, **own})

    def readout(
        self,
        term: str,
        heads: Any,
        hidden_states: Float[Array, "B L D"],
        target: Target,
        embedding: Float[Array, "V E"],
        inputs: ModelInputs,
    ) -> Readout:
        if self.heads == "shared":
            return heads.readout(hidden_states, embedding)
        if term in self._offsets:
            hidden_states = heads.by_name()[term](hidden_states)
        return heads.next.readout(hidden_states, embedding)
