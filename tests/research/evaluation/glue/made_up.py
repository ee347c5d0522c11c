"""Generated sentences in GLUE's own TSV formats: nine tasks and the diagnostic set."""

from __future__ import annotations

import pathlib
import zlib
from collections.abc import Callable

import numpy as np

SIZES = {"train": 120, "dev": 40, "test": 20}

PEOPLE = "teacher farmer doctor painter writer baker sailor student driver child"
THINGS = "letter book picture table window basket ring map lamp coat"
PLACES = "garden kitchen office library station market forest school"
ADJECTIVES = "old small green broken heavy clean round new"
GOOD = "good great fine warm funny clever bright lovely honest strong"
BAD = "bad dull poor cold boring weak sad ugly false slow"
# Present, past, and a verb that says the same.
VERBS = {
    "find": ("found", "discovered"),
    "open": ("opened", "unlocked"),
    "buy": ("bought", "purchased"),
    "take": ("took", "carried"),
    "make": ("made", "built"),
    "see": ("saw", "noticed"),
    "need": ("needed", "wanted"),
    "lose": ("lost", "misplaced"),
}

Row = tuple[tuple[str, ...], str]
Fact = dict[str, str]


def _pick(rng: np.random.Generator, words: str, *, but: str = "") -> str:
    choices = [word for word in words.split() if word != but]
    return choices[rng.integers(len(choices))]


def make_fact(rng: np.random.Generator) -> Fact:
    """Who did what to which thing, and where."""
    return {
        "who": _pick(rng, PEOPLE),
        "verb": _pick(rng, " ".join(VERBS)),
        "adjective": _pick(rng, ADJECTIVES),
        "what": _pick(rng, THINGS),
        "where": _pick(rng, PLACES),
    }


def change(rng: np.random.Generator, fact: Fact, *slots: str) -> Fact:
    """The fact with other words in some slots."""
    words = {"who": PEOPLE, "what": THINGS, "where": PLACES, "adjective": ADJECTIVES}
    words["verb"] = " ".join(VERBS)
    return fact | {slot: _pick(rng, words[slot], but=fact[slot]) for slot in slots}


def say(fact: Fact, *, verb: str | None = None) -> str:
    verb = VERBS[fact["verb"]][0] if verb is None else verb
    return (
        f"The {fact['who']} {verb} the {fact['adjective']} {fact['what']} "
        f"in the {fact['where']} ."
    )


def _short(fact: Fact) -> str:
    return f"The {fact['who']} {VERBS[fact['verb']][0]} the {fact['what']} ."


def _cola(rng: np.random.Generator) -> Row:
    sentence = say(make_fact(rng))
    if rng.random() < 0.7:
        return (sentence,), "1"
    words = sentence.split()
    at = int(rng.integers(0, len(words) - 2))
    words[at], words[at + 1] = words[at + 1], words[at]
    return (" ".join(words),), "0"


def _sst2(rng: np.random.Generator) -> Row:
    positive = rng.random() < 0.55
    words = GOOD if positive else BAD
    first = _pick(rng, words)
    second = _pick(rng, words, but=first)
    text = f"a {first} and {second} story about the {_pick(rng, PEOPLE)} . "
    return (text,), "1" if positive else "0"


def _mrpc(rng: np.random.Generator) -> Row:
    fact = make_fact(rng)
    first = f'" {say(fact)}' if rng.random() < 0.2 else say(fact)
    if rng.random() < 0.67:
        return (first, say(fact, verb=VERBS[fact["verb"]][1])), "1"
    return (first, say(change(rng, fact, "what", "where"))), "0"


def _stsb(rng: np.random.Generator) -> Row:
    fact = make_fact(rng)
    slots = rng.permutation(["who", "verb", "what", "where"])
    changed = int(rng.integers(0, 5))
    score = 5.0 * (4 - changed) / 4
    return (say(fact), say(change(rng, fact, *slots[:changed]))), f"{score:.3f}"


def _qqp(rng: np.random.Generator) -> Row:
    fact = make_fact(rng)
    first = f"Where did the {fact['who']} {fact['verb']} the {fact['what']} ?"
    same = rng.random() < 0.37
    if not same:
        fact = change(rng, fact, "who", "what")
    second = f"In which place did the {fact['who']} {fact['verb']} a {fact['what']} ?"
    return (first, second), "1" if same else "0"


def _mnli(rng: np.random.Generator) -> Row:
    fact = make_fact(rng)
    label = ("entailment", "neutral", "contradiction")[rng.integers(3)]
    if label == "entailment":
        return (say(fact), _short(fact)), label
    if label == "contradiction":
        return (
            say(fact),
            f"Nobody {VERBS[fact['verb']][0]} the {fact['what']} .",
        ), label
    return (_short(fact), say(fact)), label


def _qnli(rng: np.random.Generator) -> Row:
    fact = make_fact(rng)
    question = f"Where did the {fact['who']} {fact['verb']} the {fact['what']}?"
    if rng.random() < 0.5:
        return (question, say(fact)), "entailment"
    return (question, say(change(rng, fact, "who", "verb", "what"))), "not_entailment"


def _rte(rng: np.random.Generator) -> Row:
    fact = make_fact(rng)
    if rng.random() < 0.5:
        return (say(fact), _short(fact)), "entailment"
    return (say(fact), _short(change(rng, fact, "who", "what"))), "not_entailment"


