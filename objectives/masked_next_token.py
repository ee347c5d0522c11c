"""Masked next-token prediction: a masked token is predicted one position before it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from objectives.base import row_keys
from objectives.corruption import rows, selection
from objectives.heads import LMHead
from objectives.masking import Masking
from objectives.statistics import Statistic, share, shown
from objectives.types import Example, PromptFrame, Target
from objectives.validation import check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedNextToken(Masking):
    """GPT-BERT's masked objective (Charpentier and Samuel 2024, section 2).

    Masks are those of a masked LM, in spans. Each target is read at the position before
    it, where a causal LM reads it too, so that one network and one head can be trained
    by both; the head's name is causal_lm's for that reason.

        clean      [CLS]  the  cat     sat     on  [SEP]
        inputs     [CLS]  the  [MASK]  [MASK]  on  [SEP]
        positions         1    2                            read at "the" and at "cat"
        values            cat  sat

    The row is covered by spans of 1 to `max_span_length` tokens, each length equally
    likely, and whole spans are taken until floor(noise_density * n + u) of the n
    eligible tokens are masked, u uniform in [0, 1). The last span may overshoot: with
    spans of 1 to 3, by 2/3 of a token on average (n = 126: 38.47 at 30%). What a
    selected token becomes is drawn once a span.

    With documents isolated, the first token of a document that begins inside a row has
    nothing before it to be read at, and is never masked.

    Attributes:
      max_span_length: longest span, in tokens: 3.
    """

    name: ClassVar[str] = "masked_next_token"
    head = LMHead

    max_span_length: int

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "max_span_length", at_least=1)

    @property
    def head_name(self) -> str:
        return "causal_lm"

    @property
    def num_slots(self) -> int:
        budget = selection.ceil_share(self.row_length, self.noise_density)
        return min(max(budget, 1) + self.max_span_length - 1, self.row_length)

    def corrupt(self, rng: Array, example: Example) -> Example:
        """Masks spans; frames the row first if it is not framed."""
        example = self.framed(example)
        inputs = example.inputs
        eligible = rows.eligible(inputs, self.vocabulary) & rows.follows(inputs)
        keys = row_keys(rng, example.row_ids)
        tokens, positions = jax.vmap(self._corrupt_row)(keys, inputs.tokens, eligible)
        live = positions < tokens.shape[1]
        slots = jnp.where(live, positions, 1)
        values = jnp.take_along_axis(inputs.tokens, slots, axis=1)
        target = Target(
            values=jnp.where(live, values, 0),
            loss_weights=live.astype(jnp.float32),
            positions=slots - 1,
        )
        return self.masked(example, tokens, {"mlm": target})

    def _corrupt_row(
        self, rng: Array, tokens: Int[Array, " L"], eligible: Bool[Array, " L"]
    ) -> tuple[Int[Array, " L"], Int[Array, " K"]]:
        """Corrupted tokens, and the positions masked (L in dead slots)."""
        span_rng, order_rng, count_rng, draw_rng, token_rng = jax.random.split(rng, 5)
        length = tokens.shape[0]
        ends = jnp.cumsum(
            jax.random.randint(span_rng, (length,), 1, self.max_span_length + 1)
        )
        spans = jnp.searchsorted(ends, jnp.arange(length), side="right")
        order = jax.random.uniform(order_rng, (length,))[spans]
        order = jnp.where(eligible, order, jnp.inf)
        count = eligible.sum()
        budget = selection.stochastic_share(count_rng, count, self.noise_density)
        last = jnp.sort(order)[jnp.clip(budget, 1, jnp.maximum(count, 1)) - 1]
        positions = selection.positions_of((order <= last) & eligible, self.num_slots)
        return self.replaced(draw_rng, token_rng, tokens, positions, spans), positions

    def statistics(self, rng: Array, example: Example) -> dict[str, Statistic]:
        """Share selected, and what the inputs show there."""
        after = self.corrupt(rng, example)
        target = after.targets["mlm"]
        assert target.positions is not None
        at = dataclasses.replace(target, positions=target.positions + 1)
        eligible = rows.eligible(self.framed(example).inputs, self.vocabulary)
        overshoot = (self.max_span_length - 1) / 3 / self.row_length
        return {
            "targets / eligible tokens": share(
                target.loss_weights, eligible, self.noise_density + overshoot
            ),
            "shown in place of a target": shown(
                at,
                after,
                self.vocabulary,
                mask_prob=self.mask_prob,
                random_prob=self.random_prob,
            ),
        }

    def _arrange_text(
        self, tokens: Array, lengths: Array, hidden: Array | None
    ) -> Example:
        """Each token is masked alone and read one position earlier."""
        example = super()._arrange_text(tokens, lengths, hidden)
        target = example.targets["mlm"]
        assert target.positions is not None
        target = dataclasses.replace(target, positions=target.positions - 1)
        return example.replace(targets={"mlm": target})

    @property
    def prompt(self) -> PromptFrame | None:
        """None: a ``[MASK]`` of a prompt is not answered at its own position."""
        return None
