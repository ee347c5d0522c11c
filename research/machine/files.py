"""Files that are there whole or not at all, whenever the process ends."""

from __future__ import annotations

import os
import pathlib
import uuid


def write(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file under another name and then gives it its own.

    Raises:
      OSError: the disk is full or not writable; the file is as it was.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
