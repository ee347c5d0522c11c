"""Reads sentencepiece's .model files: a protocol buffer, of which a few fields matter.

Field numbers are those of sentencepiece_model.proto:

    ModelProto       1 pieces, 2 trainer_spec, 3 normalizer_spec
    SentencePiece    1 piece, 2 score, 3 type
    TrainerSpec      3 model_type, 35 byte_fallback, 40 unk_id
    NormalizerSpec   2 precompiled_charsmap
"""

from __future__ import annotations

import dataclasses
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

from research.data.errors import DataError

MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
NORMAL, UNKNOWN, CONTROL = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece, its log probability, and whether it stands for no text."""

    text: str
    score: float
    is_special: bool


@dataclasses.dataclass(frozen=True)
class SentencePieceModel:
    """A unigram model.

    Attributes:
      pieces: in the order of their ids.
      unk_id: id of the unknown piece.
      byte_fallback: unknown characters become byte pieces.
      charsmap: compiled normalisation rules, b'' for none.
    """

    pieces: tuple[Piece, ...]
    unk_id: int
    byte_fallback: bool
    charsmap: bytes


def read(file: pathlib.Path) -> SentencePieceModel:
    """Reads a .model file.

    Raises:
      DataError: it is damaged, or not a unigram model.
    """
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    charsmap = b""
    try:
        for number, value in _fields(file.read_bytes()):
            if number == 1:
                pieces.append(_piece(value))
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                charsmap = bytes(dict(_fields(value)).get(2, b""))
    except (IndexError, TypeError, ValueError, struct.error) as error:
        raise DataError(f"{file}: not a sentencepiece model ({error}).") from None
    if not pieces:
        raise DataError(f"{file}: not a sentencepiece model (it has no pieces).")
    kind = MODEL_TYPES.get(int(trainer.get(3, 1)), "unknown")
    if kind != "unigram":
        raise DataError(
            f"{file}: a sentencepiece model of type {kind}; only unigram models are "
            "read. Give the tokenizer.json that goes with it instead."
        )
    return SentencePieceModel(
        pieces=tuple(pieces),
        unk_id=int(trainer.get(40, 0)),
        byte_fallback=bool(trainer.get(35, 0)),
        charsmap=charsmap,
    )


def _piece(message: bytes) -> Piece:
    fields = dict(_fields(message))
    (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
    kind = fields.get(3, NORMAL)
    text = fields[1].decode("utf-8") if 1 in fields else ""
    return Piece(text=text, score=score, is_special=kind in (UNKNOWN, CONTROL))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, int or bytes) of a message in the protocol-buffer wire format."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(message, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + size > len(message):
            raise ValueError(f"cut short at byte {len(message)}")
        yield number, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """(value, next position) of a little-endian number in groups of 7 bits."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
