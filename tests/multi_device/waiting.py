"""Processes that do something together, of which the first one is not like the others.

    python -m tests.multi_device.waiting --first=WHAT --coordinator=... (as a run)

WHAT: 'late' (it comes after SECONDS), 'dies' or 'fails'.
"""

from __future__ import annotations

import os
import signal
import time

from absl import flags

from research.config import command_line
from research.errors import UserError
from research.machine import hosts

# More than devices wait for each other.
SECONDS = 40


def define_flags() -> None:
    flags.DEFINE_string("first", None, "what the first process does")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0")
    flags.DEFINE_integer("num_processes", None, "of all")
    flags.DEFINE_integer("process_id", None, "of this process")


def main(given: flags.FlagValues) -> None:
    what, process = given.first, given.process_id
    hosts.initialise(given.coordinator, given.num_processes, process)
    with hosts.together("work"):
        if process == 0:
            if what == "late":
                time.sleep(SECONDS)
            if what == "dies":
                time.sleep(5)
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "fails":
                raise UserError("there is no such corpus.")
    print("went on", flush=True)


if __name__ == "__main__":
    command_line.run(main, define_flags)
