"""Runs the README's commands in order, in a fresh folder, shrunk by flags.

    python -m tests.readme

Every ``bash`` block of README.md, line by line: what a line names has to be there by then.
"""

from __future__ import annotations

import gzip
import json
import pathlib
import random
import shlex
import subprocess
import sys
import tempfile
import time

from tests.research.evaluation.glue import made_up

README = pathlib.Path(__file__).parent.parent / "README.md"
# Of a run's config, below --config or --config.shared.
_RUN = {
    "model.num_layers": 1,
    "model.emb_dim": 32,
    "model.mlp_dim": 64,
    "model.num_heads": 2,
    "data.row_length": 48,
    "data.heldout_fraction": 0.1,
    "data.tokenizer.vocab_size": 500,
    "data.tokenizer.num_sentinels": 32,
    "eval.num_batches": 1,
}
_DATA = {"data.source": "corpus.jsonl.gz"}
_STEPS = {"train.num_train_steps": 20, "optimizer.warmup_steps": 2}
_GLUE = {"seeds": "(0,)", "learning_rates": "(1e-3,)", "train_limit": 32}


def _flags(prefix: str, values: dict[str, object]) -> list[str]:
    return [f"--{prefix}.{field}={value}" for field, value in values.items()]


# Command -> flags that make it small; None = as it is.
SHRINKING = {
    "preview": [*_flags("config", {**_RUN, **_DATA}), "--statistics_rows=64"],
    "plan": _flags("config", _RUN),
    "pretrain": _flags("config", {**_RUN, **_STEPS}),
    "glue": [*_flags("config", {**_GLUE, "floor_seeds": 0}), "--tasks=rte"],
    "compare": [
        *_flags("config.shared", _RUN),
        *_flags("config.evaluations.glue.glue", {**_GLUE, "finetune.num_epochs": 1}),
        "--config.budget.amount=8e9",
        "--config.evaluations.glue.tasks=('rte',)",
        "--config.seeds=(0, 1)",
        "--config.tuning.learning_rates=()",
        "--config.floor=False",
    ],
}


def commands(text: str) -> list[list[str]]:
    """The commands of all ``bash`` blocks, without comments."""
    found = []
    for block in text.split("```bash\n")[1:]:
        script = block.partition("\n```")[0].replace("\\\n", " ")
        lines = (shlex.split(line, comments=True) for line in script.splitlines())
        found += [line for line in lines if line]
    return found


def shrunk(command: list[str]) -> list[str]:
    """A command as it is run here, by this Python."""
    program, *arguments = command
    if program != "palimpsest":
        raise ValueError(
            f"README: only commands of palimpsest can be run, not {program}."
        )
    small = SHRINKING.get(arguments[0], []) if len(arguments) > 2 else []
    replaced = {flag.partition("=")[0] for flag in small}
    arguments = [
        argument.replace("FOLDER_OF_THE_TSVS", "glue")
        for argument in arguments
        if argument.partition("=")[0] not in replaced
    ]
    return [sys.executable, "-m", "research", *arguments, *small]


def write_corpus(folder: pathlib.Path, num_documents: int = 800) -> None:
    """corpus.jsonl.gz and glue/: made-up text and tasks, what a reader would bring."""
    rng = random.Random(0)
    words = ["".join(rng.choices("aeioulnrst", k=1 + i % 7)) for i in range(300)]
    weights = [1 / rank for rank in range(1, 301)]

    def sentence() -> str:
        return " ".join(rng.choices(words, weights, k=rng.randint(5, 12))).capitalize()

    with gzip.open(folder / "corpus.jsonl.gz", "wt") as file:
        for _ in range(num_documents):
            text = ". ".join(sentence() for _ in range(rng.randint(4, 9))) + "."
            file.write(json.dumps({"text": text}) + "\n")
    (folder / "glue").mkdir()
    made_up.write(folder / "glue")


def main() -> int:
    """Runs the commands; returns the exit code of the first that fails."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_corpus(folder)
        for command in commands(README.read_text(encoding="utf-8")):
            print(f"\n$ {shlex.join(command)}", flush=True)
            result = subprocess.run(shrunk(command), check=False, cwd=folder)
            if result.returncode:
                print(f"failed with exit code {result.returncode}", file=sys.stderr)
                return result.returncode
    print(f"\nall of README.md ran in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
