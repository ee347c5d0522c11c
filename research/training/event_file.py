"""TensorBoard event files, scalars only.

A record is an Event message of protocol buffers in the frame of a TFRecord. Writing the
six fields that scalars need takes less than importing a library for it, which would cost
a run its first seconds.
"""

from __future__ import annotations

import pathlib
import socket
import struct
import time
from collections.abc import Mapping

_CASTAGNOLI = 0x82F63B78


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (_CASTAGNOLI if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc_table()


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and offset as TFRecords have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def _message(field: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _event(step: int, field: int, payload: bytes) -> bytes:
    wall_time = _varint(1 << 3 | 1) + struct.pack("<d", time.time())
    return wall_time + _varint(2 << 3) + _varint(step) + _message(field, payload)


def scalars_event(step: int, values: Mapping[str, float]) -> bytes:
    """An Event whose summary holds one value a name."""
    summary = b"".join(
        _message(
            1,
            _message(1, name.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", value),
        )
        for name, value in values.items()
    )
    return _event(step, 5, summary)


class EventFile:
    """One event file of a run.

    Args:
      folder: where TensorBoard looks.
      first_step: steps from here on in older files are void: the run was resumed.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        name = f"events.out.tfevents.{time.time_ns() // 10**6:d}.{socket.gethostname()}"
        self._file = open(folder / name, "ab")  # noqa: SIM115
        self._write(_event(0, 3, b"brain.Event:2"))
        # SessionLog with status START.
        self._write(_event(first_step, 7, _varint(1 << 3) + _varint(1)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one value a name at a step."""
        self._write(scalars_event(step, values))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + struct.pack("<I", masked_crc(length)))
        self._file.write(event + struct.pack("<I", masked_crc(event)))
