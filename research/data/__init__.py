"""Data: from a corpus to batches of clean tokens.

    corpora -> tokenizer -> token store -> loader

`load` builds the first three, or finds them in the cache; `loader` yields batches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from objectives.vocabulary import Vocabulary
from research.config.sections import DataConfig
from research.data import (
    corpora,
    store,
    store_writer,
    tokenizer_files,
    tokenizer_training,
)
from research.data.corpora import Corpus
from research.data.errors import DataError, cannot_write
from research.data.roles import TOKENIZER_FILE
from research.data.store import TokenStore
from research.data.tokenizer import Tokenizer
from research.machine import files

TOKENIZER_FOLDER = "tokenizer"
RECORD = "data.json"
# Part of the identity of a trained tokenizer: raise it when the same text and settings
# give another one.
TRAINING = 1


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run reads.

    Attributes:
      tokenizer: text to ids, with the training split's unigram counts.
      vocabulary: what objectives know of the ids.
      train: the training split.
      heldout: documents of the same corpus that are not in `train`; empty if
        heldout_fraction is 0.
    """

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    train: TokenStore
    heldout: TokenStore

    def text(self) -> dict[str, Any]:
        """Size and digest of the text of both splits, before it was tokenised."""
        splits = (self.train, self.heldout)
        return {
            "num_documents": sum(split.num_documents for split in splits),
            "num_bytes": sum(split.num_bytes for split in splits),
            # Stores of earlier versions have none.
            "digest": self.train.header.get("text_digest", ""),
        }


def describe_text(text: Mapping[str, Any]) -> str:
    """`Data.text` in words."""
    return (
        f"{text['num_bytes'] / 1e6:.1f} MB of text in {text['num_documents']:,} "
        f"documents, digest {text['digest'] or 'unknown'}"
    )


