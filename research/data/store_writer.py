"""Writes token stores, once per corpus and tokenizer; threads tokenise."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import tqdm

from research.data import store
from research.data.corpora import Corpus
from research.data.errors import DataError, cannot_write
from research.data.tokenizer import Tokenizer
from research.data.tokenizer_training import one_thread
from research.machine import files
from research.machine.locking import locked

CHUNK_CHARACTERS = 1 << 18


def build(
    folder: pathlib.Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    heldout_fraction: float,
    num_workers: int,
) -> dict[str, store.TokenStore]:
    """Opens the store in `folder`, after writing it if it is not there.

    Several processes may ask for the same store: one writes, the others wait. A writer
    that fails or is killed leaves no store behind.

    Args:
      folder: where the store is or is to be.
      corpus: documents, numbered in their order.
      tokenizer: gives their tokens.
      heldout_fraction: share of the documents that is held out, see `is_heldout`.
      num_workers: threads that tokenise; the store does not depend on it.

    Raises:
      DataError: the corpus is damaged, or has too few documents for both splits.
      OSError: the disk is full or not writable.
    """
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder.parent / f".{folder.name}.lock", wait=True):
                if not folder.exists():
                    _remove_leftovers(folder)
                    _write(folder, corpus, tokenizer, heldout_fraction, num_workers)
        except OSError as error:
            raise cannot_write("token store", folder.parent, error) from error
    return store.open_store(folder)


def is_heldout(number: int, fraction: float) -> bool:
    """Whether a document is held out, by its number: evenly spread, always the same.

    The multiples of the golden ratio, modulo 1, below `fraction`: any stretch of n
    documents has n * fraction of them to within a few. Document 0 is the first one.
    """
    return (number * 0x9E3779B97F4A7C15) % 2**64 < int(fraction * 2**64)


def _write(
    folder: pathlib.Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    heldout_fraction: float,
    num_workers: int,
) -> None:
    # Where there are no locks another process may be first: its store is kept.
    with files.making_folder(folder) as temporary:
        header = _write_files(
            temporary, corpus, tokenizer, heldout_fraction, num_workers
        )
        header["files"] = {
            path.name: {"size": path.stat().st_size, "checksum": store.checksum(path)}
            for path in sorted(temporary.iterdir())
        }
        store.write_header(temporary, header)


def _write_files(
    folder: pathlib.Path,
    corpus: Corpus,
    tokenizer: Tokenizer,
    heldout_fraction: float,
    num_workers: int,
) -> dict[str, Any]:
    """Writes the files of both splits, and returns the rest of the header."""
    eod_id = tokenizer.require_separator()
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    progress = tqdm.tqdm(
        total=corpus.size,
        desc=f"tokenising {corpus.name}",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        disable=None,
        leave=False,
    )
    encode = _encoder(tokenizer, eod_id, dtype)
    digest = hashlib.blake2b(digest_size=8)
    number = 0
    with contextlib.ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                contextlib.closing(_SplitWriter(folder, split, tokenizer.vocab_size))
            )
            for split in store.SPLITS
        }
        stack.enter_context(progress)
        stack.enter_context(one_thread())
        for chunk in _map_in_order(encode, _chunks(corpus, digest), num_workers):
            count = len(chunk.lengths)
            heldout = np.array(
                [is_heldout(number + i, heldout_fraction) for i in range(count)]
            )
            writers["train"].append(chunk, ~heldout)
            writers["heldout"].append(chunk, heldout)
            number += count
            progress.update(chunk.extent - progress.n)
    counts = {split: writer.finish() for split, writer in writers.items()}
    _check_splits(corpus, counts, heldout_fraction)
    return {
        "corpus": corpus.origin,
        "text_digest": digest.hexdigest(),
        "heldout_fraction": heldout_fraction,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "eod_id": eod_id,
        "dtype": dtype,
        "splits": counts,
    }


def _check_splits(
    corpus: Corpus, counts: dict[str, dict[str, int]], heldout_fraction: float
) -> None:
    train, heldout = (counts[split]["num_documents"] for split in store.SPLITS)
    if train == 0 or (heldout == 0 and heldout_fraction > 0):
        raise DataError(
            f"Corpus {corpus.name!r} has {train + heldout} document(s), too few to hold "
            f"out a share of {heldout_fraction} and train on the rest. Divide the text "
            "(blank lines separate the documents of a .txt file), or raise "
            "data.heldout_fraction where there are several."
        )


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Some documents' tokens, with an [EOD] after each.

    Attributes:
      tokens: [sum of lengths].
      lengths: int64 [n], tokens of each document.
      num_bytes: int64 [n], UTF-8 bytes of each document's text.
      extent: how much of the corpus had been read.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    num_bytes: np.ndarray
    extent: int


def _chunks(corpus: Corpus, digest: Any) -> Iterator[tuple[list[str], int]]:
    """Groups of documents of about CHUNK_CHARACTERS, and the extent read.

    All text goes through `digest` on the way, one document after another.
    """
    texts: list[str] = []
    characters = 0
    extent = 0
    for text, extent in corpus.read():
        digest.update(text.encode("utf-8") + b"\0")
        texts.append(text)
        characters += len(text)
        if characters >= CHUNK_CHARACTERS:
            yield texts, extent
            texts, characters = [], 0
    if texts:
        yield texts, extent


def _encoder(
    tokenizer: Tokenizer, eod_id: int, dtype: str
) -> Callable[[tuple[list[str], int]], _Chunk]:
    """A function that tokenises a chunk; each thread has a tokenizer of its own.

    Threads that share one wait for each other at its cache of words.
    """
    local = threading.local()

    def encode(chunk: tuple[list[str], int]) -> _Chunk:
        if not hasattr(local, "tokenizer"):
            local.tokenizer = dataclasses.replace(tokenizer)
        texts, extent = chunk
        found = local.tokenizer.encode_batch(texts)
        documents = [np.array([*ids, eod_id], dtype) for ids in found]
        return _Chunk(
            tokens=np.concatenate(documents),
            lengths=np.array([len(document) for document in documents]),
            num_bytes=np.array([len(text.encode("utf-8")) for text in texts]),
            extent=extent,
        )

    return encode


def _map_in_order(
    function: Callable[[Any], Any], items: Iterable[Any], num_workers: int
) -> Iterator[Any]:
    """Yields function(item) of each item in order, computed ahead in threads.

    At most 2 * num_workers + 1 results wait, so a corpus may be larger than memory.
    """
    pending: collections.deque[Future] = collections.deque()
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class _SplitWriter:
    """Appends documents to the files of one split."""

    def __init__(self, folder: pathlib.Path, split: str, vocab_size: int):
        self._prefix = folder / split
        self._tokens = (folder / f"{split}.tokens").open("xb")
        self._documents = (folder / f"{split}.documents").open("xb")
        self._unigrams = np.zeros(vocab_size, np.int64)
        self._counts = dict.fromkeys(("num_tokens", "num_documents", "num_bytes"), 0)

    def append(self, chunk: _Chunk, chosen: np.ndarray) -> None:
        """Appends the documents of a chunk where `chosen`, bool [n], is True."""
        if not chosen.any():
            return
        tokens = chunk.tokens[np.repeat(chosen, chunk.lengths)]
        lengths = chunk.lengths[chosen]
        starts = self._counts["num_tokens"] + np.cumsum(lengths) - lengths
        self._tokens.write(tokens.tobytes())
        self._documents.write(starts.tobytes())
        self._unigrams += np.bincount(tokens, minlength=len(self._unigrams))
        self._counts["num_tokens"] += len(tokens)
        self._counts["num_documents"] += len(lengths)
        self._counts["num_bytes"] += int(chunk.num_bytes[chosen].sum())

    def close(self) -> None:
        self._tokens.close()
        self._documents.close()

    def finish(self) -> dict[str, int]:
        """Writes what is known only at the end; the split's counts."""
        self._prefix.with_suffix(".counts").write_bytes(self._unigrams.tobytes())
        return self._counts


def _remove_leftovers(folder: pathlib.Path) -> None:
    """Removes the temporary folders that killed writers of this store have left."""
    for path in folder.parent.glob(f"{files.TEMPORARY}{folder.name}-*"):
        shutil.rmtree(path, ignore_errors=True)
