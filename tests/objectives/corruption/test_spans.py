"""Counts, masks and assembly of spans against exact arithmetic and plain loops."""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from objectives.corruption import spans, streams
from objectives.corruption.streams import Stream
from tests.objectives import denoising_reference as reference

SENTINELS = tuple(range(32099, 31999, -1))


def keys(count: int, seed: int = 0):
    return jax.random.split(jax.random.key(seed), count)


def masks(count: int, length: int, density=0.15, mean=3.0, seed=0) -> np.ndarray:
    draw = jax.jit(jax.vmap(lambda key: spans.span_mask(key, length, density, mean)))
    return np.asarray(draw(keys(count, seed)))


def row_of(tokens, segment_ids) -> Stream:
    return Stream(
        tokens=jnp.asarray(tokens, jnp.int32),
        segment_ids=jnp.asarray(segment_ids, jnp.int32),
        document_ids=jnp.asarray(segment_ids, jnp.int32) + 9,
    )


@pytest.mark.parametrize(
    ("inputs", "raw", "targets"),
    [(64, 70, 14), (128, 141, 29), (256, 284, 58), (512, 568, 114), (1024, 1137, 229)]
    + [(2048, 2274, 456)],
)
def test_raw_length_is_the_helper_of_the_reference(inputs, raw, targets):
    assert spans.raw_length(inputs, 0.15, 3.0) == (raw, targets)
    assert spans.span_lengths(raw, 0.15, 3.0) == (inputs, targets)
    assert spans.span_lengths(raw + 1, 0.15, 3.0)[0] == inputs + 1


@pytest.mark.parametrize(
    ("mean", "density", "raw", "targets"),
    [(8.0, 0.15, 588, 100), (3.0, 0.5, 766, 512), (8.0, 0.5, 908, 512)]
    + [(64.0, 0.15, 600, 92), (64.0, 0.5, 1006, 512)],
)
def test_raw_length_of_ul2s_denoisers(mean, density, raw, targets):
    assert spans.raw_length(512, density, mean) == (raw, targets)


@pytest.mark.parametrize(
    ("density", "mean"), [("0.15", "3"), ("0.5", "3"), ("0.3", "8")]
)
def test_counts_are_those_of_exact_fractions(density, mean):
    for length in range(12, 4097, 7):
        counts = spans.span_counts(length, float(density), float(mean))
        assert counts == reference.span_counts(length, density, mean)


@pytest.mark.parametrize(
    ("length", "counts"),
    [(568, (85, 28)), (512, (77, 26)), (10, (2, 1)), (20, (3, 1)), (30, (4, 1))]
    + [(3, (1, 1)), (128, (19, 6)), (1137, (171, 57)), (2274, (341, 114))],
)
def test_counts_of_known_rows(length, counts):
    assert spans.span_counts(length, 0.15, 3.0) == counts


def test_every_partition_is_equally_likely():
    draw = jax.jit(
        jax.vmap(lambda key: spans.partition(jax.random.uniform(key, (6,)), 3))
    )
    parts = np.asarray(draw(keys(15_000)))
    assert (parts > 0).all()
    assert (parts.sum(1) == 7).all()
    counts = collections.Counter(map(tuple, parts.tolist()))
    assert len(counts) == math.comb(6, 2)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_masks_of_568_tokens_have_85_noise_tokens_in_28_spans():
    drawn = masks(1024, 568)
    assert (drawn.sum(1) == 85).all()
    starts = drawn & ~np.pad(drawn, ((0, 0), (1, 0)))[:, :-1]
    assert (starts.sum(1) == 28).all()
    assert not drawn[:, 0].any()
    assert drawn[:, -1].all()


def test_span_lengths_follow_their_exact_distribution():
    drawn = masks(2048, 568)
    lengths = np.array([n for mask in drawn for _, n in reference.runs(mask)])
    assert lengths.size == 2048 * 28
    assert (lengths == 1).mean() == pytest.approx(0.3214, abs=0.003)
    assert (lengths == 1).mean() == pytest.approx(27 / 84, abs=0.006)
    assert lengths.mean() == pytest.approx(85 / 28)
    assert lengths.var() == pytest.approx(5.77, abs=0.15)
    exact = np.array([math.comb(84 - n, 26) / math.comb(84, 27) for n in range(1, 11)])
    assert exact[:5] == pytest.approx(
        [0.3214, 0.2206, 0.1506, 0.1023, 0.0692], abs=2e-4
    )
    observed = np.array([(lengths == n).mean() for n in range(1, 11)])
    # Lengths of a row exclude each other a little, so the errors are below binomial.
    errors = np.sqrt(exact * (1 - exact) / lengths.size)
    assert (np.abs(observed - exact) < 4.5 * errors).all()
    assert (lengths > 10).mean() == pytest.approx(0.0157, abs=0.002)


def test_noise_by_position_is_that_of_the_reference():
    drawn = masks(4096, 568, seed=1).mean(0)
    rng = np.random.default_rng(0)
    expected = np.mean([reference.span_mask(rng, 568) for _ in range(4096)], axis=0)
    # Two independent samples of 4096 rows each, at 568 positions.
    errors = np.sqrt(2 * np.maximum(expected * (1 - expected), 1e-6) / 4096)
    assert (np.abs(drawn - expected) < 4.8 * errors + 1e-9).all()
    assert drawn[:5] == pytest.approx([0, 0.054, 0.085, 0.110, 0.126], abs=0.02)
    assert drawn[-5:] == pytest.approx([0.272, 0.350, 0.480, 0.678, 1.0], abs=0.03)


