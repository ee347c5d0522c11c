"""What objectives over labelled rows share: batches in, model inputs, outputs."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from models.inputs import ModelInputs
from objectives.base import Networks, Objective, WeightedSum, dropout_rngs
from objectives.corruption.rows import read_both_ways
from objectives.types import Example, Lengths, Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(Objective):
    """Reads framed rows and predicts what a head makes of them.

    Attributes:
      decoder_start_id: what an encoder-decoder's decoder reads first.
      reading: how a decoder reads rows, the `attention` that it was pretrained with:
        'causal', 'bidirectional' as an encoder, or 'prefix', the whole row as one.
    """

    architectures: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "encoder_decoder")

    decoder_start_id: int
    reading: str

    @property
    def lengths(self) -> Lengths:
        encoder = self.row_length if self.architecture == "encoder_decoder" else 0
        return Lengths(
            inputs=self.row_length,
            encoder=encoder,
            targets=dict.fromkeys(self.terms, 1),
        )

    def targets(self, batch: Any) -> dict[str, Target]:
        """Each term's labels, from a batch on the device."""
        raise NotImplementedError

    def corrupt(self, rng: Array, example: Any) -> Example:
        """A labelled batch as model inputs and targets; nothing is random."""
        del rng
        batch = jax.tree.map(jnp.asarray, example)
        return Example(
            inputs=self.inputs(batch),
            targets=self.targets(batch),
            row_ids=batch.row_ids,
            document_ids=jnp.where(batch.segment_ids > 0, batch.row_ids[:, None], -1),
            framed=True,
        )

    def inputs(self, batch: Any) -> ModelInputs:
        """What the backbone reads; in an encoder-decoder both sides read the tokens."""
        batch = jax.tree.map(jnp.asarray, batch)
        inputs = ModelInputs(
            tokens=batch.tokens,
            segment_ids=batch.segment_ids,
            positions=token_positions(batch.segment_ids),
            token_type_ids=batch.token_type_ids,
        )
        if self.architecture == "encoder_decoder":
            tokens = shift_right(inputs.tokens, inputs.positions, self.decoder_start_id)
            return dataclasses.replace(
                inputs, tokens=tokens, token_type_ids=None, encoder=inputs
            )
        if self.architecture == "decoder" and self.reading == "prefix":
            return dataclasses.replace(inputs, bidirectional=inputs.segment_ids > 0)
        if self.reading == "bidirectional":
            return read_both_ways(inputs, self.architecture)
        return inputs

    def logits(
        self, networks: Networks, inputs: ModelInputs, *, rngs: Any = None
    ) -> Any:
        """What the head makes of a row; without `rngs` there is no dropout."""
        raise NotImplementedError

    def judged(self, term: str, logits: Any, target: Any) -> tuple[Array, Array, Array]:
        """Each row's loss, whether its highest logit is right, and whether that counts."""
        raise NotImplementedError

    def losses(
        self,
        networks: Networks,
        example: Example,
        *,
        rng: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[dict[str, WeightedSum], dict[str, WeightedSum]]:
        """Losses and accuracies of the terms; rows that fill up the batch have none."""
        rngs = dropout_rngs(rng, example.row_ids, deterministic)
        logits = self.logits(networks, example.inputs, rngs=rngs)
        terms, metrics = {}, {}
        for term, target in example.targets.items():
            losses, correct, counts = self.judged(term, logits, target)
            weights = target.loss_weights[:, 0]
            # Rows without a weight may hold anything.
            total = jnp.where(weights > 0, losses * weights, 0.0).sum()
            terms[term] = (total, target.denominators().sum())
            if deterministic:
                counted = jnp.where(counts, weights, 0.0)
                metrics[f"{term}_accuracy"] = ((correct * counted).sum(), counted.sum())
        return terms, metrics

    def outputs(self, networks: Networks, batch: Any) -> Any:
        """Logits of a batch, without dropout."""
        return self.logits(networks, self.inputs(batch))


def token_positions(segment_ids: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """0, 1, 2.. over the tokens of each row, wherever its padding is; 0 on padding.

    segment_ids  0 0 1 1 1
    positions    0 0 0 1 2
    """
    real = segment_ids > 0
    return jnp.where(real, jnp.cumsum(real, axis=-1) - 1, 0).astype(jnp.int32)


def shift_right(
    tokens: Int[Array, "B L"], positions: Int[Array, "B L"], start_id: int
) -> Int[Array, "B L"]:
    """Each token's predecessor; `start_id` before the first one.

    tokens     a b c .        positions  0 1 2 0
    -> S a b S
    """
    return jnp.where(positions == 0, start_id, jnp.roll(tokens, 1, axis=1)).astype(
        jnp.int32
    )
