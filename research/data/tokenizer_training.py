"""Training tokenizers on a sample of text."""

from __future__ import annotations

import bisect
import collections
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from research.config.sections import TokenizerConfig
from research.data.errors import DataError
from research.data.roles import NAMES, sentinels
from research.data.tokenizer import Tokenizer

SPECIALS = [names[0] for names in NAMES.values()]
# As trainers take them. A mask stands for a word and the space before it.
_SPECIALS = [
    tokenizers.AddedToken(name, lstrip=name == NAMES["mask"][0], special=True)
    for name in SPECIALS
]
UNK = NAMES["unk"][0]

# How many characters of text to train on. Unigram's training time is that of 10 times
# as much text for the others.
SAMPLE_CHARACTERS = {"bpe": 16_000_000, "wordpiece": 16_000_000, "unigram": 2_000_000}

# Smallest number of pieces besides special tokens: all bytes, or a few characters.
MIN_PIECES = {"bpe": 256, "wordpiece": 64, "unigram": 64}

# Of a WordPiece vocabulary. More where the text needs them: characters that make up
# this share of it are in, and further ones where the words leave room.
USUAL_CHARACTERS = 1000
COVERAGE = 0.9999


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


def train(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """A tokenizer of exactly `config.vocab_size` ids; see `tokenizer` for their layout.

    The same texts give the same tokenizer, on any number of cores.

    Raises:
      DataError: an unknown kind, or a vocabulary without room for text.
    """
    check(config)
    num_trained = config.vocab_size - config.num_sentinels
    backend = KINDS[config.kind](list(texts), num_trained, config.lowercase)
    learned = backend.get_vocab_size(with_added_tokens=True)
    if learned > num_trained:
        raise DataError(
            f"The text has more different characters ({learned}) than "
            f"data.tokenizer.vocab_size={config.vocab_size} has room for; raise it."
        )
    backend.add_special_tokens([f"[unused{i}]" for i in range(num_trained - learned)])
    backend.add_special_tokens(
        [
            tokenizers.AddedToken(name, lstrip=True, special=True)
            for name in sentinels(config.num_sentinels)
        ]
    )
    return Tokenizer.of(backend.to_str())


def _bpe(texts: list[str], vocab_size: int, lowercase: bool) -> tokenizers.Tokenizer:
    """Byte-level BPE: any text, bit for bit (Radford et al. 2019)."""
    backend = tokenizers.Tokenizer(models.BPE())
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _wordpiece(
    texts: list[str], vocab_size: int, lowercase: bool
) -> tokenizers.Tokenizer:
    """BERT's: white space and punctuation split words, longest pieces first.

    The library numbers the ##characters, and picks rare characters, by the order of a
    hash table that differs from run to run; here both are given to it.
    """
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token=UNK))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(backend.normalizer.normalize_str(text))
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    ranked = [character for character in ranked if not character.isspace()]
    room = vocab_size - len(SPECIALS)
    limit = min(_num_characters(ranked, counts, room), room // 2)
    alphabet = sorted(ranked[:limit])
    continuations = [f"##{character}" for character in alphabet]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=_SPECIALS + continuations,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    definition = json.loads(backend.to_str())
    definition["added_tokens"] = definition["added_tokens"][: len(SPECIALS)]
    pieces = definition["model"]["vocab"]
    for character in ranked[limit : limit + (vocab_size - len(pieces)) // 2]:
        pieces |= {character: len(pieces), f"##{character}": len(pieces) + 1}
    return tokenizers.Tokenizer.from_str(json.dumps(definition))


def _num_characters(
    ranked: list[str], counts: collections.Counter[str], room: int
) -> int:
    """The usual number of characters, or as many as COVERAGE of the text takes."""
    usual = min(USUAL_CHARACTERS, room // 4)
    covered = list(itertools.accumulate(counts[character] for character in ranked))
    needed = bisect.bisect_left(covered, COVERAGE * covered[-1]) + 1 if covered else 0
    return max(usual, needed)


def _unigram(
    texts: list[str], vocab_size: int, lowercase: bool
) -> tokenizers.Tokenizer:
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
        special_tokens=_SPECIALS,
        unk_token=UNK,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    definition = json.loads(backend.to_str())
    definition["model"]["vocab"] = _canonical(definition["model"]["vocab"])
    return tokenizers.Tokenizer.from_str(json.dumps(definition))


def _canonical(vocabulary: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Unigram pieces whose scores do not depend on the order they were summed in.

    The last digits of a score, and the small steps (1e-4) by which the library tells
    the rarest characters apart, depend on the order of a hash table.
    """
    pieces = vocabulary[len(SPECIALS) :]
    lowest = min(score for _, score in pieces)
    step = 1e-4 * sum(len(piece) == 1 for piece, _ in pieces)
    rounded = [
        (
            piece,
            round(lowest if len(piece) == 1 and score < lowest + step else score, 6),
        )
        for piece, score in pieces
    ]
    ordered = sorted(rounded, key=lambda pair: (-pair[1], pair[0]))
    return [*vocabulary[: len(SPECIALS)], *ordered]


KINDS: dict[str, Callable[[list[str], int, bool], tokenizers.Tokenizer]] = {
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
}


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, the `tokenizers` library starts no threads of its own."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
