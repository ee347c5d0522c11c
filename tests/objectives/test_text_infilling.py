"""BART's infilling and sentence permutation against walks over words."""

import collections
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from objectives import text_infilling
from objectives.types import TokenBatch
from tests.helpers import BOS, EOD, EOS, FULL_STOP, MASK, PAD, toy_batch
from tests.objectives import denoising_reference as reference
from tests.objectives.denoising_reference import FAST_COMPILATION, corrupt

VOCABULARY = reference.VOCABULARY


def create(row_length, architecture="encoder_decoder", **overrides):
    return reference.create("text_infilling", row_length, architecture, **overrides)


def rows(count, row_length, **options):
    return toy_batch(count, row_length, vocabulary=VOCABULARY, **options)


def batch_of(*tokens):
    return TokenBatch(
        tokens=np.array(tokens, np.int32),
        row_ids=np.arange(len(tokens), dtype=np.int32),
        first_document=np.zeros(len(tokens), np.int32),
    )


def is_subsequence(part, whole):
    remaining = iter(whole)
    return all(any(token == other for other in remaining) for token in part)


def test_source_lengths_at_512_are_those_of_the_reference():
    objective = create(510, unit="token", permute_sentences=0.0, random_prob=0.0)
    batch = rows(3000, 510, document_length=None)
    encoder = corrupt(objective, batch).inputs.encoder
    lengths = np.asarray(encoder.segment_ids).sum(1)
    masks = (np.asarray(encoder.tokens) == MASK).sum(1)
    assert lengths.mean() == pytest.approx(412.0, abs=0.4)
    assert lengths.std() == pytest.approx(4.8, abs=0.3)
    assert lengths.max() < 440
    rng = np.random.default_rng(0)
    theirs = np.array(
        [reference.bart_source_length(rng, 510, "0.3", 3.5) for _ in range(1500)]
    )
    error = math.sqrt(lengths.var() / 3000 + theirs[:, 0].var() / 1500)
    assert lengths.mean() == pytest.approx(theirs[:, 0].mean(), abs=4 * error)
    # Masks of spans that no other one swallowed, and insertions.
    assert masks.mean() == pytest.approx(35.9, abs=0.25)
    assert masks.mean() == pytest.approx(theirs[:, 1].mean(), abs=0.4)
    assert theirs[:, 2].mean() == pytest.approx(135.9, abs=1.0)


def test_span_lengths_are_poisson_and_sum_to_the_budget():
    objective = create(510).stages[0]
    draws = objective._num_draws
    u = jax.random.uniform(jax.random.key(0), (4000, draws))
    budget = jnp.full(4000, 153, jnp.int32)
    lengths, empty = jax.jit(jax.vmap(objective._span_lengths))(u, budget)
    lengths, empty = np.asarray(lengths), np.asarray(empty)
    assert (lengths.sum(1) == 153).all()
    used = (lengths > 0).sum(1)
    assert all((row[n:] == 0).all() for row, n in zip(lengths, used, strict=True))
    assert used.mean() == pytest.approx(42.9, abs=0.3)
    assert empty.mean() == pytest.approx(1.34, abs=0.08)
    assert empty.sum() / (empty + used).sum() == pytest.approx(0.0302, abs=0.0018)
    # All but each row's last draw, which is cut to fit.
    whole = np.concatenate([row[: n - 1] for row, n in zip(lengths, used, strict=True)])
    expected = stats.poisson.pmf(np.arange(1, 9), 3.5) / (1 - math.exp(-3.5))
    observed = np.array([(whole == n).mean() for n in range(1, 9)])
    np.testing.assert_allclose(observed, expected, atol=0.006)


@pytest.mark.parametrize("mean", [0.5, 3.0, 3.5, 40.0])
def test_the_poisson_table_is_the_distribution_function(mean):
    table = text_infilling.poisson_table(mean)
    np.testing.assert_allclose(
        table, stats.poisson.cdf(np.arange(table.size), mean), atol=1e-5
    )
    assert stats.poisson.sf(table.size, mean) < 1e-6


def test_zero_spans_are_as_frequent_as_published():
    assert text_infilling.poisson_table(3.5)[0] == pytest.approx(0.0302, abs=1e-4)
    assert text_infilling.poisson_table(3.0)[0] == pytest.approx(0.0498, abs=1e-4)


