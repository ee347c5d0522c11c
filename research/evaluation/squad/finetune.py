"""Fine-tunes a pretrained run on SQuAD's questions, with one seed."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from models.backbone import BackboneConfig
from objectives.finetuning.span_extraction import SpanBatch, SpanExtraction
from research.errors import UserError
from research.evaluation.finetuning import batching, loop
from research.evaluation.finetuning.batching import Batches
from research.evaluation.finetuning.finetune import check_params, initial_params
from research.evaluation.finetuning.loop import Outcome, Program
from research.evaluation.finetuning.settings import FinetuneSettings
from research.evaluation.finetuning.styles import (
    decoder_start_id,
    readable_length,
)
from research.evaluation.squad import data, scoring
from research.evaluation.squad.data import Question, Row, Windows
from research.evaluation.squad.scoring import Answer
from research.training.state import Params
from research.training.trained_run import TrainedRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquadRecord:
    """What a finished fine-tuning leaves in results.jsonl.

    Attributes:
      scores: exact match and F1 of the labelled questions. All are answered, or, if
        some have no answer, those whose span is likelier than none (threshold 0).
      tuned: the same at the threshold with the best F1 on these very questions, which
        SQuAD 2.0's own script reports as best_f1; empty if all have answers.
      num_steps, losses, seconds: of the training.
      train_rows: windows trained on.
      cut_answers: train questions whose answer no window holds whole.
      failed: why it counts as failed, or ''.
    """

    scores: dict[str, float]
    tuned: dict[str, float]
    num_steps: int
    losses: tuple[float, ...]
    seconds: float
    train_rows: int
    cut_answers: int
    failed: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SquadFit(SquadRecord):
    """A finished fine-tuning.

    Attributes:
      answers: best span and its odds, of every dev question.
      params: of the last step.
    """

    answers: dict[str, Answer]
    params: Params

    @property
    def record(self) -> dict[str, Any]:
        """The fields of SquadRecord."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(SquadRecord)}


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
    """A program with the shapes of its batches."""

    program: Program
    trained: TrainedRun
    settings: FinetuneSettings
    windows: Windows

    @property
    def max_length(self) -> int:
        return self.program.objective.row_length

    def cut(self, questions: Sequence[Question]) -> tuple[Row, ...]:
        return data.cut_into_rows(
            self.trained, questions, self.windows, self.max_length
        )

    def batches(self, rows: Sequence[Row]) -> Batches:
        """Windows as batches."""
        buckets = batching.usable_buckets(self.settings.bucket_lengths, self.max_length)
        lengths = np.array([len(row.tokens) for row in rows])
        return Batches(lengths, buckets, functools.partial(self._batch, rows))

    def _batch(
        self, rows: Sequence[Row], chosen: np.ndarray, length: int, size: int
    ) -> SpanBatch:
        """Some windows as a batch of `size` rows of `length`."""
        rows = [rows[i] for i in chosen]
        pad_id = self.trained.vocabulary.pad_id
        padded = batching.pad([row.tokens for row in rows], length, size, pad_id)
        types = batching.token_types(
            padded["segment_ids"],
            [row.context_start for row in rows],
            self.program.config.num_token_types,
        )

        def column(values: list[int]) -> np.ndarray:
            return np.array(values + [0] * (size - len(rows)), np.int32)

        return SpanBatch(
            **padded,
            token_type_ids=types,
            starts=column([row.start for row in rows]),
            ends=column([row.end for row in rows]),
        )

    def answers(
        self, params: Params, questions: Sequence[Question]
    ) -> dict[str, Answer]:
        """The best answer to each question over all windows of its passage."""
        rows = self.cut(questions)
        best = [(-np.inf, "") for _ in questions]
        null = np.full(len(questions), np.inf)
        outputs = functools.partial(self.program.outputs, params)
        size = self.settings.eval_batch_size
        for chosen, logits in self.batches(rows).map(outputs, size):
            for row, scores in zip([rows[i] for i in chosen], logits, strict=True):
                number = row.question
                null[number] = min(null[number], float(scores[row.null].sum()))
                found = self._best(row, scores, questions[number].context)
                best[number] = max(best[number], found, key=lambda pair: pair[0])
        return {
            question.name: Answer(text, float(silence - value))
            for question, (value, text), silence in zip(
                questions, best, null, strict=True
            )
        }

    def _best(self, row: Row, logits: np.ndarray, context: str) -> tuple[float, str]:
        inside = slice(row.context_start, row.context_start + len(row.offsets))
        starts, ends = np.nan_to_num(logits[inside]).T
        if not len(starts):
            return -np.inf, ""
        first, last, value = scoring.best_span(
            starts, ends, self.windows.max_answer_tokens
        )
        begin, end = int(row.offsets[first, 0]), int(row.offsets[last, 1])
        # Normalisers of tokenizers drop accents that stand after their letter.
        while unicodedata.category(context[end : end + 1] or " ").startswith("M"):
            end += 1
        # Tokens may hold the space before their word.
        return value, context[begin:end].strip()


