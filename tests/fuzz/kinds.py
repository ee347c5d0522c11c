"""Kinds of bad input: each makes an input in a folder, and the command that reads it."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pathlib
import random
import shutil
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import tokenizers

from research.conversion import safetensors
from research.machine import checksums
from tests.fuzz import damage
from tests.research.comparison import fixtures
from tests.research.training import tiny

EXPERIMENT = """
import json, pathlib
import ml_collections

def get_config():
    text = (pathlib.Path(__file__).parent / "values.json").read_text()
    return ml_collections.ConfigDict(json.loads(text))
"""


@dataclasses.dataclass
class Attempt:
    """A command over a bad input.

    Attributes:
      command: module of research/.
      arguments: of its command line.
      result: file or folder that it writes, which must be the one of the undamaged
        input unless something is said; None = whatever it writes is right.
      right: that file or folder of the undamaged input.
      params_of: a workdir; digests of its parameters go to `params.json`.
    """

    command: str
    arguments: list[str]
    result: pathlib.Path | None = None
    right: pathlib.Path | None = None
    params_of: pathlib.Path | None = None


def write_experiment(folder: pathlib.Path, values: Any) -> str:
    """An experiment whose config is the given tree; returns its --config flag."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "values.json").write_text(json.dumps(values))
    (folder / "experiment.py").write_text(EXPERIMENT)
    return f"--config={folder / 'experiment.py'}"


def values_of(base: pathlib.Path, objective: str = "masked_lm", **changes: Any) -> dict:
    """The tiny run's config as plain values."""
    config = tiny.config(
        objective,
        data__source=str(base / "corpus"),
        data__cache_dir=str(base / "cache"),
        data__heldout_fraction=0.1,
        train__num_train_steps=2,
        eval__every_steps=2,
        checkpoint__every_steps=2,
        **changes,
    )
    return json.loads(config.to_json())


OBJECTIVES = ("masked_lm", "causal_lm", "span_corruption")


def prepare(base: pathlib.Path) -> list[Attempt]:
    """Writes what inputs are damaged copies of; returns commands to run for them."""
    tiny.write_corpus(base / "corpus", 100)
    write_llama(base / "llama")
    fixtures.fill(base / "comparison", fixtures.parsed(seeds=(0, 1)))
    for path in (base / "comparison").rglob("config.json"):
        checksums.record(path.parent, path.name)
    runs = []
    for name in OBJECTIVES:
        config = write_experiment(base / f"run_{name}", values_of(base, name))
        runs.append(Attempt("pretrain", [config, f"--workdir={base / name}"]))
    return [
        *runs,
        Attempt("convert", exporting(base / "causal_lm", base / "exported")),
        Attempt("report", [f"--workdir={base / 'comparison'}"]),
        Attempt(
            "convert",
            importing(base / "llama", base / "imported"),
            params_of=base / "imported",
        ),
    ]


def exporting(workdir: pathlib.Path, target: pathlib.Path) -> list[str]:
    return [f"--from={workdir}", f"--to={target}"]


def importing(source: pathlib.Path, workdir: pathlib.Path) -> list[str]:
    return [f"--from={source}", f"--workdir={workdir}"]


def configs(rng: random.Random, base: pathlib.Path, folder: pathlib.Path) -> Attempt:
    """Values of an experiment, in its file or on the command line."""
    values = values_of(base, rng.choice(OBJECTIVES))
    arguments = []
    if rng.random() < 0.5:
        leaves = [path for path in damage.places(values) if len(path) > 1]
        for path in rng.sample(leaves, rng.choice((1, 1, 2))):
            right = values
            for key in path:
                right = right[key]
            other = damage.other_value(rng, right)
            arguments.append(f"--config.{'.'.join(map(str, path))}={other}")
    else:
        values = damage.other_tree(rng, values)
    command = rng.choice(("plan", "plan", "plan", "preview", "pretrain"))
    more = {
        "plan": ["--device=cpu"],
        "preview": ["--rows=1", "--statistics_rows=16"],
        "pretrain": [f"--workdir={folder / 'run'}"],
    }[command]
    return Attempt(command, [write_experiment(folder, values), *more, *arguments])


