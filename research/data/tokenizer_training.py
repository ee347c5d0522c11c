"""Training tokenizers on a sample of text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from research.config import TokenizerConfig
from research.data.errors import DataError
from research.data.tokenizer import NAMES

SPECIALS = [names[0] for names in NAMES.values()]
UNK = NAMES["unk"][0]

# How many characters of text to train on. Unigram's training time is that of 10 times
# as much text for the others.
SAMPLE_CHARACTERS = {"bpe": 16_000_000, "wordpiece": 16_000_000, "unigram": 2_000_000}

# Smallest number of pieces besides special tokens: all bytes, or a few characters.
MIN_PIECES = {"bpe": 256, "wordpiece": 64, "unigram": 64}


def check(config: TokenizerConfig) -> None:
    """Refuses what cannot be trained, before any text is read.

    Raises:
      DataError: an unknown kind, or a vocabulary without room for text.
    """
    if config.kind not in KINDS:
        raise DataError(
            f"No tokenizer of kind {config.kind!r} can be trained; the kinds are "
            f"{', '.join(KINDS)}, or 'file' with data.tokenizer.path."
        )
    room = config.vocab_size - config.num_sentinels - len(SPECIALS)
    if room < MIN_PIECES[config.kind]:
        raise DataError(
            f"data.tokenizer.vocab_size={config.vocab_size} leaves room for {room} "
            f"pieces beside {len(SPECIALS)} special tokens and {config.num_sentinels} "
            f"sentinels; {config.kind} needs {MIN_PIECES[config.kind]} or more. Raise "
            "vocab_size or lower num_sentinels."
        )


def train(texts: Iterable[str], config: TokenizerConfig) -> tokenizers.Tokenizer:
    """A tokenizer of exactly `config.vocab_size` ids; see `tokenizer` for their layout.

    The same texts give the same tokenizer, on any number of cores.

    Raises:
      DataError: an unknown kind, or a vocabulary without room for text.
    """
    check(config)
    num_trained = config.vocab_size - config.num_sentinels
    backend, trainer = KINDS[config.kind](num_trained, config.lowercase)
    # Unigram sums expected counts as floats: the sum depends on how threads share it.
    with one_thread() if config.kind == "unigram" else _parallelism("true"):
        backend.train_from_iterator(texts, trainer)
    learned = backend.get_vocab_size(with_added_tokens=True)
    if learned > num_trained:
        raise DataError(
            f"The text has more different characters ({learned}) than "
            f"data.tokenizer.vocab_size={config.vocab_size} has room for; raise it."
        )
    backend.add_special_tokens([f"[unused{i}]" for i in range(num_trained - learned)])
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(config.num_sentinels))]
    backend.add_special_tokens(sentinels)
    return backend


def _bpe(vocab_size: int, lowercase: bool) -> tuple[tokenizers.Tokenizer, Any]:
    """Byte-level BPE: any text, bit for bit (Radford et al. 2019)."""
    backend = tokenizers.Tokenizer(models.BPE())
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    return backend, trainer


def _wordpiece(vocab_size: int, lowercase: bool) -> tuple[tokenizers.Tokenizer, Any]:
    """BERT's: white space and punctuation split words, longest pieces first."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token=UNK))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        limit_alphabet=min(1000, (vocab_size - len(SPECIALS)) // 4),
        show_progress=False,
    )
    return backend, trainer


def _unigram(vocab_size: int, lowercase: bool) -> tuple[tokenizers.Tokenizer, Any]:
    """Sentencepiece's unigram model (Kudo 2018); runs of white space become a space."""
    backend = tokenizers.Tokenizer(models.Unigram())
    steps = [
        normalizers.NFKC(),
        normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    if lowercase:
        steps.append(normalizers.Lowercase())
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        unk_token=UNK,
        show_progress=False,
    )
    return backend, trainer


KINDS: dict[str, Callable[[int, bool], tuple[tokenizers.Tokenizer, Any]]] = {
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
}


@contextmanager
def _parallelism(value: str) -> Iterator[None]:
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def one_thread():
    """Within it, the `tokenizers` library starts no threads of its own."""
    return _parallelism("false")
