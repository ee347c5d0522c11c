"""Draws rows of a training step as an objective corrupts them, and statistics of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Array
from rich.console import Console
from rich.text import Text

from objectives.composed import Composed
from objectives.types import Example, TokenBatch
from research.config.parse import create_objective
from research.config.sections import RunConfig
from research.data import loader, run_data
from research.data.store import TokenStore
from research.errors import UserError, user_errors
from research.machine import terminal
from research.previewing import rows, statistics
from research.previewing.pieces import Pieces
from research.training import rngs


def preview(run: RunConfig, *, step: int, num_rows: int, statistics_rows: int) -> None:
    """Prints rows of a training step of a run, then statistics over more rows.

    Args:
      run: config of the run.
      step: training step of the rows.
      num_rows: rows to show, from the first of the step.
      statistics_rows: rows of the statistics, rounded up to whole steps; 0 = none.

    Raises:
      UserError: if a step has fewer rows, or the data cannot be read.
    """
    check_rows(run, num_rows)
    corpus = run_data.load(run.data)
    with user_errors():
        objective = create_objective(run, corpus.vocabulary)
    draw(
        run,
        objective,
        Pieces(corpus.tokenizer, corpus.vocabulary),
        steps(run, corpus.train, step),
        console=terminal.console(),
        step=step,
        num_rows=num_rows,
        statistics_rows=statistics_rows,
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
    run: RunConfig, store: TokenStore, start: int
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


def draw(
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
