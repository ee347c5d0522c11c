"""Pairs of segments: what they are made of, their labels, and what tells the label."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier

import models
import objectives
from experiments import presets
from objectives.corruption import rows
from objectives.corruption.pairs import cut_rows
from objectives.types import TokenBatch
from tests.helpers import (
    CLS,
    EOD,
    FULL_STOP,
    MASK,
    PAD,
    SEP,
    quick_jit,
    tiny_config,
    toy_batch,
    toy_vocabulary,
)

VOCABULARY = toy_vocabulary()
# One shape for most tests, so that one program serves them.
BATCH, LENGTH = 64, 48


@functools.cache
def create(*names, row_length=LENGTH, negatives="other_document"):
    params = presets.objective(*names, next_sentence={"negatives": negatives}).to_dict()
    return objectives.create(
        names,
        {name: params[name] for name in names},
        vocabulary=VOCABULARY,
        row_length=row_length,
        architecture="encoder",
    )


@functools.cache
def compiled(objective):
    return quick_jit(objective.corrupt)


def corrupted(objective, batch, seed=0):
    example = compiled(objective)(jax.random.key(seed), batch)
    return jax.tree.map(np.asarray, example)


def batch_of(*rows, documents=None) -> TokenBatch:
    """Rows of given tokens, each its own document by default, in a padded batch."""
    documents = range(len(rows)) if documents is None else documents
    tokens = np.full((BATCH, LENGTH), PAD, np.int32)
    first_document = np.zeros(BATCH, np.int32)
    for row, (values, document) in enumerate(zip(rows, documents, strict=True)):
        tokens[row, : len(values)] = values
        first_document[row] = document
    return TokenBatch(
        tokens=jnp.asarray(tokens),
        row_ids=jnp.arange(BATCH, dtype=jnp.int32),
        first_document=jnp.asarray(first_document),
    )


def segments(example, row):
    """(A, B, documents of A, documents of B) of a row, checked for its frame."""
    tokens = example.inputs.tokens[row]
    types = example.inputs.token_type_ids[row]
    documents = example.document_ids[row]
    real = example.inputs.segment_ids[row] > 0
    size = real.sum()
    assert real[:size].all() and tokens[0] == CLS and tokens[size - 1] == SEP
    assert (tokens[size:] == PAD).all() and (types[size:] == 0).all()
    separators = np.flatnonzero(tokens == SEP)
    assert len(separators) in (1, 2)
    first = separators[0]
    np.testing.assert_array_equal(types[:size], np.arange(size) > first)
    assert (documents[(tokens == CLS) | (tokens == SEP) | (tokens == PAD)] == -1).all()
    a, b = slice(1, first), slice(first + 1, max(size - 1, first + 1))
    return tokens[a], tokens[b], documents[a], documents[b]


def places(row: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Where `part` begins in `row`."""
    windows = np.lib.stride_tricks.sliding_window_view(row, len(part))
    return np.flatnonzero((windows == part[None]).all(1))


def row_documents(batch) -> np.ndarray:
    is_end = np.asarray(batch.tokens) == EOD
    before = np.cumsum(is_end, 1) - is_end
    return np.asarray(batch.first_document)[:, None] + before


@functools.cache
def pairs_of_many_rows():
    batch = toy_batch(BATCH, LENGTH, vocabulary=VOCABULARY, document_length=60, seed=2)
    return batch, corrupted(create("next_sentence"), batch)


