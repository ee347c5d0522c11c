"""NumPy restatements of the denoising objectives, one token at a time.

They follow the published procedures and share no code with objectives/: T5's
segmentation by shuffled flags, its assembly by walking over the row, and BART's
infilling by walking over words.
"""

from __future__ import annotations

import fractions
import functools
import math

import jax
import numpy as np
from flax import nnx

import models
import objectives
from experiments import presets
from tests.helpers import EOD, EOS, PAD, tiny_config, toy_vocabulary

VOCABULARY = toy_vocabulary()
# Tests spend their time compiling, not running.
FAST_COMPILATION = {"xla_backend_optimization_level": 0}


def create(name, row_length, architecture="encoder_decoder", vocabulary=None, **over):
    """An objective with the presets' hyperparameters and some changed."""
    vocabulary = VOCABULARY if vocabulary is None else vocabulary
    return _create(name, row_length, architecture, vocabulary, tuple(over.items()))


@functools.cache
def _create(name, row_length, architecture, vocabulary, over):
    return objectives.create(
        name,
        {name: {**presets.OBJECTIVES[name], **dict(over)}},
        vocabulary=vocabulary,
        row_length=row_length,
        architecture=architecture,
    )


def stream_lengths(objective) -> tuple[int, int]:
    """Lengths of inputs and targets."""
    (targets,) = objective.lengths.targets.values()
    lengths = objective.lengths
    return lengths.encoder or lengths.inputs - targets, targets


@functools.cache
def compiled(objective):
    """The objective's corruption, compiled once however often it is used."""
    return jax.jit(objective.corrupt, compiler_options=FAST_COMPILATION)


def shapes(objective, batch):
    """What corruption returns, without compiling it."""
    return jax.eval_shape(objective.corrupt, jax.random.key(0), batch)


def corrupt(objective, batch, seed=0):
    return compiled(objective)(jax.random.key(seed), batch)


@functools.cache
def tiny_model(architecture):
    """A random model and its compiled call, with weights large enough to tell."""
    model = models.create(tiny_config(architecture, init_stddev=0.3), rngs=nnx.Rngs(0))
    return jax.jit(lambda inputs: model(inputs), compiler_options=FAST_COMPILATION)


def rounded(value: fractions.Fraction) -> int:
    """Half to even."""
    return round(value)


def span_counts(length: int, density: str, mean: str) -> tuple[int, int]:
    """Noise tokens and spans, in exact fractions."""
    noise = rounded(length * fractions.Fraction(density))
    noise = min(max(noise, 1), length - 1)
    return noise, max(rounded(noise / fractions.Fraction(mean)), 1)


def span_mask(rng, length: int, density: str = "0.15", mean: str = "3") -> np.ndarray:
    """T5's random spans: flags that say where a segment begins, shuffled."""
    noise, spans = span_counts(length, density, mean)

    def segmentation(items):
        begins = np.arange(items - 1) < spans - 1
        rng.shuffle(begins)
        segment = np.cumsum(np.concatenate([[0], begins]))
        return np.bincount(segment, minlength=spans)

    kept = segmentation(length - noise)
    noisy = segmentation(noise)
    mask = []
    for keep, drop in zip(kept, noisy, strict=True):
        mask += [False] * keep + [True] * drop
    return np.array(mask)


def runs(mask) -> list[tuple[int, int]]:
    """(start, length) of every run of True."""
    found, start = [], None
    for index, value in enumerate([*mask, False]):
        if value and start is None:
            start = index
        if not value and start is not None:
            found.append((start, index - start))
            start = None
    return found


def split_document(tokens, mask, sentinels):
    """Inputs and targets of one document, EOS included; no targets without noise."""
    inputs, targets, used, inside = [], [], 0, False
    for token, noise in zip(tokens, mask, strict=True):
        if noise and not inside:
            if sentinels:
                inputs.append(sentinels[used])
                targets.append(sentinels[used])
            used += 1
        (targets if noise else inputs).append(int(token))
        inside = bool(noise)
    return inputs + [EOS], targets + [EOS] if targets else []


def split_row(tokens, segments, mask, sentinels, isolated: bool):
    """(inputs, their segments), (targets, their segments) of a row, without padding."""
    streams = [[], []], [[], []]
    for segment in sorted(set(segments) - {0}):
        inside = np.flatnonzero(np.asarray(segments) == segment)
        if isolated:
            inside = np.array([i for i in inside if tokens[i] != EOD], int)
        parts = split_document(
            [tokens[i] for i in inside], [mask[i] for i in inside], sentinels
        )
        for stream, part in zip(streams, parts, strict=True):
            stream[0].extend(part)
            stream[1].extend([int(segment)] * len(part))
    return streams


def padded(values, length: int, fill: int = PAD) -> list[int]:
    assert len(values) <= length
    return [*values, *[fill] * (length - len(values))]


def reconstruct(inputs, targets, sentinels) -> list[int]:
    """The row that span corruption took apart."""
    spans, current = {}, None
    for token in targets:
        if token in sentinels:
            current = token
            spans[current] = []
        elif token not in (EOS, PAD):
            spans[current].append(int(token))
    row = []
    for token in inputs:
        if token in spans:
            row += spans.pop(token)
        elif token not in (EOS, PAD):
            row.append(int(token))
    assert not spans
    return row


def unshift(decoded, targets, start: int) -> None:
    """Checks that decoder inputs are the targets moved right."""
    assert list(decoded) == [start, *list(targets)[:-1]]


def bart_lengths(rng, budget: int, mean: float) -> tuple[list[int], int]:
    """Poisson lengths that sum to the budget, and how many were zero."""
    lengths, zeros = [], 0
    while sum(lengths) < budget:
        length = int(rng.poisson(mean))
        length = min(length, budget - sum(lengths))
        zeros += length == 0
        lengths += [length] if length else []
    return lengths, zeros


def bart_cover(spans, eligible, starts) -> tuple[np.ndarray, np.ndarray]:
    """Walks every span (token, words) to its end: masked and deleted tokens."""
    size = len(eligible)
    masked = np.zeros(size, bool)
    deleted = np.zeros(size, bool)
    for start, _ in spans:
        masked[start] = True
    for start, words in spans:
        index, left = start + 1, words - 1
        while index < size and eligible[index]:
            left -= bool(starts[index])
            if left < 0:
                break
            deleted[index] = True
            index += 1
    return masked & ~deleted, deleted


def bart_source_length(rng, words: int, density: str, mean: float):
    """Of a row of one-token words: length with <s> and </s>, masks, hidden words."""
    budget = math.ceil(words * fractions.Fraction(density))
    lengths, zeros = bart_lengths(rng, budget, mean)
    places = rng.permutation(words)[: len(lengths)]
    spans = list(zip(places, lengths, strict=True))
    ones = np.ones(words, bool)
    masked, deleted = bart_cover(spans, ones, ones)
    hidden = int((masked | deleted).sum())
    return words - int(deleted.sum()) + zeros + 2, int(masked.sum()) + zeros, hidden
