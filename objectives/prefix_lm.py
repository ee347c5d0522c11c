"""Prefix language modelling: read a beginning in both directions, write the rest.

Raffel et al. 2020 (arXiv:1910.10683), sections 3.2.1 and 3.3.1; the prefix lengths
are those of the reference, t5.data.preprocessors.random_prefix_noise_mask.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from models.inputs import ModelInputs
from objectives.base import row_keys
from objectives.corruption import spans, streams
from objectives.corruption.rows import indices
from objectives.corruption.selection import round_share
from objectives.corruption.streams import Stream
from objectives.scoring import Scoring, example_of, one_segment
from objectives.sequence_to_sequence import SequenceToSequence
from objectives.types import Example, Lengths, PromptFrame, Target
from objectives.validation import check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixLM(SequenceToSequence):
    """A prefix of random length conditions a language model of the rest.

    A decoder reads the row as it is; the prefix is visible from everywhere and its
    tokens are no targets (they see one another, so they would be given away):

        tokens          a  b  c  d  e  f           prefix of 3
        bidirectional   #  #  #  .  .  .
        predicts        b  c  d  e  f  _
        weights         0  0  1  1  1  0

    An encoder-decoder encodes the prefix and decodes the rest. Their lengths sum to
    the row's, so on average half of either side is padding:

        encoder         a  b  c  $  _  _
        decoder         ^  d  e  f  _  _           predicts   d  e  f  $  _  _

    The prefix of m tokens has a uniform length of at least one and at most m - 1; for
    noise densities below one half at least about (1 - 2 noise_density) of them.

    With `isolate_documents` every document of the row gets a prefix of its own, and
    attention stays within it. In an encoder-decoder its `[EOD]` becomes EOS on both
    sides; a document of one token has no targets.

    Attributes:
      noise_density: mean share of the tokens after the prefix, at most 0.5.

    Raises:
      ValueError: a setting out of range, or rows shorter than two tokens.
    """

    name: ClassVar[str] = "prefix_lm"

    noise_density: float

    def __post_init__(self):
        super().__post_init__()
        # A uniform prefix cannot leave more than half of a row on average.
        check_range(self, "noise_density", above=0, at_most=0.5)

    @property
    def stream_lengths(self) -> tuple[int, int]:
        # A last document of a single token has no rest whose place its EOS could take.
        return self.row_length + self.isolate_documents, self.row_length

    @property
    def lengths(self) -> Lengths:
        if self.architecture == "encoder_decoder":
            return super().lengths
        return Lengths(
            inputs=self.row_length,
            targets={self.name: self.row_length},
        )

    def corrupt(self, rng: Array, example: Example) -> Example:
        rows = self.rows(example)
        rngs = row_keys(rng, example.row_ids)
        if self.architecture == "encoder_decoder":
            inputs, targets = jax.vmap(self._split)(rngs, rows)
            return self.arrange(example, inputs, targets)
        prefix = jax.vmap(self._prefix)(rngs, rows.segment_ids, rows.segment_ids)
        # A document's first token is always prefix, so no target crosses documents.
        predicted = ~prefix[:, 1:] & (rows.segment_ids[:, 1:] > 0)
        # The last position has no next token.
        target = Target(
            values=jnp.pad(rows.tokens[:, 1:], ((0, 0), (0, 1))),
            loss_weights=jnp.pad(predicted.astype(jnp.float32), ((0, 0), (0, 1))),
            divisor=self.divisor(rows.tokens.shape[0]),
        )
        model_inputs = ModelInputs(
            tokens=rows.tokens,
            segment_ids=rows.segment_ids,
            positions=jax.vmap(streams.positions_in_segment)(rows.segment_ids),
            bidirectional=prefix if self.bidirectional_inputs else None,
        )
        return example.replace(
            inputs=model_inputs, targets={self.name: target}, framed=True
        )

    def _split(self, rng: Array, row: Stream) -> tuple[Stream, Stream]:
        inputs_length, targets_length = self.stream_lengths
        terminators = jnp.zeros_like(row.tokens, dtype=bool)
        if self.isolate_documents:
            terminators = row.tokens == self.vocabulary.eod_id
        text = jnp.where(terminators, 0, row.segment_ids)
        return spans.split_row(
            row,
            ~self._prefix(rng, row.segment_ids, text),
            terminators,
            sentinel_ids=(),
            eos_id=self.vocabulary.eos_id,
            pad_id=self.vocabulary.pad_id,
            inputs_length=inputs_length,
            targets_length=targets_length,
        )

    def _prefix(
        self, rng: Array, segment_ids: Int[Array, " R"], text: Int[Array, " R"]
    ) -> Bool[Array, " R"]:
        """Whether a token lies in its segment's prefix.

        `text` has 0 in place of the segment ids of tokens that are no text.
        """
        num_segments = self.row_length + 2
        sizes = streams.segment_lengths(text, num_segments)
        # Of padding nothing is counted, and nothing is prefix.
        sizes = sizes.at[0].set(0)
        lengths = prefix_lengths(rng, sizes, self.row_length, self.noise_density)
        return streams.positions_in_segment(segment_ids) < lengths[segment_ids]

    def scoring(self) -> Scoring:
        """Log-likelihood of the text after its first token, which is the prefix.

        encoder-decoder   encoder  the $   decoder  ^ cat      counted: cat, sat
        decoder           the cat sat, the first read as a prefix
        """
        return Scoring(kind="exact", arrange=self._arrange_text)

    def _arrange_text(
        self, tokens: Array, lengths: Array, hidden: Array | None
    ) -> Example:
        if self.architecture == "encoder_decoder":
            end = jnp.full_like(tokens[:, :1], self.vocabulary.eos_id)
            prefix = jnp.concatenate([tokens[:, :1], end], axis=1)
            return self.arrange_text(prefix, tokens[:, 1:], lengths - 1, first=0)
        index = indices(tokens)
        target = Target(
            values=jnp.roll(tokens, -1, axis=1),
            loss_weights=(index < lengths[:, None] - 1).astype(jnp.float32),
        )
        inputs = one_segment(tokens, lengths)
        if self.bidirectional_inputs:
            inputs = dataclasses.replace(inputs, bidirectional=index == 0)
        return example_of(inputs, {self.name: target})

    @property
    def prompt(self) -> PromptFrame:
        """As in other arrangements for an encoder; a decoder's prompt is the prefix."""
        if self.architecture == "encoder_decoder":
            return super().prompt
        return PromptFrame(after_prefix=0 if self.bidirectional_inputs else None)


def prefix_lengths(
    rng: Array, sizes: Int[Array, " S"], largest: int, noise_density: float
) -> Int[Array, " S"]:
    """A uniform prefix length for each text of at most `largest` tokens.

    At least 1 and (1 - 2 noise_density) (size - 1) rounded half to even, at most
    size - 1. A single token is all prefix: nothing before it predicts it.
    """
    shortest = np.array(
        [
            min(
                max(1, round_share(max(n - 1, 0), 1 - 2 * noise_density)), max(n - 1, 0)
            )
            for n in range(largest + 1)
        ],
        np.int32,
    )
    drawn = jax.random.randint(rng, sizes.shape, jnp.asarray(shortest)[sizes], sizes)
    return jnp.where(sizes < 2, sizes, drawn)