def test_pairs_are_true_ones_or_of_another_document():
    batch, example = pairs_of_many_rows()
    tokens, documents = np.asarray(batch.tokens), row_documents(batch)
    target = example.targets["nsp"]
    seen = {0: 0, 1: 0}
    for row in range(BATCH):
        a, b, documents_a, documents_b = segments(example, row)
        counts = target.loss_weights[row, 0] == 1
        assert len(set(documents_a)) == 1 and EOD not in a and EOD not in b
        assert places(tokens[row], a).size
        if not counts:
            continue
        label = target.values[row, 0]
        seen[label] += 1
        assert len(b) and len(set(documents_b)) == 1
        assert a[-1] == FULL_STOP
        assert (documents_a[0] == documents_b[0]) == (label == 0)
        if label == 0:
            assert places(tokens[row], np.concatenate([a, b])).size
        else:
            # It follows a sentence end of its own row.
            (found,) = [
                (other, place)
                for other in range(BATCH)
                for place in places(tokens[other], b)
                if documents[other, place] == documents_b[0]
            ][:1]
            assert tokens[found[0], found[1] - 1] == FULL_STOP
            assert documents[found[0], found[1] - 1] == documents_b[0]
    assert seen[0] > 20 and seen[1] > 20


def test_longest_document_that_can_be_cut_is_used():
    w = iter(range(20, 200))
    words = [next(w) for _ in range(30)]
    # Three documents: eight words that cannot be cut, six that can, three that can.
    row = [
        *words[:8], EOD, *words[8:10], FULL_STOP, *words[10:13], EOD,
        words[13], FULL_STOP, words[14],
    ]  # fmt: skip
    other = [*words[15:18], FULL_STOP, *words[18:30], words[0], words[1], words[2]]
    batch = batch_of(row, other, documents=[4, 90])
    example = corrupted(create("next_sentence"), batch)
    a, b, documents_a, _ = segments(example, 0)
    np.testing.assert_array_equal(a, [words[8], words[9], FULL_STOP])
    # The end of the document, which the partner's B does not reach, is left out.
    assert set(documents_a) == {5} and len(b) == 2


def test_cut_comes_after_the_last_of_several_sentence_ends():
    row = [20, 21, FULL_STOP, FULL_STOP, 22, 23, 24]
    batch = batch_of(row, [30, 31, 32, FULL_STOP, 33, 34, 35])
    for seed in range(8):
        example = corrupted(create("next_sentence"), batch, seed)
        np.testing.assert_array_equal(segments(example, 0)[0], row[:4])


