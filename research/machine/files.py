"""Atomic writes of files and folders, and readers of small files.

A reader sees all of what was written or none of it. What cannot be read is refused in one
line that names the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from research.errors import UserError

TEMPORARY = ".writing-"


def write(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file, text as UTF-8.

    Raises:
      OSError: the disk is full or not writable; the file is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def append_line(path: pathlib.Path, line: str) -> None:
    """Appends a line and waits until it is on the disk.

    A last line without its end, which a kill cut off, is dropped.
    """
    with _naming(path), path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        whole = file.read(size).rfind(b"\n") + 1
        if whole < size:
            file.truncate(whole)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path to write to; the file there then replaces the one at `path`.

    If the body raises, `path` is as it was. The yielded name ends as `path` does, for
    writers that go by the suffix.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    with _naming(path):
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


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Gives errors of the disk the name of the file; that of a full disk has none."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _sync(path: pathlib.Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Damaged(UserError):
    """A file does not hold what it should; the text names it."""


def read_json(path: pathlib.Path, **fields: type | tuple[type, ...]) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
      path: of the file.
      **fields: names that the object must have, each with the type of its value.

    Raises:
      Damaged: it holds no JSON object, or one without these fields.
      OSError: it cannot be read.
    """
    return parse_json(path.read_bytes(), str(path), **fields)


def read_json_lines(
    path: pathlib.Path, *, appended: bool = False, **fields: type | tuple[type, ...]
) -> list[dict[str, Any]]:
    """The objects in a file of one JSON object a line; empty lines are left out.

    Args:
      path: of the file.
      appended: whether lines are appended to it. One without its end was then cut off by
        a kill, and is left out.
      **fields: as of `read_json`.

    Raises:
      Damaged: naming the file and the line.
      OSError: it cannot be read.
    """
    *lines, last = path.read_bytes().split(b"\n")
    if last and not appended:
        lines.append(last)
    found = [
        parse_json(line, f"{path}, line {number}", **fields)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if last and appended:
        with contextlib.suppress(Damaged):
            found.append(parse_json(last, str(path), **fields))
    return found


def parse_json(
    text: str | bytes, where: str, **fields: type | tuple[type, ...]
) -> dict[str, Any]:
    """The object that a text is in JSON, which `where` names in messages.

    Raises:
      Damaged: as `read_json`.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{where} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise Damaged(f"{where} holds no JSON object but a {type(values).__name__}.")
    for name, kind in fields.items():
        if name not in values:
            raise Damaged(f"{where} lacks {name!r}.")
        if not isinstance(values[name], kind):
            raise Damaged(f"{where}: {name!r} cannot be {values[name]!r}.")
    return values


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; that of an .npy file under ''.

    Raises:
      Damaged: it cannot be read.
      OSError: there is no such file.
    """
    with path.open("rb") as file:
        try:
            found = np.load(file)
            return (
                dict(found) if isinstance(found, np.lib.npyio.NpzFile) else {"": found}
            )
        # A damaged zip file raises errors of a dozen classes.
        except Exception as error:
            raise Damaged(f"{path} holds no arrays: {error}.") from error