def test_spans_cover_words_as_by_walking_over_them():
    rng = np.random.default_rng(0)
    cover = jax.jit(text_infilling.cover, compiler_options=FAST_COMPILATION)
    swallowed = 0
    for _ in range(150):
        eligible = rng.random(40) > 0.08
        eligible[37:] = rng.random() < 0.5
        begins = eligible & ~np.pad(eligible, (1, 0))[:-1]
        starts = eligible & (begins | (rng.random(40) < 0.7))
        places = rng.permutation(np.flatnonzero(starts))[:8]
        lengths = np.zeros(8, np.int32)
        live = rng.integers(1, len(places) + 1)
        lengths[:live] = rng.integers(1, 7, live)
        dead = rng.permutation(np.flatnonzero(~np.isin(np.arange(40), places)))
        slots = np.concatenate([places, dead])[:8].astype(np.int32)
        ours = cover(slots, lengths, eligible, starts)
        spans = list(zip(places[:live], lengths[:live], strict=True))
        theirs = reference.bart_cover(spans, eligible, starts)
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
        swallowed += live - theirs[0].sum()
    assert swallowed > 50


@pytest.fixture(scope="module")
def infilled():
    """Rows of several documents, infilled by whole words without permutation.

    No token occurs twice in a row, so what was hidden can be read off.
    """
    rng = np.random.default_rng(0)
    text = np.flatnonzero(~VOCABULARY.is_special)
    tokens = np.array([rng.permutation(text)[:96] for _ in range(256)])
    tokens[rng.random(tokens.shape) < 0.03] = EOD
    batch = batch_of(*tokens)
    objective = create(96, permute_sentences=0.0, random_prob=0.0)
    return batch, corrupt(objective, batch)


def test_what_is_kept_is_the_row_in_its_order(infilled):
    batch, example = infilled
    encoder = example.inputs.encoder
    tokens = np.asarray(encoder.tokens)
    assert tokens.shape == (256, 98)
    real = np.asarray(encoder.segment_ids) > 0
    for row, source, inside in zip(batch.tokens, tokens, real, strict=True):
        assert inside.tolist() == sorted(inside, reverse=True)
        assert (source[~inside] == PAD).all()
        text = source[inside].tolist()
        assert (text[0], text[-1]) == (BOS, EOS)
        kept = [token for token in text[1:-1] if token != MASK]
        assert is_subsequence(kept, row)
        assert kept.count(EOD) == row.tolist().count(EOD)
        # A mask stands for at least one token, or is one of a few insertions.
        assert len(text) - 2 <= 96


def test_masked_text_begins_with_a_word_and_ends_before_one(infilled):
    batch, example = infilled
    word_starts = np.asarray(VOCABULARY.is_word_start)
    hidden = 0
    for row, source in zip(batch.tokens, example.inputs.encoder.tokens, strict=True):
        source = np.asarray(source)
        ends = row == EOD
        starts = ~ends & (word_starts[row] | np.concatenate([[True], ends[:-1]]))
        kept = np.isin(row, source)
        # Every run of hidden tokens follows a mask and consists of whole words.
        for start, length in reference.runs(~kept):
            before = BOS if start == 0 else row[start - 1]
            places = np.flatnonzero(source == before)
            assert (source[np.minimum(places + 1, source.size - 1)] == MASK).any()
            assert starts[start]
            stop = start + length
            assert stop == row.size or starts[stop] or ends[stop]
            assert not ends[start:stop].any()
            hidden += length
    # Spans overlap and stop at documents' ends: less than 30% is hidden.
    assert 0.2 < hidden / (batch.tokens != EOD).sum() < 0.3


def test_targets_are_the_whole_text_read_from_the_end_token(infilled):
    batch, example = infilled
    target = example.targets["text_infilling"]
    framed = np.pad(batch.tokens, ((0, 0), (1, 1)), constant_values=BOS)
    framed[:, -1] = EOS
    np.testing.assert_array_equal(target.values, framed)
    assert (target.loss_weights == 1).all()
    decoded = np.asarray(example.inputs.tokens)
    np.testing.assert_array_equal(decoded[:, 0], EOS)
    np.testing.assert_array_equal(decoded[:, 1:], framed[:, :-1])
    ids = np.asarray(example.document_ids)
    text = ~np.isin(example.inputs.encoder.tokens, [BOS, EOS, MASK, PAD])
    np.testing.assert_array_equal(ids >= 0, text)