@pytest.mark.parametrize(
    "negatives, term", [("other_document", "nsp"), ("swapped", "sop")]
)
@pytest.mark.parametrize("batch_size", [2, 5, 32])
def test_exactly_half_of_each_label(negatives, term, batch_size):
    objective = create("next_sentence", negatives=negatives)
    batch = toy_batch(
        batch_size,
        LENGTH,
        vocabulary=VOCABULARY,
        document_length=None,
        sentence_length=4,
    )
    shares, counts = [], []
    for seed in range(12):
        target = corrupted(objective, batch, seed).targets[term]
        count = int(target.loss_weights.sum())
        counts.append(count)
        ones = int(target.values.sum())
        assert ones in {count // 2, (count + 1) // 2}
        shares.append(ones / max(count, 1))
    # Now and then two segments have no end in common.
    assert np.mean(counts) >= 0.8 * batch_size
    if batch_size % 2:
        assert min(shares) < 0.5 < max(shares)


def test_two_rows_of_one_document_never_make_a_negative():
    # Three documents for all rows: a random partner would be of the same one often.
    rng = np.random.default_rng(0)
    batch = toy_batch(
        BATCH, LENGTH, vocabulary=VOCABULARY, document_length=None, sentence_length=4
    )
    objective = create("next_sentence")
    for seed in range(4):
        documents = rng.integers(0, 3, BATCH)
        batch = dataclasses.replace(
            batch, first_document=jnp.asarray(documents, jnp.int32)
        )
        example = corrupted(objective, batch, seed)
        target = example.targets["nsp"]
        count = int(target.loss_weights.sum())
        assert count > 0.8 * BATCH
        assert target.values.sum() in (count // 2, (count + 1) // 2)
        for row in np.flatnonzero(target.loss_weights[:, 0]):
            _, _, first, second = segments(example, row)
            assert (set(first) != set(second)) == (target.values[row, 0] == 1)


def test_a_batch_of_one_document_falls_back_and_counts_it():
    batch = toy_batch(
        BATCH, LENGTH, vocabulary=VOCABULARY, document_length=None, sentence_length=4
    )
    batch = dataclasses.replace(batch, first_document=jnp.full(BATCH, 3, jnp.int32))
    objective = create("next_sentence")
    example = corrupted(objective, batch)
    counted = example.metrics["nsp_no_partner"] + example.metrics["nsp_one_sentence"]
    assert (counted == 1).all() and example.metrics["nsp_no_partner"].mean() > 0.9
    assert (example.targets["nsp"].values == 0).all()
    assert (example.targets["nsp"].loss_weights == 0).all()
    for row in range(BATCH):
        a, b, *_ = segments(example, row)
        np.testing.assert_array_equal(np.concatenate([a, b]), batch.tokens[row])
    # Its loss adds nothing.
    config = tiny_config("encoder")
    model = models.create(config, rngs=nnx.Rngs(0))
    heads = objective.init_heads(config, rngs=nnx.Rngs(1))
    example = jax.tree.map(jnp.asarray, example)
    terms, _ = objective.losses({"model": model, "heads": heads}, example)
    assert [float(x) for x in terms["nsp"]] == [0, 0]


def test_rows_of_one_sentence_are_one_segment_and_counted():
    plain = list(range(20, 36))
    cut = [*plain[:5], FULL_STOP, *plain[6:]]
    ending = [*plain[:14], FULL_STOP, EOD]  # ends with its sentence: nothing follows
    batch = batch_of(plain, cut, ending, [EOD] * 16, cut)
    example = corrupted(create("next_sentence"), batch)
    np.testing.assert_array_equal(
        example.metrics["nsp_one_sentence"][:5], [1, 0, 1, 1, 0]
    )
    target = example.targets["nsp"]
    np.testing.assert_array_equal(target.loss_weights[:5, 0], [0, 1, 0, 0, 1])
    assert target.loss_weights.sum() == 2 and target.values.sum() == 1
    for row, text in {0: plain, 2: ending[:15], 3: []}.items():
        tokens = example.inputs.tokens[row]
        expected = [CLS, *text, SEP]
        np.testing.assert_array_equal(tokens[: len(expected)], expected)
        assert (tokens[len(expected) :] == PAD).all()
        assert not example.inputs.token_type_ids[row].any()
    # They are masked like any other row.
    masked = corrupted(create("next_sentence", "masked_lm"), batch)
    np.testing.assert_array_equal(
        masked.targets["mlm"].loss_weights.sum(1)[:5] > 0, [1, 1, 1, 0, 1]
    )


def pair_lengths(objective, num_batches, batch_size=256, *, document_length=40):
    """(A, B) lengths, what B ends with, and labels, of the rows that count."""
    corrupt = jax.jit(objective.corrupt)
    term = next(iter(objective.terms))
    features, labels = [], []
    for seed in range(num_batches):
        batch = toy_batch(
            batch_size,
            objective.row_length,
            vocabulary=VOCABULARY,
            document_length=document_length,
            seed=seed,
        )
        example = corrupt(jax.random.key(seed), batch)
        types = np.asarray(example.inputs.token_type_ids)
        text = np.asarray(example.document_ids) >= 0
        a, b = (text & (types == 0)).sum(1), (text & (types == 1)).sum(1)
        last = np.take_along_axis(
            np.asarray(example.inputs.tokens), (a + b + 1)[:, None], axis=1
        )[:, 0]
        counts = np.asarray(example.targets[term].loss_weights[:, 0]) > 0
        rows = np.stack([a, b, last == FULL_STOP], axis=1)
        features.append(rows[counts])
        labels.append(np.asarray(example.targets[term].values[:, 0])[counts])
    return np.concatenate(features), np.concatenate(labels)


def accuracy_of_a_classifier(features, labels) -> float:
    """Of boosted trees on held-out rows."""
    half = len(labels) // 2
    classifier = HistGradientBoostingClassifier(max_iter=30, random_state=0)
    classifier.fit(features[:half], labels[:half])
    return classifier.score(features[half:], labels[half:])


@pytest.mark.parametrize("negatives", ["other_document", "swapped"])
def test_lengths_carry_no_label(negatives):
    objective = create("next_sentence", negatives=negatives)
    features, labels = pair_lengths(objective, 60)
    assert len(labels) > 10_000
    # Of lengths and ends together, on documents that it has not seen.
    assert accuracy_of_a_classifier(features, labels) <= 0.515
    for column in range(2):
        values = features[:, column]
        test = stats.ks_2samp(values[labels == 0], values[labels == 1])
        assert test.pvalue > 1e-3


def test_a_row_looks_the_same_with_either_label():
    (stage,) = create("next_sentence").stages
    batch = toy_batch(BATCH, LENGTH, vocabulary=VOCABULARY, document_length=60, seed=2)
    example = rows.clean(batch, VOCABULARY)
    cuts = jax.random.uniform(jax.random.key(0), (BATCH, LENGTH))
    pairs = cut_rows(cuts, example, VOCABULARY, halves=False)
    seen = {}
    for seed in range(6):
        key = jax.random.key(seed)
        scores = jax.random.uniform(key, (BATCH,))
        _, second, labels, counts = stage._exchange(key, scores, pairs)
        end = second.starts + jnp.maximum(second.lengths, 1) - 1
        for row in np.flatnonzero(counts):
            look = (int(second.lengths[row]), int(pairs.ends[second.rows, end][row]))
            seen.setdefault(row, {}).setdefault(look, set()).add(bool(labels[row]))
    assert all(len(looks) == 1 for looks in seen.values())
    assert sum({True, False} in looks.values() for looks in seen.values()) > 40


def test_the_classifier_sees_lengths_that_do_carry_a_label():
    """Were only random segments cut, as if the true ones were left as they are."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 47, (12_000, 2))
    labels = rng.integers(0, 2, 12_000)
    cut = np.where(labels == 1, lengths.min(1), lengths[:, 0])
    features = np.stack([47 - lengths[:, 0], cut], axis=1)
    assert accuracy_of_a_classifier(features, labels) > 0.6


def test_partners_have_segments_of_one_length_whatever_the_label():
    example = pairs_of_many_rows()[1]
    labels = example.targets["nsp"].values[:, 0]
    texts = {}
    for row in range(BATCH):
        if example.targets["nsp"].loss_weights[row, 0]:
            b = segments(example, row)[1]
            texts.setdefault(len(b), []).append((labels[row], tuple(b)))
    # Partners swap or they do not: every text occurs once.
    every = [text for group in texts.values() for _, text in group]
    assert len(set(every)) == len(every)
    # All lengths occur in pairs, of one label but for one pair.
    sizes = np.array([len(group) for group in texts.values()])
    assert (sizes % 2).sum() <= len(every) % 2
    mixed = sum(
        sum(label for label, _ in group) % 2
        for group in texts.values()
        if len(group) == 2
    )
    assert mixed <= 1


def test_sentence_order_swaps_segments_of_one_length():
    objective = create("next_sentence", negatives="swapped")
    batch = toy_batch(
        BATCH, LENGTH, vocabulary=VOCABULARY, document_length=80, sentence_length=5
    )
    tokens = np.asarray(batch.tokens)
    example = corrupted(objective, batch)
    target = example.targets["sop"]
    checked = 0
    for row in range(BATCH):
        if target.loss_weights[row, 0] == 0:
            assert target.values[row, 0] == 0
            continue
        a, b, *_ = segments(example, row)
        if target.values[row, 0] == 1:
            a, b = b, a
        assert len(a) == len(b) and (a[-1] == FULL_STOP) == (b[-1] == FULL_STOP)
        # Both begin with a sentence, and B with the one after those of A.
        pairs = [
            (first, second)
            for first in places(tokens[row], a)
            for second in places(tokens[row], b)
            if first + len(a) <= second
            and {*tokens[row, [first - 1, second - 1]]} <= {FULL_STOP, EOD}
            and EOD not in tokens[row, first:second]
        ]
        assert pairs and pairs[0][0] > 0
        checked += 1
    assert checked > 30
    assert set(example.metrics) == {"sop_one_sentence", "sop_unused", "sop_no_targets"}


def test_label_one_is_an_even_chance_for_every_row():
    objective = create("next_sentence")
    batch = toy_batch(
        16, LENGTH, vocabulary=VOCABULARY, document_length=None, sentence_length=3
    )
    keys = jax.random.split(jax.random.key(0), 400)
    target = quick_jit(
        jax.vmap(lambda key: objective.corrupt(key, batch).targets["nsp"])
    )(keys)
    ones, counts = np.asarray(target.values), np.asarray(target.loss_weights)
    shares = ones.sum(0) / counts.sum(0)
    np.testing.assert_allclose(
        shares, 0.5, atol=4.5 * 0.5 / np.sqrt(counts.sum(0).min())
    )


def test_bert_masks_the_pairs():
    objective = create("next_sentence", "masked_lm")
    assert objective.lengths.inputs == LENGTH + 3
    assert {n: t.weight for n, t in objective.terms.items()} == {"nsp": 1.0, "mlm": 1.0}
    batch = toy_batch(BATCH, LENGTH, vocabulary=VOCABULARY, document_length=60)
    example = corrupted(objective, batch)
    assert set(example.targets) == {"nsp", "mlm"}
    size = (example.inputs.segment_ids > 0).sum(1)
    # BERT's budget counts [CLS] and both [SEP].
    expected = [max(1, round(0.15 * int(n))) for n in size]
    np.testing.assert_array_equal(example.targets["mlm"].loss_weights.sum(1), expected)
    assert ((example.inputs.tokens == SEP).sum(1) >= 1).all()
    assert (example.inputs.tokens == MASK).sum() > 100
    # Masking leaves the pairs' own target as it was.
    first = objective.stages[0]
    clean = rows.clean(batch, VOCABULARY)
    pairs = compiled(first)(jax.random.fold_in(jax.random.key(0), 0), clean)
    np.testing.assert_array_equal(
        example.targets["nsp"].values, pairs.targets["nsp"].values
    )


def test_loss_at_initialisation_is_ln_2():
    objective = create("next_sentence")
    config = tiny_config("encoder", init_stddev=0.02)
    model = models.create(config, rngs=nnx.Rngs(0))
    heads = objective.init_heads(config, rngs=nnx.Rngs(1))
    batch = toy_batch(BATCH, LENGTH, vocabulary=VOCABULARY, document_length=None)
    example = compiled(objective)(jax.random.key(0), batch)
    terms, _ = objective.losses({"model": model, "heads": heads}, example)
    total, weight = terms["nsp"]
    assert float(weight) > 0.9 * BATCH
    assert float(total / weight) == pytest.approx(np.log(2), abs=0.01)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"negatives": "swap"}, "next_sentence.negatives = 'swap': must be one of"),
        ({"loss_weight": 0.0}, "next_sentence.loss_weight = 0.0: must be > 0"),
        (
            {"row_length": 1},
            "row_length = 1 is too short for objective 'next_sentence'",
        ),
    ],
)
def test_refuses(change, message):
    stage = create("next_sentence").stages[0]
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(stage, **change)


def test_refuses_a_vocabulary_without_sentence_ends():
    stage = create("next_sentence").stages[0]
    blind = dataclasses.replace(
        VOCABULARY, is_sentence_end=np.zeros_like(VOCABULARY.is_sentence_end)
    )
    with pytest.raises(ValueError, match="is_sentence_end"):
        dataclasses.replace(stage, vocabulary=blind)


def test_cannot_follow_masking():
    with pytest.raises(ValueError, match="'next_sentence' cannot follow 'masked_lm'"):
        create("masked_lm", "next_sentence")