def make_program(trained: TrainedRun, settings: FinetuneSettings) -> Program:
    """The program of span extraction for a pretrained run."""
    config: BackboneConfig = loop.dropout_config(
        trained.model_config, settings.dropout_rate
    )
    objective = SpanExtraction(
        architecture=config.architecture,
        vocabulary=trained.vocabulary,
        row_length=readable_length(config, settings.max_length),
        decoder_start_id=decoder_start_id(trained),
        reading=trained.objective.attention,
    )
    return loop.make_program(config, objective)


def finetune_squad(
    trained: TrainedRun,
    train: Sequence[Question],
    dev: Sequence[Question],
    settings: FinetuneSettings,
    windows: Windows,
    *,
    seed: int,
    progress_file: pathlib.Path | None,
    save_seconds: float,
    say: Callable[[str], None] | None = None,
) -> SquadFit:
    """Trains on windows of `train` and answers every question of `dev`.

    Args:
      trained: parameters, config, tokenizer; never changed.
      train: questions with answers, or known to have none.
      dev: questions to answer.
      settings: of fine-tuning; `selection` must be 'last'.
      windows: how passages are cut.
      seed: of the head, the order of rows and dropout.
      progress_file: where an unfinished run is kept; removed at the end.
      save_seconds: how often.
      say: told how much there is to read, and twice a minute how far the run is.

    Raises:
      UserError: no labelled train questions, or settings that do not apply.
    """
    check_params(trained)
    if settings.selection != "last" or settings.patience:
        raise UserError("SQuAD runs keep their last step: selection = 'last'.")
    labelled = [question for question in train if question.is_labelled]
    if not labelled:
        raise UserError("the train file has no question with an answer.")
    program = make_program(trained, settings)
    reader = _Reader(program, trained, settings, windows)
    rows = reader.cut(labelled)
    if say is not None:
        say(f"{len(labelled):,} questions in {len(rows):,} windows to train on")
    outcome = loop.train(
        program,
        initial_params(trained, program, settings, seed),
        functools.partial(reader.batches(rows).epoch, settings.batch_size, seed),
        settings,
        seed=seed,
        score=None,
        progress_file=progress_file,
        save_seconds=save_seconds,
        say=say,
    )
    result = _result(reader, rows, labelled, dev, outcome)
    if progress_file is not None:
        progress_file.unlink(missing_ok=True)
    return result


def _result(
    reader: _Reader,
    rows: Sequence[Row],
    labelled: Sequence[Question],
    dev: Sequence[Question],
    outcome: Outcome,
) -> SquadFit:
    answers = reader.answers(outcome.params, dev)
    golds = data.golds_of(dev)
    found = {name: answers[name] for name in golds}
    may_refuse = not all(golds.values())
    scores: dict[str, float] = {}
    tuned: dict[str, float] = {}
    if golds:
        threshold = 0.0 if may_refuse else np.inf
        scores = scoring.score(scoring.with_threshold(found, threshold), golds)
    if may_refuse:
        threshold = scoring.best_threshold(found, golds)
        at_best = scoring.with_threshold(found, threshold)
        tuned = {**scoring.score(at_best, golds), "threshold": threshold}
    failed = "" if outcome.finite else "not finite"
    if may_refuse and all(one.null_odds > 0 for one in found.values()):
        failed = failed or "never answers"
    held = {row.question for row in rows if row.start != row.null}
    answerable = {i for i, question in enumerate(labelled) if question.answers}
    return SquadFit(
        answers=answers,
        params=outcome.params,
        scores=scores,
        tuned=tuned,
        num_steps=outcome.num_steps,
        losses=outcome.losses,
        seconds=round(outcome.seconds, 3),
        train_rows=len(rows),
        cut_answers=len(answerable - held),
        failed=failed,
    )
