"""Deshuffling: put shuffled tokens back into their order.

Raffel et al. 2020 (arXiv:1910.10683), section 3.3.1, after Liu et al. 2019.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from objectives.base import row_keys
from objectives.corruption import streams
from objectives.corruption.streams import Stream
from objectives.sequence_to_sequence import SequenceToSequence
from objectives.types import Example


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deshuffling(SequenceToSequence):
    """The inputs are the row's tokens in a random order, the targets the row.

        row       a  b  c  d  e
        inputs    d  a  e  c  b  $
        targets   a  b  c  d  e  $

    Tokens are shuffled over the row, but `[EOD]` keeps its place. With
    `isolate_documents` each document is shuffled in itself, and attention stays
    within it (a last `$` belongs to the row's last document):

        row       a  b  c  [EOD]  d  e  f
        inputs    c  a  b  [EOD]  e  d  f  $
        segments  1  1  1  1      2  2  2  2

    Raises:
      ValueError: for rows shorter than two tokens.
    """

    name: ClassVar[str] = "deshuffling"

    @property
    def stream_lengths(self) -> tuple[int, int]:
        return self.row_length + 1, self.row_length + 1

    def corrupt(self, rng: Array, example: Example) -> Example:
        rows = self.rows(example)
        rngs = row_keys(rng, example.row_ids)
        shuffled = jax.vmap(self._shuffle)(rngs, rows)
        end = functools.partial(
            streams.append,
            token_id=self.vocabulary.eos_id,
            pad_id=self.vocabulary.pad_id,
        )
        return self.arrange(example, jax.vmap(end)(shuffled), jax.vmap(end)(rows))

    def _shuffle(self, rng: Array, row: Stream) -> Stream:
        fixed = (row.tokens == self.vocabulary.eod_id) | (row.segment_ids == 0)
        # A fixed token has a group to itself, above all segments.
        alone = self.row_length + 2 + jnp.arange(self.row_length, dtype=jnp.int32)
        places = streams.shuffle_places(rng, jnp.where(fixed, alone, row.segment_ids))
        return Stream(
            tokens=row.tokens.at[places].set(row.tokens),
            segment_ids=row.segment_ids,
            document_ids=row.document_ids.at[places].set(row.document_ids),
        )
