"""SpanBERT: hide spans of words, predict them also from the tokens beside them."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from models.backbone import BackboneConfig
from models.inputs import ModelInputs
from models.layers import ACTIVATIONS, Linear, Norm, kernel_stddev, normal_param
from objectives.base import row_keys
from objectives.corruption import rows, selection
from objectives.corruption.runs import runs
from objectives.corruption.word_spans import Spans, geometric, place_spans
from objectives.heads import MaskedLMHead, OutputTable, Readout
from objectives.masking import Masking
from objectives.statistics import Statistic, mean, share, shown
from objectives.types import Example, Target, Term
from objectives.validation import check_choice, check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanBoundary(Masking):
    """Span masking and the span boundary objective (Joshi et al. 2020, section 3).

    Spans of 1 to `max_span_length` whole words, with lengths geometric and
    renormalised, are drawn until ceil(noise_density * n) of the n eligible tokens are
    masked, exactly. Spans that overlap or touch are merged, and what happens to a
    merged span happens to all of its tokens: ``[MASK]``, random tokens, or nothing.
    Each masked token is predicted from its own state (term 'mlm') and again from the
    states of the two tokens beside its span and its place in it (term 'sbo'):

        clean        [CLS]  an  American  football  game  .  [SEP]
        inputs       [CLS]  an  [MASK]    [MASK]    game  .  [SEP]
        positions               2         3
        values                  American  football
        span_starts             2         2
        span_ends               3         3
        sbo features            h1 h4 p0  h1 h4 p1       h = states, p = places

    Spans lie within a segment of a document: no ``[CLS]``, ``[SEP]``, ``[EOD]`` or
    padding is inside one. Where one is beside a span there is no 'sbo' target, nor from
    place `max_pair_targets` on; those tokens remain 'mlm' targets. Both terms are means
    over their targets in the whole batch; the reference divides 'sbo' by one more.

    Attributes, beside those of Masking:
      sbo_weight: weight of the term 'sbo'; 0 = span masking alone, without its head.
      geometric_p: 1 / mean of the lengths before they are limited.
      max_span_length: longest span drawn, in words.
      replace_per: 'span', or 'token' for a draw of its own for every token.
      max_pair_targets: places of a span that have an 'sbo' target.
      position_dim: width of a place's embedding.
    """

    name: ClassVar[str] = "span_boundary"

    sbo_weight: float
    geometric_p: float
    max_span_length: int
    replace_per: str
    max_pair_targets: int
    position_dim: int

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "sbo_weight", at_least=0)
        check_range(self, "geometric_p", above=0, below=1)
        sizes = ("max_span_length", "max_pair_targets", "position_dim")
        check_range(self, *sizes, at_least=1)
        check_choice(self, "replace_per", ("span", "token"))
        self.vocabulary.require(self.name, "is_word_start")

    @property
    def terms(self) -> dict[str, Term]:
        if not self.sbo_weight:
            return super().terms
        return {**super().terms, "sbo": Term(weight=self.sbo_weight, predicts="tokens")}

    @property
    def num_slots(self) -> int:
        """K, the tokens masked in a row without special ones."""
        return selection.ceil_share(self.row_length, self.noise_density)

    def corrupt(self, rng: Array, example: Example) -> Example:
        """Masks spans; frames the row first if it is not framed."""
        example = self.framed(example)
        tokens = example.inputs.tokens
        place_keys, replace_keys = self._keys(rng, example)
        spans = self._spans(place_keys, example)
        corrupted, positions = jax.vmap(self._replace_row)(
            replace_keys, tokens, spans.mask
        )
        live = positions < tokens.shape[1]
        slots = jnp.where(live, positions, 0)

        def at_slots(values: Array) -> Array:
            return jnp.where(live, jnp.take_along_axis(values, slots, axis=1), 0)

        starts, ends = runs(spans.mask)
        starts, ends = at_slots(starts), at_slots(ends - 1)
        target = Target(
            values=at_slots(tokens),
            loss_weights=live.astype(jnp.float32),
            positions=slots,
            span_starts=starts,
            span_ends=ends,
        )
        targets = {"mlm": target}
        if self.sbo_weight:
            # A token beside a merged span is not masked; it has to be text as well.
            eligible = rows.eligible(example.inputs, self.vocabulary)
            before, after = _boundaries(starts, ends, tokens.shape[1])
            at_before = jnp.take_along_axis(eligible, before, axis=1)
            at_after = jnp.take_along_axis(eligible, after, axis=1)
            near = slots - starts < self.max_pair_targets
            paired = live & at_before & at_after & near
            targets["sbo"] = dataclasses.replace(
                target, loss_weights=paired.astype(jnp.float32)
            )
        return self.masked(example, corrupted, targets)

    def _keys(self, rng: Array, example: Example) -> tuple[Array, Array]:
        """Keys [B] for the spans, and for what replaces their tokens."""
        keys = jax.vmap(jax.random.split)(row_keys(rng, example.row_ids))
        return keys[:, 0], keys[:, 1]

    def _spans(self, keys: Array, example: Example) -> Spans:
        """Spans of a framed example, all fields with a leading axis B."""
        tokens = example.inputs.tokens
        eligible = rows.eligible(example.inputs, self.vocabulary)
        # Spans are cut where the budget ends, so words need not be.
        words = rows.word_ids(tokens, eligible, self.vocabulary, tokens.shape[1])
        count = eligible.sum(1, dtype=jnp.int32)
        budget = selection.ceil_share(count, self.noise_density)
        pmf = geometric(self.geometric_p, self.max_span_length)

        def place(key: Array, words: Array, budget: Array) -> Spans:
            return place_spans(key, words, budget, pmf, self.num_slots)

        return jax.vmap(place)(keys, words, budget)

    def _replace_row(
        self, rng: Array, tokens: Int[Array, " L"], mask: Array
    ) -> tuple[Int[Array, " L"], Int[Array, " K"]]:
        """Corrupted tokens, and the masked positions (L in dead slots)."""
        draw_rng, random_rng = jax.random.split(rng)
        positions = selection.positions_of(mask, self.num_slots)
        shared = runs(mask)[0] if self.replace_per == "span" else jnp.arange(mask.size)
        corrupted = self.replaced(draw_rng, random_rng, tokens, positions, shared)
        return corrupted, positions

    def statistics(self, rng: Array, example: Example) -> dict[str, Statistic]:
        """Spans as drawn and as merged, and what became of their tokens."""
        before = self.framed(example)
        spans = self._spans(self._keys(rng, before)[0], before)
        after = self.corrupt(rng, example)
        target = after.targets["mlm"]
        eligible = rows.eligible(before.inputs, self.vocabulary)
        pmf = geometric(self.geometric_p, self.max_span_length)
        words = np.arange(1, self.max_span_length + 1)
        used = jnp.arange(spans.lengths.shape[1])[None] < spans.draws[:, None]
        is_length = (spans.lengths[..., None] == words[None, None]) & used[..., None]
        starts = runs(spans.mask)[0]
        is_start = spans.mask & (starts == jnp.arange(starts.shape[1])[None])
        result = {
            "mlm targets / eligible tokens": share(
                target.loss_weights, eligible, self.noise_density
            ),
            "words of a span as drawn": share(
                spans.lengths * used, used, float(pmf @ words)
            ),
            "spans drawn with so many words": Statistic(
                totals=is_length.sum(1).astype(jnp.float32),
                counts=spans.draws.astype(jnp.float32),
                nominal=tuple(pmf.tolist()),
                classes=tuple(str(n) for n in words),
            ),
            "merged spans in a row": mean(is_start),
            "tokens of a merged span": share(spans.mask, is_start),
            "shown in place of a target": shown(
                target,
                after,
                self.vocabulary,
                mask_prob=self.mask_prob,
                random_prob=self.random_prob,
            ),
        }
        if self.sbo_weight:
            weights = after.targets["sbo"].loss_weights
            result["sbo targets / mlm targets"] = share(weights, target.loss_weights)
        return result

    def init_heads(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        return SpanHeads(self, config, rngs=rngs)

    def read_at(self, term: str, target: Target) -> Int[Array, "B P"] | None:
        """For 'sbo' the tokens before the targets' spans, then those after them."""
        if term != "sbo":
            return target.positions
        starts, ends = target.span_starts, target.span_ends
        if starts is None or ends is None:
            raise ValueError("A boundary target needs the limits of its spans.")
        before, after = _boundaries(starts, ends, self.lengths.inputs)
        return jnp.concatenate([before, after], axis=1)

    def readout(
        self,
        term: str,
        heads: Any,
        hidden_states: Float[Array, "B P D"],
        target: Target,
        embedding: Float[Array, "V E"],
        inputs: ModelInputs,
    ) -> Readout:
        if term == "sbo":
            return heads.sbo.readout(hidden_states, target, embedding)
        return heads.mlm.readout(hidden_states, embedding)


