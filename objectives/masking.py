"""What objectives that mask tokens share: settings, replacement, scores and prompts."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from objectives.base import Objective
from objectives.corruption import rows, selection
from objectives.scoring import Scoring, example_of, framed, one_segment
from objectives.types import Example, Lengths, PromptFrame, Target, Term
from objectives.validation import check_choice, check_range, check_row_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masking(Objective):
    """Frames a row with ``[CLS]`` and ``[SEP]`` and hides some of its tokens in place.

    A decoder stack that such an objective trains reads its rows in both directions, as
    an encoder does.

    Attributes:
      loss_weight: weight of the term 'mlm'.
      noise_density: share of tokens selected.
      mask_prob: share of the selected tokens replaced by ``[MASK]``.
      random_prob: share replaced by a random token; the rest stay as they are.
      replacement: distribution of random tokens: 'uniform' over those that are not
        special, or 'unigram', the training split's.
      isolate_documents: whether documents packed into a row see each other.
    """

    architectures: ClassVar[tuple[str, ...]] = ("encoder", "decoder")
    accepts: ClassVar[tuple[str, ...]] = ("clean", "framed")

    loss_weight: float
    noise_density: float
    mask_prob: float
    random_prob: float
    replacement: str
    isolate_documents: bool

    def __post_init__(self):
        check_row_length(self, 2)
        check_range(self, "loss_weight", above=0)
        check_range(self, "noise_density", above=0, below=1)
        check_range(self, "mask_prob", "random_prob", at_least=0, at_most=1)
        # 0.8 + 0.2 is a little over 1 in some pairs of floats.
        shares = round(self.mask_prob + self.random_prob, 9)
        if shares > 1:
            raise ValueError(
                f"{self.name}.mask_prob + random_prob = {shares}: must be <= 1."
            )
        check_choice(self, "replacement", ("uniform", "unigram"))
        self.vocabulary.require(self.name, "cls_id", "sep_id", "mask_id")
        if self.replacement == "unigram":
            self.vocabulary.require(self.name, "unigram_counts")

    def following(self, previous: Objective) -> Objective:
        stage = super().following(previous)
        if self.isolate_documents:
            raise ValueError(
                f"{self.name}.isolate_documents = True after {previous.name!r}: its "
                f"pairs are one sequence that may join two documents. Set it to False."
            )
        return stage

    @property
    def terms(self) -> dict[str, Term]:
        return {"mlm": Term(weight=self.loss_weight, predicts="tokens")}

    @property
    def num_slots(self) -> int:
        """K, the most tokens that can be selected in a row."""
        raise NotImplementedError

    @property
    def lengths(self) -> Lengths:
        return Lengths(
            inputs=self.row_length + 2,
            targets=dict.fromkeys(self.terms, self.num_slots),
        )

    def framed(self, example: Example) -> Example:
        """The rows between ``[CLS]`` and ``[SEP]``, documents isolated if asked."""
        if self.isolate_documents:
            example = rows.isolate(example)
        return rows.frame(example, self.vocabulary)

    def replaced(
        self,
        draw_rng: Key[Array, ""],
        token_rng: Key[Array, ""],
        tokens: Int[Array, " L"],
        positions: Int[Array, " K"],
        shared: Int[Array, " L"],
    ) -> Int[Array, " L"]:
        """A row whose selected tokens are masks, random tokens or as they were.

        Args:
          draw_rng: for which of the three a token becomes.
          token_rng: for the random tokens.
          tokens: of the row.
          positions: selected; L in dead slots.
          shared: positions whose tokens share a draw have the same number here.
        """
        kept = tokens.at[positions].get(mode="fill", fill_value=0)
        drawn = selection.draw_tokens(token_rng, self._thresholds, positions.shape[0])
        u = jax.random.uniform(draw_rng, tokens.shape)
        u = u[shared.at[positions].get(mode="clip")]
        new = jnp.where(u < self.mask_prob + self.random_prob, drawn, kept)
        new = jnp.where(u < self.mask_prob, self.vocabulary.mask_id, new)
        return tokens.at[positions].set(new, mode="drop")

    @functools.cached_property
    def _thresholds(self) -> np.ndarray:
        return selection.replacement_thresholds(self.vocabulary, self.replacement)

    def masked(
        self, example: Example, tokens: Int[Array, "B L"], targets: dict[str, Target]
    ) -> Example:
        """The framed example with corrupted tokens and more targets."""
        inputs = dataclasses.replace(example.inputs, tokens=tokens)
        return example.replace(
            inputs=rows.read_both_ways(inputs, self.architecture),
            targets={**example.targets, **targets},
        )

    @property
    def attention(self) -> str:
        return "bidirectional"

    def scoring(self) -> Scoring:
        """Pseudo-log-likelihood: each token is masked alone, all others are seen.

        [CLS] [MASK] cat sat [SEP] , [CLS] the [MASK] sat [SEP] , ..
        """
        return Scoring(kind="pseudo", arrange=self._arrange_text)

    def _arrange_text(
        self, tokens: Array, lengths: Array, hidden: Array | None
    ) -> Example:
        if hidden is None:
            raise ValueError("kind 'pseudo' predicts one token a pass: give `hidden`.")
        vocabulary = self.vocabulary
        whole, count = framed(
            tokens, lengths, (vocabulary.cls_id,), (vocabulary.sep_id,)
        )
        position = (hidden + 1)[:, None].astype(jnp.int32)
        values = jnp.take_along_axis(whole, position, axis=1)
        target = Target(
            values=values,
            loss_weights=jnp.ones(values.shape, jnp.float32),
            positions=position,
        )
        shown = jnp.where(rows.indices(whole) == position, vocabulary.mask_id, whole)
        inputs = rows.read_both_ways(one_segment(shown, count), self.architecture)
        return example_of(inputs, {"mlm": target})

    @property
    def prompt(self) -> PromptFrame | None:
        """``[CLS] text [SEP]``, whose ``[MASK]`` tokens are predicted."""
        vocabulary = self.vocabulary
        return PromptFrame(
            before=(vocabulary.cls_id,), after=(vocabulary.sep_id,), fills=True
        )
