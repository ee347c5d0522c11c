"""Bytes, word starts and sentence ends of the pieces of a vocabulary."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

WORD_MARK = "▁"  # sentencepiece's space
CLOSERS = "\"'”’»)]}*_`"
# Beginnings of the names of characters in scripts without spaces.
UNSPACED = ("CJK ", "HIRAGANA", "KATAKANA", "THAI ", "LAO ", "KHMER ", "MYANMAR ")
_CJK_BYTES = [bytes([byte]) for byte in range(0xE3, 0xEA)]
STOPS = (".", "!", "?", "…", "。", "！", "？")


@dataclasses.dataclass(frozen=True)
class PieceTexts:
    """Tables over the vocabulary; the entries of special tokens have no meaning.

    Attributes:
      is_word_start: bool [V], the piece begins with white space, carries no
        continuation mark, or begins with a character of a script that is written
        without spaces; None if pieces have no such marks.
      is_sentence_end: bool [V], the piece ends with a full stop, exclamation or
        question mark, closing quotes and brackets aside, or with a line break.
      num_bytes: int32 [V], UTF-8 bytes of text that the piece stands for; white space
        counts where a piece has it, so not for WordPiece.
    """

    is_word_start: np.ndarray | None
    is_sentence_end: np.ndarray
    num_bytes: np.ndarray


def texts(definition: str, vocabulary: Sequence[str]) -> PieceTexts:
    """Tables for the pieces of a tokenizer in the JSON format of `tokenizers`.

    Args:
      definition: the tokenizer.
      vocabulary: the piece of every id.
    """
    kind = _kind(json.loads(definition), vocabulary)
    found = [READERS[kind](piece) for piece in vocabulary]
    starts = np.array([start or _is_unspaced(text) for text, start in found])
    return PieceTexts(
        is_word_start=None if kind == "plain" else starts,
        is_sentence_end=np.array([ends_sentence(text) for text, _ in found]),
        num_bytes=np.array([len(text) for text, _ in found], np.int32),
    )


def ends_sentence(text: bytes) -> bool:
    """Whether a sentence may end with this text.

    b'.'  b'?"'  b'.)'  b'\\n'  b' etc.'   True
    b'3.1'  b'"'  b' '                     False
    """
    string = text.decode("utf-8", "ignore")
    stripped = string.rstrip()
    line_ends = "\n" in string[len(stripped) :]
    return line_ends or stripped.rstrip(CLOSERS).endswith(STOPS)


def _is_unspaced(text: bytes) -> bool:
    """Whether text begins in a script whose words no spaces divide.

    Words are then characters, or the pieces that a tokenizer has for several of them.
    A first byte of E3 to E9 alone begins a Chinese or Japanese character.
    """
    first = text.decode("utf-8", "ignore")[:1]
    if not first or first == "\ufffd":
        return text[:1] in _CJK_BYTES
    return unicodedata.name(first, "").startswith(UNSPACED)


def _kind(definition: dict, vocabulary: Sequence[str]) -> str:
    """The key in READERS that tells how pieces are written."""
    if definition["model"]["type"] == "WordPiece":
        return "wordpiece"
    parts = json.dumps([definition["pre_tokenizer"], definition["decoder"]])
    if '"ByteLevel"' in parts:
        return "byte_level"
    if any(piece.startswith(WORD_MARK) for piece in vocabulary):
        return "sentencepiece"
    return "plain"


def _byte_level(piece: str) -> tuple[bytes, bool]:
    try:
        text = bytes(_BYTE_OF[character] for character in piece)
    except KeyError:  # An added token, written as itself.
        text = piece.encode()
    return text, text[:1].isspace()


def _wordpiece(piece: str) -> tuple[bytes, bool]:
    return piece.removeprefix("##").encode(), not piece.startswith("##")


def _sentencepiece(piece: str) -> tuple[bytes, bool]:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)]), False
    return piece.replace(WORD_MARK, " ").encode(), piece.startswith(WORD_MARK)


def _plain(piece: str) -> tuple[bytes, bool]:
    return piece.encode(), False


READERS: dict[str, Callable[[str], tuple[bytes, bool]]] = {
    "byte_level": _byte_level,
    "wordpiece": _wordpiece,
    "sentencepiece": _sentencepiece,
    "plain": _plain,
}


def _byte_alphabet() -> dict[str, int]:
    """The byte of each character of byte-level pieces (Radford et al. 2019).

    Printable Latin-1 bytes are written as themselves, the 68 others as the characters
    from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
