"""BLiMP: which of two sentences that differ in one point is grammatical, zero-shot.

Warstadt et al. 2020: 67 paradigms of 1,000 minimal pairs, which make 12 phenomena. A pair
counts as right if the good sentence is strictly likelier than the bad one.

    good  Whose museums had Dana alarmed?
    bad   Whose had Dana alarmed museums?
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from research.data import tfds
from research.errors import UserError, user_errors
from research.evaluation.blimp import likelihood
from research.machine import files
from research.training.trained_run import TrainedRun

NUM_PARADIGMS = 67
TFDS_PREFIX = "tfds:"
PHENOMENA = (
    "anaphor_agreement",
    "argument_structure",
    "binding",
    "control_raising",
    "determiner_noun_agreement",
    "ellipsis",
    "filler_gap_dependency",
    "irregular_forms",
    "island_effects",
    "npi_licensing",
    "quantifiers",
    "subject_verb_agreement",
)
# Names of phenomena in the files that the paper counts with another.
_SAME_PHENOMENON = {"s-selection": "argument_structure"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paradigm:
    """Pairs of one kind: `good[i]` is grammatical and `bad[i]` is not."""

    name: str
    phenomenon: str
    good: tuple[str, ...]
    bad: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlimpResult:
    """Decisions and their means.

    Attributes:
      accuracy: mean over paradigms.
      paradigms, phenomena: accuracy by name.
      right: 1 for every pair decided rightly, in the order of the paradigms. [pairs]
      margins: log-likelihood of good minus bad, in nats. [pairs]
      notes: what was left out or is missing.
    """

    accuracy: float
    paradigms: dict[str, float]
    phenomena: dict[str, float]
    right: np.ndarray
    margins: np.ndarray
    notes: tuple[str, ...]


def load(source: str, pairs_per_paradigm: int) -> tuple[Paradigm, ...]:
    """The pairs of every paradigm at hand, sorted by name.

    Args:
      source: folder of the official files PARADIGM.jsonl, or 'tfds:blimp'.
      pairs_per_paradigm: evenly spaced over each paradigm, always the same ones;
        0 = all.

    Raises:
      UserError: if there is none, or a file is damaged.
    """
    if source.startswith(TFDS_PREFIX):
        tables = _from_tfds(source.removeprefix(TFDS_PREFIX))
    else:
        tables = _from_folder(pathlib.Path(source).expanduser())
    paradigms = [
        _paradigm(name, records, pairs_per_paradigm) for name, records in tables
    ]
    if not paradigms:
        raise UserError(
            f"{source!r} holds no BLiMP: expected a folder of PARADIGM.jsonl with the "
            f"fields sentence_good, sentence_bad and linguistics_term, or 'tfds:blimp'."
        )
    return tuple(sorted(paradigms, key=lambda paradigm: paradigm.name))


def evaluate(trained: TrainedRun, paradigms: Sequence[Paradigm]) -> BlimpResult:
    """Scores all sentences and decides every pair."""
    sentences = [s for p in paradigms for pair in (p.good, p.bad) for s in pair]
    rows = [
        np.array(ids, np.int32) for ids in trained.tokenizer.encode_batch(sentences)
    ]
    scores = likelihood.log_likelihoods(trained, rows)
    margins, start = [], 0
    for paradigm in paradigms:
        count = len(paradigm.good)
        good = scores[start : start + count]
        margins.append(good - scores[start + count : start + 2 * count])
        start += 2 * count
    return summarise(paradigms, margins)


def summarise(
    paradigms: Sequence[Paradigm], margins: Sequence[np.ndarray]
) -> BlimpResult:
    """Means of the decisions: pairs in paradigms, paradigms in phenomena and in all."""
    means = {
        paradigm.name: float((margin > 0).mean())
        for paradigm, margin in zip(paradigms, margins, strict=True)
    }
    phenomena: dict[str, list[float]] = {}
    for paradigm in paradigms:
        phenomena.setdefault(paradigm.phenomenon, []).append(means[paradigm.name])
    every = np.concatenate(margins)
    return BlimpResult(
        accuracy=float(np.mean(list(means.values()))),
        paradigms=means,
        phenomena={name: float(np.mean(v)) for name, v in sorted(phenomena.items())},
        right=(every > 0).astype(np.int64),
        margins=every,
        notes=_notes(paradigms),
    )


def _notes(paradigms: Sequence[Paradigm]) -> tuple[str, ...]:
    counts = sorted({len(paradigm.good) for paradigm in paradigms})
    pairs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    notes = [f"{len(paradigms)} paradigms of {pairs} minimal pairs each, zero-shot"]
    if len(paradigms) < NUM_PARADIGMS:
        missing = NUM_PARADIGMS - len(paradigms)
        notes.append(f"{missing} of {NUM_PARADIGMS} paradigms are missing")
    return tuple(notes)


def _paradigm(name: str, records: list[dict], pairs_per_paradigm: int) -> Paradigm:
    count = len(records)
    wanted = min(pairs_per_paradigm or count, count)
    chosen = [records[index * count // wanted] for index in range(wanted)]
    phenomenon = chosen[0]["linguistics_term"]
    return Paradigm(
        name=name,
        phenomenon=_SAME_PHENOMENON.get(phenomenon, phenomenon),
        good=tuple(record["sentence_good"] for record in chosen),
        bad=tuple(record["sentence_bad"] for record in chosen),
    )


def _from_folder(folder: pathlib.Path) -> Iterable[tuple[str, list[dict]]]:
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}: BLiMP's data is a folder of PARADIGM.jsonl "
            f"(github.com/alexwarstadt/blimp, data/), or 'tfds:blimp'."
        )
    for path in sorted(folder.glob("*.jsonl")):
        yield path.stem, _read(path)


def _read(path: pathlib.Path) -> list[dict]:
    records = files.read_json_lines(
        path, sentence_good=str, sentence_bad=str, linguistics_term=str
    )
    if not records:
        raise UserError(f"{path} is empty. Fetch the file again.")
    return records


def _from_tfds(name: str) -> Iterable[tuple[str, list[dict]]]:
    with user_errors():
        for paradigm in tfds.config_names(name):
            source = tfds.records(f"{name}/{paradigm}")
            yield paradigm, [_texts(source[number]) for number in range(len(source))]


def _texts(record: dict) -> dict[str, str]:
    return {
        field: value.decode() if isinstance(value, bytes) else value
        for field, value in record.items()
        if isinstance(value, bytes | str)
    }
