r"""The losses of every experiment, shrunk by one rule, at its first two steps.

    python -m tests.golden                   # what differs from the table
    python -m tests.golden --write           # writes the table again
    python -m tests.golden --write bert t5   # only these experiments

A change that should not move a number moves none of these. A change that should writes
the table again, so that its commit shows which experiments moved, and by how much.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import random
import sys
import tempfile

import jax
import ml_collections
from absl import flags

import experiments
from research.comparison import config as comparison_config
from research.config import objective_section, parse
from research.evaluation.glue import config as glue_config
from research.evaluation.squad import run as squad_run
from research.training import pretraining

TABLE = pathlib.Path(__file__).parent / "golden.json"
REFRESH = "python -m tests.golden --write"
TOLERANCE = 1e-4

# What experiments are made from; every other file of experiments/ is an experiment.
PARTS = ("__init__", "base", "comparison_base", "imported", "presets")
# Experiments with options, and those that are tried.
OPTIONS = {"compare_small": ("", ":blimp"), "compare_published": (":cpu", ":gpu")}

SIZE = {"num_layers": 2, "emb_dim": 32, "num_heads": 2, "mlp_dim": 64}
# Sizes that only some experiments set: whoever sets one gets the small value.
OPTIONAL_SIZES = {
    "head_dim": 24,
    "num_kv_heads": 1,
    "embedding_dim": 16,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
}
NUM_STEPS = 2


def names() -> list[str]:
    """Every experiment, once for each option: 'masked_lm', 'compare_published:cpu'."""
    folder = pathlib.Path(experiments.__file__).parent
    stems = sorted({path.stem for path in folder.glob("*.py")} - set(PARTS))
    return [stem + option for stem in stems for option in OPTIONS.get(stem, ("",))]


def runs(name: str) -> dict[str, ml_collections.ConfigDict]:
    """Parses an experiment; the pretraining runs in it: itself, its arms, or none.

    Parsing builds the objective of each run at its real size.
    """
    stem, _, option = name.partition(":")
    get_config = importlib.import_module(f"experiments.{stem}").get_config
    config = get_config(option) if option else get_config()
    if "train" in config:
        parse.parse(config)
        return {name: config}
    if "arms" in config:
        comparison_config.parse(config)
        arms = config.copy_and_resolve_references().arms
        return {f"{name}/{arm}": arms[arm].config for arm in arms}
    check = glue_config.parse if "protocol" in config else squad_run.parse
    check(config)
    return {}


def shrunk(
    config: ml_collections.ConfigDict, folder: pathlib.Path
) -> ml_collections.ConfigDict:
    """A run's config for two steps of a tiny model on `write_text`'s text in float32.

    What tells one experiment from another stays: the objective, the architecture and its
    choices, dropout, the update rule and its learning rate.
    """
    config = config.copy_and_resolve_references()
    model = config.model
    model.update(SIZE, max_seq_len=128, dtype="float32")
    for field, size in OPTIONAL_SIZES.items():
        if model.get(field) is not None:
            model[field] = size
    config.data.update(
        source=str(folder / "text.txt"),
        cache_dir=str(folder / "cache"),
        heldout_fraction=0.2,
        row_length=48,
        num_workers=1,
    )
    config.data.tokenizer.update(
        kind="bpe", vocab_size=384, num_sentinels=32, lowercase=False, path=""
    )
    # A phase has a step at least.
    num_steps = max(NUM_STEPS, len(config.objective.get("phases", ())))
    config.optimizer.update(warmup_steps=1)
    config.train.update(
        batch_size=max(14, sum(config.objective.shares))
        if "mixture" in config.objective
        else 8,
        num_microbatches=min(config.train.num_microbatches, 2),
        num_train_steps=num_steps,
        log_every_steps=1,
    )
    _shorten_spans(config.objective)
    config.eval.update(every_steps=num_steps, num_batches=1, batch_size=8)
    config.checkpoint.update(every_steps=num_steps, keep_best=False)
    return config


def _shorten_spans(section: ml_collections.ConfigDict) -> None:
    """No span of noise is longer than a row on average, in any component."""
    for name, value in section.items():
        if isinstance(value, ml_collections.ConfigDict):
            _shorten_spans(value)
        elif name == "mean_noise_span_length":
            section[name] = min(value, 48.0)


def write_text(folder: pathlib.Path, num_documents: int = 100) -> None:
    """`text.txt`: documents of some sentences of made-up words with Zipf's frequencies."""
    rng = random.Random(0)
    syllables = ("ka", "lo", "mi", "ne", "ru", "sa", "ti", "vo")
    words = ["".join(rng.choices(syllables, k=1 + i % 3)) for i in range(80)]
    weights = [1 / rank for rank in range(1, 81)]

    def sentence() -> str:
        return " ".join(rng.choices(words, weights, k=rng.randint(3, 12))) + "."

    documents = [
        " ".join(sentence() for _ in range(rng.randint(2, 8)))
        for _ in range(num_documents)
    ]
    (folder / "text.txt").write_text("\n\n".join(documents) + "\n")


