"""What an imported run keeps of its checkpoint, in the workdir's folder huggingface/.

config.json            as it was, and generation_config.json, tokenizer_config.json,
                       chat_template.jinja where there were any
origin.json            where it came from, which heads it had, dtypes but float32
carried.safetensors    tensors that no network here has
pooler.npz             of these, the first layer of a fine-tuned BERT's head
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.conversion import safetensors
from research.machine import arrays, files
from research.training.workdir import IMPORTED, POOLER

_CONFIG, _ORIGIN, _CARRIED = "config.json", "origin.json", "carried.safetensors"
GENERATION, TOKENIZER = "generation_config.json", "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"


@dataclasses.dataclass(frozen=True)
class Origin:
    """The checkpoint that a run was imported from.

    Attributes:
      source: folder or hub id.
      folder: the workdir's folder huggingface/.
      hf_config: its config.json.
      heads: names of the run's heads that it had.
      dtypes: of the tensors that were not float32, by their full names.
      carried: tensors that nothing here uses, by name.
    """

    source: str
    folder: pathlib.Path
    hf_config: Mapping[str, Any]
    heads: tuple[str, ...]
    dtypes: Mapping[str, np.dtype]
    carried: Mapping[str, np.ndarray]

    @property
    def model_type(self) -> str:
        """Its family."""
        return self.hf_config["model_type"]

    def values(self, name: str) -> dict[str, Any]:
        """What a JSON file that came with it holds; nothing if it had none."""
        path = self.folder / name
        return files.read_json(path) if path.exists() else {}


def save(
    workdir: pathlib.Path,
    source: str,
    folder: pathlib.Path,
    heads: Sequence[str],
    carried: Mapping[str, np.ndarray],
) -> None:
    """Writes huggingface/ into the workdir of an import from `folder`."""
    target = workdir / IMPORTED
    target.mkdir()
    for name in (_CONFIG, GENERATION, TOKENIZER, TEMPLATE):
        if (folder / name).exists():
            shutil.copyfile(folder / name, target / name)
    values = {
        "source": source,
        "stages": list(heads),
        "dtypes": {
            name: dtype
            for name, dtype in safetensors.open_folder(folder).dtypes().items()
            if dtype != "F32"
        },
    }
    files.write(target / _ORIGIN, json.dumps(values, indent=1) + "\n")
    if carried:
        specs = {name: (tensor.dtype, tensor.shape) for name, tensor in carried.items()}
        safetensors.write(target / _CARRIED, specs, carried.__getitem__)
    # RoBERTa's classes have a first layer of their own, and no use for its pooler.
    is_bert = files.read_json(target / _CONFIG)["model_type"] == "bert"
    if is_bert and "pooler.dense.weight" in carried:
        weight, bias = (carried[f"pooler.dense.{x}"] for x in ("weight", "bias"))
        dense = {"kernel": weight.T, "bias": bias}
        dense = {name: tensor.astype(np.float32) for name, tensor in dense.items()}
        arrays.save(target / POOLER, dense, {})


def load(workdir: pathlib.Path) -> Origin | None:
    """What a workdir was imported from; None for a run trained here."""
    folder = workdir / IMPORTED
    if not (folder / _ORIGIN).exists():
        return None
    values = files.read_json(folder / _ORIGIN)
    carried = folder / _CARRIED
    return Origin(
        source=values["source"],
        folder=folder,
        hf_config=files.read_json(folder / _CONFIG),
        heads=tuple(values["stages"]),
        dtypes={n: safetensors.DTYPES[d] for n, d in values["dtypes"].items()},
        carried=safetensors.Tensors([carried]) if carried.exists() else {},
    )