FLAGS = {
    "pretrain": ("config", "workdir", "profile_steps", "coordinator", "num_processes"),
    "preview": ("config", "rows", "step", "statistics_rows"),
    "plan": ("config", "device", "devices", "compile"),
    "compare": ("config", "workdir"),
    "report": ("workdir",),
    "convert": ("from", "workdir", "to", "experiment", "which", "results"),
    "generate": (
        "checkpoint",
        "which",
        "prompt",
        "prompts_file",
        "temperature",
        "top_k",
    )
    + ("top_p", "num_beams", "length_penalty", "num_samples", "batch_size", "seed")
    + ("max_new_tokens",),
    "glue": ("config", "checkpoint", "workdir", "tasks"),
    "squad": ("config", "checkpoint", "workdir"),
}


def commands(rng: random.Random, base: pathlib.Path, folder: pathlib.Path) -> Attempt:
    """Flags of a command: right ones left out, wrong ones, and wrong values."""
    command = rng.choice(list(FLAGS))
    run = base / rng.choice(OBJECTIVES)
    right = {
        "config": str(base / "run_masked_lm/experiment.py"),
        "workdir": str(folder / "out"),
        "checkpoint": str(run),
        "from": str(rng.choice((run, base / "llama"))),
        "to": str(folder / "out"),
        "prompt": "ka lo mi [MASK]",
        "max_new_tokens": "4",
    }
    wrong = (
        *damage.TEXTS,
        *damage.NUMBERS,
        *damage.NOT_FINITE,
        folder,
        base,
        "²:³",
        "3:2",
    )
    wrong += (
        base / "corpus",
        base / "run_masked_lm/values.json",
        "localhost:1",
        "best",
    )
    arguments = []
    for name in FLAGS[command]:
        given = right.get(name)
        if rng.random() < 0.15:
            given = str(rng.choice(wrong))
        elif rng.random() < 0.05:
            given = None
        if given is not None and (name in right or rng.random() < 0.3):
            arguments.append(f"--{name}={given}")
    if rng.random() < 0.1:
        arguments.append(rng.choice((f"--{rng.choice(damage.TEXTS)}", "x", "--", "-")))
    # A coordinator that does not exist is waited for, as it must be.
    if any(a.startswith(("--coordinator", "--num_processes")) for a in arguments):
        arguments = [a for a in arguments if not a.endswith("localhost:1")]
    return Attempt(command, arguments)


def corpora(rng: random.Random, base: pathlib.Path, folder: pathlib.Path) -> Attempt:
    """Files of text, one of them damaged."""
    source = folder / "corpus"
    source.mkdir(parents=True)
    texts = [path.read_text() for path in sorted((base / "corpus").iterdir())[:40]]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    table = pa.table({"text": texts})
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, row_group_size=10)
    whole = {
        "a.txt": "\n".join(texts).encode(),
        "b.jsonl": lines,
        "c.parquet": sink.getvalue().to_pybytes(),
        "d.txt.gz": gzip.compress("\n".join(texts).encode()),
        "e.jsonl.zst": pa.compress(lines, codec="zstd", asbytes=True),
    }
    for name in rng.sample(list(whole), rng.choice((1, 1, 2))):
        data = whole[name]
        for _ in range(rng.choice((1, 1, 3))):
            data = damage.other_bytes(rng, data)
        if rng.random() < 0.1:
            name = rng.choice(list(whole))  # Content of another format.
        (source / name).write_bytes(data)
    values = values_of(base)
    values["data"]["source"] = str(source)
    values["data"]["cache_dir"] = str(folder / "cache")
    values["data"]["tokenizer"]["kind"] = rng.choice(("wordpiece", "bpe", "unigram"))
    arguments = [write_experiment(folder, values), "--rows=1", "--statistics_rows=0"]
    return Attempt("preview", arguments)


def folders(rng: random.Random, base: pathlib.Path, folder: pathlib.Path) -> Attempt:
    """A Hugging Face checkpoint of which one file is damaged."""
    source = folder / "source"
    shutil.copytree(base / "llama", source)
    name = rng.choice(("config.json", "config.json", "header", "header", "any"))
    run, result, right = folder / "run", None, None
    if name == "config.json":
        tree = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps(damage.other_tree(rng, tree)))
    elif name == "header":
        path = source / "model.safetensors"
        damage_header(rng, path)
        result, right = folder / "params.json", base / "params.json"
    else:
        path = rng.choice(sorted(p for p in source.iterdir() if p.is_file()))
        path.write_bytes(damage.other_bytes(rng, path.read_bytes()))
    params_of = run if result else None
    return Attempt("convert", importing(source, run), result, right, params_of)


