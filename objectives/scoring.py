"""How likely a text is to a model: which of its tokens are predicted from what."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Int

from models.inputs import ModelInputs
from objectives.corruption.rows import indices
from objectives.types import Example, Target


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How an objective's model scores a text.

    Attributes:
      kind: what the sum of log-probabilities is. 'exact': a log-likelihood by the chain
        rule. 'pseudo': one pass a token, each predicted from all others (Salazar et
        al. 2020). 'bound': the mean of `num_samples` passes estimates a lower bound on
        the log-likelihood. Scores of different kinds do not compare.
      arrange: (tokens [B, L], lengths [B], hidden [B] or None) to an Example whose one
        target is summed. `hidden` is the index of the token that a pass of 'pseudo'
        predicts or the number of a pass of 'bound', None for 'exact'.
      num_samples: passes of 'bound', whose weights make their sum the mean.
    """

    kind: str
    arrange: Callable[
        [Int[Array, "B L"], Int[Array, " B"], Int[Array, " B"] | None], Example
    ]
    num_samples: int = 0


def example_of(inputs: ModelInputs, targets: dict[str, Target]) -> Example:
    """An Example of texts that belong to no step and no document."""
    reads = inputs if inputs.encoder is None else inputs.encoder
    return Example(
        inputs=inputs,
        targets=targets,
        row_ids=jnp.arange(inputs.tokens.shape[0], dtype=jnp.int32),
        document_ids=jnp.full_like(reads.tokens, -1),
        framed=True,
    )


def framed(
    tokens: Int[Array, "B L"],
    lengths: Int[Array, " B"],
    start: tuple[int, ...],
    end: tuple[int, ...],
) -> tuple[Int[Array, "B M"], Int[Array, " B"]]:
    """Rows with tokens put before and behind their text; and their new lengths.

    tokens  a b c .   length 3, start (S,), end (E,)
    ->      S a b c E .   length 5
    """
    batch_size = tokens.shape[0]

    def columns(ids: tuple[int, ...]) -> Array:
        row = jnp.array(ids, jnp.int32).reshape(1, -1)
        return jnp.broadcast_to(row, (batch_size, len(ids)))

    rows = jnp.concatenate(
        [columns(start), tokens, jnp.zeros((batch_size, len(end)), jnp.int32)], axis=1
    )
    count = (lengths + len(start)).astype(jnp.int32)
    for token in end:
        rows = jnp.where(indices(rows) == count[:, None], token, rows)
        count = count + 1
    return rows, count


def one_segment(tokens: Int[Array, "B L"], lengths: Int[Array, " B"]) -> ModelInputs:
    """Model inputs of texts that begin at position 0 and end after `lengths` tokens."""
    index = indices(tokens)
    return ModelInputs(
        tokens=tokens,
        segment_ids=(index < lengths[:, None]).astype(jnp.int32),
        positions=index,
    )
