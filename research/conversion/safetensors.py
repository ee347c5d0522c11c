"""Reading and writing safetensors one tensor at a time, memory-mapped.

The format is 8 bytes of header length, a JSON header with dtype, shape and byte range
of every tensor, and the data (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import pathlib
import struct
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from research.machine import files

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint folder by name, mapped from disk when asked for."""

    def __init__(self, files: Mapping[str, pathlib.Path]):
        self._entries: dict[str, tuple[pathlib.Path, int, str, tuple[int, ...]]] = {}
        for path in sorted(set(files.values())):
            for name, (offset, dtype, shape) in _read_header(path).items():
                self._entries[name] = (path, offset, dtype, shape)
        absent = sorted(set(files) - set(self._entries))
        if absent:
            raise ValueError(
                f"{_INDEX} names tensors that its files do not hold: "
                f"{', '.join(absent[:8])}. Fetch the checkpoint again."
            )

    def __getitem__(self, name: str) -> np.ndarray:
        path, offset, dtype, shape = self._entries[name]
        if 0 in shape:
            return np.zeros(shape, DTYPES[dtype])
        return np.memmap(
            path, DTYPES[dtype], mode="r", offset=offset, shape=shape or (1,)
        ).reshape(shape)

    def renamed(self, rename: Callable[[str], str]) -> Tensors:
        """The same tensors under other names."""
        copy = Tensors({})
        copy._entries = {rename(name): entry for name, entry in self._entries.items()}
        return copy

    def dtypes(self) -> dict[str, str]:
        """The format's name of every tensor's dtype, 'BF16'."""
        return {name: entry[2] for name, entry in self._entries.items()}

    def __iter__(self):
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def open_folder(folder: pathlib.Path) -> Tensors:
    """Opens model.safetensors, whole or sharded.

    Raises:
      ValueError: where there is none, naming what is there and what to do.
    """
    index = folder / _INDEX
    if index.exists():
        weight_map = json.loads(index.read_text())["weight_map"]
        files = {name: folder / file for name, file in weight_map.items()}
        lost = sorted({p.name for p in files.values() if not p.exists()})
        if lost:
            raise ValueError(f"{folder} lacks {', '.join(lost)}, named in {_INDEX}.")
        return Tensors(files)
    single = folder / _SINGLE
    if single.exists():
        return Tensors({name: single for name in _read_header(single)})
    pickled = sorted(p.name for p in folder.glob("*.bin"))
    if pickled:
        raise ValueError(
            f"{folder} holds {', '.join(pickled)} but no {_SINGLE}. Pickled weights can "
            f"run any code when loaded and are not read. Convert them where you trust "
            f"them: AutoModel.from_pretrained(folder).save_pretrained(folder)."
        )
    raise ValueError(f"{folder} has neither {_SINGLE} nor {_INDEX}.")


def open_file(path: pathlib.Path) -> Tensors:
    """Opens one file."""
    return Tensors(dict.fromkeys(_read_header(path), path))


def _read_header(path: pathlib.Path) -> dict[str, tuple[int, str, tuple[int, ...]]]:
    """Offset in the file, dtype and shape of every tensor."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if 8 + length > size:
            raise ValueError(f"{path} is no safetensors file, or its header is cut.")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ValueError(f"{path}: unreadable safetensors header.") from error
    entries = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if 8 + length + end > size:
            raise ValueError(
                f"{path} is truncated: tensor {name!r} ends at byte "
                f"{8 + length + end:,}, the file at {size:,}. Fetch it again."
            )
        if entry["dtype"] not in DTYPES:
            raise ValueError(
                f"{path}: tensor {name!r} has dtype {entry['dtype']}; read are "
                f"{', '.join(DTYPES)}."
            )
        entries[name] = (8 + length + begin, entry["dtype"], tuple(entry["shape"]))
    return entries


def write(
    path: pathlib.Path,
    specs: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    load: Callable[[str], np.ndarray],
) -> None:
    """Writes tensors in the order of `specs`, holding one at a time in memory.

    Args:
      path: the file to write; it appears only when it is complete.
      specs: dtype and shape of every tensor.
      load: gives a tensor by name.
    """
    # transformers reads the framework from the metadata and refuses files without it.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in specs.items():
        end = offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    # Data begins aligned to 8 bytes.
    encoded += b" " * (-len(encoded) % 8)
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
        for name, (dtype, shape) in specs.items():
            tensor = np.asarray(load(name), dtype, order="C")
            if tensor.shape != shape:
                raise ValueError(f"{name}: shape {tensor.shape}, declared {shape}.")
            # As bytes: bfloat16 is no dtype that buffers know.
            file.write(tensor.reshape(-1).view(np.uint8).data)
