"""Corpora in files: text, JSON lines and Parquet.

    .txt                 UTF-8 text; blank lines separate documents
    .jsonl               one JSON object a line, the document in one of its fields
    .parquet             one row a document, in one of the columns

`.txt` and `.jsonl` may be compressed (``.gz``, ``.zst``). A folder stands for all such
files in it and its subfolders, hidden ones left out, in the order of their names; so does
a glob. Links are followed, the name of a link tells the format, and a file that several
links lead to is read once. What holds no text (an empty file, a null) is skipped.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import io
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from research.data.errors import DataError

Documents = Iterator[tuple[str, int]]

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}  # suffix to pyarrow's codec
# Bytes of every file that are checked before the first one is read.
HEAD_BYTES = 1 << 16


def open_parts(source: str, text_field: str):
    """(name, origin, parts) of the files that `source` stands for, see `corpora`."""
    paths = find(source)
    if not any(path.stat().st_size for path in paths):
        raise DataError(f"{source}: empty, and so is every file in it.")
    for path in paths:
        _check(path, text_field)
    stats = [path.stat() for path in paths]
    origin = {
        "text_field": text_field,
        "files": [
            {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            for path, stat in zip(paths, stats, strict=True)
        ],
    }
    parts = [
        (stat.st_size, functools.partial(READERS[_format(path)], path, text_field))
        for path, stat in zip(paths, stats, strict=True)
    ]
    name = paths[0].name.split(".")[0] if len(paths) == 1 else pathlib.Path(source).name
    return "".join(c if c.isalnum() else "_" for c in name), origin, parts


def find(source: str) -> list[pathlib.Path]:
    """The files that a file name, a folder or a glob stands for, sorted.

    Raises:
      DataError: there is none, or one of an unknown kind.
    """
    expanded = os.path.expanduser(source)
    path = pathlib.Path(expanded)
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = [p for p in _walk(path) if _format(p)]
        if not found:
            held = sorted(p.name for p in path.iterdir())[:5]
            raise DataError(
                f"Folder {source!r} holds no file of a known kind ({_kinds()}); it "
                f"holds {', '.join(held) or 'nothing'}."
            )
    else:
        found = [pathlib.Path(p) for p in glob.glob(expanded, recursive=True)]
        found = [p for p in found if p.is_file()]
        if not found:
            raise DataError(
                f"Corpus {source!r} not found: there is no such file or folder and no "
                f"file that matches it as a glob (working folder {os.getcwd()!r}). "
                "Give data.source=embedded, a file, a folder, a glob, or "
                "tfds:NAME[/CONFIG]."
            )
    for file in found:
        if not _format(file):
            raise DataError(f"{file}: not a kind of corpus known here ({_kinds()}).")
    once: dict[pathlib.Path, pathlib.Path] = {}
    for file in sorted(pathlib.Path(os.path.abspath(file)) for file in found):
        once.setdefault(file.resolve(), file)
    return list(once.values())


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Files below a folder. Links to folders are followed, each folder once."""
    seen = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (pathlib.Path(where, name) for name in names if name[0] != ".")
        yield from (path for path in paths if path.is_file())


def read_text(path: pathlib.Path, text_field: str) -> Documents:
    """Documents of a text file: paragraphs between blank lines, line breaks kept."""
    del text_field
    lines: list[str] = []
    position = 0
    for _, line, position in _lines(path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines), position
            lines = []
    if lines:
        yield "\n".join(lines), position


def read_json_lines(path: pathlib.Path, text_field: str) -> Documents:
    """Documents of a JSON-lines file: one field of every line's object."""
    for number, line, position in _lines(path):
        if not line.strip():
            continue
        text = _field(line, text_field, f"{path}, line {number}")
        if text is not None:
            yield text, position


def read_parquet(path: pathlib.Path, text_field: str) -> Documents:
    """Documents of a Parquet file: the values of one column."""
    import pyarrow

    file = _open_parquet(path, text_field)
    size = path.stat().st_size
    rows = max(file.metadata.num_rows, 1)
    row = 0
    try:
        for batch in file.iter_batches(batch_size=256, columns=[text_field]):
            for value in batch.column(0):
                row += 1
                text = value.as_py()
                if text is not None:
                    yield text, size * row // rows
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}, after row {row}: damaged Parquet file ({error}). Fetch it again."
        ) from None


