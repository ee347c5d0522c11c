"""Tokenizers from files, with the ids that their authors gave.

tokenizer.json                                the `tokenizers` library
vocab.txt                                     BERT (WordPiece)
encoder.json, vocab.bpe                       GPT-2 (also vocab.json, merges.txt)
*.model                                       sentencepiece, unigram (T5)
a folder                                      the first of these that it holds
"""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from research.data.errors import DataError
from research.data.roles import (
    COUNTS_FILE,
    FRAMES,
    NAMES,
    SPECIALS_FILE,
    TOKENIZER_FILE,
    sentinels,
)
from research.data.tokenizer import Tokenizer
from research.machine import checksums
from research.machine.files import read_json

CONFIG_FILE = "tokenizer_config.json"
VOCABULARY_FILES = ("encoder.json", "vocab.json")
MERGES_FILES = ("vocab.bpe", "merges.txt")
T5_SENTINELS = 100


def load(path: str | pathlib.Path) -> Tokenizer:
    """Loads the tokenizer in a file or folder.

    Raises:
      DataError: there is nothing of a known kind, or it is damaged.
      Damaged: a file has changed since it was written here.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        folder, file = path, _find(path)
    elif path.is_file():
        folder, file = path.parent, path
    else:
        raise DataError(
            f"Tokenizer {str(path)!r} not found. Give data.tokenizer.path a file or a "
            f"folder of one of these kinds:\n{_kinds()}"
        )
    checksums.check(folder)
    settings = _settings(folder) if path.is_dir() else {}
    with _reading(file):
        definition = _read(file, settings)
    names = {
        role: token
        for role in NAMES
        if (token := _content(settings.get(f"{role}_token"))) is not None
    }
    counts = None
    if path.is_dir() and (folder / COUNTS_FILE).is_file():
        with _reading(folder / COUNTS_FILE):
            counts = np.load(folder / COUNTS_FILE)
    return Tokenizer.of(definition, names=names, unigram_counts=counts)


@contextlib.contextmanager
def _reading(file: pathlib.Path) -> Iterator[None]:
    """Names the file that could not be read."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # The tokenizers library raises plain Exception.
        raise DataError(
            f"{file}: not a tokenizer, or a damaged one ({error}). Kinds of files:\n"
            f"{_kinds()}"
        ) from error


def _kinds() -> str:
    assert __doc__ is not None
    return __doc__.partition("\n\n")[2].rstrip()


def _find(folder: pathlib.Path) -> pathlib.Path:
    """The file of a known kind that a folder holds."""
    known = (TOKENIZER_FILE, "vocab.txt", *VOCABULARY_FILES)
    found = [folder / name for name in known if (folder / name).is_file()]
    found += sorted(folder.glob("*.model"))
    if not found:
        held = sorted(p.name for p in folder.iterdir())
        raise DataError(
            f"Folder {str(folder)!r} holds no tokenizer, only {held[:10]}. Kinds of "
            f"files:\n{_kinds()}"
        )
    return found[0]


def _settings(folder: pathlib.Path) -> dict[str, Any]:
    """What tokenizer_config.json and special_tokens_map.json say."""
    settings: dict[str, Any] = {}
    for name in (CONFIG_FILE, SPECIALS_FILE):
        file = folder / name
        if file.is_file():
            settings |= read_json(file)
    return settings


def _content(token: Any) -> str | None:
    """The text of a special token, written plainly or as an object with its flags."""
    return token.get("content") if isinstance(token, Mapping) else token


