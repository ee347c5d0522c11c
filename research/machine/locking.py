"""One process at a time."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

try:
    import fcntl
except ImportError:  # Not a POSIX system: processes may do the same work twice.
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Holds a lock that ends with this process, waiting for whoever holds it.

    The file at `path` is there only while someone holds or waits for the lock. Where
    the file system has no locks there is none, and several may go ahead at once.

    Raises:
      OSError: the file cannot be written.
    """
    file = _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _acquire(path: pathlib.Path) -> IO[str]:
    while True:
        file = path.open("w")
        try:
            _wait_for(file, path)
        except OSError:
            return file
        except BaseException:
            file.close()
            raise
        # The holder before may have removed the file that this one waited for.
        if _is_at(file, path):
            return file
        file.close()


def _wait_for(file: IO[str], path: pathlib.Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        name = path.stem.lstrip(".")
        print(f"Waiting for another process that writes {name} ...", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_at(file: IO[str], path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
