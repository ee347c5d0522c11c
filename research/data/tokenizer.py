"""Tokenizers: text to token ids and back, and what objectives know about the ids.

`tokenizer_training` trains them, `tokenizer_files` loads them from files of many kinds. One
trained here of size V with n sentinels has the ids

    0 .. 7          [PAD] [UNK] [CLS] [SEP] [MASK] [BOS] [EOS] [EOD]
    8 ..            learned pieces; then [unused0], [unused1], .. if the text gave fewer
    V - n .. V - 1  <extra_id_{n-1}> .. <extra_id_0>: the first sentinel is the last id
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tokenizers

from objectives.vocabulary import Vocabulary
from research.data import pieces, roles
from research.data.errors import DataError
from research.data.roles import COUNTS_FILE, NAMES, SPECIALS_FILE, TOKENIZER_FILE
from research.machine import checksums


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Tokenizer:
    """Token ids of text, without any framing.

    Attributes:
      definition: the tokenizer in the JSON format of the `tokenizers` library.
      special_ids: id of each role in NAMES, -1 where there is none.
      sentinel_ids: span markers, first sentinel first.
      unigram_counts: how often each id occurs in the training split, int64 [V], or None.
    """

    definition: str
    special_ids: Mapping[str, int]
    sentinel_ids: tuple[int, ...]
    unigram_counts: np.ndarray | None

    @classmethod
    def of(
        cls,
        definition: str,
        *,
        names: Mapping[str, str] | None = None,
        unigram_counts: np.ndarray | None = None,
    ) -> Tokenizer:
        """Wraps a tokenizer of the `tokenizers` library.

        Args:
          definition: the tokenizer as JSON.
          names: the token of each role, {'mask': '<mask>'}, before those in NAMES.
          unigram_counts: of the training split.
        """
        # The library changes the last digits of numbers whenever it reads and writes.
        values = json.loads(definition) | {"truncation": None, "padding": None}
        # BPE dropout (Provilkov et al. 2020) would give a text other tokens each time.
        if values["model"].get("dropout"):
            values["model"]["dropout"] = None
        definition = json.dumps(values, ensure_ascii=False)
        backend = tokenizers.Tokenizer.from_str(definition)
        vocabulary = backend.get_vocab(with_added_tokens=True)
        return cls(
            definition=definition,
            special_ids=roles.special_ids(vocabulary, names or {}),
            sentinel_ids=roles.sentinel_ids(vocabulary),
            unigram_counts=unigram_counts,
        )

    @functools.cached_property
    def _text_backend(self) -> tokenizers.Tokenizer:
        """Reads the names of special tokens as any other text."""
        backend = tokenizers.Tokenizer.from_str(
            _without_special_pieces(self.definition)
        )
        backend.encode_special_tokens = True
        return backend

    @functools.cached_property
    def _prompt_backend(self) -> tokenizers.Tokenizer:
        """Reads the names of special tokens as those tokens."""
        return tokenizers.Tokenizer.from_str(self.definition)

    def encode(self, text: str, *, parse_specials: bool = False) -> list[int]:
        """Token ids of a text, without [CLS], [SEP] or the like around it.

        With `parse_specials` the name of a special token in the text is that token, as
        a prompt wants it; without, it is text, so that no document can contain [EOD].
        """
        return self.encode_batch([text], parse_specials=parse_specials)[0]

    def encode_batch(
        self, texts: Sequence[str], *, parse_specials: bool = False
    ) -> list[list[int]]:
        """Token ids of each text, see `encode`; uses all cores."""
        backend = self._prompt_backend if parse_specials else self._text_backend
        found = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def begin(self) -> tuple[int, ...]:
        """What its own post-processor puts before a text (Llama: BOS)."""
        framed = self._prompt_backend.encode("a", add_special_tokens=True).ids
        bare = self._prompt_backend.encode("a", add_special_tokens=False).ids
        first = next((i for i, x in enumerate(framed) if x in bare[:1]), 0)
        return tuple(framed[:first])

    def encode_with_offsets(
        self, texts: Sequence[str]
    ) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Token ids of each text, and the characters [start, end) that each is of.

        A span may begin with the space before its word.
        """
        found = self._text_backend.encode_batch(list(texts), add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in found]

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of token ids; with `skip_special` that of the others only."""
        numbers = [int(number) for number in ids]
        return self._prompt_backend.decode(numbers, skip_special_tokens=skip_special)

    def token(self, number: int) -> str:
        """The piece with this id, as the vocabulary writes it, e.g. 'Ġthe'.

        Raises:
          ValueError: no piece has this id.
        """
        if not 0 <= number < self.vocab_size or not self.pieces[number]:
            raise ValueError(f"No token has the id {number}; V is {self.vocab_size}.")
        return self.pieces[number]

    @functools.cached_property
    def pieces(self) -> tuple[str, ...]:
        """The piece of every id, '' where an id has none."""
        vocabulary = self._prompt_backend.get_vocab(with_added_tokens=True)
        table = [""] * (max(vocabulary.values()) + 1)
        for token, number in vocabulary.items():
            table[number] = token
        return tuple(table)

    @property
    def vocab_size(self) -> int:
        """V, one more than the largest id."""
        return len(self.pieces)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes whenever any text would get other ids or an id another role."""
        identity = [self.definition, dict(self.special_ids), self.sentinel_ids]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def vocabulary(self, unigram_counts: np.ndarray | None = None) -> Vocabulary:
        """Special ids and tables over the vocabulary.

        Args:
          unigram_counts: int64 [V]; None = those it was saved with, if any.
        """
        counts = self.unigram_counts if unigram_counts is None else unigram_counts
        is_special = self._is_special()
        text = pieces.texts(self.definition, self.pieces)
        starts = text.is_word_start
        return Vocabulary(
            vocab_size=self.vocab_size,
            **{f"{role}_id": number for role, number in self.special_ids.items()},
            sentinel_ids=self.sentinel_ids,
            is_special=is_special,
            is_word_start=None if starts is None else starts | is_special,
            is_sentence_end=text.is_sentence_end & ~is_special,
            unigram_counts=np.zeros(0, np.int64) if counts is None else counts,
            byte_lengths=np.where(is_special, 0, text.num_bytes).astype(np.int32),
        )

    def _is_special(self) -> np.ndarray:
        added = self._prompt_backend.get_added_tokens_decoder()
        special = {number for number, token in added.items() if token.special}
        special |= {number for number in self.special_ids.values() if number >= 0}
        special |= set(self.sentinel_ids)
        return np.array(
            [
                number in special or not piece or bool(roles.UNUSED.fullmatch(piece))
                for number, piece in enumerate(self.pieces)
            ]
        )

    def extend(self, names: Sequence[str], *, num_sentinels: int = 0) -> Tokenizer:
        """Appends the special tokens that are missing, at the end of the vocabulary.

        Args:
          names: as `Vocabulary` names them: 'mask_id', 'sentinel_ids', ...; those that
            exist already are left as they are.
          num_sentinels: how many sentinels to append where there are none; the first
            one gets the last id.

        Raises:
          ValueError: a name that stands for no special token.
        """
        wanted = [name.removesuffix("_id") for name in names if name != "sentinel_ids"]
        unknown = [role for role in wanted if role not in NAMES]
        if unknown:
            valid = ", ".join([*(f"{role}_id" for role in NAMES), "sentinel_ids"])
            raise ValueError(f"Not special tokens: {unknown}; those known are {valid}.")
        added = [NAMES[role][0] for role in wanted if self.special_ids[role] < 0]
        if "sentinel_ids" in names and not self.sentinel_ids:
            added += roles.sentinels(num_sentinels)
        backend = tokenizers.Tokenizer.from_str(self.definition)
        backend.add_special_tokens(added)
        return Tokenizer.of(backend.to_str(), names=self._role_names())

    def save(self, folder: str | pathlib.Path) -> None:
        """Writes what `tokenizer_files.load` reads into a folder."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tokens = {f"{role}_token": token for role, token in self._role_names().items()}
        if self.unigram_counts is not None:
            counts = io.BytesIO()
            np.save(counts, self.unigram_counts)
            checksums.write(folder / COUNTS_FILE, counts.getvalue())
        checksums.write(folder / SPECIALS_FILE, json.dumps(tokens, indent=1) + "\n")
        # Last: where this file is, the others are.
        checksums.write(folder / TOKENIZER_FILE, self.definition)

    def _role_names(self) -> dict[str, str]:
        return {
            role: self.pieces[number]
            for role, number in self.special_ids.items()
            if number >= 0
        }

    def require_separator(self) -> int:
        """The id that ends documents in a token store.

        Raises:
          DataError: there is none.
        """
        number = self.special_ids["eod"]
        if number < 0:
            raise DataError(
                "This tokenizer has no token to separate documents with: none of "
                f"{', '.join(NAMES['eod'])}. Add one to tokenizer.json as a special "
                "token, or train a tokenizer with data.tokenizer.kind=bpe."
            )
        return number


def _without_special_pieces(definition: str) -> str:
    """The tokenizer with special tokens that no text can spell.

    A unigram model has them among its pieces and would find them in a text; a space
    before the name prevents it, since pieces have no spaces.
    """
    values = json.loads(definition)
    if values["model"]["type"] != "Unigram":
        return definition
    special = {token["content"] for token in values["added_tokens"] if token["special"]}
    for token in values["added_tokens"]:
        token["content"] = " " * token["special"] + token["content"]
    values["model"]["vocab"] = [
        (" " * (piece in special) + piece, score)
        for piece, score in values["model"]["vocab"]
    ]
    return json.dumps(values)
