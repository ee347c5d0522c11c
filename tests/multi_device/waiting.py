"""Processes that do something together, of which the first one is not like the others.

    python -m tests.multi_device.waiting WHAT COORDINATOR NUM_PROCESSES PROCESS_ID

WHAT: 'late' (it comes after SECONDS), 'dies' or 'fails'.
"""

from __future__ import annotations

import os
import signal
import time

from research import cli
from research.errors import UserError
from research.training import distributed

# More than devices wait for each other.
SECONDS = 40


def main(argv: list[str]) -> None:
    what, coordinator, count, process = argv[1:]
    distributed.initialise(coordinator, int(count), int(process))
    with distributed.together("work"):
        if process == "0":
            if what == "late":
                time.sleep(SECONDS)
            if what == "dies":
                time.sleep(5)
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "fails":
                raise UserError("there is no such corpus.")
    print("went on", flush=True)


if __name__ == "__main__":
    cli.run(main)
