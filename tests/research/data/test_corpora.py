"""Every kind of corpus gives its documents, and every bad one a clear error."""

import functools
import gzip
import json
import sys
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from research.data import corpora, docstrings, embedded
from research.data import tfds as tfds_source
from research.data.errors import DataError

DOCUMENTS = ["First document.\nTwo lines.", "Zweites Dokument: äöü 漢字 😀", "Third."]


def read(source, text_field="text"):
    corpus = corpora.open_corpus(str(source), text_field=text_field)
    return list(corpus.documents())


def json_lines(documents, field="text") -> bytes:
    lines = [json.dumps({"id": i, field: text}) for i, text in enumerate(documents)]
    return ("\n".join(lines) + "\n").encode()


def plain_text(documents) -> bytes:
    return "\n\n \n".join(documents).encode() + b"\n"


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def zstd_frames(data: bytes) -> bytes:
    half = len(data) // 2
    return zstd(data[:half]) + zstd(data[half:])


COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstd_frames}
ENCODE = {".txt": plain_text, ".jsonl": json_lines}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", ENCODE)
def test_reads_text_and_json_lines(tmp_path, kind, compression):
    path = tmp_path / f"corpus{kind}{compression}"
    path.write_bytes(COMPRESS[compression](ENCODE[kind](DOCUMENTS)))
    assert read(path) == DOCUMENTS


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()])
def test_reads_parquet(tmp_path, type_):
    path = tmp_path / "corpus.parquet"
    column = pa.array([*DOCUMENTS, None], type_)
    pa.parquet.write_table(pa.table({"id": [1, 2, 3, 4], "body": column}), path)
    assert read(path, "body") == DOCUMENTS


