"""Sentences as rows of tokens: special tokens around them, and truncation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from objectives.vocabulary import Vocabulary
from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.evaluation.finetuning.data import Split


@dataclasses.dataclass(frozen=True)
class Framing:
    """Tokens around one sentence or a pair: start A [between B] end.

    Attributes:
      start, between, end: token ids.
      max_length: longest framed row.
    """

    start: tuple[int, ...]
    between: tuple[int, ...]
    end: tuple[int, ...]
    max_length: int

    def frame(self, parts: Sequence[Sequence[int]]) -> tuple[np.ndarray, int, bool]:
        """Token ids int32, length of the first segment, and whether parts were cut."""
        frame = len(self.start) + len(self.end) + len(self.between) * (len(parts) - 1)
        budget = self.max_length - frame
        kept = cut_longer([len(part) for part in parts], budget)
        first = [*self.start, *parts[0][: kept[0]]]
        if len(parts) == 1:
            row = [*first, *self.end]
            return np.array(row, np.int32), len(row), kept[0] < len(parts[0])
        # The separator closes the first segment, as in BERT.
        first += self.between
        row = [*first, *parts[1][: kept[1]], *self.end]
        cut = any(count < len(part) for count, part in zip(kept, parts, strict=True))
        return np.array(row, np.int32), len(first), cut


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedSplit:
    """Framed rows of one split.

    Attributes:
      rows: int32 token ids of each row.
      first_lengths: length of each row's first segment, the one of token type 0.
      num_truncated: rows that were longer than allowed.
    """

    rows: tuple[np.ndarray, ...]
    first_lengths: np.ndarray
    num_truncated: int

    @property
    def lengths(self) -> np.ndarray:
        """Length of each row, int64 [rows]."""
        return np.array([len(row) for row in self.rows])


def cut_longer(lengths: Sequence[int], budget: int) -> tuple[int, ...]:
    """Tokens kept of each part when the longer part is cut until both fit.

    A tie costs the second part one token, as in BERT's reference code:
    lengths (10, 3), budget 8 -> (5, 3);  lengths (10, 9), budget 7 -> (4, 3).
    """
    if len(lengths) == 1:
        return (min(lengths[0], budget),)
    first, second = lengths
    if first + second <= budget:
        return first, second
    half = budget // 2
    if second <= half:
        return budget - second, second
    if first <= budget - half:
        return first, budget - first
    return budget - half, half


def sentence_framing(
    tokenizer: Tokenizer, vocabulary: Vocabulary, architecture: str, max_length: int
) -> Framing:
    """The frame that the tokenizer's own special tokens give sentences.

        encoder, BERT's vocabulary      [CLS] A [SEP] B [SEP]
        encoder, RoBERTa's, or BART's   <s> A </s> </s> B </s>
        decoder                         [BOS] A [SEP] B [SEP]
        encoder-decoder                 A </s> B </s>

    A missing [SEP] is EOS, else [EOD]. A [BOS] that is missing, or that the training
    text is known not to have, is [EOD]: what a decoder saw before every document. A
    tokenizer with no separator at all joins the pair.

    Raises:
      UserError: an encoder's vocabulary without [CLS].
    """
    separators = (vocabulary.sep_id, vocabulary.eos_id, vocabulary.eod_id)
    separator = tuple(token for token in separators if token >= 0)[:1]
    cls_id = vocabulary.cls_id
    if cls_id >= 0 and tokenizer.token(cls_id) == "<s>":
        return Framing((cls_id,), separator * 2, separator, max_length)
    if architecture == "encoder":
        if cls_id < 0:
            raise UserError(
                "the tokenizer has no [CLS] (nor <s>), which an encoder's sentences "
                "begin with. Give a checkpoint whose tokenizer has one."
            )
        return Framing((cls_id,), separator, separator, max_length)
    start: tuple[int, ...] = ()
    if architecture == "decoder":
        first = vocabulary.bos_id
        if first < 0 or _is_unseen(vocabulary, first):
            first = vocabulary.eod_id
        start = (first,) if first >= 0 else ()
    return Framing(start, separator, separator, max_length)


def _is_unseen(vocabulary: Vocabulary, token: int) -> bool:
    """Whether the training text is known not to have the token."""
    counts = vocabulary.unigram_counts
    return bool(counts.any()) and counts[token] == 0


@functools.lru_cache(maxsize=64)
def encode(
    tokenizer: Tokenizer,
    framing: Framing,
    split: Split,
    *,
    order: tuple[int, ...] | None,
) -> EncodedSplit:
    """Tokenizes and frames the rows of a split, once for all seeds.

    Args:
      tokenizer: of the pretrained run.
      framing: what stands around the sentences.
      split: rows of one sentence or two.
      order: of the sentences inside a prompt, where each follows a space; None = as
        given, each encoded as the beginning of a text.
    """
    if not len(split):
        return EncodedSplit((), np.zeros(0, np.int64), 0)
    space = "" if order is None else " "
    parts = [
        tokenizer.encode_batch([space + row[part].strip() for row in split.texts])
        for part in order or range(len(split.texts[0]))
    ]
    framed = [framing.frame(row) for row in zip(*parts, strict=True)]
    return EncodedSplit(
        rows=tuple(row for row, _, _ in framed),
        first_lengths=np.array([length for _, length, _ in framed]),
        num_truncated=sum(cut for _, _, cut in framed),
    )
