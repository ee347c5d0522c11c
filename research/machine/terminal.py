"""Output for a person, who may close the terminal while the run goes on."""

from __future__ import annotations

import errno
import os
import sys

from rich.console import Console

# Columns of output that goes to a file or a pipe.
WIDTH = 100


def say(line: str) -> None:
    """Prints a line; after the terminal has gone away, nothing.

    A run whose terminal goes away must still save its last state.
    """
    try:
        print(line, flush=True)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        # Buffered output goes there too; without this Python would fail as it exits.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def console(width: int = WIDTH) -> Console:
    """A console as wide as the terminal; `width` columns where there is none."""
    knows_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if knows_width else width, highlight=False)
