"""Conversion holds the largest tensor, not the model."""

import json
import os
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import tokenizers

from research.conversion import safetensors

DIM, WIDTH, VOCAB = 1024, 2816, 512
MEASURED = """
import pathlib, re, sys
from research.conversion import run
source, workdir, target = map(pathlib.Path, sys.argv[1:])
run.import_checkpoint(str(source), workdir, experiment=None)
run.export_workdir(workdir, target, which="last")
# Not getrusage: a process inherits its maximum from the one that started it.
print(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""


# glibc keeps freed memory in one arena per thread, and orbax and tensorstore have many
# threads: up to 130 MB that nobody holds, by the luck of which thread freed what. With
# one arena, and large arrays given back at once, the peak is what is held.
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20)}


def make_llama(folder, num_layers):
    """A bfloat16 Llama of 13M parameters a layer, in two shards; its size in bytes."""
    folder.mkdir()
    config = {
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": DIM,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 8,
        "intermediate_size": WIDTH,
        "max_position_embeddings": 512,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {
        "model.embed_tokens.weight": (VOCAB, DIM),
        "lm_head.weight": (VOCAB, DIM),
        "model.norm.weight": (DIM,),
    }
    square = dict.fromkeys([f"self_attn.{x}_proj.weight" for x in "qkvo"], (DIM, DIM))
    layer = {
        **square,
        "input_layernorm.weight": (DIM,),
        "post_attention_layernorm.weight": (DIM,),
        "mlp.gate_proj.weight": (WIDTH, DIM),
        "mlp.up_proj.weight": (WIDTH, DIM),
        "mlp.down_proj.weight": (DIM, WIDTH),
    }
    for i in range(num_layers):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    rng = np.random.default_rng(0)
    dtype = np.dtype(ml_dtypes.bfloat16)
    index, size = {}, 0
    for number in range(2):
        shard = dict(list(shapes.items())[number::2])
        safetensors.write(
            folder / f"{number}.safetensors",
            {name: (dtype, shape) for name, shape in shard.items()},
            lambda name: rng.standard_normal(shapes[name], np.float32).astype(dtype),
        )
        index |= dict.fromkeys(shard, f"{number}.safetensors")
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    names = ["<s>", "</s>", *(f"w{i}" for i in range(VOCAB - 2))]
    model = tokenizers.models.WordLevel({n: i for i, n in enumerate(names)}, "w0")
    backend = tokenizers.Tokenizer(model)
    backend.add_special_tokens(names[:2])
    backend.save(str(folder / "tokenizer.json"))
    return 4 * size


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)
def test_memory_does_not_grow_with_the_model(tmp_path):
    peaks, sizes = [], []
    for num_layers in (1, 9):
        folder = tmp_path / str(num_layers)
        sizes.append(make_llama(folder, num_layers))
        paths = [folder, tmp_path / f"run{num_layers}", tmp_path / f"out{num_layers}"]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *map(str, paths)],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | MALLOC,
        )
        peaks.append(1024 * int(done.stdout.splitlines()[-1]))
        before, after = (safetensors.open_folder(f) for f in (paths[0], paths[2]))
        assert set(before) == set(after)
        for name in before:
            assert before[name].dtype == after[name].dtype
            assert before[name].tobytes() == after[name].tobytes(), name
    assert sizes[1] - sizes[0] > 4e8
    # Usually 0.04; a model held whole gives 1.
    assert peaks[1] - peaks[0] < 0.2 * (sizes[1] - sizes[0])
