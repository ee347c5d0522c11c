"""The data of a run: its tokenizer and its token stores, built or found in the cache."""

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
    record,
    store,
    store_writer,
    tokenizer_files,
    tokenizer_training,
)
from research.data.corpora import Corpus
from research.data.errors import DataError, cannot_write
from research.data.store import TokenStore
from research.data.tokenizer import Tokenizer
from research.machine import files

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

    @classmethod
    def of(cls, tokenizer: Tokenizer, splits: Mapping[str, TokenStore]) -> Data:
        """Puts a tokenizer and the splits of its store together."""
        counts = splits["train"].unigram_counts
        tokenizer = dataclasses.replace(tokenizer, unigram_counts=counts)
        return cls(tokenizer=tokenizer, vocabulary=tokenizer.vocabulary(), **splits)

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
    if workdir is None:
        return _build(config, tokenizer)[0]
    folder = pathlib.Path(workdir)
    if tokenizer is None and record.has_tokenizer(folder):
        tokenizer = tokenizer_files.load(folder / record.TOKENIZER_FOLDER)
    recorded = record.read(folder)
    data = None
    if recorded is not None and tokenizer is not None:
        record.check_settings(recorded, config, tokenizer, folder)
        found = cache_folder(config.cache_dir) / "stores" / recorded["store"]
        if found.is_dir():
            data = Data.of(tokenizer, store.open_store(found))
    if data is None:
        data, name = _build(config, tokenizer)
    if recorded is not None:
        record.check_contents(recorded, data.train, folder)
    # Before anything is recorded: the message may ask for another heldout_fraction,
    # which a recorded run refuses.
    require_rows(data, config)
    if recorded is None:
        record.write(folder, config, data.tokenizer, data.train, data.text(), name)
    return data


def load_recorded(config: DataConfig, *, workdir: str | os.PathLike[str]) -> Data:
    """What another host has loaded and recorded in the workdir.

    Raises:
      DataError: as `load` does, and where this host does not see the record.
      OSError: the cache cannot be written.
    """
    path = pathlib.Path(workdir) / record.RECORD
    if not path.is_file():
        raise DataError(
            f"{path} is not there, though the first host has just written it: the "
            "workdir has to be a folder that all hosts share."
        )
    return load(config, workdir=workdir)


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


def cache_folder(cache_dir: str) -> pathlib.Path:
    """Where tokenizers and token stores are kept."""
    if cache_dir:
        return pathlib.Path(cache_dir).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "palimpsest"


def _build(config: DataConfig, tokenizer: Tokenizer | None) -> tuple[Data, str]:
    """The data of a config, and the name of its store in the cache."""
    cache = cache_folder(config.cache_dir)
    corpus = corpora.open_corpus(config.source, text_field=config.text_field)
    if tokenizer is None:
        tokenizer = _configured_tokenizer(config, corpus, cache)
    tokenizer.require_separator()
    identity = [
        store.FORMAT,
        corpus.origin,
        tokenizer.fingerprint,
        config.heldout_fraction,
    ]
    name = f"{corpus.name}-{_digest(identity)}"
    splits = store_writer.build(
        cache / "stores" / name,
        corpus,
        tokenizer,
        heldout_fraction=config.heldout_fraction,
        num_workers=config.num_workers,
    )
    return Data.of(tokenizer, splits), name


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
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            # Other processes may write it as well.
            with files.making_folder(folder) as temporary:
                trained.save(temporary)
        except OSError as error:
            raise cannot_write("tokenizer", folder.parent, error) from error
    return tokenizer_files.load(folder)


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(canonical).hexdigest()[:16]
