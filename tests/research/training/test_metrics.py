"""Means, the line of progress, metrics.jsonl and TensorBoard's events."""

import json
import math
import pathlib
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from research.errors import UserError
from research.training import metrics, workdir


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


def _events(path: pathlib.Path):
    """Events of a file of TFRecords: length, checksum, record, checksum."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


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
    # Everything is on the disk before the file is closed: a kill loses nothing.
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "step": 310,
        "split": "train",
        "loss": 2.5,
        "mlm": None,
    }
    (path,) = tmp_path.glob("events.out.tfevents.*")
    version, start, scalars = _events(path)
    assert version.file_version == "brain.Event:2"
    # TensorBoard hides what earlier sessions wrote from this step on.
    assert (start.step, start.session_log.status) == (300, SessionLog.START)
    assert scalars.step == 310
    values = {value.tag: value.simple_value for value in scalars.summary.value}
    assert values == {"train/loss": 2.5, "train/mlm": math.inf}
    writer.close()
