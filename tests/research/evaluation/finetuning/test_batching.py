"""Buckets: every row once, as many steps as without them, little padding."""

import numpy as np
import pytest

from research.errors import UserError
from research.evaluation.finetuning import batching
from research.evaluation.finetuning.data import Split
from research.evaluation.finetuning.encoding import (
    Framing,
    cut_longer,
    encode,
    sentence_framing,
)
from tests.helpers import CLS, EOD, SEP, toy_vocabulary
from tests.research.evaluation.toy import ToyTokenizer


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 250])
def test_an_epoch_has_every_row_once(rows):
    lengths = np.random.default_rng(rows).integers(3, 65, rows)
    buckets = (16, 32, 64)
    batches = batching.train_batches(lengths, buckets, 16, np.random.default_rng(0))
    assert len(batches) == -(-rows // 16)
    assert sorted(np.concatenate([part for _, part in batches])) == list(range(rows))
    assert sorted(len(part) for _, part in batches)[1:] == [16] * (len(batches) - 1)
    for length, part in batches:
        assert length in buckets and lengths[part].max() <= length
    evaluated = batching.eval_batches(lengths, buckets, 16)
    assert sorted(np.concatenate([part for _, part in evaluated])) == list(range(rows))
    assert all(lengths[part].max() <= length for length, part in evaluated)


def test_epochs_differ_and_repeat():
    lengths = np.full(64, 10)

    def order(seed):
        rng = np.random.default_rng(seed)
        batches = batching.train_batches(lengths, (16,), 8, rng)
        return np.concatenate([part for _, part in batches]).tolist()

    assert order([0, 1]) == order([0, 1]) != order([0, 2])


def test_short_rows_do_not_pay_for_long_ones():
    lengths = np.concatenate([np.full(900, 12), np.full(100, 120)])
    rng = np.random.default_rng(0)
    batches = batching.train_batches(lengths, (16, 32, 64, 128), 20, rng)
    computed = sum(length * 20 for length, _ in batches)
    assert computed <= 1.1 * (900 * 16 + 100 * 128)
    # What is left over is padded to its own bucket.
    batches = batching.train_batches(lengths[:890], (16, 32, 64, 128), 20, rng)
    assert {length for length, _ in batches} == {16}


def test_padding():
    rows = [np.array([7, 8, 9]), np.array([5])]
    padded = batching.pad(rows, 4, 3, 0)
    assert padded["tokens"].tolist() == [[7, 8, 9, 0], [5, 0, 0, 0], [0, 0, 0, 0]]
    # A row that only fills up has one token, and no weight.
    assert padded["segment_ids"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert padded["weights"].tolist() == [1.0, 1.0, 0.0]
    assert padded["row_ids"].tolist() == [0, 1, 2]
    types = batching.token_types(padded["segment_ids"], [1, 1], 2)
    assert types.tolist() == [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def pop_longer(first: int, second: int, budget: int) -> tuple[int, int]:
    """BERT's reference: one token at a time off the longer part."""
    while first + second > budget:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    return first, second


def test_truncation_pops_off_the_longer_part():
    for first in range(12):
        for second in range(12):
            for budget in range(1, 20):
                found = cut_longer((first, second), budget)
                assert found == pop_longer(first, second, budget)
    assert cut_longer((10,), 4) == (4,)


def test_frames():
    vocabulary, tokenizer = toy_vocabulary(), ToyTokenizer()
    split = Split((("a b c d e f", "g h"),), None)
    a, b, c, d, *_ = tokenizer.encode("a b c d e f g h")
    g, h = tokenizer.encode("g h")
    framing = sentence_framing(tokenizer, vocabulary, "encoder", 9)
    encoded = encode(tokenizer, framing, split, order=None)
    # Nine tokens: the longer sentence gives way; [SEP] closes the first segment.
    assert encoded.rows[0].tolist() == [CLS, a, b, c, d, SEP, g, h, SEP]
    assert encoded.first_lengths.tolist() == [6]
    assert encoded.num_truncated == 1
    # The toy's counts say that [BOS] never occurs, so documents began after [EOD].
    framing = sentence_framing(tokenizer, vocabulary, "decoder", 32)
    assert framing == Framing((EOD,), (SEP,), (SEP,), 32)
    framing = sentence_framing(tokenizer, vocabulary, "encoder_decoder", 32)
    assert framing.start == ()
    single = encode(tokenizer, framing, Split((("a b",),), None), order=None)
    assert single.rows[0].tolist() == [a, b, SEP] and single.num_truncated == 0


def test_robertas_frame_and_missing_tokens():
    import dataclasses

    class Roberta(ToyTokenizer):
        def token(self, number: int) -> str:
            return {CLS: "<s>", SEP: "</s>"}.get(number, "word")

    vocabulary = toy_vocabulary()
    for architecture in ("encoder", "encoder_decoder"):
        framing = sentence_framing(Roberta(), vocabulary, architecture, 32)
        assert framing == Framing((CLS,), (SEP, SEP), (SEP,), 32)
    gpt2 = dataclasses.replace(vocabulary, cls_id=-1, sep_id=-1, eos_id=EOD, bos_id=EOD)
    framing = sentence_framing(ToyTokenizer(), gpt2, "decoder", 32)
    assert framing == Framing((EOD,), (EOD,), (EOD,), 32)
    with pytest.raises(UserError, match=r"no \[CLS\]"):
        sentence_framing(ToyTokenizer(), gpt2, "encoder", 32)
