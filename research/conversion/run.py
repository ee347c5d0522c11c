"""Imports a folder into a workdir, and exports a workdir into a folder."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from models.transformer.config import TransformerConfig
from research.config import experiments, objective_section
from research.config import parse as config_lib
from research.conversion import exporter, hub, importer, model_card, origin, safetensors
from research.conversion.family import matches
from research.data import tokenizer_files
from research.data.tokenizer import Tokenizer
from research.errors import UserError
from research.machine import files
from research.training import initialise, program, rngs, state, streamed, workdir

# Embeddings are padded to multiples of up to some hundreds; more is another tokenizer's.
_MAX_SPARE_ROWS = 1024
# Which experiment goes on from a class of transformers.
IMPORTED = experiments.FOLDER / "imported.py"
# Written into the workdir of an import: an experiment that goes on from it.
CONTINUE = "continue.py"
_CONTINUE = '''"""Goes on from the converted checkpoint beside this file, as another run.

    python -m research.pretrain --config=THIS_FILE --workdir=runs/NAME
    python -m research.pretrain --config=THIS_FILE:spanbert --workdir=runs/NAME

The second with all but the model from experiments/spanbert.py. Where the tokenizer lacks
special tokens of its objective: --config.train.extend_vocabulary=True, and
--config.model.vocab_size=N with room for them.
"""

import importlib
import json
import pathlib

import ml_collections


def get_config(experiment: str = "") -> ml_collections.ConfigDict:
    folder = pathlib.Path(__file__).parent
    values = json.loads((folder / "config.json").read_text())
    config = ml_collections.ConfigDict(values)
    if experiment:
        converted = config
        config = importlib.import_module(f"experiments.{experiment}").get_config()
        with config.unlocked():
            config.model = converted.model
        rows = config.data.row_length, converted.data.row_length
        config.data.row_length = min(rows)
    config.train.init_from = str(folder)
    return config
'''


def import_checkpoint(
    source: str, target: pathlib.Path, *, experiment: str | None
) -> int:
    """Makes a workdir of a Hugging Face checkpoint.

    Args:
      source: folder, or hub id where there is a network.
      target: the workdir, empty or not there yet; it appears when it is complete.
      experiment: path of the experiment to take all but the model from.

    Raises:
      ValueError: as `importer.read` and `importer.params_from` say.
    """
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty: choose another --workdir.")
    folder = hub.folder_of(source)
    checkpoint = importer.read(folder)
    tokenizer = tokenizer_files.load(folder)
    rows = importer.transformer_config(checkpoint).vocab_size or 0
    if not 0 <= rows - tokenizer.vocab_size < _MAX_SPARE_ROWS:
        raise ValueError(
            f"The tokenizer of {folder} has {tokenizer.vocab_size:,} tokens, the "
            f"embedding {rows:,} rows (at least as many, and fewer than "
            f"{_MAX_SPARE_ROWS:,} to spare): put the tokenizer that the weights were "
            f"trained with into the folder."
        )
    config = _config(checkpoint, experiment)
    run = program.create(config_lib.parse(config), _with_counts(tokenizer).vocabulary())
    params, carried, fresh = _params(checkpoint, run)
    target.parent.mkdir(parents=True, exist_ok=True)
    came = [name for name in params["heads"] if name not in fresh]
    with files.making_folder(target) as draft:
        tokenizer.save(draft / "tokenizer")
        origin.save(draft, source, folder, came, carried)
        streamed.save_params(draft / "checkpoints", params)
        workdir.add_session(draft, 0)
        files.write(draft / CONTINUE, _CONTINUE)
        workdir.save_config(draft, config)
    _report_import(source, target, checkpoint, params, carried, fresh)
    return 0


def _config(
    checkpoint: importer.Checkpoint, experiment: str | None
) -> ml_collections.ConfigDict:
    """The experiment's config with the checkpoint's model."""
    if experiment is None:
        experiment = f"{IMPORTED}:{checkpoint.hf_class}"
    config = experiments.load_config(experiment)
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


def _params(
    checkpoint: importer.Checkpoint, run: program.Program
) -> tuple[Any, dict[str, np.ndarray], tuple[str, ...]]:
    """Parameters, carried tensors, and names of the heads that had to be drawn."""
    params, carried = importer.params_from(checkpoint, run.modules.params)
    heads = run.modules.params["heads"]
    fresh = tuple(name for name in heads if name not in params["heads"])
    if fresh:

        def draw(rng: jax.Array) -> dict[str, Any]:
            # Compiled, so that the backbone beside the heads is never drawn.
            drawn = state.init_params(run.model_config, run.objective, rng)
            return {name: drawn["heads"][name] for name in fresh}

        rng = rngs.stream(run.config.train.seed, "params")
        params["heads"] |= jax.device_get(jax.jit(draw)(rng))
    return params, carried, fresh


def _report_import(source, target, checkpoint, params, carried, fresh) -> None:
    count = state.count_params(params)
    print(f"{source} -> {target}")
    print(f"  family      {checkpoint.family.model_type}, {count:,} parameters")
    print(f"  heads       {', '.join(checkpoint.heads) or 'none'}")
    if fresh:
        print(f"  drawn anew  heads of {', '.join(fresh)}: the checkpoint has none")
    used = checkpoint.heads_for(params["heads"]).values()
    unused = [
        head.name
        for head in checkpoint.family.heads
        if head.name in checkpoint.heads and head.rows and head not in used
    ]
    if unused:
        print(f"  left out    heads {', '.join(unused)}: the experiment has none")
    if carried:
        print(f"  kept aside  {', '.join(sorted(carried))}: nothing here uses them")
    print(
        f"  go on with  python -m research.pretrain --config={target / CONTINUE} "
        f"--workdir=runs/NAME"
    )


def export_workdir(
    source: pathlib.Path,
    target: pathlib.Path,
    *,
    which: str,
    results: Sequence[pathlib.Path] = (),
) -> int:
    """Writes a folder that transformers' from_pretrained reads.

    Args:
      source: workdir of a run.
      target: the folder, empty or not there yet.
      which: checkpoint, 'last', 'best' or a step.
      results: workdirs of evaluations for the model card.

    Raises:
      ValueError: if no family expresses the model, or the folder is in use.
    """
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty: choose another --to.")
    run = workdir.load_run(source)
    tokenizer = tokenizer_files.load(source / "tokenizer")
    vocabulary = _with_counts(tokenizer).vocabulary()
    model_config = program.resolve_model(run.model, vocabulary)
    if not isinstance(model_config, TransformerConfig):
        raise UserError(
            f"{source} has backbone {model_config.backbone!r}: only 'transformer' has a "
            f"form that transformers can load."
        )
    if initialise.has_constants(run):
        params, step = initialise.run_weights(source, which)
    else:
        params, step = streamed.open_params(source / "checkpoints", which)
    objective = objective_section.create(run, vocabulary)
    params = objective.complete(params)
    came = origin.load(source)
    if came is None:
        model_config, params = exporter.with_their_positions(
            model_config, params, vocabulary.pad_id
        )
    # Until it is trained, a checkpoint goes as it came: without heads drawn here.
    untrained = came if step == 0 else None
    carried = untrained.carried if untrained else {}
    heads = params["heads"]
    if untrained:
        heads = {name: heads[name] for name in heads if name in untrained.heads}
    export = exporter.plan(
        model_config,
        heads,
        origin=came.model_type if came else None,
        carried=carried,
    )
    dtypes = untrained.dtypes if untrained else {}
    specs, load = exporter.tensors(export, params, dtypes)
    # Only where the class that is written has them.
    of_class = export.family.carried.get(export.hf_class, ())
    carried = {n: tensor for n, tensor in carried.items() if matches(n, of_class)}
    specs |= {name: (tensor.dtype, tensor.shape) for name, tensor in carried.items()}
    card = model_card.write(source, run, export, step, came=came, results=results)
    target.mkdir(parents=True, exist_ok=True)
    safetensors.write(
        target / "model.safetensors",
        specs,
        lambda name: carried[name] if name in carried else load(name),
    )
    ids = exporter.special_ids(objective) | export.hf_config
    if came:
        ids |= {k: v for k, v in came.hf_config.items() if k.endswith("_token_id")}
    hf_config = ids | {"dtype": exporter.dtype_of(specs)}
    _write_json(target / "config.json", hf_config)
    if objective.stop_ids:
        generation = came.values(origin.GENERATION) if came else {}
        ends = dict.fromkeys((*workdir.imported_ends(source), *objective.stop_ids))
        ids = {k: v for k, v in ids.items() if k.endswith("_token_id")}
        # BART's class has a token of its own vocabulary here.
        ids["forced_eos_token_id"] = None
        _write_json(
            target / origin.GENERATION,
            ids | generation | {"eos_token_id": list(ends)},
        )
    hub.write_tokenizer(
        target, tokenizer, vocabulary, config=model_config, ids=hf_config, came=came
    )
    files.write(target / "README.md", card)
    _report_export(source, target, export, step, came, carried)
    return 0


def _write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    files.write(path, json.dumps(values, indent=2) + "\n")


def _report_export(source, target, export, step, came, carried) -> None:
    print(f"{source} (step {step}) -> {target}")
    print(f"  class       {export.hf_class}")
    if export.dropped:
        print(
            f"  left out    heads of {', '.join(export.dropped)}: the family has none"
        )
    lost = sorted(set(came.carried) - set(carried)) if came else []
    if lost:
        print(f"  left out    {', '.join(lost)}: {export.hf_class} has none")
