"""Shows what an objective does to text.

    python -m research.preview --config=experiments/bert.py --rows=2

Rows are those of a training step, corrupted as the step will: clean text beside the
inputs, then token by token what is predicted where. Statistics over more rows stand
beside their nominal values.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import flags
from jaxtyping import Array
from ml_collections import config_flags
from rich.console import Console
from rich.text import Text

from objectives.composed import Composed
from objectives.types import Example, TokenBatch
from research import data
from research.config import command_line
from research.config.parse import create_objective, parse
from research.config.sections import RunConfig
from research.data import loader
from research.errors import UserError, user_errors
from research.previewing import rows, statistics
from research.previewing.pieces import Pieces
from research.training import rngs

# Columns where there is no terminal to ask.
_WIDTH = 100

config_flags.DEFINE_config_file("config", None, "Experiment file.")
_ROWS = flags.DEFINE_integer("rows", 2, "Rows to show.", lower_bound=0)
_STEP = flags.DEFINE_integer("step", 0, "Training step they are of.", lower_bound=0)
_STATISTICS_ROWS = flags.DEFINE_integer(
    "statistics_rows", 4096, "Rows of the statistics; 0 = none.", lower_bound=0
)


def main(argv: Sequence[str]) -> None:
    del argv
    if flags.FLAGS.config is None:
        raise UserError("--config is missing: --config=experiments/bert.py")
    run = parse(flags.FLAGS.config)
    check_rows(run, _ROWS.value)
    corpus = data.load(run.data)
    with user_errors():
        objective = create_objective(run, corpus.vocabulary)
    wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    preview(
        run,
        objective,
        Pieces(corpus.tokenizer, corpus.vocabulary),
        steps(run, corpus.train, _STEP.value),
        console=Console(width=None if wide else _WIDTH, highlight=False),
        step=_STEP.value,
        num_rows=_ROWS.value,
        statistics_rows=_STATISTICS_ROWS.value,
    )


def check_rows(run: RunConfig, num_rows: int) -> None:
    """Refuses to show more rows than a step has.

    Raises:
      UserError: saying how many it has.
    """
    if num_rows > run.train.batch_size:
        raise UserError(
            f"--rows={num_rows}: a step has {run.train.batch_size} rows, as "
            f"config.train.batch_size says. Raise that, or see others with --step."
        )


def steps(
    run: RunConfig, store: data.TokenStore, start: int
) -> Iterator[tuple[Array, TokenBatch]]:
    """Corruption key and global batch of each training step from `start` on."""
    batches = loader.train_batches(
        store,
        row_length=run.data.row_length,
        batch_size=run.train.batch_size,
        seed=run.train.seed,
        start_step=start,
    )
    for step, batch in enumerate(batches, start=start):
        yield rngs.at(run.train.seed, "corruption", step), batch


def preview(
    run: RunConfig,
    objective: Composed,
    pieces: Pieces,
    batches: Iterator[tuple[Array, TokenBatch]],
    *,
    console: Console,
    step: int,
    num_rows: int,
    statistics_rows: int,
) -> None:
    """Prints the first rows of the first batch, then statistics over more batches."""
    first = next(batches)
    console.print(_title(objective))
    example = jax.jit(objective.corrupt)(*first)
    shown = [rows.take_row(example, row) for row in range(num_rows)]
    for row, one in enumerate(shown):
        console.rule(
            f"row {row} of step {step}, from {_documents(one)}",
            align="left",
        )
        console.print(
            rows.show_row(
                pieces,
                np.asarray(first[1].tokens)[row],
                one,
                objective.label_names,
                in_place=objective.architecture == "encoder",
            )
        )
    if statistics_rows:
        size = run.train.batch_size
        count = -(-statistics_rows // size)
        found = statistics.measure(
            objective, itertools.chain([first], itertools.islice(batches, count - 1))
        )
        console.rule(f"statistics over {count * size} rows", align="left")
        console.print(statistics.show(found))


def _documents(example: Example) -> str:
    """'document 857', 'documents 857 and 1051'."""
    known = np.unique(example.document_ids)
    names = [str(number) for number in known.tolist() if number >= 0]
    return f"document{'s' * (len(names) > 1)} {' and '.join(names)}"


def _title(objective: Composed) -> Text:
    lengths = objective.lengths
    encoder = f"{lengths.encoder} to the encoder, " if lengths.encoder else ""
    terms = " + ".join(f"{w:g} {term}" for term, w in objective.terms.items())
    return Text.assemble(
        (objective.name, "bold"),
        f" for architecture {objective.architecture!r}\n"
        f"{lengths.tokens} clean tokens a row -> {encoder}{lengths.inputs} inputs\n"
        f"loss = {terms}\n",
    )


if __name__ == "__main__":
    command_line.run(main)