class SpanHeads(nnx.Module):
    """A head for each term."""

    def __init__(
        self, objective: SpanBoundary, config: BackboneConfig, *, rngs: nnx.Rngs
    ):
        self.mlm = MaskedLMHead(config, rngs=rngs)
        if objective.sbo_weight:
            self.sbo = SpanBoundaryHead(
                config,
                num_places=objective.max_pair_targets,
                position_dim=objective.position_dim,
                rngs=rngs,
            )


class SpanBoundaryHead(nnx.Module):
    """Two layers over [h_before; h_after; p_place], an output table with its own bias.

    Joshi et al. 2020, equation (2): each layer is linear, activation, norm.

    Args:
      config: widths, dtypes and initial scale.
      num_places: places of a span with an embedding.
      position_dim: width of that embedding.
      rngs: source of the parameters' keys.
    """

    def __init__(
        self,
        config: BackboneConfig,
        *,
        num_places: int,
        position_dim: int,
        rngs: nnx.Rngs,
    ):
        dim, out_dim = config.emb_dim, config.table_dim
        stddev = kernel_stddev(config, position_dim)
        shape = (num_places, position_dim)
        self.places = normal_param(config, shape, stddev, rngs)
        self.dense1 = Linear(config, 2 * dim + position_dim, dim, rngs, use_bias=True)
        self.norm1 = Norm(config, dim)
        self.dense2 = Linear(config, dim, out_dim, rngs, use_bias=True)
        self.norm2 = Norm(config, out_dim)
        self.output = OutputTable(config, use_bias=True, rngs=rngs)
        self.activation = config.activation

    def readout(
        self,
        boundaries: Float[Array, "B P D"],
        target: Target,
        embedding: Float[Array, "V E"],
    ) -> Readout:
        """Features, table and bias of the target's positions.

        `boundaries` are the states before the K spans, then those after them: P = 2 K.
        """
        positions, starts = target.positions, target.span_starts
        if positions is None or starts is None:
            raise ValueError("A boundary target needs the limits of its spans.")
        before, after = jnp.split(boundaries, 2, axis=1)
        # Places beyond the table have weight 0.
        place = jnp.minimum(positions - starts, self.places.shape[0] - 1)
        places = self.places[...][place].astype(boundaries.dtype)
        features = jnp.concatenate([before, after, places], axis=-1)
        activation = ACTIVATIONS[self.activation]
        features = self.norm1(activation(self.dense1(features)))
        features = self.norm2(activation(self.dense2(features)))
        return self.output(features, embedding)


def _boundaries(
    starts: Int[Array, "B K"], ends: Int[Array, "B K"], length: int
) -> tuple[Int[Array, "B K"], Int[Array, "B K"]]:
    """Positions of the tokens beside each target's span, kept inside the sequence."""
    return jnp.maximum(starts - 1, 0), jnp.minimum(ends + 1, length - 1)
