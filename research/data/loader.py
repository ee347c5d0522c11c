"""Batches of clean tokens. Which rows a step reads follows from (seed, step) alone.

The training stream has no end. It is cut into epochs of N = num_tokens // R rows. Epoch
e cuts the circular stream of documents at a phase of its own, 0 <= phase < R, so that
row boundaries move from epoch to epoch, and takes the rows in an order of its own:

    row i of epoch e   begins at token  (phase_e + R * order_e(i)) mod num_tokens
    row b of step s    is row (s B + b) mod N of epoch (s B + b) // N

`order_e` is a permutation that is computed, not stored, so that shuffling needs no
memory and any step can be reached at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import grain
import numpy as np

from objectives.types import TokenBatch
from research.data.errors import DataError
from research.data.store import TokenStore

T = TypeVar("T")

# Batches gathered ahead of the step that takes them, and the threads that gather.
PREFETCHED_BATCHES = 8
PREFETCH_THREADS = 2
ENDLESS = 2**48  # steps; grain wants a length

FEISTEL_ROUNDS = 6
BLOCK_ROWS = 1024


def train_batches(
    store: TokenStore,
    *,
    row_length: int,
    batch_size: int,
    seed: int,
    start_step: int,
    num_parts: int = 1,
    parts: Sequence[int] = (0,),
) -> Iterator[TokenBatch]:
    """Batches of training rows from `start_step` on, without end.

    Args:
      store: the training split.
      row_length: R.
      batch_size: rows of the global batch.
      seed: of the order; the same seed gives the same batches on any number of hosts.
      start_step: the first step to yield; resuming is nothing else.
      num_parts, parts: what this host gets of every batch, see `host_rows`.

    Yields:
      TokenBatch of NumPy arrays with this host's rows; row_ids are those of the global
      batch.

    Raises:
      DataError: the split has less than one row.
      ValueError: the parts do not divide the batch.
    """
    rows = host_rows(batch_size, num_parts, parts)
    order = RowOrder(num_tokens=store.num_tokens, row_length=row_length, seed=seed)
    source = _Batches(store, order, rows, batch_size, start_step)
    dataset = grain.MapDataset.source(source).to_iter_dataset(
        grain.ReadOptions(
            num_threads=PREFETCH_THREADS, prefetch_buffer_size=PREFETCHED_BATCHES
        )
    )
    return iter(dataset)


def heldout_batches(
    store: TokenStore,
    *,
    row_length: int,
    batch_size: int,
    num_batches: int,
    num_parts: int = 1,
    parts: Sequence[int] = (0,),
) -> Iterator[TokenBatch]:
    """At most `num_batches` batches of held-out rows, the same ones every time.

    Rows do not overlap and are evenly spaced over the split. Every batch is full: rows
    that do not fill one are left out, unless there is not one full batch, when the rows
    there are are repeated.

    Raises:
      DataError: the split has less than one row.
      ValueError: the parts do not divide the batch.
    """
    rows = host_rows(batch_size, num_parts, parts)
    count = _num_rows(store.num_tokens, row_length)
    wanted = max(1, min(num_batches, count // batch_size)) * batch_size
    # Evenly spaced for wanted <= count, and each in turn again for wanted > count.
    chosen = np.arange(wanted) % count
    if wanted <= count:
        chosen = np.arange(wanted) * count // wanted
    for first in range(0, wanted, batch_size):
        yield _gather(store, chosen[first + rows] * row_length, rows, row_length)


def device_prefetch(
    batches: Iterator[T], place: Callable[[T], T], *, size: int
) -> Iterator[T]:
    """`place(batch)` of each batch, asked for `size` batches ahead.

    `place` starts a transfer to the device and returns at once, as jax.device_put does.
    """
    ahead: list[T] = []
    for batch in batches:
        ahead.append(place(batch))
        if len(ahead) > size:
            yield ahead.pop(0)
    yield from ahead


def host_rows(batch_size: int, num_parts: int, parts: Sequence[int]) -> np.ndarray:
    """The rows of the global batch that a host reads.

    Args:
      batch_size: rows of the global batch.
      num_parts: equal parts that the batch is cut into.
      parts: those that this host reads. A mesh can give a host parts that are not next
        to each other, and several hosts the same one.

    Returns:
      int64 [len(parts) * batch_size / num_parts], part after part.

    Raises:
      ValueError: the parts do not divide the batch, or there is no such part.
    """
    if batch_size <= 0 or batch_size % num_parts:
        raise ValueError(
            f"A batch of {batch_size} rows cannot be divided into {num_parts} parts: "
            "batch_size has to be a positive multiple of their number."
        )
    own = np.asarray(parts)
    if not ((own >= 0) & (own < num_parts)).all():
        raise ValueError(f"Parts {parts} are not among the {num_parts}, 0 to n - 1.")
    share = batch_size // num_parts
    return (own[:, None] * share + np.arange(share)).reshape(-1)


@dataclasses.dataclass(frozen=True)
class RowOrder:
    """Which tokens the rows of the endless stream begin at; see the module's text.

    Attributes:
      num_tokens: of the split.
      row_length: R.
      seed: of phases and orders.
    """

    num_tokens: int
    row_length: int
    seed: int

    def __post_init__(self):
        _num_rows(self.num_tokens, self.row_length)

    def starts(self, first: int, count: int) -> np.ndarray:
        """First token of rows first .. first + count - 1 of the stream, int64 [count]."""
        blocks = range(first // BLOCK_ROWS, (first + count - 1) // BLOCK_ROWS + 1)
        starts = np.concatenate([_block_starts(self, block) for block in blocks])
        offset = first - blocks[0] * BLOCK_ROWS
        return starts[offset : offset + count]


@functools.lru_cache(maxsize=16)
def _block_starts(order: RowOrder, block: int) -> np.ndarray:
    """First tokens of a block of rows: an array of them costs little more than a few."""
    rows = np.arange(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS)
    count = _num_rows(order.num_tokens, order.row_length)
    epochs, inside = np.divmod(rows, count)
    starts = np.empty(len(rows), np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        chosen = epochs == epoch
        phase, keys = _epoch_keys(order.seed, epoch)
        indices = permute(inside[chosen], count, keys)
        first = phase % order.row_length
        starts[chosen] = (first + order.row_length * indices) % order.num_tokens
    return starts


def permute(indices: np.ndarray, size: int, keys: tuple[int, ...]) -> np.ndarray:
    """Images of indices under a random permutation of 0 .. size - 1.

    A Feistel network over pairs of halves permutes the next power of four; whatever
    falls outside is sent through it again until it falls inside, on average once (Black
    and Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
      indices: int64 [n], each in 0 .. size - 1.
      size: of the domain, below 2**62.
      keys: one 64-bit number a round; they choose the permutation.

    Returns:
      int64 [n].
    """
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    values = indices.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ np.uint64(key)) & mask)
        values[outside] = (left << half) | right
        outside = values >= size
    return values.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """A hash of 64-bit numbers (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@functools.lru_cache(maxsize=64)
def _epoch_keys(seed: int, epoch: int) -> tuple[int, tuple[int, ...]]:
    """A random number for the phase of an epoch, and the keys of its order."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(
        1 + FEISTEL_ROUNDS, np.uint64
    )
    phase, *keys = state.tolist()
    return phase, tuple(keys)


@dataclasses.dataclass(frozen=True)
class _Batches:
    """A grain source whose elements are whole batches, one a step."""

    store: TokenStore
    order: RowOrder
    rows: np.ndarray
    batch_size: int
    start_step: int

    def __len__(self) -> int:
        return ENDLESS - self.start_step

    def __getitem__(self, index: int) -> TokenBatch:
        first = (self.start_step + int(index)) * self.batch_size
        starts = self.order.starts(first, self.batch_size)[self.rows]
        return _gather(self.store, starts, self.rows, self.order.row_length)


def _gather(
    store: TokenStore, starts: np.ndarray, rows: np.ndarray, row_length: int
) -> TokenBatch:
    tokens, first_document = store.gather(starts, row_length)
    return TokenBatch(
        tokens=tokens, row_ids=rows.astype(np.int32), first_document=first_document
    )


def _num_rows(num_tokens: int, row_length: int) -> int:
    count = num_tokens // row_length
    if count == 0:
        raise DataError(
            f"The split has {num_tokens} tokens, not one row of {row_length}: lower "
            "data.row_length, raise data.heldout_fraction if it is the held-out split, "
            "or give more text."
        )
    return count
