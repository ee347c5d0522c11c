"""Span corruption: T5's objective, and the variants its paper compares it with.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified
Text-to-Text Transformer" (arXiv:1910.10683), section 3.3; the procedure follows the
reference, t5.data.preprocessors.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from objectives.base import row_keys
from objectives.corruption import spans
from objectives.corruption.streams import Stream
from objectives.scoring import Scoring, framed
from objectives.sequence_to_sequence import SequenceToSequence
from objectives.statistics import Statistic, mean, share
from objectives.types import Example
from objectives.validation import check_choice, check_range

# Room for counts that vary, in standard deviations above their mean.
_MARGIN = 4.0
# Relative difference of the spans' mean length from the configured one.
_WORTH_A_NOTE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption(SequenceToSequence):
    """Spans of noise give way to sentinels; the targets say what each one hides.

        row       a  b  c  d  e  f  g  h  i  j  k  l
        noise     .  .  #  #  .  .  .  #  #  #  .  #
        inputs    a  b  S0 e  f  g  S1 k  S2 $
        targets   S0 c  d  S1 h  i  j  S2 l  $

    A row starts with kept tokens and ends in noise, so no closing sentinel follows.
    Every target counts, sentinels and EOS ($) too. The share of noise and the number
    of spans are exact, so inputs and targets have one length each and no padding:
    rows of 568 tokens give 512 and 114 (`spans.raw_length` finds the 568).

    Variants of section 3.3 that are settings:

        noise='iid'                  every token is noise with probability
                                     noise_density, runs of it are spans ("replace
                                     corrupted spans", table 5)
        noise='iid', markers='none'  "drop corrupted tokens":
                                     inputs   a  b  e  f  g  k  $
                                     targets  c  d  h  i  j  l  $

    Independent noise varies in amount: inputs then have room for the whole row and
    EOS, targets for four standard deviations above the mean. Noise beyond that stays
    as it was, counted in the metric `span_corruption_surplus_noise`; nothing is cut.

    A row merges the documents that lie in it, as the reference does, and `[EOD]` is a
    token like any other. With `isolate_documents` each document is an example by
    itself: `[EOD]` is never noise and becomes EOS, a span that would cross it ends
    before it, sentinels begin anew, and inputs and targets carry the document's
    segment id. A document without noise has no targets:

        row       a  b  c  d  [EOD] e  f  g  h
        noise     .  #  .  #  #     #  .  .  #
        inputs    a  S0 c  S1 $     S0 f  g  S1 $
        segments  1  1  1  1  1     2  2  2  2  2
        targets   S0 b  S1 d  $     S0 e  S1 h  $
        segments  1  1  1  1  1     2  2  2  2  2

    The number of documents varies, so inputs again have room for the whole row.

    Attributes:
      noise: 'spans' (exact counts) or 'iid'.
      noise_density: share of tokens that are noise, between 0 and 1.
      mean_noise_span_length: noise tokens a span, for noise='spans'.
      markers: 'sentinels', or 'none' to drop noise without a trace.

    Raises:
      ValueError: a setting out of range, rows shorter than two tokens, more spans than
        kept tokens or than sentinels.
    """

    name: ClassVar[str] = "span_corruption"

    noise: str
    noise_density: float
    mean_noise_span_length: float
    markers: str

    def __post_init__(self):
        super().__post_init__()
        check_choice(self, "noise", ("spans", "iid"))
        check_choice(self, "markers", ("sentinels", "none"))
        check_range(self, "noise_density", above=0, below=1)
        if self.markers == "sentinels":
            self.vocabulary.require(self.name, "sentinel_ids")
        most = self._max_spans
        available = len(self.vocabulary.sentinel_ids)
        if self.markers == "sentinels" and most > available:
            raise ValueError(
                f"{most} noise spans in rows of {self.row_length} tokens need as many "
                f"sentinels, and the tokenizer has {available}: shorten "
                f"data.row_length, lower noise_density (now {self.noise_density}), "
                f"raise mean_noise_span_length (now {self.mean_noise_span_length}), or "
                f"train a tokenizer with more (data.tokenizer.num_sentinels)."
            )

    @property
    def stream_lengths(self) -> tuple[int, int]:
        sentinels = self._max_spans if self.markers == "sentinels" else 0
        if self.noise == "iid":
            content = iid_targets(
                self.row_length, self.noise_density, self.markers == "sentinels"
            )
        else:
            content = self._span_counts[0] + sentinels
        # A document needs an EOS only where it has a span.
        terminators = self._max_spans if self.isolate_documents else 1
        if self._varies:
            return self.row_length + 1, content + terminators
        return self.row_length - self._span_counts[0] + sentinels + 1, content + 1

    def corrupt(self, rng: Array, example: Example) -> Example:
        rows = self.rows(example)
        rngs = row_keys(rng, example.row_ids)
        inputs, targets, surplus = jax.vmap(self._corrupt_row)(rngs, rows)
        result = self.arrange(example, inputs, targets)
        if not self._varies:
            return result
        metrics = {f"{self.name}_surplus_noise": surplus, **result.metrics}
        return result.replace(metrics=metrics)

    def statistics(self, rng: Array, example: Example) -> dict[str, Statistic]:
        """Noise tokens and spans, counted in the targets."""
        target = self.corrupt(rng, example).targets[self.name]
        text = example.inputs.segment_ids > 0
        if self.isolate_documents:
            text &= ~self._terminators(example.inputs.tokens)
        is_sentinel = np.zeros(self.vocabulary.vocab_size, bool)
        is_sentinel[list(self.vocabulary.sentinel_ids)] = True
        live = target.loss_weights > 0
        starts = live & jnp.asarray(is_sentinel)[target.values]
        noise = live & ~starts & (target.values != self.vocabulary.eos_id)
        result = {"noise tokens / tokens": share(noise, text, self.noise_density)}
        if self.markers == "sentinels":
            count, length = None, None
            if not self._varies:
                count = float(self._span_counts[1])
                length = self._span_counts[0] / count
            result["spans in a row"] = mean(starts, count)
            result["tokens of a span"] = share(noise, starts, length)
        return result

    @property
    def notes(self) -> tuple[str, ...]:
        if self.noise == "iid":
            return ()
        num_noise, num_spans = self._span_counts
        length, mean = num_noise / num_spans, self.mean_noise_span_length
        rows = f"rows of {self.row_length} tokens hold {num_noise} noise tokens"
        notes = []
        if abs(length / mean - 1) > _WORTH_A_NOTE:
            notes.append(
                f"spans have {length:.2f} tokens on average, not mean_noise_span_length "
                f"= {mean:g}: {rows} in {num_spans} span{'s' * (num_spans > 1)}"
            )
        if num_spans == 1:
            notes.append(
                f"{rows} in one span, which is always the last of the row: in effect a "
                f"prefix language model; for more spans lengthen data.row_length, raise "
                f"noise_density or lower mean_noise_span_length"
            )
        return tuple(notes)

    def _corrupt_row(
        self, rng: Array, row: Stream
    ) -> tuple[Stream, Stream, Float[Array, ""]]:
        terminators = self._terminators(row.tokens)
        drawn = self._noise_mask(rng) & ~terminators & (row.segment_ids > 0)
        noise = drawn
        inputs_length, targets_length = self.stream_lengths
        marked = self.markers == "sentinels"
        sentinel_ids = self.vocabulary.sentinel_ids if marked else ()
        if self._varies:
            noise = spans.limit_noise(
                drawn,
                row.segment_ids,
                cost_of_span=int(marked),
                max_spans=len(sentinel_ids) or self.row_length,
                max_targets=targets_length,
            )
        inputs, targets = spans.split_row(
            row,
            noise,
            terminators,
            sentinel_ids=sentinel_ids,
            eos_id=self.vocabulary.eos_id,
            pad_id=self.vocabulary.pad_id,
            inputs_length=inputs_length,
            targets_length=targets_length,
        )
        return inputs, targets, (drawn & ~noise).sum().astype(jnp.float32)

    def _noise_mask(self, rng: Array) -> Bool[Array, " R"]:
        if self.noise == "iid":
            return jax.random.uniform(rng, (self.row_length,)) < self.noise_density
        return spans.span_mask(
            rng, self.row_length, self.noise_density, self.mean_noise_span_length
        )

    def _terminators(self, tokens: Int[Array, " R"]) -> Bool[Array, " R"]:
        if not self.isolate_documents:
            return jnp.zeros_like(tokens, dtype=bool)
        return tokens == self.vocabulary.eod_id

    @property
    def _varies(self) -> bool:
        """Whether the number of targets depends on the draw or on the row."""
        return self.noise == "iid" or self.isolate_documents

    @property
    def _span_counts(self) -> tuple[int, int]:
        return spans.span_counts(
            self.row_length, self.noise_density, self.mean_noise_span_length
        )

    @property
    def _max_spans(self) -> int:
        """Spans there is room for: as many as drawn, or a margin above the mean."""
        if self.noise == "iid":
            return iid_spans(self.row_length, self.noise_density)
        return self._span_counts[1]

    def scoring(self) -> Scoring | None:
        """Log-likelihood of the whole text as one span behind the first sentinel.

            encoder  S0 $        decoder  ^ S0 the cat sat      counted: the, cat, sat

        Without sentinels the targets of a text are not told apart from its rest: None.
        """
        if self.markers != "sentinels":
            return None
        return Scoring(kind="exact", arrange=self._arrange_text)

    def _arrange_text(
        self, tokens: Array, lengths: Array, hidden: Array | None
    ) -> Example:
        sentinel, end = self.vocabulary.sentinel_ids[0], self.vocabulary.eos_id
        targets, count = framed(tokens, lengths, (sentinel,), ())
        return self.arrange_text((sentinel, end), targets, count, first=1)


def iid_spans(row_length: int, noise_density: float) -> int:
    """Room for the runs of independent noise: mean and four standard deviations.

    A run begins at a noise token after a kept one, with probability q = p(1-p); runs
    at neighbouring places exclude each other.
    """
    q = noise_density * (1 - noise_density)
    mean = noise_density + (row_length - 1) * q
    deviation = math.sqrt(row_length * (q - 3 * q * q))
    return min(math.ceil(mean + _MARGIN * deviation), (row_length + 1) // 2)


def iid_targets(row_length: int, noise_density: float, marked: bool) -> int:
    """Room for independent noise and, if `marked`, a sentinel for each run of it.

    A place costs c = x (2 - x') with sentinels, where x is its noise and x' that of
    the place before: E[c] = 2p - p^2, and neighbours correlate.
    """
    p = noise_density
    mean, variance = p, p * (1 - p)
    if marked:
        mean = 2 * p - p * p
        neighbours = -p * p * (2 - p) * (1 - p)
        variance = 4 * p - 3 * p * p - mean * mean + 2 * neighbours
    deviation = math.sqrt(row_length * max(variance, 0.0))
    return min(math.ceil(row_length * mean + _MARGIN * deviation), row_length + marked)
