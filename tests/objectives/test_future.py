"""Masked diffusion, masked next tokens, gaps and several future tokens, each restated."""

import functools
import itertools

import jax
import numpy as np
import pytest

import objectives
from experiments import presets
from objectives.types import TokenBatch
from tests.helpers import (
    EOD,
    FIRST_TEXT,
    MASK,
    PAD,
    quick_jit,
    toy_batch,
    toy_vocabulary,
)

VOCABULARY = toy_vocabulary()
P, S, M = VOCABULARY.sentinel_ids[:3]


@functools.cache
def create(name, row_length, architecture="decoder", **overrides):
    return objectives.create(
        name,
        {name: {**presets.OBJECTIVES[name], **overrides}},
        vocabulary=VOCABULARY,
        row_length=row_length,
        architecture=architecture,
    )


@functools.cache
def compiled(objective):
    return quick_jit(objective.corrupt)


def corrupt(objective, batch, seed=0):
    return jax.device_get(compiled(objective)(jax.random.key(seed), batch))


def text_rows(num_rows, length):
    """Rows of one document each, without its end."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(FIRST_TEXT, 200, (num_rows, length)).astype(np.int32)
    ids = np.arange(num_rows, dtype=np.int32)
    return TokenBatch(tokens=tokens, row_ids=ids, first_document=ids)


class TestMaskedDiffusion:
    def test_every_row_weighs_what_its_tokens_number(self):
        batch = text_rows(64, 16)
        example = corrupt(create("masked_diffusion", 16, "encoder"), batch)
        target = example.targets["diffusion"]
        masked = example.inputs.tokens == MASK
        np.testing.assert_array_equal(target.loss_weights > 0, masked)
        np.testing.assert_allclose(target.loss_weights.sum(1), 16, rtol=1e-6)
        np.testing.assert_array_equal(target.divisor, 16)
        np.testing.assert_array_equal(
            target.values[:, 1:-1][masked[:, 1:-1]], batch.tokens[masked[:, 1:-1]]
        )
        # Strata: 64 rows hold each of 16 counts four times, give or take two.
        counts = np.bincount(masked.sum(1), minlength=17)[1:]
        assert counts.min() >= 2 and counts.max() <= 6

    @pytest.mark.parametrize("tied", [False, True])
    def test_the_bound_of_exact_conditionals_is_the_likelihood(self, tied):
        """Each of the 7 masks of 3 tokens as often as it should be, then enumerated."""
        example = corrupt(create("masked_diffusion", 3, "encoder"), text_rows(6000, 3))
        masks = (example.inputs.tokens == MASK)[:, 1:4]
        kinds, counts = np.unique(masks, axis=0, return_counts=True)
        assert len(kinds) == 7
        joint = np.random.default_rng(1).dirichlet(np.ones(8)).reshape(2, 2, 2)
        if tied:  # Two fair bits that are equal, and one that is always 0.
            joint = np.zeros((2, 2, 2))
            joint[0, 0, 0] = joint[1, 1, 0] = 0.5
        x, bound = (0, 0, 0), 0.0
        for mask, count in zip(kinds, counts):
            k = mask.sum()
            share = 1 / 3 / len(list(itertools.combinations(range(3), k)))
            assert count / 6000 == pytest.approx(share, abs=4 * (share / 6000) ** 0.5)
            seen = joint[tuple(slice(None) if m else v for m, v in zip(mask, x))]
            for axis, token in enumerate(np.flatnonzero(mask)):
                others = tuple(i for i in range(k) if i != axis)
                p = seen.sum(others)[x[token]] / seen.sum()
                bound -= share * 3 / k * np.log(p)
        assert bound == pytest.approx(-np.log(joint[x]), abs=1e-12)

    def test_the_cosine_schedule_masks_less(self):
        objective = create("masked_diffusion", 256, "encoder", schedule="cosine")
        example = corrupt(objective, text_rows(4096, 256))
        masked = (example.inputs.tokens == MASK).sum(1) / 256
        assert masked.mean() == pytest.approx(1 - 2 / np.pi, abs=2e-3)
        assert np.median(masked) == pytest.approx(1 - np.cos(np.pi / 4), abs=5e-3)
        rows = example.targets["diffusion"].loss_weights.sum(1) / 256
        assert rows.mean() == pytest.approx(1, abs=2e-3)

    def test_without_the_bound_each_masked_token_counts_one(self):
        objective = create("masked_diffusion", 16, "encoder", weighting="none")
        example = corrupt(objective, text_rows(8, 16))
        target = example.targets["diffusion"]
        assert set(np.unique(target.loss_weights)) == {0, 1}
        assert target.divisor is None and objective.scoring() is None


class TestMaskedNextToken:
    @pytest.mark.parametrize(
        ("rate", "mean", "most"), [(0.3, 38.47, 40), (0.15, 19.57, 21)]
    )
    def test_spans_overshoot_by_two_thirds(self, rate, mean, most):
        objective = create("masked_next_token", 126, noise_density=rate)
        example = corrupt(objective, text_rows(8192, 126))
        counts = example.targets["mlm"].loss_weights.sum(1)
        assert counts.mean() == pytest.approx(mean, abs=0.03)
        assert counts.max() == most

    def test_a_target_is_read_one_position_before_its_mask(self):
        objective = create("masked_next_token", 30, mask_prob=1.0, random_prob=0.0)
        batch = text_rows(64, 30)
        example = corrupt(objective, batch)
        target = example.targets["mlm"]
        row, slot = np.nonzero(target.loss_weights)
        at = target.positions[row, slot]
        assert (example.inputs.tokens[row, at + 1] == MASK).all()
        # Position p of the framed row is token p - 1 of the text.
        np.testing.assert_array_equal(batch.tokens[row, at], target.values[row, slot])
        assert (at == 0).any()  # The first token is predicted at [CLS].
        assert len(row) == (example.inputs.tokens == MASK).sum()

    @pytest.mark.parametrize("name", ["masked_next_token", "masked_diffusion"])
    def test_first_tokens_of_isolated_documents_are_shown(self, name):
        shift = {"shift": True} if name == "masked_diffusion" else {}
        objective = create(name, 46, isolate_documents=True, **shift)
        batch = toy_batch(64, 46, vocabulary=VOCABULARY, document_length=12)
        tokens = corrupt(objective, batch).inputs.tokens[:, 1:-1]
        first = np.roll(np.asarray(batch.tokens) == EOD, 1, axis=1)
        first[:, 0] = False
        np.testing.assert_array_equal(tokens[first], np.asarray(batch.tokens)[first])
        assert (tokens == MASK).any()


class TestFillInTheMiddle:
    def test_documents_are_rearranged_as_the_docstring_shows(self):
        text = list(range(20, 26))
        batch = TokenBatch(
            tokens=np.array(
                [[*text, EOD, 30, 31, EOD, PAD, PAD, PAD, PAD, PAD, PAD]] * 400
            ),
            row_ids=np.arange(400, dtype=np.int32),
            first_document=np.zeros(400, np.int32),
        )
        settings = {"fim_rate": 0.5, "spm_rate": 0.5}
        objective = create("fill_in_the_middle", 16, **settings)
        tokens = corrupt(objective, batch).inputs.tokens
        orders = {"clean": 0, "psm": 0, "spm": 0}
        sizes = []
        for row in tokens:
            ends = np.flatnonzero(row == EOD)
            assert len(ends) == 2
            found = list(row[: ends[0]])
            kept = sorted(t for t in found if t not in (P, S, M))
            assert kept == text
            if P not in found:
                orders["clean"] += 1
                assert found == text
                continue
            marks = [found.index(mark) for mark in (P, S, M)]
            assert marks[0] == 0 and marks[1] < marks[2]
            suffix = found[marks[1] + 1 : marks[2]]
            if (
                marks[1] == 1
                and found[marks[2] + 1 :] != text[: len(text) - len(suffix)]
            ):
                raise AssertionError(found)
            if marks[1] == 1:
                orders["spm"] += 1
                continue
            orders["psm"] += 1
            prefix, middle = found[1 : marks[1]], found[marks[2] + 1 :]
            assert prefix + middle + suffix == text
            sizes.append((len(prefix), len(middle), len(suffix)))
        assert orders["clean"] / 400 == pytest.approx(0.5, abs=0.1)
        # A quarter of each order, but for PSM with an empty prefix, which looks like SPM.
        assert orders["psm"] / 400 == pytest.approx(0.25 * (1 - 13 / 49), abs=0.08)

    def test_cuts_are_uniform_and_the_row_keeps_its_length(self):
        n = 60
        objective = create("fill_in_the_middle", n + 4, fim_rate=1.0, spm_rate=0.0)
        batch = text_rows(4000, n + 4)
        batch.tokens[:, n] = EOD
        batch.tokens[:, n + 1 :] = PAD
        tokens = corrupt(objective, batch).inputs.tokens
        assert (
            np.sort(np.where(np.isin(tokens, (P, S, M, PAD, EOD)), 0, tokens))
            == np.sort(np.where(np.isin(batch.tokens, (PAD, EOD)), 0, batch.tokens))
        ).all()
        p, s, m, end = ((tokens == t).argmax(1) for t in (P, S, M, EOD))
        prefix, suffix, middle = s - p - 1, m - s - 1, end - m - 1
        for part in (prefix, suffix, middle):
            assert part.mean() == pytest.approx(n / 3, abs=1.0)
        assert (middle == 0).mean() == pytest.approx(1 / (n + 1), abs=0.008)
        full = corrupt(create("fill_in_the_middle", 16), text_rows(32, 16))
        assert full.inputs.tokens.shape == (32, 16)

    def test_nothing_is_rearranged_at_rate_zero(self):
        batch = toy_batch(8, 46, vocabulary=VOCABULARY, document_length=12)
        found = corrupt(create("fill_in_the_middle", 46, fim_rate=0.0), batch)
        plain = corrupt(create("causal_lm", 46), batch)
        jax.tree.map(np.testing.assert_array_equal, found, plain)


class TestMultiToken:
    def test_each_offset_stays_inside_its_document(self):
        tokens = np.array([[9, 10, 11, 12, EOD, 13, 14, EOD, PAD, PAD]], np.int32)
        one = np.zeros(1, np.int32)
        batch = TokenBatch(tokens=tokens, row_ids=one, first_document=one)
        objective = create(
            "multi_token", 10, future_weights=(0.5, 0.25, 0.1), isolate_documents=True
        )
        targets = corrupt(objective, batch).targets
        counts = [
            targets[t].loss_weights.sum() for t in ("clm", "mtp2", "mtp3", "mtp4")
        ]
        assert counts == [6, 4, 2, 1]
        np.testing.assert_array_equal(targets["mtp2"].values[0, :3], [11, 12, EOD])

    def test_terms_weigh_what_they_are_given(self):
        objective = create("multi_token", 10, future_weights=(0.5, 0.25))
        weights = {name: term.weight for name, term in objective.terms.items()}
        assert weights == {"clm": 1.0, "mtp2": 0.5, "mtp3": 0.25}
        assert objective.token_term == "clm"


@pytest.mark.parametrize(
    ("name", "length", "overrides", "message"),
    [
        ("masked_diffusion", 16, {"schedule": "linear"}, "'uniform'"),
        ("masked_next_token", 16, {"max_span_length": 0}, "max_span_length"),
        ("multi_token", 16, {"future_weights": ()}, "e.g. (0.5, 0.25)"),
        ("multi_token", 4, {"future_weights": (1.0,) * 3}, "at most"),
        ("fill_in_the_middle", 16, {"fim_rate": 2.0}, "fim_rate"),
    ],
)
def test_mistakes_are_refused(name, length, overrides, message):
    with pytest.raises(
        ValueError, match=message.replace("(", r"\(").replace(")", r"\)")
    ):
        create(name, length, **overrides)
