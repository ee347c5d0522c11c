"""Masked diffusion: hide any share of the tokens, weighted so that a bound is learned."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from models.backbone import BackboneConfig
from models.inputs import ModelInputs
from objectives.base import Objective, row_keys
from objectives.corruption import rows
from objectives.heads import LMHead, MaskedLMHead, Readout
from objectives.scoring import Scoring, example_of, framed, one_segment
from objectives.statistics import Statistic, share
from objectives.types import Example, Lengths, PromptFrame, Target, Term
from objectives.validation import check_choice, check_range, check_row_length

# Mean share of masked tokens, for previews.
SCHEDULES = {"uniform": 0.5, "cosine": 1 - 2 / jnp.pi}
# Passes that estimate the bound of a text.
_NUM_SAMPLES = 32
_GOLDEN = 0.6180339887


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedDiffusion(Objective):
    """Absorbing-state diffusion with exact counts (Sahoo et al. 2024; Nie et al. 2025).

    Every row draws how many of its n eligible tokens are masked, and exactly so many
    are. With `weighting` 'bound', a masked token counts n / k times the slope of the
    schedule and each row is divided by n, so that the loss is an upper bound on the
    negative log-likelihood of a token:

        E over k of  n / k * sum over masked i of -log p(x_i | what is shown)  >=  -log p(x)

        clean         [CLS]  the  cat     sat     on  [SEP]      n = 4, k = 2
        inputs        [CLS]  the  [MASK]  [MASK]  on  [SEP]
        loss_weights  0      0    2       2       0   0          divisor 4

    ``[MASK]`` is never predicted: its logit is minus infinity. No token is kept or
    drawn at random. Counts are spread evenly over the batch, (u + 0.618 * row) mod 1
    with one u a step, which leaves every row's own count uniform and gives any block of
    rows nearly the same mean.

    =========  =====================================================================
    schedule   share of masked tokens, t uniform in [0, 1)
    =========  =====================================================================
    'uniform'  every count 1 .. n equally likely; slope 1 (Nie et al. 2025, LLaDA)
    'cosine'   1 - cos(pi t / 2), 36% on average; slope pi/2 sin(pi t / 2)
    =========  =====================================================================

    Attributes:
      loss_weight: weight of the term 'diffusion'.
      schedule: see the table.
      weighting: 'bound', or 'none': each masked token counts 1, as in a masked LM of
        random rates; no bound then.
      shift: whether a token is read one position before it, as a causal LM reads it;
        the head is causal_lm's then, and may be shared with it. Without it, the head
        is that of a masked LM.
      isolate_documents: whether documents packed into a row see each other.
    """

    name: ClassVar[str] = "masked_diffusion"
    architectures: ClassVar[tuple[str, ...]] = ("encoder", "decoder")
    accepts: ClassVar[tuple[str, ...]] = ("clean", "framed")

    loss_weight: float
    schedule: str
    weighting: str
    shift: bool
    isolate_documents: bool

    def __post_init__(self):
        check_row_length(self, 2)
        check_range(self, "loss_weight", above=0)
        check_choice(self, "schedule", tuple(SCHEDULES))
        check_choice(self, "weighting", ("bound", "none"))
        self.vocabulary.require(self.name, "cls_id", "sep_id", "mask_id")

    @property
    def terms(self) -> dict[str, Term]:
        return {"diffusion": Term(weight=self.loss_weight, predicts="tokens")}

    @property
    def head_name(self) -> str:
        return "causal_lm" if self.shift else self.name

    @property
    def lengths(self) -> Lengths:
        length = self.row_length + 2
        return Lengths(inputs=length, targets={"diffusion": length})

    def corrupt(self, rng: Array, example: Example) -> Example:
        """Masks any share of each row; frames the row first if it is not framed."""
        if self.isolate_documents:
            example = rows.isolate(example)
        example = rows.frame(example, self.vocabulary)
        inputs = example.inputs
        eligible = self._eligible(inputs)
        n = eligible.sum(1, dtype=jnp.int32)
        step_rng, order_rng = jax.random.split(rng)
        spread = _GOLDEN * example.row_ids.astype(jnp.float32)
        t = (jax.random.uniform(step_rng) + spread) % 1.0
        count, slope = self._counts(t, n)
        keys = row_keys(order_rng, example.row_ids)
        masked = jax.vmap(_choose)(keys, eligible, count)
        if self.weighting == "bound":
            factor = slope * n / jnp.maximum(count, 1)
            divisor = n.astype(jnp.float32)
        else:
            factor, divisor = jnp.ones_like(t), None
        return self._predicting(example, masked, factor, divisor)

    def _eligible(self, inputs: ModelInputs) -> Bool[Array, "B L"]:
        eligible = rows.eligible(inputs, self.vocabulary)
        return eligible & rows.follows(inputs) if self.shift else eligible

    def _counts(
        self, t: Float[Array, " B"], n: Int[Array, " B"]
    ) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
        """Masked tokens of each row, 0 where there are none, and the schedule's slope."""
        if self.schedule == "uniform":
            count, slope = 1 + jnp.floor(t * n).astype(jnp.int32), jnp.ones_like(t)
        else:
            angle = t * jnp.pi / 2
            count = jnp.round((1 - jnp.cos(angle)) * n).astype(jnp.int32)
            slope = jnp.pi / 2 * jnp.sin(angle)
        return jnp.minimum(jnp.maximum(count, 1), n), slope

    def _predicting(
        self,
        example: Example,
        masked: Bool[Array, "B L"],
        factor: Float[Array, " B"],
        divisor: Float[Array, " B"] | None,
    ) -> Example:
        """The example with its masks, and their tokens as targets."""
        inputs = example.inputs
        values = jnp.where(masked, inputs.tokens, 0)
        weights = masked * factor[:, None]
        if self.shift:
            values, weights = (jnp.roll(x, -1, axis=1) for x in (values, weights))
        shown = jnp.where(masked, self.vocabulary.mask_id, inputs.tokens)
        shown_inputs = dataclasses.replace(inputs, tokens=shown)
        target = Target(values=values, loss_weights=weights, divisor=divisor)
        return example.replace(
            inputs=rows.read_both_ways(shown_inputs, self.architecture),
            targets={**example.targets, "diffusion": target},
        )

    def statistics(self, rng: Array, example: Example) -> dict[str, Statistic]:
        """Share masked, and what all weights of a row are of its tokens."""
        after = self.corrupt(rng, example)
        weights = after.targets["diffusion"].loss_weights
        clean = rows.frame(example, self.vocabulary).inputs
        eligible = rows.eligible(clean, self.vocabulary)
        found = {
            "masked / eligible tokens": share(
                weights > 0, eligible, float(SCHEDULES[self.schedule])
            )
        }
        if self.weighting == "bound":
            found["sum of weights / eligible tokens"] = share(weights, eligible, 1.0)
        return found

    def init_heads(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        return (LMHead if self.shift else MaskedLMHead)(config, rngs=rngs)

    def readout(
        self,
        term: str,
        heads: Any,
        hidden_states: Float[Array, "B L D"],
        target: Target,
        embedding: Float[Array, "V E"],
        inputs: ModelInputs,
    ) -> Readout:
        features, table, bias = heads.readout(hidden_states, embedding)
        if bias is None:
            bias = jnp.zeros(table.shape[0], jnp.float32)
        return features, table, bias.at[self.vocabulary.mask_id].set(-1e9)

    @property
    def attention(self) -> str:
        return "bidirectional"

    def scoring(self) -> Scoring | None:
        """The bound on a text's negative log-likelihood, from passes of all noise levels.

        Pass j of N masks k = 1 + floor((j + 1/2) n / N) of the n tokens, at places that
        are the same for all texts of the length, so that pairs of texts differ in
        nothing else. None with weighting 'none', which trains no bound.
        """
        if self.weighting == "none":
            return None
        return Scoring(
            kind="bound", arrange=self._arrange_text, num_samples=_NUM_SAMPLES
        )

    def _arrange_text(
        self, tokens: Array, lengths: Array, hidden: Array | None
    ) -> Example:
        if hidden is None:
            raise ValueError("kind 'bound' averages passes: give their numbers.")
        vocabulary = self.vocabulary
        whole, length = framed(
            tokens, lengths, (vocabulary.cls_id,), (vocabulary.sep_id,)
        )
        index = rows.indices(whole)
        is_text = (index > 0) & (index <= lengths[:, None])
        count = 1 + ((2 * hidden + 1) * lengths) // (2 * _NUM_SAMPLES)
        keys = row_keys(jax.random.key(0), hidden)
        masked = jax.vmap(_choose)(keys, is_text, jnp.minimum(count, lengths))
        factor = lengths / (count * _NUM_SAMPLES)
        return self._predicting(
            example_of(one_segment(whole, length), {}), masked, factor, None
        )

    @property
    def prompt(self) -> PromptFrame | None:
        """``[CLS] text [SEP]``, whose ``[MASK]`` tokens are predicted; None if shifted."""
        vocabulary = self.vocabulary
        if self.shift:
            return None
        return PromptFrame(
            before=(vocabulary.cls_id,), after=(vocabulary.sep_id,), fills=True
        )


def _choose(
    rng: Array, eligible: Bool[Array, " L"], count: Int[Array, ""]
) -> Bool[Array, " L"]:
    """Exactly `count` of the eligible tokens, each set of them equally likely."""
    order = jnp.where(eligible, jax.random.uniform(rng, eligible.shape), 2.0)
    # By rank and not by threshold: ties would mask one more.
    rank = jnp.argsort(jnp.argsort(order))
    return (rank < count) & eligible
