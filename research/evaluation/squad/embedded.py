"""A stand-in for SQuAD: generated passages in SQuAD's own JSON.

Its questions ask where somebody did something; the passage says so in one of several
sentences. Scores say nothing about English.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

from research.evaluation.glue import embedded

CAVEAT = (
    "Embedded stand-in: generated passages in SQuAD's format. "
    "These scores say nothing about English."
)
SIZES = {"train": 96, "dev": 24}  # passages
_SENTENCES, _QUESTIONS, _UNANSWERABLE = 4, 3, 0.25


def write(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes train and dev files in the format of version 2.0; returns their paths."""
    paths = {}
    for number, (split, size) in enumerate(SIZES.items()):
        rng = np.random.default_rng(number)
        paragraphs = [_paragraph(rng, f"{split}-{i}") for i in range(size)]
        data = {"version": "v2.0", "data": [{"paragraphs": paragraphs}]}
        paths[split] = folder / f"{split}.json"
        paths[split].write_text(json.dumps(data))
    return paths


def _paragraph(rng: np.random.Generator, name: str) -> dict[str, Any]:
    facts: dict[tuple[str, str], embedded.Fact] = {}
    while len(facts) < _SENTENCES:
        fact = embedded.make_fact(rng)
        facts.setdefault((fact["who"], fact["what"]), fact)
    sentences = [embedded.say(fact) for fact in facts.values()]
    context = " ".join(sentences)
    asked = rng.permutation(_SENTENCES)[:_QUESTIONS]
    questions = []
    for order, index in enumerate(asked):
        fact = list(facts.values())[index]
        begin = sum(len(sentence) + 1 for sentence in sentences[:index])
        start = begin + sentences[index].rindex(fact["where"])
        answers = [{"text": fact["where"], "answer_start": start}]
        impossible = bool(rng.random() < _UNANSWERABLE)
        if impossible:
            people = {who for who, _ in facts}
            while fact["who"] in people:
                fact = embedded.change(rng, fact, "who")
        questions.append(
            {
                "id": f"{name}-{order}",
                "question": f"Where did the {fact['who']} {fact['verb']} "
                f"the {fact['what']}?",
                "answers": [] if impossible else answers,
                "is_impossible": impossible,
            }
        )
    return {"context": context, "qas": questions}
