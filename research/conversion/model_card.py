"""What an exported folder says of itself."""

from __future__ import annotations

import pathlib
from typing import Any

from research.conversion.exporter import Export
from research.training import workdir

_HEADER = """---
library_name: transformers
tags: [palimpsest]
---
# {name}

A {hf_class} pretrained with Palimpsest, exported from the run `{name}` at step
{step}.
"""


def write(source: pathlib.Path, config: Any, export: Export, step: int) -> str:
    """The model card: objective, data, budget and scores, all from the workdir."""
    train, data = config.train, config.data
    tokens = step * train.batch_size * data.row_length
    rows = {
        "objective": ", ".join(config.objective.name),
        "architecture": config.model.architecture,
        "data": data.source,
        "steps": f"{step:,} of {train.num_train_steps:,}",
        "clean tokens": f"{tokens:,}",
        "batch": f"{train.batch_size} rows of {data.row_length} tokens",
        "peak learning rate": f"{config.optimizer.learning_rate:g}",
        "seed": str(train.seed),
    }
    lines = [_HEADER.format(name=source.name, hf_class=export.hf_class, step=step)]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    evaluations = [m for m in workdir.read_metrics(source) if m.get("split") == "eval"]
    if evaluations:
        last = evaluations[-1]
        lines += ["", f"Held-out loss at step {last['step']}: {last['loss']:.4f} nats."]
    results = source / "results.md"
    if results.exists():
        lines += ["", "## Evaluation", "", results.read_text()]
    if export.dropped:
        lines += ["", f"Heads left out: {', '.join(export.dropped)}."]
    return "\n".join(lines) + "\n"
