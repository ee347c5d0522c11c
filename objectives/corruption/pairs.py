"""Rows cut in two, and two segments framed as one sequence."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models.inputs import ModelInputs
from models.pytree import pytree
from objectives.corruption import rows
from objectives.corruption.runs import runs
from objectives.types import Example
from objectives.vocabulary import Vocabulary


@pytree
class Segments:
    """One stretch of tokens for each row of the batch, perhaps of another row.

    Attributes:
      rows: where in the batch the tokens are.
      starts: index of the first token.
      lengths: number of tokens, 0 = none.
    """

    rows: Int[Array, " B"]
    starts: Int[Array, " B"]
    lengths: Int[Array, " B"]


@pytree
class Pairs:
    """Every row cut in two.

    Attributes:
      first, second: consecutive segments of one document.
      documents: its corpus-wide number.
      exists: whether there was a place to cut; if not, `second` is empty.
      ends: what a segment that ended with the token would look like, as a number.
    """

    first: Segments
    second: Segments
    documents: Int[Array, " B"]
    exists: Bool[Array, " B"]
    ends: Int[Array, "B R"]


def cut_rows(
    scores: Float[Array, "B R"],
    example: Example,
    vocabulary: Vocabulary,
    *,
    halves: bool,
) -> Pairs:
    """Cuts each row's longest document that can be cut, after a random sentence.

        tokens    sat  .  it  purred  .  [EOD]  rain  fell  .  all
        document  5    5  5   5       5  5      6     6     6  6
        cuts           |      5 tokens: longest                      -> sat . | it ..
        halves    left out    one sentence      no cut               -> none

    Args:
      scores: [B, R], uniform; the cut is where its score is highest.
      example: clean rows.
      vocabulary: knows where sentences end.
      halves: leave out the sentence that the row's beginning may have cut, and prefer
        the cuts near the middle.
    """
    tokens = example.inputs.tokens
    length = tokens.shape[1]
    index = jnp.arange(length, dtype=jnp.int32)[None]
    text = (example.document_ids >= 0) & (tokens != vocabulary.eod_id)
    ends = rows.sentence_ends(tokens, vocabulary) & (example.document_ids >= 0)
    # Of several ends in a row ('?', '!', a line break) only the last is a place to cut.
    cuts = ends & ~jnp.pad(ends[:, 1:], ((0, 0), (0, 1)))
    usable = text
    if halves:
        usable = text & (index > jnp.where(cuts, index, length).min(1, keepdims=True))
    start, end = runs(usable)
    if halves:
        scores = scores * jnp.minimum(index + 1 - start, end - 1 - index)
    size = jnp.where(usable & cuts & (index < end - 1), end - start, 0)
    longest = size.max(1, keepdims=True)
    exists = longest[:, 0] > 0
    cut = jnp.where((size == longest) & (size > 0), scores, -1.0).argmax(1)

    # Rows without a cut: their longest document is all there is.
    whole_start, whole_end = runs(text)
    fallback = jnp.where(text, whole_end - whole_start, 0).argmax(1)

    def at(values: Array, places: Array) -> Array:
        return jnp.take_along_axis(values, places[:, None], axis=1)[:, 0]

    def choose(values: Array, otherwise: Array) -> Array:
        return jnp.where(exists, at(values, cut), at(otherwise, fallback))

    starts, stops = choose(start, whole_start), choose(end, whole_end)
    middle = jnp.where(exists, cut.astype(jnp.int32) + 1, stops)
    own = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    return Pairs(
        first=Segments(rows=own, starts=starts, lengths=middle - starts),
        second=Segments(rows=own, starts=middle, lengths=stops - middle),
        documents=choose(example.document_ids, example.document_ids),
        exists=exists,
        ends=_kinds_of_ends(tokens, text, vocabulary),
    )


def _kinds_of_ends(
    tokens: Int[Array, "B R"], text: Bool[Array, "B R"], vocabulary: Vocabulary
) -> Int[Array, "B R"]:
    """1 for a full stop, 2 at the end of a word, 4 of a text and 8 of the row, added.

    tokens  it  stop  ##ped  .  [EOD]  no  .  but
    kinds   2   0     2      7  -      2   3  14
    """
    is_stop = jnp.asarray(vocabulary.is_sentence_end)[tokens].astype(jnp.int32)
    ends_text = jnp.pad(~text[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    ends_word = jnp.zeros_like(text)
    if vocabulary.is_word_start is not None:
        starts = jnp.asarray(vocabulary.is_word_start)[tokens]
        ends_word = jnp.pad(starts[:, 1:], ((0, 0), (0, 1))) | ends_text
    ends_row = jnp.arange(tokens.shape[1])[None] == tokens.shape[1] - 1
    return is_stop + 2 * ends_word + 4 * ends_text + 8 * ends_row


def common_lengths(
    ends: Int[Array, "B R"], some: Segments, others: Segments
) -> Int[Array, " B"]:
    """The largest length at which two segments would end alike; 0 if there is none.

    some    it  purred  .            ends  2  2  7
    others  all  day  it  fell  .    ends  2  2  2  2  7     ->   2
    """
    index = jnp.arange(ends.shape[1], dtype=jnp.int32)[None]

    def ends_of(segments: Segments) -> Array:
        column = jnp.minimum(segments.starts[:, None] + index, ends.shape[1] - 1)
        return ends[segments.rows[:, None], column]

    inside = index < jnp.minimum(some.lengths, others.lengths)[:, None]
    alike = inside & (ends_of(some) == ends_of(others))
    return jnp.where(alike, index + 1, 0).max(1)


def frame_pairs(
    example: Example, first: Segments, second: Segments, vocabulary: Vocabulary
) -> Example:
    """``[CLS] first [SEP] second [SEP]``, three tokens longer than the rows.

        tokens          [CLS]  a   b   [SEP]  c   [SEP]  [PAD]
        token_type_ids  0      0   0   0      1   1      0
        segment_ids     1      1   1   1      1   1      0
        document_ids    -1     7   7   -1     9   -1     -1

    Without a second segment it is ``[CLS] first [SEP]``.
    """
    length = example.inputs.tokens.shape[1] + 3
    index = jnp.arange(length, dtype=jnp.int32)[None]
    a, b = first.lengths[:, None], second.lengths[:, None]
    in_first = (index >= 1) & (index <= a)
    in_second = (index >= a + 2) & (index < a + 2 + b)
    is_sep = (index == a + 1) | ((index == a + 2 + b) & (b > 0))
    count = a + 2 + jnp.where(b > 0, b + 1, 0)
    row = jnp.where(in_second, second.rows[:, None], first.rows[:, None])
    column = jnp.where(
        in_second,
        second.starts[:, None] + index - (a + 2),
        first.starts[:, None] + index - 1,
    )
    is_text = in_first | in_second
    source = (row, jnp.where(is_text, column, 0))
    tokens = jnp.asarray(example.inputs.tokens)[source]
    tokens = jnp.where(is_text, tokens, vocabulary.pad_id)
    tokens = jnp.where(index == 0, vocabulary.cls_id, tokens)
    tokens = jnp.where(is_sep, vocabulary.sep_id, tokens)
    documents = jnp.asarray(example.document_ids)[source]
    return example.replace(
        inputs=ModelInputs(
            tokens=tokens,
            segment_ids=(index < count).astype(jnp.int32),
            positions=jnp.broadcast_to(index, tokens.shape),
            token_type_ids=((index >= a + 2) & (index < count)).astype(jnp.int32),
        ),
        document_ids=jnp.where(is_text, documents, -1),
        framed=True,
    )
