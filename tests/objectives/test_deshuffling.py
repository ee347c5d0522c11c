"""Deshuffling: every order equally likely, documents' ends in their place."""

import collections
import dataclasses

import numpy as np
import pytest
from scipy import stats

from objectives.types import TokenBatch
from tests.helpers import EOD, EOS, PAD, toy_batch
from tests.objectives import denoising_reference as reference
from tests.objectives.denoising_reference import corrupt

VOCABULARY = reference.VOCABULARY


def create(row_length, architecture="encoder_decoder", **overrides):
    return reference.create("deshuffling", row_length, architecture, **overrides)


def batch_of(*tokens):
    return TokenBatch(
        tokens=np.array(tokens, np.int32),
        row_ids=np.arange(len(tokens), dtype=np.int32),
        first_document=np.zeros(len(tokens), np.int32),
    )


@pytest.mark.parametrize("isolated", [False, True])
def test_every_order_is_equally_likely(isolated):
    row = [20, 21, EOD, 22, 23, PAD]
    objective = create(6, isolate_documents=isolated)
    example = corrupt(objective, batch_of(*[row] * 4000))
    inputs = np.asarray(example.inputs.encoder.tokens)
    assert (inputs[:, [2, 5, 6]] == [[EOD, EOS, PAD]]).all()
    orders = collections.Counter(map(tuple, inputs[:, [0, 1, 3, 4]].tolist()))
    assert len(orders) == (4 if isolated else 24)
    assert stats.chisquare(list(orders.values())).pvalue > 1e-3


@pytest.mark.parametrize("isolated", [False, True])
def test_inputs_are_the_tokens_and_targets_the_row(isolated):
    batch = toy_batch(32, 64, vocabulary=VOCABULARY, document_length=12)
    batch.tokens[0, 40:] = PAD
    batch.tokens[1] = PAD
    example = corrupt(create(64, isolate_documents=isolated), batch)
    target = example.targets["deshuffling"]
    inputs = np.asarray(example.inputs.encoder.tokens)
    values = np.asarray(target.values)
    weights = np.asarray(target.loss_weights)
    assert weights[0].sum() == 41
    assert weights[1].sum() == 0
    assert (weights[2:] == 1).all()
    for row, shuffled, value in zip(
        batch.tokens[2:], inputs[2:], values[2:], strict=True
    ):
        assert value.tolist() == [*row.tolist(), EOS]
        assert sorted(shuffled.tolist()) == sorted(value.tolist())
        assert shuffled[-1] == EOS
        assert ((shuffled == EOD) == (value == EOD)).all()
        ends = row == EOD
        documents = np.cumsum(ends) - ends
        for document in set(documents.tolist()):
            ours, theirs = (
                shuffled[:-1][documents == document],
                row[documents == document],
            )
            if isolated:
                assert sorted(ours.tolist()) == sorted(theirs.tolist())
    assert (inputs[2:] != values[2:]).mean() > 0.5
    ids = np.asarray(example.document_ids)
    assert (ids[2:, -1] == -1).all()
    np.testing.assert_array_equal(ids >= 0, (inputs != PAD) & (inputs != EOS))


def test_a_decoder_reads_the_shuffled_row_first():
    batch = toy_batch(4, 16, vocabulary=VOCABULARY)
    joint = corrupt(create(16, "decoder"), batch)
    apart = corrupt(create(16), batch)
    both = np.concatenate([apart.inputs.encoder.tokens, apart.inputs.tokens], axis=1)
    np.testing.assert_array_equal(joint.inputs.tokens, both)
    np.testing.assert_array_equal(
        joint.targets["deshuffling"].values, apart.targets["deshuffling"].values
    )


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least 2 tokens"):
        create(1)
    with pytest.raises(ValueError, match="cannot train architecture 'encoder'"):
        create(16, "encoder")
    without = dataclasses.replace(VOCABULARY, eos_id=-1)
    with pytest.raises(ValueError, match="needs eos_id"):
        create(16, vocabulary=without)
