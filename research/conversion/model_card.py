"""The model card of an exported checkpoint."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from research.config import objective_section
from research.config.sections import RunConfig
from research.conversion.exporter import Export
from research.conversion.origin import Origin
from research.training import workdir

_HEADER = """---
library_name: transformers
tags: [palimpsest]
---
# {name}

{what}
"""
_PRETRAINED = """A {hf_class} pretrained with Palimpsest, exported from the run `{name}` at step
{step}."""
_CONVERTED = """The {hf_class} of {source}, converted there and back by Palimpsest and not trained
further."""


def write(
    source: pathlib.Path,
    config: RunConfig,
    export: Export,
    step: int,
    *,
    came: Origin | None,
    results: Sequence[pathlib.Path],
) -> str:
    """The model card: objective, data, budget and scores, all from workdirs.

    Args:
      source: workdir of the run.
      config: of the run.
      export: what is written.
      step: of the checkpoint.
      came: what the run was imported from.
      results: workdirs of evaluations, each with a results.md.

    Raises:
      ValueError: for an evaluation without results.
    """
    as_it_came = came is not None and step == 0
    what = (_CONVERTED if as_it_came else _PRETRAINED).format(
        hf_class=export.hf_class,
        name=source.name,
        step=step,
        source=came.source if came else "",
    )
    lines = [_HEADER.format(name=source.name, what=what)]
    if not as_it_came:
        lines += ["| | |", "|---|---|"]
        rows = _training(config, step)
        lines += [f"| {name} | {value} |" for name, value in rows.items()]
    evaluations = [m for m in workdir.read_metrics(source) if m.get("split") == "eval"]
    if evaluations:
        last = evaluations[-1]
        lines += ["", f"Held-out loss at step {last['step']}: {last['loss']:.4f} nats."]
    for folder in results:
        path = folder / "results.md"
        if not path.exists():
            raise ValueError(f"{folder} is no evaluation: it has no results.md.")
        lines += ["", "## Evaluation", "", path.read_text().rstrip()]
    if export.dropped:
        lines += ["", f"Heads left out: {', '.join(export.dropped)}."]
    return "\n".join(lines) + "\n"


def _training(config: RunConfig, step: int) -> dict[str, str]:
    """Objective, data and budget of the run."""
    train, data = config.train, config.data
    tokens = step * train.batch_size * data.row_length
    return {
        "objective": objective_section.provisional(config).name,
        "architecture": config.model.architecture,
        "data": data.source,
        "steps": f"{step:,} of {train.num_train_steps:,}",
        "clean tokens": f"{tokens:,}",
        "batch": f"{train.batch_size} rows of {data.row_length} tokens",
        "peak learning rate": f"{config.optimizer.learning_rate:g}",
        "seed": str(train.seed),
        "began from": train.init_from or "random parameters",
    }