def _wnli(rng: np.random.Generator) -> Row:
    thing, where = _pick(rng, THINGS), _pick(rng, PLACES)
    why = ("big", "small")[rng.integers(2)]
    premise = f"The {thing} did not fit in the {where} because it was too {why} ."
    cause = thing if why == "big" else where
    named = thing if rng.random() < 0.5 else where
    hypothesis = f"The {named} was too {why} ."
    return (premise, hypothesis), "1" if named == cause else "0"


def _lines(columns: list[str], rows: list[list[str]], *, header: bool = True) -> str:
    lines = ["\t".join(cells) for cells in rows]
    return "\n".join((["\t".join(columns)] if header else []) + lines) + "\n"


def _simple(texts: list[str], label: str) -> Callable[[str, list[Row]], str]:
    """index, texts, label; no label in the test file."""

    def form(split: str, rows: list[Row]) -> str:
        tail = [] if split == "test" else [label]
        cells = [
            [str(i), *row, *([value] if tail else [])]
            for i, (row, value) in enumerate(rows)
        ]
        return _lines(["index", *texts, *tail], cells)

    return form


def _cola_file(split: str, rows: list[Row]) -> str:
    if split == "test":
        return _simple(["sentence"], "")(split, rows)
    text = _lines(
        [], [["gen", v, "" if v == "1" else "*", *t] for t, v in rows], header=False
    )
    return text.removesuffix("\n") if split == "dev" else text


def _sst2_file(split: str, rows: list[Row]) -> str:
    if split == "test":
        return _simple(["sentence"], "")(split, rows)
    return _lines(["sentence", "label"], [[*t, v] for t, v in rows])


def _mrpc_file(split: str, rows: list[Row]) -> str:
    columns = ["#1 ID", "#2 ID", "#1 String", "#2 String"]
    cells = [[str(2 * i), str(2 * i + 1), *t] for i, (t, _) in enumerate(rows)]
    if split == "test":
        return _lines(["index", *columns], [[str(i), *c] for i, c in enumerate(cells)])
    labelled = [[value, *c] for (_, value), c in zip(rows, cells, strict=True)]
    return "\ufeff" + _lines(["Quality", *columns], labelled)


def _stsb_file(split: str, rows: list[Row]) -> str:
    columns = ["index", "genre", "filename", "year", "old_index", "source1", "source2"]
    tail = [] if split == "test" else ["score"]
    cells = [
        [str(i), *["none"] * 6, *t, *([v] if tail else [])]
        for i, (t, v) in enumerate(rows)
    ]
    return _lines([*columns, "sentence1", "sentence2", *tail], cells)


def _qqp_file(split: str, rows: list[Row]) -> str:
    if split == "test":
        cells = [[str(i), *t] for i, (t, _) in enumerate(rows)]
        return _lines(["id", "question1", "question2"], cells)
    cells = [[str(i), "n/a", "n/a", *t, v] for i, (t, v) in enumerate(rows)]
    return _lines(
        ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], cells
    )


def _mnli_file(split: str, rows: list[Row]) -> str:
    columns = [
        "index",
        "promptID",
        "pairID",
        "genre",
        "sentence1_binary_parse",
        "sentence2_binary_parse",
        "sentence1_parse",
        "sentence2_parse",
        "sentence1",
        "sentence2",
    ]
    votes = {"train": 1, "dev": 5, "test": 0}[split.partition("_")[0]]
    tail = [f"label{n + 1}" for n in range(votes)] + ["gold_label"] * bool(votes)
    cells = [
        [str(i), *["n/a"] * 7, *t, *["n/a"] * votes, *([v] if votes else [])]
        for i, (t, v) in enumerate(rows)
    ]
    return _lines([*columns, *tail], cells)


# Folder: how a row is made, how a file is written.
_TASKS: dict[str, tuple[Callable, Callable]] = {
    "CoLA": (_cola, _cola_file),
    "SST-2": (_sst2, _sst2_file),
    "MRPC": (_mrpc, _mrpc_file),
    "STS-B": (_stsb, _stsb_file),
    "QQP": (_qqp, _qqp_file),
    "MNLI": (_mnli, _mnli_file),
    "QNLI": (_qnli, _simple(["question", "sentence"], "label")),
    "RTE": (_rte, _simple(["sentence1", "sentence2"], "label")),
    "WNLI": (_wnli, _simple(["sentence1", "sentence2"], "label")),
}
_SPLITS = {
    "MNLI": (
        "train",
        "dev_matched",
        "dev_mismatched",
        "test_matched",
        "test_mismatched",
    )
}


def write(folder: pathlib.Path) -> None:
    """Writes all nine tasks and the diagnostic set, the same at every call."""
    for title, (make, form) in _TASKS.items():
        for split in _SPLITS.get(title, ("train", "dev", "test")):
            rng = np.random.default_rng(zlib.crc32(f"{title}/{split}".encode()))
            size = SIZES[split.partition("_")[0]]
            _write(folder / title / f"{split}.tsv", form(split, _rows(make, rng, size)))
    rows = _rows(_mnli, np.random.default_rng(zlib.crc32(b"diagnostic")), SIZES["test"])
    text = _simple(["sentence1", "sentence2"], "")("test", rows)
    _write(folder / "diagnostic" / "diagnostic.tsv", text)


def _rows(make: Callable, rng: np.random.Generator, size: int) -> list[Row]:
    return [make(rng) for _ in range(size)]


def _write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
