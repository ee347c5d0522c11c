"""Objectives that turn inputs into targets: one arrangement for two architectures."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from models.inputs import ModelInputs
from objectives.base import Objective
from objectives.corruption import rows, streams
from objectives.corruption.streams import Stream
from objectives.heads import LMHead
from objectives.scoring import example_of, one_segment
from objectives.types import Example, Lengths, PromptFrame, Target, Term
from objectives.validation import check_range, check_row_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceToSequence(Objective):
    """Predicts a stream of targets from a stream of inputs.

    An encoder-decoder encodes the inputs and decodes the targets. A decoder reads
    both in one sequence, the inputs as a prefix:

        encoder      a  b  S0 e  $
        decoder      ^  S0 c  d            predicts   S0 c  d  $
        decoder only a  b  S0 e  $  ^  S0 c  d        predicts the same there

    (`^` the start token, `$` EOS.) Both compute a head on the targets only. Inputs and
    targets of a document share its segment id, so with documents isolated neither
    self-attention nor cross-attention leaves it.

    Attributes:
      loss_weight: of the term, named like the objective.
      z_loss: factor of log(Z)^2, added to each target's loss (T5: 1e-4).
      loss_normalizing_factor: what the summed loss of a global batch is divided by;
        0 = its number of targets (weights summed over all devices), which alone keeps
        batches of different sizes comparable. 1 is T5X's plain sum, 233472 = 2048 *
        114 the constant of its predecessor. Constants suit optimizers that do not
        feel the scale of a gradient (Adafactor without clipping).
      bidirectional_inputs: in a decoder, inputs see each other in both directions;
        False = causal throughout.
      isolate_documents: each document of a row is an example by itself.
    """

    architectures: ClassVar[tuple[str, ...]] = ("encoder_decoder", "decoder")
    head = LMHead

    loss_weight: float
    z_loss: float
    loss_normalizing_factor: float
    bidirectional_inputs: bool
    isolate_documents: bool

    def __post_init__(self):
        check_row_length(self, 2)
        check_range(self, "loss_weight", above=0)
        check_range(self, "z_loss", "loss_normalizing_factor", at_least=0)
        self.vocabulary.require(self.name, "pad_id", "eos_id")
        if self.isolate_documents:
            self.vocabulary.require(self.name, "eod_id")

    @property
    def stream_lengths(self) -> tuple[int, int]:
        """Static lengths of inputs and targets, both with what frames them."""
        raise NotImplementedError

    @property
    def terms(self) -> dict[str, Term]:
        term = Term(weight=self.loss_weight, predicts="tokens", z_loss=self.z_loss)
        return {self.name: term}

    @property
    def start_id(self) -> int:
        """What stands before the first target in the decoder's inputs."""
        return self.vocabulary.pad_id

    @property
    def attention(self) -> str:
        reads_prefix = self.bidirectional_inputs and self.architecture == "decoder"
        return "prefix" if reads_prefix else super().attention

    @property
    def prompt(self) -> PromptFrame:
        """The text and EOS; in a decoder the start of the targets follows."""
        end = (self.vocabulary.eos_id,)
        if self.architecture == "encoder_decoder":
            return PromptFrame(after=end, start_id=self.start_id)
        return PromptFrame(
            after=(*end, self.start_id),
            after_prefix=1 if self.bidirectional_inputs else None,
        )

    @property
    def lengths(self) -> Lengths:
        inputs, targets = self.stream_lengths
        decoder_only = self.architecture == "decoder"
        return Lengths(
            inputs=inputs + targets if decoder_only else targets,
            encoder=0 if decoder_only else inputs,
            targets={self.name: targets},
        )

    def rows(self, example: Example) -> Stream:
        """The clean rows, of one segment each or of one for each document."""
        if self.isolate_documents:
            example = rows.isolate(example)
        return Stream(
            tokens=example.inputs.tokens,
            segment_ids=example.inputs.segment_ids,
            document_ids=example.document_ids,
        )

    def arrange(self, example: Example, inputs: Stream, targets: Stream) -> Example:
        """Model inputs and the weighted target from the two streams [B, L], [B, T]."""
        decoded = jax.vmap(streams.shift_right, in_axes=(0, 0, None))(
            targets.tokens, targets.segment_ids, self.start_id
        )
        build = {
            "encoder_decoder": self._encoder_and_decoder,
            "decoder": self._one_sequence,
        }[self.architecture]
        model_inputs, document_ids = build(inputs, targets, decoded)
        batch_size, num_targets = targets.tokens.shape
        positions = None
        if self.architecture == "decoder":
            first = model_inputs.tokens.shape[1] - num_targets
            positions = jnp.broadcast_to(
                first + jnp.arange(num_targets, dtype=jnp.int32)[None],
                (batch_size, num_targets),
            )
        target = Target(
            values=targets.tokens,
            loss_weights=(targets.segment_ids > 0).astype(jnp.float32),
            positions=positions,
            divisor=self.divisor(batch_size),
        )
        return example.replace(
            inputs=model_inputs,
            targets={self.name: target},
            document_ids=document_ids,
            framed=True,
        )

    def arrange_text(
        self,
        inputs: tuple[int, ...] | Int[Array, "B I"],
        targets: Int[Array, "B T"],
        lengths: Int[Array, " B"],
        *,
        first: int,
    ) -> Example:
        """Texts to score: the stage's own arrangement of inputs and target texts.

        Args:
          inputs: tokens of each row, or the same ids for all rows; all of them real.
          targets: tokens.
          lengths: real tokens of each row of `targets`.
          first: index from which on targets count.
        """
        if isinstance(inputs, tuple):
            ids = jnp.array(inputs, jnp.int32)[None]
            inputs = jnp.broadcast_to(ids, (targets.shape[0], ids.shape[1]))
        index = rows.indices(targets)
        real = (index < lengths[:, None]).astype(jnp.int32)
        whole = jnp.full_like(lengths, inputs.shape[1])
        blank = example_of(one_segment(inputs, whole), {})
        example = self.arrange(
            blank,
            text_stream(inputs, jnp.ones_like(inputs)),
            text_stream(targets, real),
        )
        target = example.targets[self.name]
        weights = jnp.where(index >= first, target.loss_weights, 0.0)
        target = dataclasses.replace(target, loss_weights=weights)
        return example.replace(targets={self.name: target})

    def divisor(self, batch_size: int) -> Float[Array, " B"] | None:
        """Each row's share of a constant normaliser; None = count the targets."""
        if not self.loss_normalizing_factor:
            return None
        return jnp.full(batch_size, self.loss_normalizing_factor / batch_size)

    def _encoder_and_decoder(
        self, inputs: Stream, targets: Stream, decoded: Int[Array, "B T"]
    ) -> tuple[ModelInputs, Int[Array, "B L"]]:
        encoder = ModelInputs(
            tokens=inputs.tokens,
            segment_ids=inputs.segment_ids,
            positions=jax.vmap(streams.positions_in_segment)(inputs.segment_ids),
        )
        decoder = ModelInputs(
            tokens=decoded,
            segment_ids=targets.segment_ids,
            positions=jax.vmap(streams.positions_in_segment)(targets.segment_ids),
            encoder=encoder,
        )
        return decoder, inputs.document_ids

    def _one_sequence(
        self, inputs: Stream, targets: Stream, decoded: Int[Array, "B T"]
    ) -> tuple[ModelInputs, Int[Array, "B L"]]:
        positions = jax.vmap(_positions_after)(inputs.segment_ids, targets.segment_ids)
        segment_ids = jnp.concatenate([inputs.segment_ids, targets.segment_ids], axis=1)
        # The decoder's tokens stand one place to the right of the targets they are.
        outside = jnp.full_like(targets.document_ids, -1)
        bidirectional = None
        if self.bidirectional_inputs:
            in_prefix = np.arange(segment_ids.shape[1]) < inputs.tokens.shape[1]
            bidirectional = jnp.asarray(in_prefix)[None] & (segment_ids > 0)
        model_inputs = ModelInputs(
            tokens=jnp.concatenate([inputs.tokens, decoded], axis=1),
            segment_ids=segment_ids,
            positions=positions,
            bidirectional=bidirectional,
            # Padding and other documents' inputs stand between inputs and targets.
            has_gaps=True,
        )
        return model_inputs, jnp.concatenate([inputs.document_ids, outside], axis=1)


def text_stream(tokens: Int[Array, "B L"], segment_ids: Int[Array, "B L"]) -> Stream:
    """A stream of texts that belong to no document."""
    return Stream(
        tokens=tokens,
        segment_ids=segment_ids,
        document_ids=jnp.full_like(tokens, -1),
    )


def _positions_after(
    inputs: Int[Array, " L"], targets: Int[Array, " T"]
) -> Int[Array, " L+T"]:
    """Positions of both streams, a segment's targets counting on from its inputs."""
    counts = streams.segment_lengths(inputs, inputs.shape[0] + 1)
    after = streams.positions_in_segment(targets) + counts[targets]
    positions = jnp.concatenate([streams.positions_in_segment(inputs), after])
    return jnp.where(jnp.concatenate([inputs, targets]) > 0, positions, 0)