def insert(count, random_prob, repeats=400):
    """Tokens of a framed row after `count` insertions."""
    objective = create(30, random_prob=random_prob).stages[0]
    row = jnp.concatenate([jnp.array([BOS]), jnp.arange(20, 38), jnp.array([EOS])])
    row = text_infilling.Stream(
        tokens=jnp.pad(row, (0, 12)).astype(jnp.int32),
        segment_ids=(jnp.arange(32) < 20).astype(jnp.int32),
        document_ids=jnp.zeros(32, jnp.int32),
    )
    u = jax.random.uniform(jax.random.key(count), (repeats, 32))
    values = jnp.full(objective._num_slots, 300, jnp.int32)
    run = jax.vmap(lambda u: objective._insert(u, values, row, jnp.int32(count)))
    return jax.jit(run)(u)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_insertions_lie_between_the_frame_and_one_is_random(count):
    inserted = insert(count, 0.1)
    tokens = np.asarray(inserted.tokens)
    assert (np.asarray(inserted.segment_ids).sum(1) == 20 + count).all()
    assert ((tokens == 300).sum(1) == math.ceil(0.1 * count)).all()
    assert ((tokens == MASK).sum(1) == count - math.ceil(0.1 * count)).all()
    assert (tokens[:, 0] == BOS).all()
    assert (tokens[:, 20 + count - 1] == EOS).all()
    for row in tokens:
        assert [t for t in row if 20 <= t < 38] == list(range(20, 38))
    if count == 1:
        places = np.bincount((tokens == 300).argmax(1), minlength=21)
        assert set(np.flatnonzero(places)) == set(range(1, 20))
        assert stats.chisquare(places[1:20]).pvalue > 1e-3


def test_insertions_without_room_are_left_out():
    inserted = insert(13, 0.0)
    tokens = np.asarray(inserted.tokens)
    assert (np.asarray(inserted.segment_ids) == 1).all()
    assert (tokens[:, -1] == EOS).all()
    assert ((tokens == MASK).sum(1) == 12).all()


def test_a_share_of_the_masks_is_a_random_ordinary_token():
    objective = create(510, unit="token", permute_sentences=0.0, random_prob=0.5)
    # Rows of one repeated token show every replacement.
    batch = batch_of(*[[20] * 510] * 200)
    tokens = np.asarray(corrupt(objective, batch).inputs.encoder.tokens)
    masks = (tokens == MASK).sum()
    foreign = tokens[~np.isin(tokens, [MASK, BOS, EOS, PAD, 20])]
    ordinary = (~VOCABULARY.is_special).sum()
    share = foreign.size * ordinary / (ordinary - 1) / (foreign.size + masks)
    assert share == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(foreign.size + masks))
    assert not VOCABULARY.is_special[foreign].any()
    assert len(set(foreign.tolist())) > 0.9 * ordinary


def permuted(batch, share=1.0):
    """Rows after permutation only, by hiding next to nothing."""
    objective = create(batch.tokens.shape[1], permute_sentences=share).stages[0]

    def permute(rng, tokens):
        clean = objective.rows(text_infilling_clean(batch, tokens))
        ends = text_infilling.rows_lib.sentence_ends(tokens, VOCABULARY)
        keys = jax.random.split(rng, tokens.shape[0])
        return jax.vmap(objective._permute)(keys, clean, ends).tokens

    return np.asarray(jax.jit(permute)(jax.random.key(0), jnp.asarray(batch.tokens)))


def text_infilling_clean(batch, tokens):
    return text_infilling.rows_lib.clean(
        dataclasses.replace(batch, tokens=tokens), VOCABULARY
    )


def sentences_of(row):
    """Documents as lists of sentences; a document's rest is a sentence."""
    documents, sentence = [[]], []
    for token in row:
        if token == EOD:
            documents[-1] += [tuple(sentence)] if sentence else []
            documents.append([])
            sentence = []
            continue
        sentence.append(int(token))
        if token == FULL_STOP:
            documents[-1].append(tuple(sentence))
            sentence = []
    documents[-1] += [tuple(sentence)] if sentence else []
    return documents


def test_every_order_of_a_documents_sentences_is_equally_likely():
    starts = np.flatnonzero(VOCABULARY.is_word_start & ~VOCABULARY.is_special)
    a, b, c, d, e = (int(t) for t in starts[5:10])
    stop = FULL_STOP
    row = [a, stop, b, c, stop, d, EOD, e, stop, a, b, stop, PAD, PAD]
    tokens = permuted(batch_of(*[row] * 3000))
    assert (tokens[:, 6] == EOD).all()
    assert (tokens[:, 12:] == PAD).all()
    first = collections.Counter(map(tuple, tokens[:, :6].tolist()))
    sentences = [(a, stop), (b, c, stop), (d,)]
    orders = [
        sum((sentences[i] for i in order), ())
        for order in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    ]
    assert set(first) == set(orders)
    assert stats.chisquare(list(first.values())).pvalue > 1e-3
    second = collections.Counter(map(tuple, tokens[:, 7:12].tolist()))
    assert set(second) == {(e, stop, a, b, stop), (a, b, stop, e, stop)}
    assert stats.chisquare(list(second.values())).pvalue > 1e-3


