"""What corruption did to each row, beside what it is meant to do on average."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from models.pytree import pytree
from objectives.types import AnyArray, Example, Target
from objectives.vocabulary import Vocabulary

SHOWN = ("[MASK]", "another token", "itself")


@pytree
class Statistic:
    """A ratio of sums over rows: sum of totals / sum of counts.

    Attributes:
      totals: of each row, for each class if there are several.
      counts: of each row.
      nominal: static; the expected ratio, one for each class; None = nothing is.
      classes: static; their names; () = the ratio is one number.
    """

    totals: Float[AnyArray, " B"] | Float[AnyArray, "B C"]
    counts: Float[AnyArray, " B"]
    nominal: float | tuple[float, ...] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )
    classes: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})


def shown(
    target: Target,
    after: Example,
    vocabulary: Vocabulary,
    *,
    mask_prob: float,
    random_prob: float,
) -> Statistic:
    """What the inputs show where a token is to be predicted: BERT's 80/10/10."""
    tokens = after.inputs.tokens
    if target.positions is not None:
        tokens = jnp.take_along_axis(tokens, target.positions, axis=1)
    live = target.loss_weights > 0
    masked = live & (tokens == vocabulary.mask_id)
    same = live & ~masked & (tokens == target.values)
    counts = live.sum(1).astype(jnp.float32)
    kinds = [masked.sum(1), (live & ~masked & ~same).sum(1), same.sum(1)]
    return Statistic(
        totals=jnp.stack(kinds, axis=1).astype(jnp.float32),
        counts=counts,
        nominal=(mask_prob, random_prob, 1.0 - mask_prob - random_prob),
        classes=SHOWN,
    )


def share(
    part: Array, whole: Array, nominal: float | tuple[float, ...] | None = None
) -> Statistic:
    """Sum over each row of `part` [B, ..] out of the sum of `whole` [B, ..]."""
    return Statistic(totals=_row_sums(part), counts=_row_sums(whole), nominal=nominal)


def mean(values: Array, nominal: float | None = None) -> Statistic:
    """Mean over rows of one value a row, or of its sum over each row."""
    totals = _row_sums(values)
    return Statistic(totals=totals, counts=jnp.ones_like(totals), nominal=nominal)


def _row_sums(values: Array) -> Float[Array, " B"]:
    return values.reshape(values.shape[0], -1).sum(1).astype(jnp.float32)