def _read(file: pathlib.Path, settings: Mapping[str, Any]) -> str:
    if file.suffix == ".model":
        return _sentencepiece(file).to_str()
    if file.name in MERGES_FILES or file.suffix == ".bpe":
        return _gpt2(_sibling(file, VOCABULARY_FILES), file).to_str()
    if file.suffix == ".txt":
        return _bert(file, settings).to_str()
    if file.suffix == ".json":
        definition = file.read_text(encoding="utf-8")
        value = json.loads(definition)
        # A list of pieces may well have the word "model" in it.
        if isinstance(value, dict) and isinstance(value.get("model"), dict):
            tokenizers.Tokenizer.from_str(definition)  # Raises if it is damaged.
            return definition
        return _gpt2(file, _sibling(file, MERGES_FILES)).to_str()
    raise DataError(f"{file}: not a kind of tokenizer file known here:\n{_kinds()}")


def _sibling(file: pathlib.Path, names: tuple[str, ...]) -> pathlib.Path:
    for name in names:
        if (file.parent / name).is_file():
            return file.parent / name
    raise DataError(f"{file} needs {' or '.join(names)} beside it.")


def _bert(file: pathlib.Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """A vocab.txt, one piece a line. Uncased unless some piece has a capital letter."""
    lines = file.read_text(encoding="utf-8").split("\n")
    vocabulary = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    if lines[-1] == "":
        del vocabulary[""]
    unk = NAMES["unk"][0]
    if unk not in vocabulary:
        raise DataError(
            f"{file}: a WordPiece vocabulary needs {unk}, one piece a line; the first "
            f"lines are {lines[:3]}."
        )
    specials = [names[0] for names in NAMES.values() if names[0] in vocabulary]
    text = (piece for piece in vocabulary if piece not in specials)
    uncased = not any(piece != piece.lower() for piece in text)
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unk))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", uncased),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens(specials)
    return backend


def _gpt2(vocabulary: pathlib.Path, merges: pathlib.Path) -> tokenizers.Tokenizer:
    """Byte-level BPE as ids of pieces and a list of merges."""
    model = models.BPE.from_file(str(vocabulary), str(merges))
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    known = {name for names in NAMES.values() for name in names} | set(FRAMES.values())
    present = sorted(known & backend.get_vocab().keys())
    backend.add_special_tokens(
        # RoBERTa's and BART's mask swallows the space before it.
        [
            tokenizers.AddedToken(name, lstrip=name == "<mask>", special=True)
            for name in present
        ]
    )
    return backend


def _sentencepiece(file: pathlib.Path) -> tokenizers.Tokenizer:
    """A unigram model of sentencepiece, and T5's sentinels, which are not in its file."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise DataError(
            f"{file}: a sentencepiece model, which needs the packages sentencepiece and "
            f"protobuf ({error}): pip install -e '.[hub]'. Or give the tokenizer.json "
            "that goes with it."
        ) from None
    model = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())  # type: ignore[attr-defined]
    trainer = model.trainer_spec
    if not model.pieces:
        raise DataError(f"{file}: not a sentencepiece model (it has no pieces).")
    if trainer.model_type != trainer.UNIGRAM:
        kind = trainer.ModelType.Name(trainer.model_type).lower()
        raise DataError(
            f"{file}: a sentencepiece model of type {kind}; only unigram models are "
            "read. Give the tokenizer.json that goes with it instead."
        )
    backend = tokenizers.Tokenizer(
        models.Unigram(
            [(piece.piece, piece.score) for piece in model.pieces],
            unk_id=trainer.unk_id,
            byte_fallback=trainer.byte_fallback,
        )
    )
    if model.normalizer_spec.precompiled_charsmap:
        backend.normalizer = normalizers.Precompiled(
            model.normalizer_spec.precompiled_charsmap
        )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(prepend_scheme="always"),
        ]
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    special = (model.SentencePiece.UNKNOWN, model.SentencePiece.CONTROL)
    names = [piece.piece for piece in model.pieces]
    backend.add_special_tokens([p.piece for p in model.pieces if p.type in special])
    if names[:3] == ["<pad>", "</s>", "<unk>"] and "<extra_id_0>" not in names:
        backend.add_special_tokens(sentinels(T5_SENTINELS))
    return backend
