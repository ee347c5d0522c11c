"""A toy vocabulary, toy rows and tiny models, shared by all tests."""

from __future__ import annotations

import functools
import os
import pathlib

import jax
import numpy as np

from experiments import presets
from models.transformer.config import TransformerConfig
from objectives.types import TokenBatch
from objectives.vocabulary import Vocabulary

# Real data, for who has it; the project ships no text of others.
DATA = pathlib.Path(os.environ.get("PALIMPSEST_DATA", "../shared/data"))

# jax.jit that takes less than half of the time to compile; what it runs is slow.
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)

# Ids of the toy vocabulary: 8 special ones, then text, then sentinels at the top.
PAD, UNK, CLS, SEP, MASK, BOS, EOS, EOD = range(8)
FIRST_TEXT = 8
FULL_STOP = 8  # the one token that ends a sentence


def toy_vocabulary(
    vocab_size: int = 512, num_sentinels: int = 256, seed: int = 0
) -> Vocabulary:
    """Text ids: three of four begin a word; counts fall as 1 / rank."""
    rng = np.random.default_rng(seed)
    num_text = vocab_size - num_sentinels - FIRST_TEXT
    assert num_text > 8
    is_special = np.ones(vocab_size, bool)
    is_special[FIRST_TEXT : FIRST_TEXT + num_text] = False
    is_word_start = np.zeros(vocab_size, bool)
    text = slice(FIRST_TEXT, FIRST_TEXT + num_text)
    is_word_start[text] = rng.random(num_text) < 0.75
    is_word_start[FULL_STOP] = True
    is_word_start[FULL_STOP + 1] = True
    is_word_start[FULL_STOP + 2] = False
    is_sentence_end = np.zeros(vocab_size, bool)
    is_sentence_end[FULL_STOP] = True
    unigram_counts = np.zeros(vocab_size, np.int64)
    unigram_counts[text] = 10_000 // np.arange(1, num_text + 1)
    return Vocabulary(
        vocab_size=vocab_size,
        pad_id=PAD,
        unk_id=UNK,
        cls_id=CLS,
        sep_id=SEP,
        mask_id=MASK,
        bos_id=BOS,
        eos_id=EOS,
        eod_id=EOD,
        sentinel_ids=tuple(vocab_size - 1 - i for i in range(num_sentinels)),
        is_special=is_special,
        is_word_start=is_word_start,
        is_sentence_end=is_sentence_end,
        unigram_counts=unigram_counts,
        byte_lengths=np.where(is_special, 0, 4).astype(np.int32),
    )


def toy_batch(
    batch_size: int,
    row_length: int,
    *,
    vocabulary: Vocabulary,
    seed: int = 0,
    document_length: int | None = 40,
    sentence_length: int = 8,
    first_row: int = 0,
) -> TokenBatch:
    """Rows of one stream of random documents, as the loader gives them.

    Args:
      batch_size, row_length: B and R.
      vocabulary: of `toy_vocabulary`.
      seed: of the tokens.
      document_length: mean tokens of a document; None = no ``[EOD]`` anywhere, every
        row its own document.
      sentence_length: mean tokens of a sentence.
      first_row: number of the first row.
    """
    rng = np.random.default_rng(seed)
    text = np.flatnonzero(~vocabulary.is_special)
    size = batch_size * row_length
    stream = rng.choice(text[1:], size).astype(np.int32)
    stream[rng.random(size) < 1.0 / sentence_length] = FULL_STOP
    first_document = np.arange(batch_size, dtype=np.int32)
    if document_length is not None:
        is_end = rng.random(size) < 1.0 / document_length
        stream[is_end] = vocabulary.eod_id
        before = np.cumsum(is_end) - is_end
        first_document = before.reshape(batch_size, row_length)[:, 0].astype(np.int32)
    return TokenBatch(
        tokens=stream.reshape(batch_size, row_length),
        row_ids=np.arange(first_row, first_row + batch_size, dtype=np.int32),
        first_document=first_document,
    )


def take_rows(batch: TokenBatch, index) -> TokenBatch:
    """Some rows of a batch."""
    return TokenBatch(
        tokens=batch.tokens[index],
        row_ids=batch.row_ids[index],
        first_document=batch.first_document[index],
    )


def tiny_config(architecture: str, **overrides) -> TransformerConfig:
    """A model of one layer and 16 features for the toy vocabulary."""
    values = {
        "vocab_size": 512,
        "num_layers": 1,
        "emb_dim": 16,
        "num_heads": 2,
        "mlp_dim": 32,
        "num_token_types": 2,
        "dropout_rate": 0.0,
        **overrides,
    }
    config = presets.model("tiny", architecture=architecture, **values)
    return TransformerConfig(**config.to_dict())