def test_sentences_stay_whole_and_in_their_document():
    batch = rows(64, 96, document_length=40)
    # Sentences end where the next token begins a word, so let all of them do so.
    stops = batch.tokens == FULL_STOP
    batch.tokens[:, 1:][stops[:, :-1]] = FULL_STOP + 1
    tokens = permuted(batch)
    for before, after in zip(batch.tokens, tokens, strict=True):
        assert (np.flatnonzero(before == EOD) == np.flatnonzero(after == EOD)).all()
        ours, theirs = [], []
        for document, original in zip(
            sentences_of(after), sentences_of(before), strict=True
        ):
            assert sorted(sum(document, ())) == sorted(sum(original, ()))
            ours.append(sum(document, ()))
            theirs.append(original)
            if original and original[-1][-1] == FULL_STOP:
                assert sorted(document) == sorted(original)
    assert (tokens != batch.tokens).any(1).mean() > 0.9


def test_a_share_of_the_sentences_changes_places():
    starts = np.flatnonzero(VOCABULARY.is_word_start & ~VOCABULARY.is_special)
    words = [int(t) for t in starts if t != FULL_STOP][:10]
    row = [token for word in words for token in (word, FULL_STOP)]
    tokens = permuted(batch_of(*[row] * 2000), share=0.25)
    moved = (tokens[:, ::2] != np.array(words)[None]).sum(1)
    # Three of ten are chosen: none, two or all of them end up elsewhere.
    assert set(moved.tolist()) == {0, 2, 3}
    shares = np.array([(moved == n).mean() for n in (0, 2, 3)])
    np.testing.assert_allclose(shares, [1 / 6, 3 / 6, 2 / 6], atol=0.045)


def test_isolated_documents_keep_to_themselves():
    batch = rows(64, 96, document_length=20)
    example = corrupt(create(96, isolate_documents=True), batch)
    ends = batch.tokens == EOD
    documents = 1 + np.cumsum(ends, axis=1) - ends
    decoder = np.asarray(example.inputs.segment_ids)
    np.testing.assert_array_equal(decoder[:, 1:-1], documents)
    encoder = example.inputs.encoder
    source, segments = np.asarray(encoder.tokens), np.asarray(encoder.segment_ids)
    for row in range(64):
        real = segments[row][segments[row] > 0]
        assert (np.diff(real) >= 0).all()
        assert set(real.tolist()) == set(documents[row].tolist())
        for document in set(documents[row].tolist()):
            kept = source[row][segments[row] == document]
            kept = kept[
                (np.asarray(example.document_ids)[row] >= 0)[segments[row] == document]
            ]
            original = batch.tokens[row][documents[row] == document]
            assert not collections.Counter(kept.tolist()) - collections.Counter(
                original.tolist()
            )
    firsts = np.diff(decoder, axis=1, prepend=0) != 0
    assert (np.asarray(example.inputs.tokens)[firsts] == EOS).all()
    assert (np.asarray(example.inputs.positions)[firsts] == 0).all()


def test_empty_and_padded_rows_are_left_alone():
    batch = batch_of([PAD] * 16, [EOD] * 16, [20] + [PAD] * 15)
    example = corrupt(create(16), batch)
    weights = np.asarray(example.targets["text_infilling"].loss_weights)
    assert weights.sum(1).tolist() == [0, 18, 3]
    source = np.asarray(example.inputs.encoder.tokens)
    assert source[0].tolist() == [PAD] * 18
    assert source[1].tolist() == [BOS, *[EOD] * 16, EOS]
    assert source[2, 0] == BOS
    assert EOS in source[2, 2:4]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"noise_density": 0.0}, "must be > 0 and < 1"),
        ({"noise_density": 1.0}, "must be > 0 and < 1"),
        ({"noise_density": -1.0}, "must be > 0 and < 1"),
        ({"mean_noise_span_length": 0.0}, "must be > 0 and <= 64"),
        ({"mean_noise_span_length": 65.0}, "must be > 0 and <= 64"),
        ({"random_prob": 1.1}, "must be >= 0 and <= 1"),
        ({"permute_sentences": -0.1}, "must be >= 0 and <= 1"),
        ({"unit": "words"}, "must be one of 'word', 'token'"),
    ],
)
def test_settings_out_of_range_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        create(64, **overrides)


def test_missing_tables_and_ids_are_refused():
    without = dataclasses.replace(VOCABULARY, is_word_start=None)
    with pytest.raises(ValueError, match="needs is_word_start"):
        create(64, vocabulary=without)
    create(64, vocabulary=without, unit="token")
    for field in ("bos_id", "eos_id", "mask_id", "pad_id"):
        with pytest.raises(ValueError, match=f"needs {field}"):
            create(64, vocabulary=dataclasses.replace(VOCABULARY, **{field: -1}))