READERS = {
    ".txt": read_text,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
}


def _kinds() -> str:
    texts = [f"{kind}{c}" for kind in (".txt", ".jsonl") for c in ("", *COMPRESSIONS)]
    return ", ".join([*texts, ".parquet"])


def _format(path: pathlib.Path) -> str:
    """The key in READERS that a file's name stands for, '' for none."""
    name = path.name.lower()
    plain = name
    for compression in COMPRESSIONS:
        plain = plain.removesuffix(compression)
    kind = pathlib.PurePath(plain).suffix
    is_known = kind in READERS and (plain == name or kind != ".parquet")
    return kind if is_known else ""


def _check(path: pathlib.Path, text_field: str) -> None:
    """Refuses a file of another format, or one that lacks the field."""
    try:
        if path.stat().st_size == 0:
            return
        if _format(path) == ".parquet":
            _open_parquet(path, text_field)
            return
        with _opened(path) as (stream, _):
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise _unreadable(str(path), error) from None
    if not head.strip():
        raise DataError(
            f"{path}: the file has no text in its first {HEAD_BYTES} bytes."
        )
    if b"\0" in head:
        raise DataError(f"{path}: a binary file, not text (it has zero bytes).")
    if _format(path) == ".jsonl":
        first, _, rest = head.lstrip().partition(b"\n")
        if rest or len(head) < HEAD_BYTES:
            _field(first.decode(errors="replace"), text_field, f"{path}, line 1")


def _field(line: str, text_field: str, where: str) -> str | None:
    """The document in a line that is a JSON object; None where it is null."""
    try:
        # Files that were joined have byte order marks inside.
        value = json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: not a JSON object that can be read ({error}). A .jsonl file has "
            "one JSON object a line, and plain text is named .txt. If the line is cut "
            "short, fetch the file again, or drop the line."
        ) from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON {type(value).__name__}, not an object.")
    if text_field not in value:
        raise DataError(
            f"{where}: no field {text_field!r}; the fields are {sorted(value)}. Set "
            "data.text_field to the one that holds the text."
        )
    text = value[text_field]
    if text is not None and not isinstance(text, str):
        raise DataError(
            f"{where}: field {text_field!r} holds {type(text).__name__}, not a string. "
            f"The fields are {sorted(value)}; set data.text_field."
        )
    return text


def _open_parquet(path: pathlib.Path, text_field: str):
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not a complete Parquet file ({error}). Fetch it again."
        ) from None
    schema = file.schema_arrow
    if text_field not in schema.names:
        raise DataError(
            f"{path}: no column {text_field!r}; the columns are {schema.names}. Set "
            "data.text_field to the one that holds the text."
        )
    kind = schema.field(text_field).type
    values = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    types = (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view())
    if values not in types:
        raise DataError(
            f"{path}: column {text_field!r} holds {kind}, not strings. The columns are "
            f"{schema.names}; set data.text_field."
        )
    return file


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str, int]]:
    """Yields (line number, line, bytes of the file read so far)."""
    number = 0
    try:
        with _opened(path) as (stream, raw):
            for number, line in enumerate(stream, start=1):
                if b"\0" in line:
                    raise DataError(
                        f"{path}, line {number}: a zero byte; this is not a text file."
                    )
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield number, text.rstrip("\r\n"), raw.tell()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not UTF-8 text ({error.reason} at byte "
            f"{error.start} of the line). Convert it, for instance with iconv, or leave "
            "the file out if it is binary."
        ) from None
    except OSError as error:
        raise _unreadable(f"{path}, after line {number}", error) from None


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Yields the decompressed stream, and the file under it, which tells the progress.

    A compressed stream without its end raises OSError.
    """
    codec = COMPRESSIONS.get(path.suffix.lower())
    with open(path, "rb") as raw:
        if codec is None:
            yield raw, raw
            return
        import pyarrow

        stream: Any = pyarrow.CompressedInputStream(raw, codec)
        yield io.BufferedReader(stream, 1 << 20), raw


def _unreadable(where: str, error: OSError) -> DataError:
    return DataError(
        f"{where}: the file is cut short or damaged, or may not be read ({error}). Fetch "
        "it again."
    )
