"""Causal language modelling: predict every token from those before it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from objectives.base import Objective
from objectives.corruption import rows
from objectives.heads import LMHead
from objectives.scoring import Scoring, example_of, framed, one_segment
from objectives.types import Example, Lengths, PromptFrame, Target, Term
from objectives.validation import check_range, check_row_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLM(Objective):
    """Next-token prediction over whole rows (Radford et al. 2019, section 2).

    Every real token but the first is a target, ``[EOD]`` included: the model learns
    where documents end. With documents isolated, attention and positions begin anew at
    each document and the first token after ``[EOD]``, which has nothing to be predicted
    from, is no target:

        inputs                  the  cat  [EOD]  a    dog  barks
        targets                 cat  [EOD]  a    dog  barks  -
        loss_weights            1    1      1    1    1      0
        loss_weights, isolated  1    1      0    1    1      0

    Attributes:
      loss_weight: weight of the term 'clm'.
      isolate_documents: whether a document sees the ones before it in its row.
      z_loss: factor on the squared log-partition.
    """

    name: ClassVar[str] = "causal_lm"
    architectures: ClassVar[tuple[str, ...]] = ("decoder",)
    head = LMHead

    loss_weight: float
    isolate_documents: bool
    z_loss: float

    def __post_init__(self):
        check_row_length(self, 2)
        check_range(self, "loss_weight", above=0)
        check_range(self, "z_loss", at_least=0)
        self.vocabulary.require(self.name, "eod_id")

    @property
    def terms(self) -> dict[str, Term]:
        term = Term(weight=self.loss_weight, predicts="tokens", z_loss=self.z_loss)
        return {"clm": term}

    @property
    def lengths(self) -> Lengths:
        length = self.row_length
        return Lengths(inputs=length, targets={"clm": length})

    def corrupt(self, rng: Array, example: Example) -> Example:
        """Shifts tokens left by one; draws nothing."""
        del rng
        if self.isolate_documents:
            example = rows.isolate(example)
        values, is_there = rows.tokens_ahead(example.inputs, 1)
        target = Target(values=values, loss_weights=is_there.astype(jnp.float32))
        return example.replace(targets={"clm": target})

    def scoring(self) -> Scoring:
        """Log-likelihood of the tokens after ``[EOD]``, by the chain rule.

        With documents isolated the model has never seen anything before a first token
        and does not predict it: the first token counts nothing.

            [EOD] the cat sat      log p(the) + log p(cat | the) + log p(sat | the cat)
        """
        return Scoring(kind="exact", arrange=self._arrange_text)

    def _arrange_text(
        self, tokens: Array, lengths: Array, hidden: Array | None
    ) -> Example:
        start = () if self.isolate_documents else (self.vocabulary.eod_id,)
        inputs, count = framed(tokens, lengths, start, ())
        is_predicted = rows.indices(inputs) < count[:, None] - 1
        target = Target(
            values=jnp.roll(inputs, -1, axis=1),
            loss_weights=is_predicted.astype(jnp.float32),
        )
        return example_of(one_segment(inputs, count), {"clm": target})

    @property
    def prompt(self) -> PromptFrame:
        return PromptFrame()
