"""What follows from a row's tokens: documents, frames, words and sentences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives.corruption import rows
from objectives.types import TokenBatch
from tests.helpers import (
    CLS,
    EOD,
    FULL_STOP,
    PAD,
    SEP,
    UNK,
    quick_jit,
    toy_batch,
    toy_vocabulary,
)

VOCABULARY = toy_vocabulary()
STOP, START, INSIDE = FULL_STOP, FULL_STOP + 1, FULL_STOP + 2


def batch_of(*tokens: list[int], first_document: int = 7) -> TokenBatch:
    return TokenBatch(
        tokens=jnp.asarray(tokens, jnp.int32),
        row_ids=jnp.arange(len(tokens), dtype=jnp.int32),
        first_document=jnp.full(len(tokens), first_document, jnp.int32),
    )


def clean(*tokens: list[int]):
    return rows.clean(batch_of(*tokens), VOCABULARY)


def test_clean_is_one_segment_with_documents_counted_by_eod():
    example = clean([START, INSIDE, EOD, START, EOD, PAD])
    inputs = example.inputs
    assert inputs.segment_ids.tolist() == [[1, 1, 1, 1, 1, 0]]
    assert inputs.positions.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert example.document_ids.tolist() == [[7, 7, 7, 8, 8, -1]]
    assert not example.framed and example.targets == {}


def test_document_ids_match_a_loop_over_the_stream():
    batch = toy_batch(6, 50, vocabulary=VOCABULARY, document_length=9)
    stream = np.asarray(batch.tokens).ravel()
    expected, document = [], 0
    for token in stream:
        expected.append(document)
        document += token == EOD
    found = rows.document_ids(
        jnp.asarray(batch.tokens), jnp.asarray(batch.first_document), EOD
    )
    assert document > 20
    np.testing.assert_array_equal(np.asarray(found).ravel(), expected)


def test_isolate_begins_anew_after_each_eod():
    inputs = rows.isolate(clean([START, EOD, START, INSIDE, EOD, EOD, PAD])).inputs
    assert inputs.segment_ids.tolist() == [[1, 1, 2, 2, 2, 3, 0]]
    assert inputs.positions.tolist()[0][:6] == [0, 1, 0, 1, 2, 0]


def test_isolate_refuses_framed_examples():
    framed = rows.frame(clean([START, INSIDE]), VOCABULARY)
    with pytest.raises(ValueError, match="isolate_documents=False"):
        rows.isolate(framed)


def test_frame_adds_cls_and_sep_around_the_real_tokens():
    example = rows.frame(clean([10, 11, 12], [10, EOD, PAD]), VOCABULARY)
    assert example.inputs.tokens.tolist() == [
        [CLS, 10, 11, 12, SEP],
        [CLS, 10, EOD, SEP, PAD],
    ]
    assert example.inputs.segment_ids.tolist() == [[1] * 5, [1, 1, 1, 1, 0]]
    assert example.inputs.positions.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert example.document_ids.tolist() == [[-1, 7, 7, 7, -1], [-1, 7, 7, -1, -1]]
    assert example.framed


def test_frame_leaves_framed_examples_alone():
    once = rows.frame(clean([10, 11, 12]), VOCABULARY)
    assert rows.frame(once, VOCABULARY) is once


def test_frame_of_isolated_documents_joins_their_segments():
    isolated = rows.isolate(clean([10, EOD, 11, 12, EOD, 13], [10, 11, 12, 13, 14, 15]))
    inputs = rows.frame(isolated, VOCABULARY).inputs
    assert inputs.segment_ids.tolist() == [[1, 1, 1, 2, 2, 2, 3, 3], [1] * 8]
    assert inputs.positions.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1], list(range(8))]


def test_frame_of_an_empty_row_keeps_a_segment_for_its_frame():
    inputs = rows.frame(clean([PAD, PAD]), VOCABULARY).inputs
    assert inputs.tokens.tolist() == [[CLS, SEP, PAD, PAD]]
    assert inputs.segment_ids.tolist() == [[1, 1, 0, 0]]


def test_eligible_is_text_and_unk_only():
    tokens = [CLS, START, UNK, EOD, VOCABULARY.sentinel_ids[0], SEP, PAD]
    found = rows.eligible(clean(tokens).inputs, VOCABULARY)
    assert found.tolist() == [[False, True, True, False, False, False, False]]


def test_words_begin_at_word_starts_and_after_anything_ineligible():
    tokens = [CLS, INSIDE, START, INSIDE, INSIDE, EOD, INSIDE, START, SEP]
    inputs = clean(tokens).inputs
    eligible = rows.eligible(inputs, VOCABULARY)
    words = rows.word_ids(inputs.tokens, eligible, VOCABULARY, 9)
    assert words.tolist() == [[-1, 0, 1, 1, 1, -1, 2, 3, -1]]
    # Words of more than two tokens are cut.
    words = rows.word_ids(inputs.tokens, eligible, VOCABULARY, jnp.array([2]))
    assert words.tolist() == [[-1, 0, 1, 1, 2, -1, 3, 4, -1]]


def test_sentences_end_before_a_word_and_with_their_document():
    is_word_start = VOCABULARY.is_word_start.copy()
    is_word_start[STOP] = False  # A full stop joined to the word before it.
    vocabulary = dataclasses.replace(VOCABULARY, is_word_start=is_word_start)
    tokens = [START, STOP, START, STOP, INSIDE, EOD, START, STOP]
    ends = rows.sentence_ends(jnp.asarray([tokens], jnp.int32), vocabulary)
    assert ends.tolist() == [[False, True, False, False, False, True, False, True]]


def test_all_functions_are_the_same_under_jit():
    batch = toy_batch(4, 24, vocabulary=VOCABULARY, document_length=6)

    def everything(batch):
        isolated = rows.isolate(rows.clean(batch, VOCABULARY))
        framed = rows.frame(isolated, VOCABULARY)
        tokens = framed.inputs.tokens
        eligible = rows.eligible(framed.inputs, VOCABULARY)
        words = rows.word_ids(tokens, eligible, VOCABULARY, 9)
        return framed, words, rows.sentence_ends(tokens, VOCABULARY)

    batch = jax.tree.map(jnp.asarray, batch)
    jax.tree.map(
        np.testing.assert_array_equal, everything(batch), quick_jit(everything)(batch)
    )


def test_line_breaks_end_sentences_whatever_follows():
    # In byte-level vocabularies the word after a line break carries no mark of its own.
    tokens = [INSIDE, STOP, INSIDE, START, INSIDE]
    assert VOCABULARY.is_word_start[STOP] and VOCABULARY.is_sentence_end[STOP]
    ends = rows.sentence_ends(jnp.asarray([tokens], jnp.int32), VOCABULARY)
    assert ends.tolist() == [[False, True, False, False, False]]
