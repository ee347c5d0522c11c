"""Rows of like length in few static shapes.

Every shape is compiled once, so lengths are rounded up to a handful of buckets; and a
batch is made of one bucket's rows, so that short sentences do not pay for long ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Batch = tuple[int, np.ndarray]  # (length, row numbers)


def usable_buckets(bucket_lengths: Sequence[int], max_length: int) -> tuple[int, ...]:
    """The buckets below `max_length`, and `max_length` itself."""
    return (*sorted(b for b in set(bucket_lengths) if b < max_length), max_length)


def train_batches(
    lengths: np.ndarray,
    bucket_lengths: Sequence[int],
    batch_size: int,
    rng: np.random.Generator,
) -> list[Batch]:
    """One epoch: every row once, in batches of one bucket, in random order.

    Rows are dealt in random order to their buckets; what is left over at the end moves
    up to the next bucket. All batches but one are full, so an epoch has
    ceil(rows / batch_size) steps, whatever the buckets.
    """
    bucket_of = np.searchsorted(bucket_lengths, lengths)
    order = rng.permutation(len(lengths))
    batches: list[Batch] = []
    left = np.zeros(0, np.int64)
    for index, length in enumerate(bucket_lengths):
        rows = np.concatenate([left, order[bucket_of[order] == index]])
        rows = rng.permutation(rows)
        full = len(rows) // batch_size * batch_size
        batches += [(length, part) for part in rows[:full].reshape(-1, batch_size)]
        left = rows[full:]
        left_length = length
        if len(left) and index + 1 == len(bucket_lengths):
            batches.append((left_length, left))
    return [batches[i] for i in rng.permutation(len(batches))]


def eval_batches(
    lengths: np.ndarray, bucket_lengths: Sequence[int], batch_size: int
) -> list[Batch]:
    """Every row once, by length; a bucket's last batch may be partial."""
    bucket_of = np.searchsorted(bucket_lengths, lengths)
    batches = []
    for index, length in enumerate(bucket_lengths):
        rows = np.flatnonzero(bucket_of == index)
        for start in range(0, len(rows), batch_size):
            batches.append((length, rows[start : start + batch_size]))
    return batches


def pad(
    rows: Sequence[np.ndarray], length: int, count: int, *, fill: int, side: str
) -> tuple[np.ndarray, np.ndarray]:
    """(values, 1 where there is one), both int32 [count, length].

    Rows beyond those given have one real position: a row that attends to nothing at all
    is no input a model must stand.
    """
    values = np.full((count, length), fill, np.int32)
    real = np.zeros((count, length), np.int32)
    for index, row in enumerate(rows):
        where = (
            slice(0, len(row)) if side == "right" else slice(length - len(row), None)
        )
        values[index, where] = row
        real[index, where] = 1
    real[len(rows) :, 0] = 1
    return values, real
