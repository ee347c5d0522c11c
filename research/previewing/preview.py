"""Draws rows of a training step as an objective corrupts them, and statistics of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Array
from rich.console import Console
from rich.text import Text

from objectives.base import Objective
from objectives.components import examples_of
from objectives.types import Example, TokenBatch
from research.config import objective_section
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
        objective = objective_section.create(run, corpus.vocabulary)
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
      UserError: naming the rows of a step.
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
    objective: Objective,
    pieces: Pieces,
    batches: Iterator[tuple[Array, TokenBatch]],
    *,
    console: Console,
    step: int,
    num_rows: int,
    statistics_rows: int,
) -> None:
    """Prints the first rows of the first batch, then statistics over more batches.

    For a mixture these are the first rows of each component, for phases those of the
    phase of the step.
    """
    if objective.switches:
        console.print(_phases(objective, run.train.num_train_steps))
    objective = objective.at(step)
    console.print(_title(objective))
    first = next(batches)
    clean = np.asarray(first[1].tokens)
    examples = examples_of(jax.jit(objective.corrupt)(*first))
    for name, part, _ in objective.parts():
        example = examples[name]
        if name:
            console.print(_title(part, name))
        for index in range(min(num_rows, example.row_ids.shape[0])):
            one = rows.take_row(example, index)
            row = int(one.row_ids) - int(np.asarray(first[1].row_ids)[0])
            console.rule(
                f"row {row} of step {step}, from {_documents(one)}", align="left"
            )
            console.print(
                rows.show_row(
                    pieces,
                    clean[row],
                    one,
                    part.terms,
                    in_place=part.attention == "bidirectional"
                    and part.architecture != "encoder_decoder",
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


def _phases(objective: Objective, num_train_steps: int) -> Text:
    """'clm: steps 0 to 499', a line for each phase."""
    starts = (0, *objective.switches, num_train_steps)
    text = Text.assemble((objective.name, "bold"), "\n")
    for start, end in itertools.pairwise(starts):
        names = ", ".join(objective.at(start).terms)
        text.append(f"steps {start} to {end - 1}: {names}\n")
    return text


def _documents(example: Example) -> str:
    """'document 857', 'documents 857 and 1051'."""
    known = np.unique(example.document_ids)
    names = [str(number) for number in known.tolist() if number >= 0]
    return f"document{'s' * (len(names) > 1)} {' and '.join(names)}"


def _title(objective: Objective, component: str = "") -> Text:
    lengths = objective.lengths
    encoder = f"{lengths.encoder} to the encoder, " if lengths.encoder else ""
    terms = " + ".join(f"{t.weight:g} {name}" for name, t in objective.terms.items())
    heading = (f"{component}: " if component else "") + objective.name
    return Text.assemble(
        (heading, "bold"),
        f" for architecture {objective.architecture!r}\n"
        f"{objective.row_length} clean tokens a row -> {encoder}{lengths.inputs} inputs\n"
        f"loss = {terms}\n",
        *(f"note: {note}\n" for note in objective.notes),
    )
