"""Atomic writes of files and folders: a reader sees all of the content or none of it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator

TEMPORARY = ".writing-"


def write(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8.

    Raises:
      OSError: the disk is full or not writable; the file is as it was.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path to write to; the file there then replaces the one at `path`.

    If the body raises, `path` is as it was. The yielded name ends as `path` does, for
    writers that go by the suffix.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def making_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields an empty folder to write to, which then becomes `path`.

    If another process has made `path` in the meantime, that folder is kept. A process
    that is killed leaves a folder TEMPORARY + name + '-*' behind.
    """
    temporary = pathlib.Path(
        tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.parent)
    )
    try:
        yield temporary
        for file in (*temporary.iterdir(), temporary):
            _sync(file)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: pathlib.Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