def test_reads_windows_lines_and_byte_order_mark(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree")
    assert read(path) == ["one\ntwo", "three"]


def test_folder_and_glob_read_files_by_name(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.txt").write_text("from b/x")
    (tmp_path / "a.txt").write_text("from a")
    (tmp_path / "c.jsonl").write_bytes(json_lines(["from c"]))
    (tmp_path / "README.md").write_text("no corpus")
    assert read(tmp_path) == ["from a", "from b/x", "from c"]
    assert read(tmp_path / "**" / "*.txt") == ["from a", "from b/x"]


def test_origin_changes_with_a_file(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("text")
    first = corpora.open_corpus(str(path), text_field="text").origin
    path.write_text("texts")
    second = corpora.open_corpus(str(path), text_field="text").origin
    assert first != second
    json.dumps(first)


def test_progress_ends_at_the_size(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_bytes(plain_text(DOCUMENTS * 5))
    corpus = corpora.open_corpus(str(tmp_path), text_field="text")
    extents = [extent for _, extent in corpus.read()]
    assert extents == sorted(extents)
    assert 0 < extents[-1] <= corpus.size


def test_sample_takes_from_every_part(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_text(f"{name * 10}\n\n" * 50)
    corpus = corpora.open_corpus(str(tmp_path), text_field="text")
    sample = corpus.sample(100)
    assert sum(map(len, sample)) == 100
    assert {text[0] for text in sample} == set("abcd")
    assert sample == corpus.sample(100)
    assert corpus.sample(10**6) == list(corpus.documents())


def test_sample_is_spread_over_a_file_that_is_ordered(tmp_path):
    documents = [
        f"{language} {i} {'x' * 80}" for language in "abcd" for i in range(250)
    ]
    (tmp_path / "a.txt").write_bytes(plain_text(documents))
    sample = corpora.open_corpus(str(tmp_path), text_field="text").sample(9_000)
    counts = [sum(text.startswith(language) for text in sample) for language in "abcd"]
    assert max(counts) - min(counts) <= 2 and set(sample[:-1]) <= set(documents)
    assert sum(map(len, sample)) == 9_000


def test_lone_surrogates_are_replaced(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "a \\ud800 b"}\n')
    assert read(path) == ["a ? b"]


BAD = {
    "empty.txt": (b"", "empty"),
    "blank.txt": (b"\n \n", "no text"),
    "binary.txt": (b"\x7fELF\0\0\0", "binary"),
    "latin1.txt": ("text\ncaf\xe9".encode("latin-1"), "line 2: not UTF-8"),
    "late.txt": (b"a\n" * 40000 + b"b\0\n", "line 40001: a zero byte"),
    "plain.jsonl": (b"no json\n", "line 1: not a JSON object"),
    "list.jsonl": (b"[1]\n", "line 1: a JSON list"),
    "field.jsonl": (json_lines(["a"], "body"), "no field 'text'.*'body'"),
    "number.jsonl": (b'{"text": 1}\n', "holds int, not a string"),
    "cut.jsonl": (json_lines(["a", "b" * 99])[:-20], "line 2: not a JSON object"),
    "cut.jsonl.gz": (
        gzip.compress(json_lines(["a b c"] * 999))[:-20],
        "cut short or damaged",
    ),
    "cut.txt.zst": (
        zstd(plain_text(DOCUMENTS * 99))[:-9],
        "cut short or damaged",
    ),
    "notgzip.txt.gz": (b"plain text\n", "cut short or damaged"),
    "cut.parquet": (b"PAR1", "not a complete Parquet file"),
    "words.csv": (b"a,b\n", "not a kind of corpus"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


def test_parquet_without_the_column_lists_columns(tmp_path):
    path = tmp_path / "corpus.parquet"
    pa.parquet.write_table(pa.table({"body": ["a"], "n": [1]}), path)
    with pytest.raises(DataError, match=r"no column 'text'.*\['body', 'n'\]"):
        read(path)
    with pytest.raises(DataError, match="holds int64, not strings"):
        read(path, "n")


def test_missing_sources_say_what_is_allowed(tmp_path):
    with pytest.raises(DataError, match="embedded.*tfds:NAME"):
        read(tmp_path / "nothing")
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"no file of a known kind.*notes\.md"):
        read(tmp_path)


# The embedded corpus.


def test_docstrings_are_cleaned():
    text = "Words go on and on until the line is long and has to be broken here," * 3
    source = f'''
"""{text}
where the next line continues them.

    Parameters
    ----------
    x : int
        A number.

    >>> f(1)
    not kept
    """
class A:
    def f(self):
        """{text}
        - an item that follows {text}
        """
    def g(self):
        """Short."""
def h():
    """{"= + " * 90}"""
'''.encode()
    first, second = docstrings.texts(source)
    assert first == (
        f"{text} where the next line continues them.\n\nParameters\nx : int\nA number."
    )
    assert second == f"{text}\n- an item that follows {text}"


def test_docstrings_of_unparsable_files_are_none():
    assert list(docstrings.texts(b'"""text"""\nclass :')) == []
    assert list(docstrings.texts(b'"""text"""\n\xff')) == []


def test_embedded_corpus_is_help_and_docstrings(monkeypatch):
    files = [path for path in embedded.source_files() if path.parent.name == "json"]
    assert len(files) >= 3
    monkeypatch.setattr(embedded, "source_files", lambda: files)
    found = embedded.documents.__wrapped__()
    assert len(set(found)) == len(found)
    assert any("JSON" in text for text in found)
    assert len(embedded.help_topics()) > 50


def test_long_paragraphs_are_kept_once():
    long, other, short = ("word " * 50, "text " * 50, "Parameters")
    texts = [f"{short}\n\n{long}", f"{short}\n\n{long}\n\n{other}", long]
    assert list(embedded.unique(texts)) == [texts[0], f"{short}\n\n{other}"]


def test_embedded_files_are_parsed_not_run():
    text = "What this module says. " * 20
    source = f'"""{text}"""\nraise SystemExit("it was run")\n'
    assert list(docstrings.texts(source.encode())) == [text.strip()]


def test_warnings_do_not_decide_what_is_read():
    text = "What this module says. " * 20
    source = f'"""{text}"""\npattern = "\\d"\n'
    with warnings.catch_warnings(action="error"):
        assert list(docstrings.texts(source.encode())) == [text.strip()]


# TFDS.


@pytest.fixture
def tiny_dataset(tmp_path, monkeypatch):
    """A prepared TFDS dataset, found under tmp_path."""
    import tensorflow_datasets as tfds

    class PalimpsestTiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {"text": tfds.features.Text(), "label": tfds.features.Scalar(np.int64)}
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, text in enumerate(DOCUMENTS):
                yield i, {"text": text, "label": i}

    monkeypatch.setattr(
        tfds, "builder", functools.partial(tfds.builder, data_dir=tmp_path)
    )
    tfds.disable_progress_bar()
    builder = PalimpsestTiny(file_format="array_record", data_dir=tmp_path)
    builder.download_and_prepare()
    return "tfds:palimpsest_tiny"


@pytest.mark.filterwarnings("ignore")
def test_reads_tfds_without_tensorflow(tiny_dataset, tmp_path):
    assert sorted(read(tiny_dataset)) == sorted(DOCUMENTS)
    assert "tensorflow" not in sys.modules
    (folder,) = tmp_path.glob("palimpsest_tiny/*")
    assert read(f"tfds:{folder}") == read(tiny_dataset)
    with pytest.raises(DataError, match="Give the folder with dataset_info.json"):
        read(f"tfds:{folder.parent}")
    with pytest.raises(DataError, match="no feature 'body'.*'text'"):
        read(tiny_dataset, "body")
    with pytest.raises(DataError, match="holds int, not text"):
        read(tiny_dataset, "label")


@pytest.mark.filterwarnings("ignore")
def test_unknown_and_unreachable_tfds_names(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds_source, "_has_network", lambda: False)
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match="Did you mean lm1b.*folder of text"):
        read("tfds:lm1")
    with pytest.raises(DataError, match="no network.*TFDS_DATA_DIR.*folder of text"):
        read("tfds:lm1b")


def test_what_holds_no_text_is_skipped_in_every_format(tmp_path):
    lines = json_lines(["one", None]) + b"\xef\xbb\xbf" + json_lines(["two"])
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.txt").write_bytes(b"")
    for name, texts in (
        ("c", pa.array(["three", None, "three"]).dictionary_encode()),
        ("d", pa.array(["four"], pa.string_view())),
    ):
        pyarrow.parquet.write_table(
            pa.table({"text": texts}), tmp_path / f"{name}.parquet"
        )
    assert read(tmp_path) == ["one", "two", "three", "three", "four"]


def test_links_are_read_once_by_the_name_of_the_link(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/0abc").write_bytes(json_lines(["one"]))
    source = tmp_path / "snapshot"
    (source / ".ipynb_checkpoints").mkdir(parents=True)
    (source / ".ipynb_checkpoints/a.txt").write_text("an old copy")
    for name in ("a.jsonl", "b.jsonl"):
        (source / name).symlink_to("../blobs/0abc")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/c.txt").write_text("two")
    (source / "linked").symlink_to("../more")
    (source / "more_again").symlink_to("../snapshot")
    assert read(source) == ["one", "two"]
    assert read(source / "b.jsonl") == ["one"]


@pytest.mark.parametrize("number", [b"9" * 5000, b"[" * 10_000 + b"]" * 10_000])
def test_json_that_cannot_be_read_names_its_line(tmp_path, number):
    bad = b'{"text": "two", "n": ' + number + b"}\n"
    (tmp_path / "a.jsonl").write_bytes(json_lines(["one"]) + bad)
    with pytest.raises(
        DataError, match=r"a\.jsonl, line 2: not a JSON object that can"
    ):
        read(tmp_path)
