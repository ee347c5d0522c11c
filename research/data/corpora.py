"""Corpora: where documents come from.

    source                          documents
    'embedded'                      documentation of this Python installation
    a file, a folder, a glob        see `files`: text, JSONL, Parquet
    'tfds:NAME[/CONFIG]'            the 'train' split of a TensorFlow dataset

A document is a string. Documents have a fixed order, which numbers them, and are
streamed: a corpus may be larger than memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from research.data import embedded, files, tfds
from research.data.errors import DataError

# A sample is taken from the beginnings of at most this many parts.
MAX_SAMPLED_PARTS = 64


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a corpus that can be read on its own, for instance one file.

    Attributes:
      size: its extent in any unit, for progress (bytes on disk of a file).
      read: yields (document, extent read so far); raises DataError.
    """

    size: int
    read: Callable[[], Iterator[tuple[str, int]]]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A stream of documents.

    Attributes:
      name: short, fit for a folder's name.
      origin: plain values that change whenever the documents may have changed.
      parts: what the documents are read from, in order.
    """

    name: str
    origin: dict[str, Any]
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Extent of all parts."""
        return sum(part.size for part in self.parts)

    def read(self) -> Iterator[tuple[str, int]]:
        """Yields (document, extent read so far); documents that are blank are left out.

        Raises:
          DataError: a part is damaged, or there is no document at all.
        """
        before = 0
        empty = True
        for part in self.parts:
            for text, extent in part.read():
                if text.strip():
                    empty = False
                    yield _valid(text), before + extent
            before += part.size
        if empty:
            raise DataError(
                f"Corpus {self.name!r} holds no text: {self.origin['source']!r} has no "
                f"document with anything but white space."
            )

    def documents(self) -> Iterator[str]:
        """The documents in order."""
        return (text for text, _ in self.read())

    def sample(self, max_characters: int) -> list[str]:
        """Documents of about `max_characters` in all, the same ones every time.

        They are spread over the whole of at most MAX_SAMPLED_PARTS evenly spaced parts,
        because a file may be ordered by language or source. A corpus that is small
        enough is given whole; of a longer document than the sample, the beginning.
        """
        count = min(len(self.parts), MAX_SAMPLED_PARTS)
        chosen = [self.parts[i * len(self.parts) // count] for i in range(count)]
        total = sum(part.size for part in chosen)
        texts: list[str] = []
        taken, before = 0, 0
        for part in chosen:
            for text, extent in part.read():
                # Behind what this place of the corpus is due, so the document is taken.
                due = max_characters * (before + extent) / max(total, 1)
                if text.strip() and taken <= due and taken < max_characters:
                    texts.append(_valid(text[: max_characters - taken]))
                    taken += len(texts[-1])
            before += part.size
        return texts


def open_corpus(source: str, *, text_field: str) -> Corpus:
    """Finds a corpus and checks what can be checked without reading it.

    Args:
      source: 'embedded', 'tfds:NAME[/CONFIG]', or a file, a folder or a glob.
      text_field: field of JSONL objects, column of Parquet files, feature of TFDS
        examples that holds the document.

    Raises:
      DataError: what is missing or unfit, and what to give instead.
    """
    if source == "embedded":
        name, origin, parts = embedded.open_parts()
    elif source.startswith("tfds:"):
        name, origin, parts = tfds.open_parts(source.removeprefix("tfds:"), text_field)
    else:
        name, origin, parts = files.open_parts(source, text_field)
    return Corpus(
        name=name,
        origin={"source": source, **origin},
        parts=tuple(Part(size=size, read=read) for size, read in parts),
    )


def _valid(text: str) -> str:
    """Text without lone surrogates, which JSON can escape and UTF-8 cannot hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text
