"""Spans of noise: how many, how long, where, and how a row is taken apart along them.

Everything acts on one row (`jax.vmap` it) and has static shapes. Counts that follow
from static lengths are Python integers: rounding them in float32 inside the graph
gives other counts at some lengths.

Source: Raffel et al. 2020 (arXiv:1910.10683), section 3.1.4 and the reference
implementation, t5.data.preprocessors.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from objectives.corruption.selection import round_share
from objectives.corruption.streams import Stream, count_in_segment, pack


def span_counts(
    length: int, noise_density: float, mean_noise_span_length: float
) -> tuple[int, int]:
    """Noise tokens and noise spans of a row.

    Both are rounded half to even, and at least one token is noise and one is not:

        span_counts(568, 0.15, 3.0) == (85, 28)

    Args:
      length: tokens of the row.
      noise_density: share of noise, between 0 and 1 exclusive.
      mean_noise_span_length: tokens a span, between 1 and `length`.

    Raises:
      ValueError: for a row of fewer than two tokens, a rate or a mean out of range, or
        more spans than the tokens left over can keep apart.
    """
    if length < 2:
        raise ValueError(
            f"A row of {length} tokens cannot hold noise and something beside it: "
            f"row_length must be at least 2."
        )
    if not 0.0 < noise_density < 1.0:
        raise ValueError(f"noise_density = {noise_density}: must be > 0 and < 1.")
    if not 1.0 <= mean_noise_span_length <= length:
        raise ValueError(
            f"mean_noise_span_length = {mean_noise_span_length} in rows of {length} "
            f"tokens: must be between 1 and row_length."
        )
    num_noise = min(max(round_share(length, noise_density), 1), length - 1)
    num_spans = max(round(num_noise / mean_noise_span_length), 1)
    if num_spans > length - num_noise:
        raise ValueError(
            f"{num_spans} noise spans need as many kept tokens between them, and rows "
            f"of {length} tokens keep only {length - num_noise}: lower noise_density "
            f"(now {noise_density}) or raise mean_noise_span_length (now "
            f"{mean_noise_span_length})."
        )
    return num_noise, num_spans


def span_lengths(
    row_length: int, noise_density: float, mean_noise_span_length: float
) -> tuple[int, int]:
    """Inputs' and targets' lengths, each with its EOS, of rows of `row_length` tokens.

    span_lengths(568, 0.15, 3.0) == (512, 114)
    """
    num_noise, num_spans = span_counts(
        row_length, noise_density, mean_noise_span_length
    )
    return row_length - num_noise + num_spans + 1, num_noise + num_spans + 1


def raw_length(
    inputs_length: int, noise_density: float, mean_noise_span_length: float
) -> tuple[int, int]:
    """The row_length that fills `inputs_length`, and the targets' length it gives.

        inputs_length      64      128       256       512       1024       2048
        row, targets   70, 14  141, 29   284, 58  568, 114  1137, 229  2274, 456

    At a noise density of exactly one half the targets can come out longer than the
    inputs; a row then takes one token less (the reference's rule).

    Raises:
      ValueError: where `span_counts` refuses the lengths on the way.
    """
    if inputs_length < 3:
        raise ValueError(
            f"inputs_length = {inputs_length}: must be at least 3, for a token, a "
            f"sentinel and EOS."
        )

    def lengths(row_length):
        return span_lengths(row_length, noise_density, mean_noise_span_length)

    # Corruption never lengthens a row, so inputs_length - 1 tokens and EOS always fit.
    row_length = inputs_length - 1
    while lengths(row_length + 1)[0] <= inputs_length:
        row_length += 1
    if noise_density == 0.5 and lengths(row_length)[1] > inputs_length:
        row_length -= 1
    return row_length, lengths(row_length)[1]


def partition(scores: Float[Array, " G"], parts: int) -> Int[Array, " {parts}"]:
    """Splits G + 1 units into `parts` positive integers.

    Cuts the parts - 1 gaps between units that have the highest scores. If these are
    independent and uniform, every way of splitting is equally likely: a part has
    length l with probability C(G-l, parts-2) / C(G, parts-1).

        scores .1 .8 .3 .2 .5 .9, parts 3:   o o|o o o o|o   ->   2, 4, 1
    """
    total = scores.shape[0] + 1
    _, gaps = jax.lax.top_k(scores, parts - 1)
    cuts = jnp.sort(gaps.astype(jnp.int32)) + 1
    ends = jnp.concatenate([cuts, jnp.array([total], jnp.int32)])
    return jnp.diff(ends, prepend=0)


def mask_from_lengths(
    kept: Int[Array, " S"], noise: Int[Array, " S"], length: int
) -> Bool[Array, " {length}"]:
    """Kept and noise runs in turn, a kept run first: True = noise.

    kept = 2, 3, 1   noise = 2, 3, 1   ->   . . # # . . . # # # . #
    """
    runs = jnp.stack([kept, noise], axis=1).reshape(-1)
    starts = jnp.cumsum(runs)[:-1]
    switches = jnp.zeros(length, jnp.int32).at[starts].add(1)
    return jnp.cumsum(switches) % 2 == 1


def span_mask(
    rng: Array, length: int, noise_density: float, mean_noise_span_length: float
) -> Bool[Array, " {length}"]:
    """A mask with exactly `span_counts` tokens and spans, none of them adjacent.

    The first token is never noise and the last always is.
    """
    num_noise, num_spans = span_counts(length, noise_density, mean_noise_span_length)
    # One score for every gap between two kept or two noise tokens.
    scores = jax.random.uniform(rng, (length - 2,))
    kept = partition(scores[num_noise - 1 :], num_spans)
    noise = partition(scores[: num_noise - 1], num_spans)
    return mask_from_lengths(kept, noise, length)


def starts_of(
    mask: Bool[Array, " L"], segment_ids: Int[Array, " L"]
) -> Bool[Array, " L"]:
    """First token of each run of `mask`; a run ends where its segment does.

    segment_ids   1 1 1 1 2 2 2
    mask          . # # # # . #
    starts        . # . . # . #
    """
    same = jnp.diff(segment_ids, prepend=0) == 0
    previous = jnp.concatenate([jnp.zeros(1, bool), mask[:-1]])
    return mask & ~(previous & same)


def limit_noise(
    mask: Bool[Array, " L"],
    segment_ids: Int[Array, " L"],
    *,
    cost_of_span: int,
    max_spans: int,
    max_targets: int,
) -> Bool[Array, " L"]:
    """Turns noise back into kept tokens once it outgrows static targets.

    A noise token costs one target, a span's first `cost_of_span` more (1 with
    sentinels), and a segment's first one more (its EOS). Noise stays while the running
    cost is at most `max_targets`, in the first `max_spans` spans of its segment. For
    masks whose counts vary; the surplus sits at the row's end.
    """
    starts = starts_of(mask, segment_ids)
    first = mask & (count_in_segment(mask, segment_ids) == 1)
    cost = mask.astype(jnp.int32) + cost_of_span * starts + first
    spans = count_in_segment(starts, segment_ids)
    return mask & (jnp.cumsum(cost) <= max_targets) & (spans <= max_spans)


def split_row(
    row: Stream,
    noise: Bool[Array, " R"],
    terminators: Bool[Array, " R"],
    *,
    sentinel_ids: tuple[int, ...],
    eos_id: int,
    pad_id: int,
    inputs_length: int,
    targets_length: int,
) -> tuple[Stream, Stream]:
    """Takes a row apart into kept tokens and noise, a sentinel in place of each span.

        row       a  b  c  d  e  f  g  h          sentinels S0, S1, .. (EOS as $)
        noise     .  .  #  #  .  .  .  #
        inputs    a  b  S0 e  f  g  S1 $
        targets   S0 c  d  S1 h  $

    A segment is taken apart by itself: its sentinels begin at the first, its inputs
    end in EOS, and so do its targets, if it has noise at all. Padding goes nowhere.

    Args:
      row: R tokens.
      noise: what goes to the targets.
      terminators: tokens that end a segment and give way to its EOS.
      sentinel_ids: the markers in their order; () leaves no trace of a span.
      eos_id, pad_id: special ids.
      inputs_length, targets_length: static lengths; nothing may exceed them.
    """
    text = (row.segment_ids > 0) & ~terminators
    noise = noise & text
    last = (jnp.diff(row.segment_ids, append=-1) != 0) & (row.segment_ids > 0)
    spanned = last & (count_in_segment(noise, row.segment_ids) > 0)
    none = jnp.full_like(row.document_ids, -1)
    eos = jnp.full_like(row.tokens, eos_id)
    inputs = [
        (row.tokens, row.document_ids, text & ~noise),
        (eos, none, last),
    ]
    targets = [(row.tokens, row.document_ids, noise), (eos, none, spanned)]
    if sentinel_ids:
        starts = starts_of(noise, row.segment_ids)
        order = count_in_segment(starts, row.segment_ids)
        sentinels = jnp.array(sentinel_ids, jnp.int32)[jnp.maximum(order - 1, 0)]
        inputs.insert(0, (sentinels, none, starts))
        targets.insert(0, (sentinels, none, starts))
    return (
        _pack_columns(inputs, row.segment_ids, inputs_length, pad_id),
        _pack_columns(targets, row.segment_ids, targets_length, pad_id),
    )


def _pack_columns(columns, segment_ids, length, pad_id) -> Stream:
    """Packs several candidates (token, document, keep) a place, place by place."""
    tokens, document_ids, keep = (
        jnp.stack(parts, axis=1).reshape(-1) for parts in zip(*columns, strict=True)
    )
    slots = Stream(
        tokens=tokens,
        segment_ids=jnp.repeat(segment_ids, len(columns)),
        document_ids=document_ids,
    )
    return pack(slots, keep, length, pad_id)
