"""Token stores: all documents of a split as one array on disk, mapped into memory.

A folder, written once by `store_writer` and never changed:

    header.json          where the tokens come from, counts, sizes and checksums
    train.tokens         uint16 or uint32 [num_tokens], an [EOD] after each document
    train.documents      int64 [num_documents], where each document begins
    train.counts         int64 [V], how often each token occurs
    heldout.*            the same for the documents that are held out
    verified.json        how the files looked when their checksums were last computed
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from research.data.errors import DataError
from research.machine import files

FORMAT = 1
SPLITS = ("train", "heldout")
HEADER = "header.json"
STAMP = "verified.json"
# Smaller stores are read and checked whole whenever they are opened (0.1 s); larger
# ones when a file's size or time of change is not what it was at the last check.
ALWAYS_VERIFIED_BYTES = 1 << 27


@dataclasses.dataclass(frozen=True, eq=False)
class TokenStore:
    """One split's documents, read as one circular stream of tokens.

    Documents are numbered from 0 in the order of the stream. Document 0 follows the
    last one, so that a row may begin at any token.

    Attributes:
      tokens: uint16 or uint32 [num_tokens], mapped.
      document_starts: int64 [num_documents], mapped.
      unigram_counts: int64 [V].
      header: of the whole store.
      split: 'train' or 'heldout'.
    """

    tokens: np.ndarray
    document_starts: np.ndarray
    unigram_counts: np.ndarray
    header: Mapping[str, Any]
    split: str

    @property
    def num_tokens(self) -> int:
        """Tokens in all, an [EOD] for each document included."""
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.document_starts)

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the documents' text."""
        return self.header["splits"][self.split]["num_bytes"]

    def rows(self, row_length: int) -> int:
        """How many whole rows of `row_length` tokens there are."""
        return self.num_tokens // row_length

    def gather(
        self, starts: np.ndarray, row_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the stream.

        Args:
          starts: int64 [n], the first token of each row, 0 <= start < num_tokens.
          row_length: R.

        Returns:
          tokens, int32 [n, R], and the document that each row begins in, int32 [n]; an
          [EOD] belongs to the document it ends.
        """
        tokens = np.empty((len(starts), row_length), np.int32)
        for row, start in zip(tokens, starts.tolist(), strict=True):
            piece = self.tokens[start : start + row_length]
            row[: len(piece)] = piece
            if len(piece) < row_length:
                rest = np.arange(row_length - len(piece))
                row[len(piece) :] = self.tokens.take(rest, mode="wrap")
        documents = np.searchsorted(self.document_starts, starts, side="right") - 1
        return tokens, documents.astype(np.int32)

    def document(self, number: int) -> np.ndarray:
        """Tokens of one document, int32, without the [EOD]."""
        if not 0 <= number < self.num_documents:
            raise IndexError(f"Document {number} of {self.num_documents}.")
        last = number + 1 == self.num_documents
        end = self.num_tokens if last else int(self.document_starts[number + 1])
        return self.tokens[self.document_starts[number] : end - 1].astype(np.int32)


def open_store(folder: pathlib.Path) -> dict[str, TokenStore]:
    """The splits of a store, checked against its header.

    Raises:
      DataError: files are missing, cut short or changed; says which folder to delete.
    """
    header = read_header(folder)
    sizes = {name: entry["size"] for name, entry in header["files"].items()}
    for name, size in sizes.items():
        path = folder / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            state = "missing" if actual is None else f"{actual} bytes long, not {size}"
            raise _damaged(folder, f"{name} is {state}")
    stamp = {name: _stamp(folder / name) for name in sizes}
    if sum(sizes.values()) <= ALWAYS_VERIFIED_BYTES or stamp != _last_stamp(folder):
        for name, entry in header["files"].items():
            if checksum(folder / name) != entry["checksum"]:
                raise _damaged(folder, f"{name} was changed since it was written")
        _write_stamp(folder, stamp)
    return {split: _open_split(folder, header, split) for split in SPLITS}


def read_header(folder: pathlib.Path) -> dict[str, Any]:
    """The header of a store.

    Raises:
      DataError: it is missing or was changed.
    """
    try:
        header = json.loads((folder / HEADER).read_text())
        written = header.pop("checksum")
        known = header.pop("format")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(folder, f"{HEADER} cannot be read ({error})") from None
    if known != FORMAT:
        raise _damaged(
            folder, f"its format is {known}, and this version reads {FORMAT}"
        )
    if written != header_checksum(header):
        raise _damaged(folder, f"{HEADER} was changed since it was written")
    return header | {"format": known, "checksum": written}


def write_header(folder: pathlib.Path, header: dict[str, Any]) -> None:
    """Writes a header with its own checksum."""
    whole = header | {"format": FORMAT, "checksum": header_checksum(header)}
    (folder / HEADER).write_text(json.dumps(whole, indent=1) + "\n")


def header_checksum(header: Mapping[str, Any]) -> str:
    """Checksum of a header, and through it of all tokens."""
    canonical = json.dumps(header, sort_keys=True).encode()
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def contents_checksum(header: Mapping[str, Any]) -> str:
    """Equal for stores of the same tokens, wherever they come from."""
    return header_checksum({"files": header["files"], "eod_id": header["eod_id"]})


def checksum(path: pathlib.Path) -> str:
    """Checksum of a file."""
    with open(path, "rb") as file:
        digest = functools.partial(hashlib.blake2b, digest_size=16)
        return hashlib.file_digest(file, digest).hexdigest()


def _open_split(folder: pathlib.Path, header: dict[str, Any], split: str) -> TokenStore:
    counts = header["splits"][split]
    vocab_size = header["vocab_size"]

    def mapped(name: str, dtype: str, length: int) -> np.ndarray:
        if length == 0:
            return np.zeros(0, dtype)
        array = np.memmap(folder / f"{split}.{name}", dtype, "r", shape=(length,))
        # Slices of a plain view cost a third of a memmap's.
        return array.view(np.ndarray)

    return TokenStore(
        tokens=mapped("tokens", header["dtype"], counts["num_tokens"]),
        document_starts=mapped("documents", "int64", counts["num_documents"]),
        unigram_counts=mapped("counts", "int64", vocab_size),
        header=header,
        split=split,
    )


def _damaged(folder: pathlib.Path, problem: str) -> DataError:
    return DataError(
        f"Token store {folder} cannot be used: {problem}. Delete this folder, and it "
        "is written anew from the corpus."
    )


def _stamp(path: pathlib.Path) -> list[int]:
    """Changes when a file does; its times to the resolution of the file system."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _last_stamp(folder: pathlib.Path) -> Any:
    try:
        return json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return None


def _write_stamp(folder: pathlib.Path, stamp: dict[str, list[int]]) -> None:
    # A store that others own is checked every time.
    with contextlib.suppress(OSError):
        files.write(folder / STAMP, json.dumps(stamp))
