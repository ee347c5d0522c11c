"""A lock names its holder, and ends with it."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from research.machine import locking

HOLD = """
import pathlib, sys, time
from research.machine import locking
with locking.locked(pathlib.Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_held_lock_is_refused_naming_its_holder(holder, tmp_path):
    with (
        pytest.raises(locking.HeldError, match=f"^process {holder.pid} on "),
        locking.locked(tmp_path / "lock", wait=False),
    ):
        pass


def test_one_that_waits_says_for_whom_and_goes_on_when_the_holder_is_killed(
    holder, tmp_path, capsys
):
    threading.Timer(0.5, os.kill, (holder.pid, signal.SIGKILL)).start()
    with locking.locked(tmp_path / "lock", wait=True):
        assert holder.wait() == -signal.SIGKILL
    assert f"Waiting for process {holder.pid} on " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with (
        pytest.raises(FileNotFoundError),
        locking.locked(tmp_path / "no" / "lock", wait=True),
    ):
        pass
