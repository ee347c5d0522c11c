"""What objectives know about token ids."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Vocabulary:
    """Special ids and tables over the vocabulary, shared by all objectives.

    Ids that a tokenizer lacks are -1; an objective that needs one refuses it by name
    with `require`. Vocabularies with equal contents are equal and have equal hashes, so
    that what is compiled for one run serves all runs with the same tokenizer.

    Attributes:
      vocab_size: V, number of rows of the embedding; every id is below it.
      pad_id, unk_id, cls_id, sep_id, mask_id, bos_id, eos_id, eod_id: special ids.
      sentinel_ids: ids of the span markers, first sentinel first. For tokenizers
        trained here 256 ids counted down from the top of the vocabulary.
      is_special: bool [V], ids never selected for corruption nor drawn as a
        replacement (the ids above, sentinels, unused rows).
      is_word_start: bool [V], the token begins a word; None when unknown.
      is_sentence_end: bool [V], the token ends a sentence.
      unigram_counts: int64 [V], counts in the training split.
      byte_lengths: int32 [V], number of UTF-8 bytes of a token (bits per byte).
    """

    vocab_size: int
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    bos_id: int
    eos_id: int
    eod_id: int
    sentinel_ids: tuple[int, ...]
    is_special: np.ndarray
    is_word_start: np.ndarray | None
    is_sentence_end: np.ndarray
    unigram_counts: np.ndarray
    byte_lengths: np.ndarray

    @functools.cached_property
    def _digest(self) -> bytes:
        """SHA-256 of all fields."""
        contents = hashlib.sha256()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                contents.update(f"{value.dtype}{value.shape}".encode())
                contents.update(value.tobytes())
            else:
                contents.update(repr(value).encode())
        return contents.digest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    @property
    def unknown_share(self) -> float:
        """Share of ``[UNK]`` among the tokens of the training split."""
        total = self.unigram_counts.sum()
        if self.unk_id < 0 or total == 0:
            return 0.0
        return float(self.unigram_counts[self.unk_id] / total)

    def require(self, objective: str, *names: str) -> None:
        """Refuses a vocabulary that lacks one of the named ids or tables.

        Raises:
          ValueError: naming the objective, what is missing and how to add it.
        """
        missing = [name for name in names if not self.has(name)]
        if missing:
            raise ValueError(
                f"Objective {objective!r} needs {', '.join(missing)}, which this "
                f"tokenizer does not have. Train one with data.tokenizer.kind, or set "
                f"train.extend_vocabulary=True to append special tokens to a "
                f"checkpoint's vocabulary."
            )

    def has(self, name: str) -> bool:
        """Whether the id or table called `name` is known."""
        value = getattr(self, name)
        if name.endswith("_id"):
            return value >= 0
        return value is not None and bool(np.any(value))