def losses(
    config: ml_collections.ConfigDict, folder: pathlib.Path
) -> dict[str, dict[str, float]]:
    """Pretrains a shrunk config: {'train 1': {'loss': ..., 'mlm': ...}, 'eval 2': ...}.

    Args:
      config: of `shrunk`.
      folder: of the run.
    """
    run = parse.parse(config)
    kept = {"loss", "grad_norm", *objective_section.provisional(run).terms}
    before = jax.config.read("jax_disable_most_optimizations")
    # Half the time to compile; the numbers are the same to 1e-6.
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        pretraining.pretrain(config, folder, say=lambda line: None)
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {
        f"{line['split']} {line['step']}": {
            name: round(line[name], 6) for name in sorted(kept & line.keys())
        }
        for line in lines
    }


class Golden:
    """Losses of experiments in one folder; runs that shrink to the same run once."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._found: dict[str, dict] = {}
        write_text(folder)

    def measure(self, name: str) -> dict[str, dict[str, dict[str, float]]]:
        """`losses` of every run of an experiment, by the run's name."""
        measured = {}
        for run, config in runs(name).items():
            config = shrunk(config, self._folder)
            identity = config.to_json(sort_keys=True)
            if identity not in self._found:
                folder = self._folder / "runs" / str(len(self._found))
                self._found[identity] = losses(config, folder)
            measured[run] = self._found[identity]
        return measured


def differences(found: dict, table: dict) -> list[str]:
    """One line for each number of `found` that is not the table's."""
    lines = []
    for run, splits in found.items():
        if run not in table:
            lines.append(f"{run} is missing")
            continue
        found_flat, known = parse.flatten(splits), parse.flatten(table[run])
        for field in sorted(found_flat.keys() | known.keys()):
            now, before = found_flat.get(field), known.get(field)
            if None in (now, before) or not abs(now - before) <= TOLERANCE:
                lines.append(f"{run}, {field}: {now}, in the table {before}")
    return lines


def read_table() -> dict:
    """Run -> 'train 1', 'train 2', 'eval 2' -> name -> value."""
    return json.loads(TABLE.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    parser.add_argument("names", nargs="*", help="experiments; none = all")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        golden = Golden(pathlib.Path(folder))
        for name in arguments.names or names():
            found |= golden.measure(name)
            print(name, flush=True)
    known = read_table()
    lines = differences(found, known)
    print("\n".join(lines) or "as in the table")
    if arguments.write:
        others = {run: values for run, values in known.items() if _exists(run)}
        table = dict(sorted({**others, **found}.items()))
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
    return int(bool(lines) and not arguments.write)


def _exists(run: str) -> bool:
    return run.partition("/")[0] in names()


if __name__ == "__main__":
    flags.FLAGS(sys.argv[:1])
    sys.exit(main())
