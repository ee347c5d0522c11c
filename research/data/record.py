"""What a workdir keeps of its data: data.json and the tokenizer.

A run that is resumed reads the same tokens as before, or stops.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from research.config.sections import DataConfig
from research.data import store
from research.data.errors import DataError
from research.data.roles import TOKENIZER_FILE
from research.data.store import TokenStore
from research.data.tokenizer import Tokenizer
from research.machine import checksums, files

TOKENIZER_FOLDER = "tokenizer"
RECORD = "data.json"

Record = dict[str, Any]


def has_tokenizer(workdir: pathlib.Path) -> bool:
    """Whether the workdir has a tokenizer."""
    return (workdir / TOKENIZER_FOLDER / TOKENIZER_FILE).is_file()


def write(
    workdir: pathlib.Path,
    config: DataConfig,
    tokenizer: Tokenizer,
    train: TokenStore,
    text: dict[str, Any],
    store_name: str,
) -> None:
    """Saves the tokenizer and writes data.json."""
    tokenizer.save(workdir / TOKENIZER_FOLDER)
    record = _settings(config, tokenizer) | {
        "store": store_name,
        "checksum": store.contents_checksum(train.header),
        "text": text,
    }
    checksums.write(workdir / RECORD, json.dumps(record, indent=1) + "\n")


def read(workdir: pathlib.Path) -> Record | None:
    """The record of a workdir, None before it is written.

    Raises:
      DataError: it is damaged.
    """
    path = workdir / RECORD
    if not path.is_file():
        return None
    try:
        checksums.check(workdir, RECORD)
        return files.read_json(path, source=str, store=str, checksum=str)
    except files.Damaged as error:
        raise DataError(
            f"{error} Or delete {path} if the corpus has not changed since the run began."
        ) from None


def check_settings(
    record: Record, config: DataConfig, tokenizer: Tokenizer, workdir: pathlib.Path
) -> None:
    """Refuses a workdir whose run has read another corpus or another tokenizer.

    Raises:
      DataError: naming the fields that differ.
    """
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


def check_contents(record: Record, train: TokenStore, workdir: pathlib.Path) -> None:
    """Refuses tokens that are not those which the run has read before.

    Raises:
      DataError: with both checksums.
    """
    found = store.contents_checksum(train.header)
    if found != record["checksum"]:
        raise DataError(
            f"The corpus {record['source']!r} has changed since {workdir} was begun: its "
            f"tokens have the checksum {found}, not {record['checksum']}. Bring the "
            "corpus back to what it was, or use another workdir."
        )


def _settings(config: DataConfig, tokenizer: Tokenizer) -> Record:
    return {
        "source": config.source,
        "text_field": config.text_field,
        "heldout_fraction": config.heldout_fraction,
        "tokenizer": tokenizer.fingerprint,
    }
