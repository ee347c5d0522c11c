"""Sentences and shuffled copies: same words, no other cue, no overlap of splits."""

import collections

import numpy as np
import pytest

from research.errors import UserError
from research.evaluation import acceptability
from research.evaluation.acceptability import Sampling

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sees",
    "hears",
    "small",
    "old",
    "table",
    "under",
    "over",
    "house",
    "then",
    "slowly",
]


def documents(count=60, sentences=4, seed=0):
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        lines = [
            " ".join(rng.choice(WORDS, rng.integers(5, 12))).capitalize() + "."
            for _ in range(sentences)
        ]
        texts.append(" ".join(lines))
    return texts


def sampling(**changes) -> Sampling:
    values = dict(num_train=100, num_test=40, min_words=5, max_words=12, seed=3)
    return Sampling(**{**values, **changes})


def rows(split):
    return [(text, int(label)) for (text,), label in zip(split.texts, split.labels)]


def test_every_sentence_has_one_shuffled_copy_in_the_same_split():
    data = acceptability.make(documents(), sampling())
    bags = {}
    for name, count in (("train", 100), ("dev", 40)):
        found = rows(data.splits[name])
        assert len(found) == 2 * count
        by_label = [
            collections.Counter(
                tuple(sorted(t.split())) for t, y in found if y == label
            )
            for label in (0, 1)
        ]
        assert by_label[0] == by_label[1]
        texts = [text for text, _ in found]
        assert len(set(texts)) == len(texts)
        bags[name] = {text for text, label in found if label == 1}
    assert not bags["train"] & bags["dev"]


def test_marks_and_capitals_give_nothing_away():
    data = acceptability.make(documents(), sampling())
    for split in data.splits.values():
        for text, _ in rows(split):
            assert text == text.lower() and not text.endswith(".") and "," not in text


def test_the_task_is_a_function_of_documents_and_seed():
    first, again = (acceptability.make(documents(), sampling()) for _ in range(2))
    other = acceptability.make(documents(), sampling(seed=4))
    assert rows(first.splits["dev"]) == rows(again.splits["dev"])
    assert rows(first.splits["dev"]) != rows(other.splits["dev"])


def test_only_plain_sentences_are_taken():
    document = (
        "Return the index of the first match. "
        "See os.path for the whole story of paths. "
        "This one has the number 3 in its middle. "
        "too lower to be the start of one. "
        "Too short. "
        "It ends, after a comma, with a stop.\n\n"
        "A heading without a final mark here"
    )
    assert list(acceptability.sentences(document, 5, 12)) == [
        "return the index of the first match",
        "it ends after a comma with a stop",
    ]


def test_shuffling_moves_at_least_half_of_the_words():
    rng = np.random.default_rng(0)
    for length in range(2, 15):
        sentence = " ".join(f"w{i}" for i in range(length))
        moved = acceptability.shuffled(sentence, rng).split()
        assert sorted(moved) == sorted(sentence.split())
        assert sum(a != b for a, b in zip(moved, sentence.split())) >= length / 2


def test_shuffling_ends_on_words_that_hardly_differ():
    rng = np.random.default_rng(0)
    sentence = "a " * 30 + "b"
    assert acceptability.shuffled(sentence, rng) != sentence
    with pytest.raises(ValueError, match="no other order"):
        acceptability.shuffled("a a a", rng)


def test_too_few_sentences_say_how_many_there_are():
    with pytest.raises(UserError, match="too few sentences.*heldout_fraction"):
        acceptability.make(documents(count=5), sampling())
