"""Corpora by the name of a TensorFlow dataset, read without TensorFlow.

Datasets are prepared as ArrayRecord files, which TFDS writes and reads in plain Python.
The first use of a dataset downloads it.
"""

from __future__ import annotations

from collections.abc import Iterator

from research.data.errors import DataError

SPLIT = "train"


def open_parts(name: str, text_field: str):
    """(name, origin, parts) of a dataset NAME[/CONFIG][:VERSION], see `corpora`."""
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
                    f"TFDS dataset {name!r}: feature {text_field!r} is a "
                    f"{type(value).__name__}, not text. Its features are {features}."
                )
            yield value, number + 1

    flat_name = "".join(c if c.isalnum() else "_" for c in name)
    return flat_name, origin, [(len(source), read)]


def _builder(name: str):
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise DataError(
            f"data.source=tfds:{name} needs the package tensorflow-datasets, which is "
            'not installed: pip install "palimpsest[tfds]" (TensorFlow itself is not '
            "needed). Or give the path of a file or folder of text, JSONL or Parquet."
        ) from None
    try:
        return tfds.builder(name, file_format="array_record")
    except Exception as error:  # TFDS has a class of its own for every reason.
        raise DataError(
            f"No TFDS dataset {name!r}: {_first_line(error)}. Names are listed at "
            "https://www.tensorflow.org/datasets/catalog; the package "
            "importlib_resources has to be installed. Or give the path of a file or "
            "folder of text, JSONL or Parquet as data.source."
        ) from error


def _data_source(builder, name: str):
    try:
        builder.download_and_prepare()
        return builder.as_data_source(split=SPLIT)
    except Exception as error:  # Networks, mirrors, checksums and disks fail alike.
        splits = list(builder.info.splits or ())
        if splits and SPLIT not in splits:
            raise DataError(
                f"TFDS dataset {name!r} has no split {SPLIT!r}; it has {splits}. "
                "Export the split you want to JSONL and give its path as data.source."
            ) from error
        raise DataError(
            f"TFDS dataset {name!r} cannot be prepared: {_first_line(error)}. Its first "
            "use downloads it and needs a network. Without one, prepare it elsewhere "
            f"and copy it to {builder.data_dir!r}, or give the path of a file or folder "
            "of text, JSONL or Parquet as data.source."
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else chr(39) * 2}"
