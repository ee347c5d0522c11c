"""Imports a folder into a workdir, and exports a workdir into a folder."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax
import ml_collections
import numpy as np

from research import cli
from research import config as config_lib
from research.conversion import exporter, hub, importer, model_card, safetensors
from research.data.tokenizer import Tokenizer
from research.training import checkpoints, program, rngs, state, workdir

# Beside the checkpoints of an imported run: what it was, and what nothing here uses.
ORIGIN = "huggingface"
CARRIED = "carried.safetensors"
# The experiment that goes on from the heads a checkpoint holds.
EXPERIMENTS = {
    (): "masked_lm",
    ("masked_lm",): "masked_lm",
    ("next_sentence", "masked_lm"): "bert",
    ("next_sentence",): "bert",
    ("causal_lm",): "causal_lm",
    ("span_corruption",): "t5",
    ("text_infilling",): "bart_base",
}


def import_checkpoint(
    source: str, target: pathlib.Path, *, experiment: str | None
) -> int:
    """Makes a workdir of a Hugging Face checkpoint.

    Args:
      source: folder, or hub id where there is a network.
      target: the workdir, which must not hold a run.
      experiment: path of the experiment to take all but the model from.

    Raises:
      ValueError: as `importer.read` and `importer.params_from` say.
    """
    if (target / workdir.CONFIG).exists():
        raise ValueError(f"{target} holds a run already: choose another --workdir.")
    folder = hub.folder_of(source)
    checkpoint = importer.read(folder)
    tokenizer = Tokenizer.load(folder)
    rows = importer.transformer_config(checkpoint).vocab_size
    if tokenizer.vocab_size > (rows or 0):
        raise ValueError(
            f"The tokenizer of {folder} has {tokenizer.vocab_size} tokens, the embedding "
            f"{rows} rows: they belong to different checkpoints."
        )
    config = _config(checkpoint, experiment)
    run = program.create(config_lib.parse(config), _with_counts(tokenizer).vocabulary())
    params, carried, fresh = _params(checkpoint, run)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save(target / "tokenizer")
    _keep_origin(target / ORIGIN, folder, carried)
    checkpoints.save_params(target / "checkpoints", params)
    workdir.add_session(target, 0)
    # Last: a workdir with a config is a whole one.
    workdir.save_config(target, config)
    _report_import(source, target, checkpoint, params, carried, fresh)
    return 0


def _config(
    checkpoint: importer.Checkpoint, experiment: str | None
) -> ml_collections.ConfigDict:
    """The experiment's config with the checkpoint's model."""
    if experiment is None:
        experiment = str(
            pathlib.Path(cli.__file__).parent.parent
            / "experiments"
            / f"{EXPERIMENTS[checkpoint.stages]}.py"
        )
    config = cli.load_config(experiment)
    with config.unlocked():
        config.model = ml_collections.ConfigDict(checkpoint.settings)
    config.data.row_length = min(
        config.data.row_length, checkpoint.settings["max_seq_len"] // 2
    )
    return config


def _with_counts(tokenizer: Tokenizer) -> Tokenizer:
    """Objectives that draw from unigram counts can be built before there are any."""
    if tokenizer.unigram_counts is not None:
        return tokenizer
    counts = np.ones(tokenizer.vocab_size, np.int64)
    return dataclasses.replace(tokenizer, unigram_counts=counts)


def _params(checkpoint: importer.Checkpoint, run: program.Program):
    """Parameters, carried tensors, and the stages whose heads had to be drawn."""
    held = checkpoint.stages
    heads = run.modules.params["heads"]
    fresh = tuple(stage for stage in heads if stage not in held)
    wanted = {
        "model": run.modules.params["model"],
        "heads": {stage: heads[stage] for stage in heads if stage in held},
    }
    params, carried = importer.params_from(checkpoint, wanted)
    if fresh:
        rng = rngs.stream(run.config.train.seed, "params")
        drawn = state.init_params(run.model_config, run.objective, rng)
        for stage in fresh:
            params["heads"][stage] = jax.device_get(drawn["heads"][stage])
    return params, carried, fresh


def _keep_origin(folder: pathlib.Path, source: pathlib.Path, carried: dict) -> None:
    folder.mkdir(exist_ok=True)
    shutil.copyfile(source / "config.json", folder / "config.json")
    if carried:
        specs = {name: (tensor.dtype, tensor.shape) for name, tensor in carried.items()}
        safetensors.write(folder / CARRIED, specs, carried.__getitem__)


def _report_import(source, target, checkpoint, params, carried, fresh) -> None:
    count = state.count_params(params)
    print(f"{source} -> {target}")
    print(f"  family      {checkpoint.family.model_type}, {count:,} parameters")
    print(f"  heads       {', '.join(checkpoint.stages) or 'none'}")
    if fresh:
        print(f"  drawn anew  heads of {', '.join(fresh)}: the checkpoint has none")
    if carried:
        print(f"  kept aside  {', '.join(sorted(carried))}: no objective uses them")


def export_workdir(source: pathlib.Path, target: pathlib.Path, *, which: str) -> int:
    """Writes a folder that transformers' from_pretrained reads.

    Raises:
      ValueError: if no family expresses the model, or the folder is in use.
    """
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty: choose another --to.")
    config = workdir.load_config(source)
    run = config_lib.parse(config)
    tokenizer = Tokenizer.load(source / "tokenizer")
    vocabulary = _with_counts(tokenizer).vocabulary()
    model_config = program.resolve_model(run.model, vocabulary)
    origin = _origin(source)
    export = exporter.plan(
        model_config, run.objective.name, origin=origin.get("model_type")
    )
    params, step = checkpoints.load_params(source / "checkpoints", which)
    specs, load = exporter.tensors(export, params)
    carried = _carried(source, export)
    specs |= {name: (tensor.dtype, tensor.shape) for name, tensor in carried.items()}
    target.mkdir(parents=True, exist_ok=True)
    safetensors.write(
        target / "model.safetensors",
        specs,
        lambda name: carried[name] if name in carried else load(name),
    )
    objective = config_lib.create_objective(run, vocabulary)
    hf_config = export.hf_config | exporter.special_ids(export, objective)
    if carried:
        hf_config["architectures"] = origin["architectures"]
    (target / "config.json").write_text(json.dumps(hf_config, indent=2) + "\n")
    hub.write_tokenizer(
        target,
        tokenizer,
        vocabulary,
        architecture=model_config.architecture,
        max_length=model_config.max_seq_len,
    )
    card = model_card.write(source, config, export, step)
    (target / "README.md").write_text(card)
    print(f"{source} (step {step}) -> {target}")
    print(f"  class       {hf_config['architectures'][0]}")
    if export.dropped:
        print(
            f"  left out    heads of {', '.join(export.dropped)}: the family has none"
        )
    return 0


def _origin(source: pathlib.Path) -> dict[str, Any]:
    path = source / ORIGIN / "config.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _carried(source: pathlib.Path, export: exporter.Export) -> dict[str, np.ndarray]:
    """Tensors that came with an imported checkpoint of the same family."""
    path = source / ORIGIN / CARRIED
    same = _origin(source).get("model_type") == export.family.model_type
    return dict(safetensors.open_file(path)) if path.exists() and same else {}
