"""From rows of clean tokens to model inputs: documents, frames, words, sentences.

Everything an objective needs to know about a row follows from its tokens and the tables
of the vocabulary, so it is computed here, on the device.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from models.inputs import ModelInputs
from objectives.types import Example, TokenBatch
from objectives.vocabulary import Vocabulary


def clean(batch: TokenBatch, vocabulary: Vocabulary) -> Example:
    """Rows as they are: one segment, no targets, not framed.

    tokens        the  cat  [EOD]  a   dog  [PAD]
    segment_ids   1    1    1      1   1    0
    positions     0    1    2      3   4    5
    document_ids  7    7    7      8   8    -1     (first_document 7)
    """
    tokens = jnp.asarray(batch.tokens)
    real = jnp.ones(tokens.shape, bool)
    # A tokenizer with one special token (GPT-2) has no padding.
    if vocabulary.pad_id != vocabulary.eod_id:
        real = jnp.not_equal(tokens, vocabulary.pad_id)
    documents = document_ids(
        tokens, jnp.asarray(batch.first_document), vocabulary.eod_id
    )
    inputs = ModelInputs(
        tokens=tokens,
        segment_ids=real.astype(jnp.int32),
        positions=indices(tokens),
    )
    return Example(
        inputs=inputs,
        targets={},
        row_ids=jnp.asarray(batch.row_ids),
        document_ids=jnp.where(real, documents, -1),
    )


def document_ids(
    tokens: Int[Array, "B L"], first_document: Int[Array, " B"], eod_id: int
) -> Int[Array, "B L"]:
    """Corpus-wide document number of every token; ``[EOD]`` belongs to what it ends."""
    is_eod = (tokens == eod_id).astype(jnp.int32)
    return first_document[:, None] + jnp.cumsum(is_eod, axis=1) - is_eod


def isolate(example: Example) -> Example:
    """Segments and positions that begin anew at each document; before framing only.

        tokens        the  cat  [EOD]  a   dog
        segment_ids   1    1    1      2   2
        positions     0    1    2      0   1

    Raises:
      ValueError: if the example is framed, when documents no longer follow each other.
    """
    if example.framed:
        raise ValueError(
            "Documents cannot be isolated once [CLS] and [SEP] are in place: a pair of "
            "segments is one sequence. Set isolate_documents=False."
        )
    documents = example.document_ids
    segments = jnp.where(documents < 0, 0, documents - documents[:, :1] + 1)
    index = indices(documents)
    starts = segments != _shift_right(segments, fill=-1)
    first = jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    inputs = dataclasses.replace(
        example.inputs, segment_ids=segments, positions=index - first
    )
    return example.replace(inputs=inputs)


def read_both_ways(inputs: ModelInputs, architecture: str) -> ModelInputs:
    """Inputs whose positions all see each other, on a decoder stack as on an encoder."""
    if architecture != "decoder":
        return inputs
    return dataclasses.replace(inputs, reads="both")


def frame(example: Example, vocabulary: Vocabulary) -> Example:
    """``[CLS] row [SEP]``, two tokens longer; a framed example is returned as it is.

    ``[CLS]`` joins the segment of the first token, ``[SEP]`` that of the last.

        before  the  cat  sat  [PAD]
        after   [CLS]  the  cat  sat  [SEP]  [PAD]
    """
    if example.framed:
        return example
    inputs = example.inputs
    count = (inputs.segment_ids > 0).sum(1, keepdims=True, dtype=jnp.int32)
    index = indices(jnp.zeros_like(inputs.tokens, shape=_longer(inputs.tokens, 2)))
    is_cls, is_sep = index == 0, index == count + 1
    is_text = (index > 0) & (index <= count)
    # Where each slot takes its text from; the frame looks at its neighbour.
    source = jnp.clip(index - 1, 0, jnp.maximum(count - 1, 0))

    def gather(x):
        return jnp.take_along_axis(x, source, axis=1)

    tokens = jnp.where(is_text, gather(inputs.tokens), vocabulary.pad_id)
    tokens = jnp.where(is_cls, vocabulary.cls_id, tokens)
    tokens = jnp.where(is_sep, vocabulary.sep_id, tokens)
    segments = jnp.where(index < count + 2, gather(inputs.segment_ids), 0)
    segments = jnp.where((is_cls | is_sep) & (segments == 0), 1, segments)
    in_first = segments == segments[:, :1]
    inside = gather(inputs.positions) + is_sep.astype(jnp.int32)
    return example.replace(
        inputs=ModelInputs(
            tokens=tokens,
            segment_ids=segments,
            positions=jnp.where(in_first | (segments == 0), index, inside),
        ),
        document_ids=jnp.where(is_text, gather(example.document_ids), -1),
        framed=True,
    )


def eligible(inputs: ModelInputs, vocabulary: Vocabulary) -> Bool[Array, "B L"]:
    """Tokens that may be corrupted: real ones that are not special.

    ``[UNK]`` is eligible, as in BERT: it stands for text. ``[EOD]`` is not.
    """
    special = jnp.asarray(vocabulary.is_special)[inputs.tokens]
    text = ~special | (inputs.tokens == vocabulary.unk_id)
    return text & (inputs.segment_ids > 0)


def follows(inputs: ModelInputs) -> Bool[Array, "B L"]:
    """Tokens with one of the same segment before them."""
    segments = inputs.segment_ids
    return (segments > 0) & (_shift_right(segments, fill=0) == segments)


def tokens_ahead(
    inputs: ModelInputs, offset: int
) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """The token `offset` positions ahead, and whether it is in the same segment.

    tokens 5 6 7 8, segments 1 1 1 2, offset 2  ->  7 8 0 0  and  1 0 0 0
    """

    def ahead(x: Array) -> Array:
        return jnp.pad(x[:, offset:], ((0, 0), (0, offset)))

    segments = inputs.segment_ids
    return ahead(inputs.tokens), (ahead(segments) == segments) & (segments > 0)


def document_starts(example: Example) -> Bool[Array, "B L"]:
    """First token in the row of each document."""
    ids = example.document_ids
    return (ids >= 0) & (_shift_right(ids, fill=-1) != ids)


def word_ids(
    tokens: Int[Array, "B L"],
    eligible: Bool[Array, "B L"],
    vocabulary: Vocabulary,
    longest: int | Int[Array, " B"],
) -> Int[Array, "B L"]:
    """Number of the word in its row, 0, 1, ..; -1 where a token is not eligible.

    A word begins at a word start and after anything ineligible, so that the rest of a
    word at the beginning of a row is a word. One of more than `longest` tokens (a URL,
    a text without spaces) is cut into several.

        tokens    [CLS]  ##ing  play  ##ed  [EOD]  game  [SEP]
        word_ids  -1     0      1     1     -1     2     -1
    """
    starts = word_starts(tokens, eligible, vocabulary, longest)
    numbers = jnp.cumsum(starts, axis=1, dtype=jnp.int32) - 1
    return jnp.where(eligible, numbers, -1)


def word_starts(
    tokens: Int[Array, "B L"],
    eligible: Bool[Array, "B L"],
    vocabulary: Vocabulary,
    longest: int | Int[Array, " B"],
) -> Bool[Array, "B L"]:
    """Eligible tokens that begin a word; see `word_ids`."""
    starts = jnp.asarray(vocabulary.is_word_start)[tokens]
    starts = eligible & (starts | ~_shift_right(eligible, fill=False))
    index = indices(tokens)
    inside = index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    return eligible & (inside % jnp.reshape(longest, (-1, 1)) == 0)


def sentence_ends(
    tokens: Int[Array, "B L"], vocabulary: Vocabulary
) -> Bool[Array, "B L"]:
    """Tokens that end a sentence; the end of a document is one.

    A full stop inside a word ("3.14") ends nothing: the next token has to begin a
    word, where the vocabulary knows. A line break, and a full stop with a space before
    it, are words of their own and end a sentence whatever follows.
    """
    ends = jnp.asarray(vocabulary.is_sentence_end)[tokens]
    if vocabulary.is_word_start is not None:
        starts = jnp.asarray(vocabulary.is_word_start | vocabulary.is_special)[tokens]
        ends &= starts | _shift_left(starts, fill=True)
    return ends | (tokens == vocabulary.eod_id)


def indices(x: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """0, 1, 2.. along each row, whatever stands there."""
    return jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32)[None], x.shape)


def _longer(x: Array, by: int) -> tuple[int, int]:
    return (x.shape[0], x.shape[1] + by)


def _shift_right(x: Array, *, fill: int | bool) -> Array:
    """Element i becomes i + 1's; `fill` enters on the left."""
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=fill)


def _shift_left(x: Array, *, fill: int | bool) -> Array:
    """Element i + 1 becomes i's; `fill` enters on the right."""
    return jnp.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=fill)
