"""Lines of progress for a person, who may close the terminal while the run goes on."""

from __future__ import annotations

import errno
import os
import sys


def say(line: str) -> None:
    """Prints a line; once the terminal is gone, nothing.

    A run whose terminal goes away still has its last state to save.
    """
    try:
        print(line, flush=True)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        # What is still buffered goes there too, or Python would fail as it ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