def load(
    config: DataConfig,
    *,
    workdir: str | os.PathLike[str] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Data:
    """Builds a corpus' tokenizer and token store, or finds them in the cache.

    A workdir keeps its tokenizer, and the name and checksum of its tokens in data.json:
    a run that is resumed reads the same tokens or stops, even if the corpus has changed.
    They are written once; processes that come later only read them.

    Args:
      config: corpus, tokenizer, held-out share and cache.
      workdir: of the run.
      tokenizer: to be used in place of the configured one; None = the workdir's, else
        the configured one.

    Raises:
      DataError: the corpus, the tokenizer or the stored tokens cannot be used, or do
        not make one row of a run's splits.
      OSError: the cache cannot be written.
    """
    cache = cache_folder(config.cache_dir)
    folder = None if workdir is None else pathlib.Path(workdir)
    record = _read_record(folder)
    if tokenizer is None and folder is not None and has_tokenizer(folder):
        tokenizer = tokenizer_files.load(folder / TOKENIZER_FOLDER)
    if record is not None and tokenizer is not None:
        _check_record(record, config, tokenizer, folder)
        found = cache / "stores" / record["store"]
        if found.is_dir():
            splits = store.open_store(found)
            _check_contents(record, splits, folder)
            data = _data(tokenizer, splits)
            require_rows(data, config)
            return data
    corpus = corpora.open_corpus(
        config.source, text_field=config.text_field, num_workers=config.num_workers
    )
    if tokenizer is None:
        tokenizer = _configured_tokenizer(config, corpus, cache)
    tokenizer.require_separator()
    name = _store_name(config, corpus, tokenizer)
    splits = store_writer.build(
        cache / "stores" / name,
        corpus,
        tokenizer,
        heldout_fraction=config.heldout_fraction,
        num_workers=config.num_workers,
    )
    if record is not None:
        _check_contents(record, splits, folder)
    data = _data(tokenizer, splits)
    if folder is not None:
        # Before anything is recorded: more held-out text is another corpus.
        require_rows(data, config)
    if folder is not None and record is None:
        data.tokenizer.save(folder / TOKENIZER_FOLDER)
        _write_record(folder, config, name, data)
    return data


def require_rows(data: Data, config: DataConfig) -> None:
    """Refuses splits that a run cannot read a row of.

    Raises:
      DataError: naming the split, what it has and what to change.
    """
    more = {
        "train": "",
        "heldout": f"raise data.heldout_fraction = {config.heldout_fraction}, ",
    }
    for split, advice in more.items():
        num_tokens = getattr(data, split).num_tokens
        if num_tokens < config.row_length:
            raise DataError(
                f"The {split} split of {config.source!r} has {num_tokens} tokens, not "
                f"one row of data.row_length = {config.row_length}: {advice}lower "
                f"data.row_length, or give more text."
            )


def load_recorded(config: DataConfig, *, workdir: str | os.PathLike[str]) -> Data:
    """What another host has loaded and recorded in the workdir.

    Raises:
      DataError: as `load` does, and where this host does not see the record.
      OSError: the cache cannot be written.
    """
    path = pathlib.Path(workdir) / RECORD
    if not path.is_file():
        raise DataError(
            f"{path} is not there, though the first host has just written it: the "
            "workdir has to be a folder that all hosts share."
        )
    return load(config, workdir=workdir)


def cache_folder(cache_dir: str) -> pathlib.Path:
    """Where tokenizers and token stores are kept."""
    if cache_dir:
        return pathlib.Path(cache_dir).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "palimpsest"


def _data(tokenizer: Tokenizer, splits: dict[str, TokenStore]) -> Data:
    counts = splits["train"].unigram_counts
    tokenizer = dataclasses.replace(tokenizer, unigram_counts=counts)
    return Data(
        tokenizer=tokenizer,
        vocabulary=tokenizer.vocabulary(),
        train=splits["train"],
        heldout=splits["heldout"],
    )


def _configured_tokenizer(
    config: DataConfig, corpus: Corpus, cache: pathlib.Path
) -> Tokenizer:
    """The tokenizer from a file, or the one trained on this corpus, kept in the cache."""
    settings = config.tokenizer
    if settings.kind == "file":
        if not settings.path:
            raise DataError(
                "data.tokenizer.kind='file' needs data.tokenizer.path: tokenizer.json, "
                "vocab.txt, a folder with GPT-2's files, or a sentencepiece .model."
            )
        return tokenizer_files.load(settings.path)
    identity = [TRAINING, corpus.origin, dataclasses.asdict(settings)]
    name = f"{corpus.name}-{settings.kind}-{_digest(identity)}"
    folder = cache / "tokenizers" / name
    if not folder.is_dir():
        tokenizer_training.check(settings)
        limit = tokenizer_training.SAMPLE_CHARACTERS[settings.kind]
        trained = tokenizer_training.train(corpus.sample(limit), settings)
        _save_whole(trained, folder)
    return tokenizer_files.load(folder)


def _save_whole(tokenizer: Tokenizer, folder: pathlib.Path) -> None:
    """Saves into a folder of the cache that other processes may write as well."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.making_folder(folder) as temporary:
            tokenizer.save(temporary)
    except OSError as error:
        raise cannot_write("tokenizer", folder.parent, error) from error


def _store_name(config: DataConfig, corpus: Corpus, tokenizer: Tokenizer) -> str:
    identity = [
        store.FORMAT,
        corpus.origin,
        tokenizer.fingerprint,
        config.heldout_fraction,
    ]
    return f"{corpus.name}-{_digest(identity)}"


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(canonical).hexdigest()[:16]


# What a workdir remembers of its data.


def has_tokenizer(workdir: pathlib.Path) -> bool:
    """Whether a run has got as far as its tokenizer."""
    return (workdir / TOKENIZER_FOLDER / TOKENIZER_FILE).is_file()


def _settings(config: DataConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "source": config.source,
        "text_field": config.text_field,
        "heldout_fraction": config.heldout_fraction,
        "tokenizer": tokenizer.fingerprint,
    }


def _write_record(
    workdir: pathlib.Path, config: DataConfig, name: str, data: Data
) -> None:
    record = _settings(config, data.tokenizer) | {
        "store": name,
        "checksum": store.contents_checksum(data.train.header),
        "text": data.text(),
    }
    files.write(workdir / RECORD, json.dumps(record, indent=1) + "\n")


def _read_record(workdir: pathlib.Path | None) -> dict[str, Any] | None:
    if workdir is None or not (workdir / RECORD).is_file():
        return None
    try:
        return json.loads((workdir / RECORD).read_text())
    except ValueError as error:
        raise DataError(
            f"{workdir / RECORD} is damaged ({error}). Delete it if the corpus has not "
            "changed since the run began."
        ) from None


def _check_record(
    record: dict[str, Any],
    config: DataConfig,
    tokenizer: Tokenizer,
    workdir: pathlib.Path | None,
) -> None:
    settings = _settings(config, tokenizer)
    differing = [key for key, value in settings.items() if record.get(key) != value]
    if differing:
        listed = "; ".join(
            f"data.{key} was {record.get(key)!r} and is {settings[key]!r}"
            for key in differing
        )
        raise DataError(
            f"{workdir} was begun with other data: {listed}. Use another workdir."
        )


def _check_contents(
    record: dict[str, Any],
    splits: dict[str, TokenStore],
    workdir: pathlib.Path | None,
) -> None:
    found = store.contents_checksum(splits["train"].header)
    if found != record["checksum"]:
        raise DataError(
            f"The corpus {record['source']!r} has changed since {workdir} was begun: its "
            f"tokens have the checksum {found}, not {record['checksum']}. Bring the "
            "corpus back to what it was, or use another workdir."
        )
