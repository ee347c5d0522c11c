"""Batches of rows of similar length, padded to one of a few static lengths.

Every shape is compiled once, so lengths are rounded up to a handful of buckets; and a
batch is made of one bucket's rows, so that short sentences do not pay for long ones.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

Shaped = tuple[int, np.ndarray]  # (length, row numbers)


def usable_buckets(bucket_lengths: Sequence[int], max_length: int) -> tuple[int, ...]:
    """The buckets below `max_length`, and `max_length` itself."""
    return (*sorted(b for b in set(bucket_lengths) if b < max_length), max_length)


def train_batches(
    lengths: np.ndarray,
    bucket_lengths: Sequence[int],
    batch_size: int,
    rng: np.random.Generator,
) -> list[Shaped]:
    """One epoch: every row once, in batches of one bucket, in random order.

    Rows are dealt in random order to their buckets; what is left over at the end moves
    up to the next bucket. All batches but one are full, so an epoch has
    ceil(rows / batch_size) steps, whatever the buckets.
    """
    bucket_of = np.searchsorted(bucket_lengths, lengths)
    order = rng.permutation(len(lengths))
    batches: list[Shaped] = []
    left = np.zeros(0, np.int64)
    for index, length in enumerate(bucket_lengths):
        rows = np.concatenate([left, order[bucket_of[order] == index]])
        rows = rng.permutation(rows)
        full = len(rows) // batch_size * batch_size
        batches += [(length, part) for part in rows[:full].reshape(-1, batch_size)]
        left = rows[full:]
    if len(left):
        # As long as its own rows need: the longest bucket may be long for nothing.
        batches.append((bucket_lengths[bucket_of[left].max()], left))
    return [batches[i] for i in rng.permutation(len(batches))]


def eval_batches(
    lengths: np.ndarray, bucket_lengths: Sequence[int], batch_size: int
) -> list[Shaped]:
    """Every row once, by length; a bucket's last batch may be partial."""
    bucket_of = np.searchsorted(bucket_lengths, lengths)
    batches = []
    for index, length in enumerate(bucket_lengths):
        rows = np.flatnonzero(bucket_of == index)
        for start in range(0, len(rows), batch_size):
            batches.append((length, rows[start : start + batch_size]))
    return batches


def pad(
    rows: Sequence[np.ndarray], length: int, size: int, pad_id: int
) -> dict[str, np.ndarray]:
    """Rows of tokens as arrays of a batch: `size` rows of `length`, padded on the right.

    Returns:
      tokens, segment_ids (1 for tokens) [size, length]; weights, row_ids [size]. Rows
      that only fill up have the weight 0 and one token: a row of padding alone would
      attend to nothing.
    """
    tokens = np.full((size, length), pad_id, np.int32)
    lengths = np.ones(size, np.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
        lengths[index] = len(row)
    return {
        "tokens": tokens,
        "segment_ids": (np.arange(length) < lengths[:, None]).astype(np.int32),
        "weights": (np.arange(size) < len(rows)).astype(np.float32),
        "row_ids": np.arange(size, dtype=np.int32),
    }


def token_types(
    segment_ids: np.ndarray, first_lengths: Sequence[int] | np.ndarray, num_types: int
) -> np.ndarray | None:
    """0 on the first segment of each row, 1 on the second, [B, L].

    Args:
      segment_ids: 1 for tokens, [B, L].
      first_lengths: tokens of the first segment of each row that does not only fill up.
      num_types: that the model has; without any it gets None, of one all are 0.
    """
    if not num_types:
        return None
    firsts = np.full(len(segment_ids), segment_ids.shape[1])
    firsts[: len(first_lengths)] = first_lengths
    second = (np.arange(segment_ids.shape[1]) >= firsts[:, None]) & (segment_ids > 0)
    return np.minimum(second.astype(np.int32), num_types - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The rows of a split in batches of few shapes.

    Attributes:
      lengths: tokens of each row.
      buckets: static lengths, rising; the last one holds every row.
      make: (row numbers, length, batch size) -> a batch of that shape.
    """

    lengths: np.ndarray
    buckets: tuple[int, ...]
    make: Callable[[np.ndarray, int, int], Any]

    def epoch(self, size: int, seed: int, epoch: int) -> list[Callable[[], Any]]:
        """Functions that make the batches of an epoch, which follow from its number."""
        rng = np.random.default_rng([seed, epoch])
        return [
            functools.partial(self.make, rows, length, size)
            for length, rows in train_batches(self.lengths, self.buckets, size, rng)
        ]

    def map(
        self, function: Callable[[Any], Any], size: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """(row numbers, the function's outputs for them) of every batch."""
        batches = eval_batches(self.lengths, self.buckets, size)
        pending = [function(self.make(rows, length, size)) for length, rows in batches]
        return [
            (rows, output[: len(rows)])
            for (_, rows), output in zip(batches, jax.device_get(pending), strict=True)
        ]
