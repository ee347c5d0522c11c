"""Masked language modelling: hide some tokens, predict them from both sides."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from objectives.base import row_keys
from objectives.corruption import rows, selection
from objectives.heads import MaskedLMHead
from objectives.masking import Masking
from objectives.statistics import Statistic, share, shown
from objectives.types import Example, Target
from objectives.validation import check_choice, check_range

# Pieces selected together when words are: mean square over mean of a word's pieces,
# generously.
_WORD_CLUSTER = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(Masking):
    """BERT's masked LM (Devlin et al. 2019, section 3.1) and its descendants.

    A share of the tokens is selected anew at every step and predicted. Of these, most
    become ``[MASK]``, some a random token, the rest stay as they are:

        clean         [CLS]  the  cat     sat  on  the  mat     [SEP]
        selected                  ^                ^    ^
        inputs        [CLS]  the  [MASK]  sat  on  run  mat     [SEP]
        positions     2    5    6    -        (K = 4 slots, one of them dead)
        values        cat  the  mat  -
        loss_weights  1    1    1    0

    A decoder stack that it trains reads its rows in both directions, as an encoder does.
    Special tokens and padding are never selected and never drawn; ``[UNK]`` may be
    selected. The budget counts n, the selectable tokens plus ``[CLS]`` and ``[SEP]`` as
    BERT does, so a row of 126 tokens, framed to 128, gets 19 and one of 510 gets 77.
    ``[EOD]`` counts nowhere. A word of more tokens than the budget is cut.

    =============  ==================================================================
    budget         tokens selected in a row
    =============  ==================================================================
    'exact'        noise_density * n rounded half to even, at least 1 (BERT)
    'stochastic'   floor(noise_density * n + u), u uniform in [0, 1) (RoBERTa); with
                   unit 'word' that share of the words (fairseq's whole words)
    'bernoulli'    every unit independently (the collators of transformers)
    =============  ==================================================================

    Attributes, beside those of Masking (noise_density 0.15; 0.3 in ModernBERT, 0.4 in
    Wettig et al. 2022):
      replace_per: 'token' draws what happens for each token, 'unit' once for the tokens
        selected together (fairseq's whole words).
      unit: what is selected: a 'token', a whole 'word', or an 'ngram' of 1 to
        `max_ngram` words with p(n) ~ 1/n (ALBERT).
      max_ngram: longest n-gram, in words.
      budget: how many, see the table.
    """

    name: ClassVar[str] = "masked_lm"
    head = MaskedLMHead

    replace_per: str
    unit: str
    max_ngram: int
    budget: str

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "max_ngram", at_least=1)
        check_choice(self, "replace_per", ("token", "unit"))
        check_choice(self, "unit", ("token", "word", "ngram"))
        check_choice(self, "budget", ("exact", "stochastic", "bernoulli"))
        if self.unit == "ngram" and self.budget == "bernoulli":
            raise ValueError(
                "masked_lm.budget = 'bernoulli' with unit = 'ngram': n-grams are placed "
                "until a budget is met; choose budget 'exact' or 'stochastic'."
            )
        if self.unit != "token":
            self.vocabulary.require(self.name, "is_word_start")

    @property
    def num_slots(self) -> int:
        """K, the most tokens that can be selected in a row."""
        length, rate = self.row_length + 2, self.noise_density
        whole_words = self.unit == "word" and self.budget != "exact"
        if whole_words or self.budget == "bernoulli":
            cluster = _WORD_CLUSTER if whole_words else 1
            slots = selection.capacity(length, rate, cluster)
        elif self.budget == "stochastic":
            slots = selection.ceil_share(length, rate)
        else:
            slots = selection.round_share(length, rate)
        return min(max(slots, 1), self.row_length)

    def corrupt(self, rng: Array, example: Example) -> Example:
        """Selects and replaces; frames the row first if it is not framed."""
        example = self.framed(example)
        tokens = example.inputs.tokens
        eligible = rows.eligible(example.inputs, self.vocabulary)
        is_frame = (tokens == self.vocabulary.cls_id) | (
            tokens == self.vocabulary.sep_id
        )
        count = (eligible | is_frame).sum(1, dtype=jnp.int32)
        units = rows.indices(tokens)
        if self.unit != "token":
            # A longer unit than the smallest budget would never be selected.
            longest = jnp.maximum(selection.floor_share(count, self.noise_density), 1)
            units = rows.word_ids(tokens, eligible, self.vocabulary, longest)
        keys = row_keys(rng, example.row_ids)
        corrupted, positions = jax.vmap(self._corrupt_row)(
            keys, tokens, eligible, units, count
        )
        live = positions < tokens.shape[1]
        slots = jnp.where(live, positions, 0)
        values = jnp.take_along_axis(tokens, slots, axis=1)
        target = Target(
            values=jnp.where(live, values, 0),
            loss_weights=live.astype(jnp.float32),
            positions=slots,
        )
        return self.masked(example, corrupted, {"mlm": target})

    def _corrupt_row(
        self,
        rng: Array,
        tokens: Int[Array, " L"],
        eligible: Bool[Array, " L"],
        units: Int[Array, " L"],
        count: Int[Array, ""],
    ) -> tuple[Int[Array, " L"], Int[Array, " K"]]:
        """Corrupted tokens, and the positions selected (L in dead slots)."""
        select_rng, replace_rng, random_rng = jax.random.split(rng, 3)
        positions, units = self._select(select_rng, eligible, units, count)
        if self.replace_per == "token":
            units = jnp.arange(tokens.shape[0])
        return self.replaced(
            replace_rng, random_rng, tokens, positions, units
        ), positions

    def _select(
        self,
        rng: Array,
        eligible: Bool[Array, " L"],
        units: Int[Array, " L"],
        count: Int[Array, ""],
    ) -> tuple[Int[Array, " K"], Int[Array, " L"]]:
        """Positions selected, and the unit that every position belongs to."""
        slots, rate = self.num_slots, self.noise_density
        count_rng, choice_rng = jax.random.split(rng)
        if self.budget == "bernoulli":
            u = jax.random.uniform(choice_rng, units.shape)
            return selection.positions_of(eligible & (u[units] < rate), slots), units
        if self.budget == "stochastic" and self.unit == "word":
            exists = selection.word_sizes(units) > 0
            words = selection.stochastic_share(count_rng, exists.sum(), rate)
            chosen = selection.choose(choice_rng, exists, words, exists.shape[0])
            taken = jnp.zeros(exists.shape, bool).at[chosen].set(True, mode="drop")
            return selection.positions_of(eligible & taken[units], slots), units
        if self.budget == "stochastic":
            budget = selection.stochastic_share(count_rng, count, rate)
        else:
            budget = jnp.maximum(selection.round_share(count, rate), 1)
        budget = jnp.minimum(jnp.minimum(budget, slots), eligible.sum())
        if self.unit == "token":
            return selection.choose(choice_rng, eligible, budget, slots), units
        if self.unit == "word":
            mask = selection.choose_words(choice_rng, units, budget)
            return selection.positions_of(mask, slots), units
        visits = selection.choose_ngrams(choice_rng, units, budget, self.max_ngram)
        return selection.positions_of(visits >= 0, slots), visits

    def statistics(self, rng: Array, example: Example) -> dict[str, Statistic]:
        """Share selected, and what the inputs show there."""
        after = self.corrupt(rng, example)
        target = after.targets["mlm"]
        tokens = after.inputs.tokens
        # [SEP] counts, [EOD] does not; a tokenizer may use one token for both.
        counted = tokens != self.vocabulary.eod_id
        counted |= tokens == self.vocabulary.sep_id
        counted &= after.inputs.segment_ids > 0
        return {
            "mlm targets / counted tokens": share(
                target.loss_weights, counted, self.noise_density
            ),
            "shown in place of a target": shown(
                target,
                after,
                self.vocabulary,
                mask_prob=self.mask_prob,
                random_prob=self.random_prob,
            ),
        }
