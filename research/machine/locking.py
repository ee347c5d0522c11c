"""Locks between processes. The system frees a lock when its holder ends or is killed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import sys
from collections.abc import Iterator

import filelock


class HeldError(Exception):
    """Another process holds a lock; the text says which one."""


@contextlib.contextmanager
def locked(path: pathlib.Path, *, wait: bool) -> Iterator[None]:
    """Holds the lock of `path`, a file that names its holder and is then removed.

    On a file system without locks a message says so, and nothing is held.

    Args:
      path: file of the lock.
      wait: whether to wait for another holder.

    Raises:
      HeldError: another process holds the lock, and `wait` is False.
      OSError: the file cannot be written.
    """
    path.touch()  # What fails below is then the lock, not the file.
    lock = filelock.FileLock(path, fallback_to_soft=False)
    try:
        _acquire(lock, path, wait)
    except OSError as error:
        print(
            f"The file system of {path.parent} has no locks ({error.strerror}): nothing "
            "keeps a second process from doing the same work at the same time.",
            file=sys.stderr,
        )
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: filelock.BaseFileLock, path: pathlib.Path, wait: bool) -> None:
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        holder = path.read_text().strip() or "another process"
        if not wait:
            raise HeldError(holder) from None
        print(f"Waiting for {holder}, which holds {path} ...", file=sys.stderr)
        lock.acquire()
