"""Checksums of the files in a folder, checked where the files are read.

checksums.json has for every file of the folder what it may be: its beginning of `size`
bytes has the CRC-32 `sum`. Lines may be appended to a .jsonl file; any other has no more.
A file that is replaced may be the old one or the new one, whichever a kill left there.

    {"config.json": [[2310, 1234567]], "metrics.jsonl": [[48201, 7654321]]}
"""

from __future__ import annotations

import json
import os
import pathlib
import zlib
from typing import Any

from research.machine import files
from research.machine.files import Damaged

CHECKSUMS = "checksums.json"
_CHUNK = 2**24


def write(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file as `files.write` does, and notes its checksum beside it."""
    data = content.encode() if isinstance(content, str) else content
    old = [_sum(path)] if path.is_file() else []
    _update(path.parent, {path.name: [*old, (len(data), zlib.crc32(data))]})
    files.write(path, data)


def record(folder: pathlib.Path, *names: str) -> None:
    """Notes the checksums of files as they are; of appended lines, only of the new ones."""
    known = _read(folder)
    sums = {}
    for name in names:
        path = folder / name
        with path.open("rb") as file:
            os.fsync(file.fileno())  # No checksum may outlive what it stands for.
        begin = known.get(name, [(0, 0)])[-1] if path.suffix == ".jsonl" else (0, 0)
        sums[name] = [_sum(path, *begin)]
    _update(folder, sums)


def check(folder: pathlib.Path, *names: str) -> None:
    """Compares files with their checksums; files that have none are taken as they are.

    Raises:
      Damaged: naming the first that is missing or has changed.
    """
    problem = find_problem(folder, *names)
    # Another process may just have been writing.
    if problem and (problem := find_problem(folder, *names)):
        raise Damaged(
            f"{problem}. Restore it, or delete {folder / CHECKSUMS} to take the files as "
            f"they are."
        )


def find_problem(folder: pathlib.Path, *names: str) -> str:
    """What has happened to the first file that differs, e.g. 'RUN/config.json has changed'.

    Args:
      folder: of the files.
      *names: of the files; none = all that have checksums.
    """
    known = _read(folder)
    for name in names or known:
        path = folder / name
        if name not in known:
            continue
        if not path.is_file():
            return f"{path} is missing"
        if not any(_is(path, *one) for one in known[name]):
            return f"{path} has changed since it was written"
    return ""


def _is(path: pathlib.Path, size: int, value: int) -> bool:
    found = path.stat().st_size
    grown = found > size and path.suffix == ".jsonl"
    return (found == size or grown) and _sum(path, end=size) == (size, value)


def _sum(
    path: pathlib.Path, begin: int = 0, value: int = 0, end: int | None = None
) -> tuple[int, int]:
    """Size and checksum up to `end`, given the checksum `value` of what is before."""
    with path.open("rb") as file:
        file.seek(begin)
        left = (path.stat().st_size if end is None else end) - begin
        while chunk := file.read(min(left, _CHUNK)):
            value = zlib.crc32(chunk, value)
            begin, left = begin + len(chunk), left - len(chunk)
    return begin, value


def _read(folder: pathlib.Path) -> dict[str, list[tuple[int, int]]]:
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    values = files.read_json(path)
    try:
        return {
            name: [(int(size), int(value)) for size, value in sums]
            for name, sums in values.items()
        }
    except (TypeError, ValueError) as error:
        raise Damaged(f"{path} holds no checksums: {error}.") from error


def _update(folder: pathlib.Path, sums: dict[str, Any]) -> None:
    files.write(folder / CHECKSUMS, json.dumps({**_read(folder), **sums}))
