"""Corpora that are TensorFlow datasets, by name or folder, read without TensorFlow.

Datasets are prepared as ArrayRecord files, which TFDS writes and reads in plain Python.
The first use of a dataset downloads it into TFDS_DATA_DIR, ~/tensorflow_datasets by
default.
"""

from __future__ import annotations

import contextlib
import importlib
import pathlib
import urllib.error
import urllib.request
from collections.abc import Iterator

from research.data.errors import DataError
from research.errors import nearest

SPLIT = "train"
# Without TensorFlow a dataset is only known once its group has been imported.
GROUPS = ("text", "question_answering", "summarization", "translate", "structured")
DOWNLOAD_HOST = "storage.googleapis.com"


def open_parts(name: str, text_field: str):
    """(name, origin, parts) of NAME[/CONFIG][:VERSION] or a folder, see `corpora`."""
    builder = _builder(name)
    features = list(builder.info.features or ())
    if text_field not in features:
        raise DataError(
            f"TFDS dataset {name!r} has no feature {text_field!r}; its features are "
            f"{features}. Set data.text_field to the one that holds the text."
        )
    source = _data_source(builder, name)
    origin = {
        "text_field": text_field,
        "dataset": builder.info.full_name,
        "split": SPLIT,
        "num_examples": len(source),
    }

    def read() -> Iterator[tuple[str, int]]:
        for number in range(len(source)):
            value = source[number][text_field]
            if isinstance(value, bytes):
                value = value.decode("utf-8")
            if not isinstance(value, str):
                raise DataError(
                    f"TFDS dataset {name!r}: feature {text_field!r} holds "
                    f"{type(value).__name__}, not text. Its features are {features}."
                )
            yield value, number + 1

    flat_name = "".join(c if c.isalnum() else "_" for c in name)
    return flat_name, origin, [(len(source), read)]


def config_names(name: str) -> list[str]:
    """Names of a dataset's configs."""
    return sorted(type(_builder(name)).builder_configs)


def records(name: str):
    """Random access to the train split's examples, as dicts; downloads at first use."""
    return _data_source(_builder(name), name)


def _builder(name: str):
    import tensorflow_datasets as tfds  # Takes a second, which few runs need.

    folder = pathlib.Path(name).expanduser()
    if folder.is_dir():
        try:
            return tfds.builder_from_directory(folder)
        except Exception as error:  # TFDS has a class of its own for every reason.
            raise DataError(
                f"tfds:{name} is a folder, but not that of a prepared dataset: "
                f"{_first_line(error)}. Give the folder with dataset_info.json, such "
                f"as ~/tensorflow_datasets/NAME/1.0.0."
            ) from error
    for group in GROUPS:
        # A group that needs something else only lacks its names.
        with contextlib.suppress(ImportError):
            importlib.import_module(f"tensorflow_datasets.{group}")
    try:
        return tfds.builder(name, file_format="array_record")
    except Exception as error:  # TFDS has a class of its own for every reason.
        known = tfds.core.registered.list_imported_builders()
        raise DataError(
            f"No TFDS dataset {name!r}: {_first_line(error)}"
            f"{nearest(name.partition('/')[0], known)} Names are listed at "
            "https://www.tensorflow.org/datasets/catalog. Or give the path of a file or "
            "folder of text, JSONL or Parquet as data.source."
        ) from error


def _data_source(builder, name: str):
    prepare(
        builder,
        name,
        instead="a file or folder of text, JSONL or Parquet as data.source",
    )
    splits = list(builder.info.splits or ())
    if SPLIT not in splits:
        raise DataError(
            f"TFDS dataset {name!r} has no split {SPLIT!r}; it has {splits}. "
            "Export the split you want to JSONL and give its path as data.source."
        )
    return builder.as_data_source(split=SPLIT)


def prepare(builder, name: str, *, instead: str) -> None:
    """Downloads and writes a dataset, if it is not there already.

    Raises:
      DataError: at once without a network, naming where the dataset was looked for, and
        what may be given `instead`.
    """
    if builder.is_prepared():
        return
    advice = (
        f"It was looked for in {str(builder.data_dir)!r}. Prepare it where there is a "
        f"network and copy it there, set TFDS_DATA_DIR to the folder that holds it, "
        f"give tfds:FOLDER, or give {instead}."
    )
    if not _has_network():
        raise DataError(
            f"TFDS dataset {name!r} is not prepared, and there is no network to download "
            f"it. {advice}"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # Every cause has a class of its own.
        raise DataError(
            f"TFDS dataset {name!r} cannot be prepared: {_first_line(error)}. {advice}"
        ) from error


def _has_network() -> bool:
    """Whether a download is worth trying: TFDS itself would try for minutes."""
    try:
        urllib.request.urlopen(f"https://{DOWNLOAD_HOST}", timeout=10).close()
    except urllib.error.HTTPError:
        return True  # It answered.
    except OSError:
        return False
    return True


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
