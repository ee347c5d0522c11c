"""A terminal that goes away takes no run with it."""

import os
import subprocess
import sys

import pytest

SAY = """
import sys
from research.machine import terminal
terminal.say("begun")
sys.stdin.readline()
terminal.say("nobody reads this")
terminal.say("nor this")
sys.stderr.write("saved")
"""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals to make up")
def test_a_closed_terminal_does_not_end_the_process():
    screen, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SAY],
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(terminal)
    assert os.read(screen, 100).strip() == b"begun"
    os.close(screen)
    _, errors = process.communicate("go on\n", timeout=60)
    assert (process.returncode, errors) == (0, "saved")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="not Linux")
def test_what_else_cannot_be_written_is_an_error():
    code = "from research.machine import terminal; terminal.say('x' * 10)"
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.returncode != 0
    assert "No space left" in process.stderr
