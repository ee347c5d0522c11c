"""Fine-tuning on labels written as text.

Raffel et al. 2020 (arXiv:1910.10683), section 2.4 and appendix D: the input says the task
and its sentences, the target is a word for the label, and the loss is that of any other
target. An answer is either the likelier of the label words or whatever is written:

    inputs    sst2 sentence: a fine film $
    target    positive $
    choices   negative $ | positive $          likelier one, by summed log-probability
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from models.pytree import pytree
from objectives.base import Networks
from objectives.scoring import example_of, one_segment
from objectives.sequence_to_sequence import SequenceToSequence, text_stream
from objectives.types import AnyArray, Example

# Log-probability of a choice that the task does not have.
_NO_CHOICE = -1e9


@pytree
class TextBatch:
    """Prompts with their answers. Every array has the leading axis B.

    Attributes:
      tokens, segment_ids: prompt with EOS; segment 1 = token, 0 = padding.
      targets, target_segment_ids: answer with EOS.
      choices, choice_segment_ids: every answer that the task allows, with EOS; empty
        ones fill up.
      weights: 0 for rows that only fill up the batch.
      row_ids: number of each row in the step; dropout folds it in.
    """

    tokens: Int[AnyArray, "B L"]
    segment_ids: Int[AnyArray, "B L"]
    targets: Int[AnyArray, "B T"]
    target_segment_ids: Int[AnyArray, "B T"]
    choices: Int[AnyArray, "B C T"]
    choice_segment_ids: Int[AnyArray, "B C T"]
    weights: Float[AnyArray, " B"]
    row_ids: Int[AnyArray, " B"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToText(SequenceToSequence):
    """Teacher forcing on the answer; choice among answers, or greedy decoding.

    Attributes:
      free: decode greedily instead of choosing.
      answer_length: T, tokens of the longest answer with EOS.
      reads_first: id that the decoder reads first (T5: padding).
    """

    name: ClassVar[str] = "text_to_text"

    free: bool
    answer_length: int
    reads_first: int

    @property
    def start_id(self) -> int:
        return self.reads_first

    @property
    def stream_lengths(self) -> tuple[int, int]:
        return self.row_length, self.answer_length

    def corrupt(self, rng: Array, example: Any) -> Example:
        """A TextBatch's prompt as inputs, its answer as targets; nothing is random."""
        del rng
        batch = jax.tree.map(jnp.asarray, example)
        example = self._example(batch, batch.targets, batch.target_segment_ids)
        target = example.targets[self.name]
        weights = target.loss_weights * batch.weights[:, None]
        target = dataclasses.replace(target, loss_weights=weights)
        return example.replace(targets={self.name: target})

    def _example(
        self,
        batch: Any,
        targets: Int[Array, "B T"],
        target_segment_ids: Int[Array, "B T"],
    ) -> Example:
        lengths = batch.segment_ids.sum(-1)
        blank = example_of(one_segment(batch.tokens, lengths), {})
        return self.arrange(
            blank.replace(row_ids=batch.row_ids),
            text_stream(batch.tokens, batch.segment_ids),
            text_stream(targets, target_segment_ids),
        )

    def outputs(self, networks: Networks, batch: Any) -> Array:
        """Log-probabilities [B, C] of the choices; or decoded ids [B, T] if free."""
        batch = jax.tree.map(jnp.asarray, batch)
        if self.free:
            return self._decode(networks, batch)

        def score(choice: Array, segments: Array) -> Array:
            return self.log_probs(networks, self._example(batch, choice, segments))

        log_probs = jax.vmap(score, in_axes=(1, 1), out_axes=1)(
            batch.choices, batch.choice_segment_ids
        )
        exists = jnp.asarray(batch.choice_segment_ids).sum(-1) > 0
        return jnp.where(exists, log_probs, _NO_CHOICE)

    def _decode(self, networks: Networks, batch: Any) -> Int[Array, "B T"]:
        """Greedy; positions after EOS hold padding. T short passes need no cache."""
        size = (batch.tokens.shape[0], self.answer_length)
        eos_id, pad_id = self.vocabulary.eos_id, self.vocabulary.pad_id

        def step(index: Array, decoded: Array) -> Array:
            example = self._example(batch, decoded, jnp.ones(size, jnp.int32))
            best = self.scores(networks, example).argmax(-1).astype(jnp.int32)
            ended = (decoded == eos_id) & (jnp.arange(size[1])[None] < index)
            word = jnp.where(ended.any(-1), pad_id, best[:, index])
            return decoded.at[:, index].set(word)

        start = jnp.full(size, pad_id, jnp.int32)
        return jax.lax.fori_loop(0, size[1], step, start)
