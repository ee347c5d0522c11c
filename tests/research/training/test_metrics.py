"""Means, the line of progress, and event files that other readers understand."""

import json
import math
import pathlib
import struct

import pytest

from research.errors import UserError
from research.training import event_file, metrics, workdir


def test_means_are_divided_once():
    means = metrics.Means()
    means.add({"mlm": (10.0, 2.0), "nsp": (0.0, 0.0)})
    means.add({"mlm": (2.0, 4.0), "nsp": (0.0, 0.0)})
    assert means.values() == {"mlm": 2.0}


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.4, "9s"), (192, "3m12s"), (3725, "1h02m"), (-1, "0s")]
)
def test_duration(seconds, text):
    assert metrics.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(812, "812"), (42_100, "42.1k"), (1.1e8, "110.0M")]
)
def test_short(number, text):
    assert metrics.short(number) == text


def test_progress_line():
    values = {
        "loss": 6.4123,
        "mlm": 5.73,
        "nsp": 0.68,
        "learning_rate": 9.1e-4,
        "grad_norm": 1.2,
        "tokens_per_second": 42_100.0,
        "step_seconds": 0.0881,
        "teraflops": 515.2,
        "mfu": 0.52,
        "input_wait": 0.001,
    }
    line = metrics.progress_line(120, 1000, values, ("mlm", "nsp"), 192)
    assert line == (
        "step  120/1000  loss 6.412 (mlm 5.730, nsp 0.680)  lr 9.1e-04  grad 1.20  "
        "42.1k tokens/s  88.1 ms a step  515.2 TFLOP/s  MFU 52%  input 0.1%  3m12s left"
    )
    del values["mfu"]
    assert "MFU" not in metrics.progress_line(120, 1000, values, ("mlm",), 192)


def test_rates_have_readable_units():
    assert metrics.flop_rate(5.152e14) == "515.2 TFLOP/s"
    assert metrics.flop_rate(1.5e11) == "150.0 GFLOP/s"
    assert metrics.flop_rate(4.4e8) == "440.0 MFLOP/s"


def test_crc_has_the_published_check_value():
    # CRC-32C of '123456789' is 0xE3069283 (RFC 3720, appendix B.4 has its relatives).
    rotated = ((0xE3069283 >> 15) | (0xE3069283 << 17)) & 0xFFFFFFFF
    wanted = (rotated + 0xA282EAD8) & 0xFFFFFFFF
    assert event_file.masked_crc(b"123456789") == wanted


def _records(path: pathlib.Path):
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        (crc,) = struct.unpack("<I", data[8:12])
        assert crc == event_file.masked_crc(data[:8])
        record = data[12 : 12 + length]
        (crc,) = struct.unpack("<I", data[12 + length : 16 + length])
        assert crc == event_file.masked_crc(record)
        yield record
        data = data[16 + length :]


def _fields(message: bytes):
    """(field number, value) pairs of a protocol buffer message."""
    position = 0

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        key = varint()
        if key & 7 == 0:
            value = varint()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            value = message[position : position + size]
            position += size
        yield key >> 3, value


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="not Linux")
def test_a_full_disk_is_an_error_with_its_file(tmp_path):
    """/dev/full takes no byte, neither when flushed nor when closed."""
    (tmp_path / workdir.METRICS).symlink_to("/dev/full")
    writer = metrics.Writer(tmp_path, first_step=0)
    for act in (lambda: writer.write(1, "train", {"loss": 1.0}), writer.close):
        with pytest.raises(UserError) as caught:
            act()
        text = str(caught.value)
        assert f"{tmp_path / workdir.METRICS} could not be written: No space" in text
        assert "run the same command again" in text
    (tmp_path / workdir.UNLOGGED).symlink_to("/dev/full")
    with pytest.raises(UserError, match=f"{workdir.UNLOGGED} could not be written"):
        writer.write_unlogged(1, {}, 0.0)


def test_events_hold_what_was_written(tmp_path):
    writer = metrics.Writer(tmp_path, first_step=300)
    writer.write(310, "train", {"loss": 2.5, "mlm": math.inf})
    writer.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "step": 310,
        "split": "train",
        "loss": 2.5,
        "mlm": None,
    }
    (path,) = tmp_path.glob("events.out.tfevents.*")
    version, start, scalars = (dict(_fields(record)) for record in _records(path))
    assert version[3] == b"brain.Event:2"
    assert (start[2], start[7]) == (300, b"\x08\x01")
    assert scalars[2] == 310
    values = [dict(_fields(value)) for _, value in _fields(scalars[5])]
    assert values[0][1] == b"train/loss"
    assert struct.unpack("<f", values[0][2]) == (2.5,)
