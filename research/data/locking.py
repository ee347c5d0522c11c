"""One process at a time."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import fcntl
except ImportError:  # Not a POSIX system: processes may do the same work twice.
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Holds a lock that ends with this process, waiting for whoever holds it.

    Where the file system has no locks there is none; results are then written twice
    and one of them is kept.
    """
    with open(path, "w") as file:
        if fcntl is not None:
            try:
                _wait_for(file, path)
            except OSError:
                pass
        yield


def _wait_for(file, path: pathlib.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Waiting for another process that writes {path.stem}", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
