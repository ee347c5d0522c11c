"""Reading and writing safetensors one tensor at a time.

The safetensors library reads. It would hold all tensors of a file to write it, so that is
done here: 8 bytes of header length, a JSON header with dtype, shape and byte range of every
tensor, and the data (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

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
    """The tensors of files by name, each read when it is asked for.

    The safetensors library reads them, and refuses files whose headers do not describe
    their bytes: gaps, overlaps, cut data.

    Raises:
      ValueError: for a file that is none, a dtype that is not read, or a tensor in two
        files.
    """

    def __init__(self, paths: Iterable[pathlib.Path]):
        # By name: file, name there, dtype, shape.
        self._entries: dict[str, tuple[pathlib.Path, str, str, tuple[int, ...]]] = {}
        for path in paths:
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118, it has no iterator
                    spec = file.get_slice(name)
                    dtype = spec.get_dtype()
                    if dtype not in DTYPES:
                        raise ValueError(
                            f"{path}: tensor {name!r} has dtype {dtype}; read are "
                            f"{', '.join(DTYPES)}."
                        )
                    if name in self._entries:
                        other = self._entries[name][0]
                        raise ValueError(f"{name!r} is both in {other} and in {path}.")
                    self._entries[name] = path, name, dtype, tuple(spec.get_shape())

    def __getitem__(self, name: str) -> np.ndarray:
        path, stored, *_ = self._entries[name]
        # Opened for each: pages of a mapped file count as memory until it is closed.
        with _opened(path) as file:
            return file.get_tensor(stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return self._entries[name][3]

    def renamed(self, rename: Callable[[str], str]) -> Tensors:
        """The same tensors under other names."""
        copy = Tensors([])
        copy._entries = {rename(name): entry for name, entry in self._entries.items()}
        if len(copy) < len(self):
            raise ValueError("Two tensors have the same name but for a prefix.")
        return copy

    def dtypes(self) -> dict[str, str]:
        """The format's name of every tensor's dtype, 'BF16'."""
        return {name: entry[2] for name, entry in self._entries.items()}

    def __iter__(self):
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is damaged, cut short or no safetensors file ({error}). Fetch it "
            f"again."
        ) from error


def open_folder(folder: pathlib.Path) -> Tensors:
    """Opens model.safetensors, whole or sharded.

    Raises:
      ValueError: where there is none, naming what is there and what to do.
    """
    index = folder / _INDEX
    if index.exists():
        return _open_shards(folder, index)
    single = folder / _SINGLE
    if single.exists():
        return Tensors([single])
    pickled = sorted(p.name for p in folder.glob("*.bin"))
    if pickled:
        raise ValueError(
            f"{folder} holds {', '.join(pickled)} but no {_SINGLE}. Pickled weights can "
            f"run any code when loaded and are not read. Convert them where you trust "
            f"them: AutoModel.from_pretrained(folder).save_pretrained(folder)."
        )
    raise ValueError(f"{folder} has neither {_SINGLE} nor {_INDEX}.")


def _open_shards(folder: pathlib.Path, index: pathlib.Path) -> Tensors:
    weight_map = files.read_json(index, weight_map=dict)["weight_map"]
    if not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"{index}: weight_map must give the file of every tensor.")
    names = sorted(set(weight_map.values()))
    outside = [name for name in names if pathlib.PurePath(name).name != name]
    if outside:
        raise ValueError(
            f"{index} names {', '.join(outside)}: weights are read from files of "
            f"{folder} only."
        )
    lost = [name for name in names if not (folder / name).exists()]
    if lost:
        raise ValueError(f"{folder} lacks {', '.join(lost)}, named in {_INDEX}.")
    tensors = Tensors(folder / name for name in names)
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise ValueError(
            f"{_INDEX} names tensors that its files do not hold: "
            f"{', '.join(absent[:8])}. Fetch the checkpoint again."
        )
    return tensors


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
