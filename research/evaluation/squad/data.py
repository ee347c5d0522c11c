"""Reads SQuAD files and cuts passages into overlapping windows."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from research.errors import UserError
from research.evaluation.finetuning import encoding, styles
from research.machine import files
from research.training.trained_run import TrainedRun


@dataclasses.dataclass(frozen=True)
class Question:
    """One question about one passage.

    Attributes:
      name: its id.
      question, context: texts.
      answers: gold texts; () = it has no answer.
      starts: where each begins in the context, in characters.
      is_labelled: whether the file says anything about answers.
    """

    name: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    is_labelled: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """Sizes of the windows that passages are cut into (Devlin et al. 2019).

    Attributes:
      max_query_tokens: longest question; the rest is cut.
      stride: passage tokens from one window's beginning to the next.
      max_answer_tokens: longest answer.
    """

    max_query_tokens: int
    stride: int
    max_answer_tokens: int

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(
                    f"{field.name} = {getattr(self, field.name)}: must be > 0."
                )


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One window of one question's passage.

    Attributes:
      question: number of the question.
      tokens: framed, int32.
      context_start: position of the window's first passage token.
      offsets: characters [start, end) of each passage token of the window.
      null: the position that stands for no answer.
      start, end: positions of the answer; `null` if it is not inside.
    """

    question: int
    tokens: np.ndarray
    context_start: int
    offsets: np.ndarray
    null: int
    start: int
    end: int


def read(path: pathlib.Path) -> tuple[Question, ...]:
    """Reads a SQuAD file, version 1.1 or 2.0, with or without answers.

    Raises:
      UserError: the file is absent or no SQuAD JSON; it names what was expected where.
    """
    try:
        articles = files.read_json(path, data=list)["data"]
        return tuple(
            _question(entry, paragraph["context"])
            for article in articles
            for paragraph in article["paragraphs"]
            for entry in paragraph["qas"]
        )
    except OSError as error:
        raise UserError(
            f"{str(path)!r} cannot be read ({error.strerror}); give a SQuAD JSON file "
            f"as train_file and as dev_file."
        ) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: no SQuAD JSON ({type(error).__name__}: {error}); expected "
            f"data[].paragraphs[] with a context and qas[] of id, question, answers[]."
        ) from error


def _question(entry: Mapping, context: str) -> Question:
    impossible = entry.get("is_impossible")
    given = () if impossible else entry.get("answers", ())
    # Some files say that there is no answer by an empty one.
    found = tuple(answer for answer in given if answer["text"].strip())
    for answer in found:
        text, start = answer["text"], answer["answer_start"]
        if context[start : start + len(text)] != text:
            raise KeyError(
                f"question {entry['id']}: the answer {text!r} is not at character "
                f"{start} of its context"
            )
    return Question(
        name=str(entry["id"]),
        question=entry["question"],
        context=context,
        answers=tuple(answer["text"] for answer in found),
        starts=tuple(answer["answer_start"] for answer in found),
        is_labelled=bool(given) or impossible is not None,
    )


def cut_into_rows(
    trained: TrainedRun,
    questions: Sequence[Question],
    windows: Windows,
    max_length: int,
) -> tuple[Row, ...]:
    """Every window of every question, in order.

    Raises:
      UserError: rows too short to hold a question and a window.
    """
    framing = encoding.sentence_framing(
        trained.tokenizer, trained.vocabulary, styles.role(trained), max_length
    )
    queries = trained.tokenizer.encode_batch([q.question.strip() for q in questions])
    contexts = sorted({question.context for question in questions})
    encoded = trained.tokenizer.encode_with_offsets(contexts)
    passages = dict(zip(contexts, encoded, strict=True))
    rows: list[Row] = []
    for number, question in enumerate(questions):
        query = queries[number][: windows.max_query_tokens]
        rows += _windows_of(
            number,
            question,
            query,
            passages[question.context],
            windows,
            framing,
            # An encoder's first token sees everything; in a decoder only the last does.
            null_is_last=styles.role(trained) != "encoder",
        )
    return tuple(rows)


def _windows_of(
    number: int,
    question: Question,
    query: Sequence[int],
    passage: tuple[Sequence[int], Sequence[tuple[int, int]]],
    windows: Windows,
    framing: encoding.Framing,
    *,
    null_is_last: bool,
) -> list[Row]:
    ids, offsets = passage
    before = [*framing.start, *query, *framing.between]
    room = framing.max_length - len(before) - len(framing.end)
    if room < 1:
        raise UserError(
            f"max_length = {framing.max_length} leaves no room for a passage after a "
            f"question of {len(query)} tokens; lower max_query_tokens."
        )
    spans = np.array(offsets, np.int64).reshape(-1, 2)
    first, last = _answer_tokens(question, spans)
    rows, begin = [], 0
    while True:
        part = ids[begin : begin + room]
        tokens = np.array([*before, *part, *framing.end], np.int32)
        null = len(tokens) - 1 if null_is_last else 0
        inside = 0 <= first - begin and last - begin < len(part) and last >= first >= 0
        rows.append(
            Row(
                question=number,
                tokens=tokens,
                context_start=len(before),
                offsets=spans[begin : begin + room],
                null=null,
                start=len(before) + first - begin if inside else null,
                end=len(before) + last - begin if inside else null,
            )
        )
        if begin + room >= len(ids):
            return rows
        begin += min(windows.stride, room)


def _answer_tokens(question: Question, spans: np.ndarray) -> tuple[int, int]:
    """First and last token of the first gold answer; (-1, -1) without one."""
    if not question.answers or not len(spans):
        return -1, -1
    start = question.starts[0]
    end = start + len(question.answers[0])
    touched = np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > start))
    if not len(touched):
        return -1, -1
    return int(touched[0]), int(touched[-1])


def golds_of(questions: Sequence[Question]) -> dict[str, tuple[str, ...]]:
    """Gold answers of the labelled questions; () = none."""
    return {q.name: q.answers for q in questions if q.is_labelled}