def damage_header(rng: random.Random, path: pathlib.Path) -> None:
    """Changes offsets, shapes and dtypes in the header of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = rng.choice([key for key in header if key != "__metadata__"])
    tensor, other = header[name], header[rng.choice(list(header))]
    action = rng.choice(("offsets", "shape", "dtype", "borrow", "length", "tree"))
    if action == "offsets":
        step = rng.choice((-4, -1, 1, 4, 2**40))
        tensor["data_offsets"][rng.randrange(2)] += step
    elif action == "shape":
        tensor["shape"] = [
            *tensor["shape"][:-1],
            tensor["shape"][-1] + rng.choice((-1, 1)),
        ]
    elif action == "dtype":
        tensor["dtype"] = rng.choice(("F16", "BF16", "I32", "I8", "F64", "X", 3))
    elif action == "borrow":
        tensor["data_offsets"] = other.get("data_offsets", [0, 0])
    elif action == "tree":
        header = damage.other_tree(rng, header)
    text = json.dumps(header).encode()
    stated = (
        rng.choice((0, 2**63 - 1, len(text) - 1)) if action == "length" else len(text)
    )
    path.write_bytes(struct.pack("<Q", stated) + text + data[8 + length :])


def workdirs(rng: random.Random, base: pathlib.Path, folder: pathlib.Path) -> Attempt:
    """A run of which one file is damaged, exported, read or gone on with."""
    run = folder / "run"
    shutil.copytree(base / "causal_lm", run)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    path = rng.choice(files)
    if path.suffix == ".json" and rng.random() < 0.5:
        tree = json.loads(path.read_text())
        path.write_text(json.dumps(damage.other_tree(rng, tree)))
    else:
        path.write_bytes(damage.other_bytes(rng, path.read_bytes()))
    command = rng.choice(("convert", "convert", "convert", "pretrain"))
    if command == "pretrain":
        config = f"--config={base / 'run_causal_lm/experiment.py'}"
        return Attempt(command, [config, f"--workdir={run}"])
    target = folder / "exported"
    return Attempt(command, exporting(run, target), target, base / "exported")


def comparisons(
    rng: random.Random, base: pathlib.Path, folder: pathlib.Path
) -> Attempt:
    """A comparison of which one file is damaged, reported again."""
    workdir = folder / "comparison"
    shutil.copytree(base / "comparison", workdir)
    files = sorted(path for path in workdir.rglob("*") if path.is_file())
    path = rng.choice([file for file in files if file.suffix in (".json", ".jsonl")])
    if path.suffix == ".json" and rng.random() < 0.5:
        tree = json.loads(path.read_text())
        path.write_text(json.dumps(damage.other_tree(rng, tree)))
    else:
        path.write_bytes(damage.other_bytes(rng, path.read_bytes()))
    report = workdir / "report.md"
    right = base / "comparison/report.md"
    return Attempt("report", [f"--workdir={workdir}"], report, right)


KINDS: dict[str, Callable[[random.Random, pathlib.Path, pathlib.Path], Attempt]] = {
    "configs": configs,
    "commands": commands,
    "corpora": corpora,
    "folders": folders,
    "workdirs": workdirs,
    "comparisons": comparisons,
}
# Drawing a report takes ten times as long as reading a config.
EVERY = {"comparisons": 5}


def write_llama(folder: pathlib.Path) -> None:
    """A Llama of one layer with a tokenizer of 64 words."""
    folder.mkdir(parents=True)
    dim, width, vocab = 16, 32, 64
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocab,
        "hidden_size": dim,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": width,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {
        "model.embed_tokens.weight": (vocab, dim),
        "lm_head.weight": (vocab, dim),
        "model.norm.weight": (dim,),
        "model.layers.0.input_layernorm.weight": (dim,),
        "model.layers.0.post_attention_layernorm.weight": (dim,),
        "model.layers.0.mlp.gate_proj.weight": (width, dim),
        "model.layers.0.mlp.up_proj.weight": (width, dim),
        "model.layers.0.mlp.down_proj.weight": (dim, width),
    }
    for name in "qkvo":
        shapes[f"model.layers.0.self_attn.{name}_proj.weight"] = (dim, dim)
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}
    safetensors.write(
        folder / "model.safetensors",
        {name: (array.dtype, array.shape) for name, array in arrays.items()},
        lambda name: arrays[name],
    )
    names = ["<s>", "</s>", *(f"w{i}" for i in range(vocab - 2))]
    model = tokenizers.models.WordLevel({n: i for i, n in enumerate(names)}, "w0")
    backend = tokenizers.Tokenizer(model)
    backend.add_special_tokens(names[:2])
    backend.save(str(folder / "tokenizer.json"))