def test_the_golden_example():
    noise = np.array([c == "1" for c in "001100011101"])
    inputs, targets = spans.split_row(
        row_of(range(101, 113), [1] * 12),
        jnp.asarray(noise),
        jnp.zeros(12, bool),
        sentinel_ids=SENTINELS,
        eos_id=1,
        pad_id=0,
        inputs_length=10,
        targets_length=10,
    )
    golden = "101 102 32099 105 106 107 32098 111 32097 1"
    assert " ".join(map(str, inputs.tokens.tolist())) == golden
    golden = "32099 103 104 32098 108 109 110 32097 112 1"
    assert " ".join(map(str, targets.tokens.tolist())) == golden


@pytest.mark.parametrize("sentinels", [SENTINELS, ()])
@pytest.mark.parametrize("isolated", [False, True])
def test_rows_are_taken_apart_as_by_walking_over_them(sentinels, isolated):
    rng = np.random.default_rng(int(isolated))
    length = 24

    @jax.jit
    def split(row, noise, terminators):
        return spans.split_row(
            row,
            noise,
            terminators,
            sentinel_ids=sentinels,
            eos_id=reference.EOS,
            pad_id=reference.PAD,
            inputs_length=length + 1,
            targets_length=3 * length,
        )

    for _ in range(40):
        tokens = rng.integers(8, 1000, length)
        tokens[rng.random(length) < 0.2] = reference.EOD
        is_end = tokens == reference.EOD
        segments = 1 + np.cumsum(is_end) - is_end if isolated else np.ones(length, int)
        # Some rows end in padding.
        segments[length - rng.integers(0, 6) :] = 0
        noise = rng.random(length) < rng.choice([0.1, 0.4, 0.9])
        if isolated:
            noise &= ~is_end
        row = row_of(tokens, segments)
        ours = split(row, jnp.asarray(noise), jnp.asarray(is_end & isolated))
        theirs = reference.split_row(tokens, segments, noise, sentinels, isolated)
        for stream, (values, ids) in zip(ours, theirs, strict=True):
            size = stream.tokens.shape[0]
            assert stream.tokens.tolist() == reference.padded(values, size)
            assert stream.segment_ids.tolist() == reference.padded(ids, size)
            corpus = np.isin(stream.tokens, [*sentinels, reference.EOS, reference.PAD])
            assert (np.asarray(stream.document_ids)[corpus] == -1).all()
            text = ~corpus
            expected = np.asarray(stream.segment_ids)[text] + 9
            assert (np.asarray(stream.document_ids)[text] == expected).all()


@pytest.mark.parametrize("cost_of_span", [0, 1])
def test_limited_noise_is_the_longest_beginning_that_fits(cost_of_span):
    rng = np.random.default_rng(3)
    for max_targets, max_spans in [(1, 9), (5, 9), (9, 2), (40, 1), (60, 60)]:
        mask = rng.random(30) < 0.5
        segments = np.sort(rng.integers(1, 4, 30))
        limited = np.asarray(
            spans.limit_noise(
                jnp.asarray(mask),
                jnp.asarray(segments, jnp.int32),
                cost_of_span=cost_of_span,
                max_spans=max_spans,
                max_targets=max_targets,
            )
        )
        expected = np.zeros(30, bool)
        cost, spans_seen, noisy = 0, collections.Counter(), set()
        for i in np.flatnonzero(mask):
            begins = i == 0 or not mask[i - 1] or segments[i] != segments[i - 1]
            spans_seen[segments[i]] += begins
            cost += 1 + cost_of_span * begins + (segments[i] not in noisy)
            noisy.add(segments[i])
            expected[i] = cost <= max_targets and (spans_seen[segments[i]] <= max_spans)
        np.testing.assert_array_equal(limited, expected)


def test_counts_and_positions_begin_anew_in_each_segment():
    segments = jnp.array([1, 1, 1, 2, 2, 3, 0, 0], jnp.int32)
    flags = jnp.array([0, 1, 1, 0, 1, 1, 0, 1], bool)
    counts = streams.count_in_segment(flags, segments)
    assert counts.tolist() == [0, 1, 2, 0, 1, 1, 0, 1]
    positions = streams.positions_in_segment(segments)
    assert positions.tolist() == [0, 1, 2, 0, 1, 0, 0, 1]
    tokens = jnp.array([11, 12, 13, 21, 22, 31, 0, 0], jnp.int32)
    shifted = streams.shift_right(tokens, segments, 5)
    assert shifted[:6].tolist() == [5, 11, 12, 5, 21, 5]


def test_groups_are_shuffled_over_their_own_places():
    groups = jnp.array([1, 2, 1, 3, 1, 2], jnp.int32)
    draw = jax.jit(jax.vmap(lambda key: streams.shuffle_places(key, groups)))
    places = np.asarray(draw(keys(12_000)))
    counts = collections.Counter(map(tuple, places.tolist()))
    assert all(sorted(p) == list(range(6)) and p[3] == 3 for p in counts)
    assert all({p[0], p[2], p[4]} == {0, 2, 4} for p in counts)
    assert len(counts) == math.factorial(3) * math.factorial(2)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0.15, 3.0), "at least 2"),
        ((100, 0.0, 3.0), "noise_density = 0.0: must be > 0 and < 1"),
        ((100, 1.0, 3.0), "noise_density = 1.0: must be > 0 and < 1"),
        ((100, -0.1, 3.0), "noise_density = -0.1: must be > 0 and < 1"),
        ((100, 0.15, 0.5), "between 1 and row_length"),
        ((100, 0.15, 101.0), "between 1 and row_length"),
        ((100, 0.6, 1.0), "60 noise spans need as many kept tokens"),
    ],
)
def test_counts_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        spans.span_counts(*arguments)


def test_inputs_without_room_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        spans.raw_length(2, 0.15, 3.0)
