"""Token stores: right contents, the same from any number of threads, never half."""

import errno
import json
import os
import threading

import numpy as np
import pytest

from research.data import corpora, store, store_writer, tokenizer_training
from research.data.errors import DataError
from research.machine import files
from tests.research.data import helpers

TEXTS = [*helpers.sentences(200), "漢字 😀"]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_training.train(TEXTS, helpers.tokenizer_config())


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return corpora.open_corpus(str(path), text_field="text")


def build(folder, corpus, tokenizer, *, heldout_fraction=0.1, num_workers=2):
    return store_writer.build(
        folder,
        corpus,
        tokenizer,
        heldout_fraction=heldout_fraction,
        num_workers=num_workers,
    )


def test_documents_are_split_tokenised_and_counted(tmp_path, corpus, tokenizer):
    splits = build(tmp_path / "s", corpus, tokenizer)
    heldout = [store_writer.is_heldout(i, 0.1) for i in range(len(TEXTS))]
    for split, chosen in (("train", False), ("heldout", True)):
        texts = [t for t, out in zip(TEXTS, heldout, strict=True) if out is chosen]
        found = splits[split]
        expected = [tokenizer.encode(text) for text in texts]
        assert found.num_documents == len(texts) > 10
        for number, ids in enumerate(expected):
            assert found.document(number).tolist() == ids
        stream = [token for ids in expected for token in [*ids, 7]]
        assert found.tokens.tolist() == stream
        assert found.tokens.dtype == np.uint16
        assert found.num_tokens == len(stream)
        assert found.num_bytes == sum(len(text.encode()) for text in texts)
        assert (found.unigram_counts == np.bincount(stream, minlength=320)).all()
    assert "corpus.jsonl" in splits["train"].header["corpus"]["files"][0]["path"]
    assert splits["train"].header["tokenizer"] == tokenizer.fingerprint


def test_threads_do_not_change_a_byte(tmp_path, corpus, tokenizer, monkeypatch):
    monkeypatch.setattr(store_writer, "CHUNK_CHARACTERS", 500)
    build(tmp_path / "one", corpus, tokenizer, num_workers=1)
    build(tmp_path / "three", corpus, tokenizer, num_workers=3)
    monkeypatch.setattr(store_writer, "CHUNK_CHARACTERS", 10**9)
    build(tmp_path / "whole", corpus, tokenizer)
    names = {path.name for path in (tmp_path / "one").iterdir()} - {store.STAMP}
    assert len(names) == 7
    for name in names:
        contents = [
            (tmp_path / f / name).read_bytes() for f in ("one", "three", "whole")
        ]
        assert len(set(contents)) == 1, name


def test_a_store_is_written_once(tmp_path, corpus, tokenizer, monkeypatch):
    build(tmp_path / "s", corpus, tokenizer)
    monkeypatch.setattr(store_writer, "_write", None)
    again = build(tmp_path / "s", corpus, tokenizer)
    assert again["train"].num_tokens > 0


def test_concurrent_writers_write_once(tmp_path, corpus, tokenizer, monkeypatch):
    writes = []
    write = store_writer._write

    def counted(*arguments):
        writes.append(1)
        write(*arguments)

    monkeypatch.setattr(store_writer, "_write", counted)
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(build(tmp_path / "s", corpus, tokenizer))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(writes) == 1


def test_without_locks_one_of_two_writers_is_kept(
    tmp_path, corpus, tokenizer, monkeypatch
):
    arguments = (tmp_path / "s", corpus, tokenizer, 0.1, 1)
    write_files = store_writer._write_files

    def overtaken(*inner):
        monkeypatch.setattr(store_writer, "_write_files", write_files)
        store_writer._write(*arguments)
        return write_files(*inner)

    monkeypatch.setattr(store_writer, "_write_files", overtaken)
    store_writer._write(*arguments)
    assert store.open_store(tmp_path / "s")["train"].num_tokens > 0
    assert not list(tmp_path.glob(f"{files.TEMPORARY}*"))


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5])
def test_heldout_share(fraction):
    chosen = [store_writer.is_heldout(i, fraction) for i in range(5000)]
    assert abs(sum(chosen) - 5000 * fraction) <= 2
    # Evenly spread: every stretch has its share.
    parts = np.array(chosen).reshape(10, 500).sum(1)
    assert np.abs(parts - 500 * fraction).max() <= 4
    assert chosen[0] is (fraction > 0)


def test_no_heldout_split(tmp_path, corpus, tokenizer):
    splits = build(tmp_path / "s", corpus, tokenizer, heldout_fraction=0.0)
    assert splits["train"].num_documents == len(TEXTS)
    assert splits["heldout"].num_tokens == splits["heldout"].num_documents == 0


def test_too_few_documents_are_refused(tmp_path, tokenizer):
    (tmp_path / "one.txt").write_text("a single document")
    corpus = corpora.open_corpus(str(tmp_path / "one.txt"), text_field="text")
    with pytest.raises(DataError, match="1 document.*blank lines separate"):
        build(tmp_path / "stores" / "s", corpus, tokenizer)
    assert list((tmp_path / "stores").glob("*")) == []


# What goes wrong.


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_leaves_nothing(tmp_path, corpus, tokenizer, monkeypatch, code):
    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(store_writer._SplitWriter, "append", full)
    with pytest.raises(OSError, match=r"disk.*is full.*data\.cache_dir") as error:
        build(tmp_path / "stores" / "s", corpus, tokenizer)
    assert error.value.errno == code
    assert list((tmp_path / "stores").glob("*")) == []
    monkeypatch.undo()
    assert build(tmp_path / "stores" / "s", corpus, tokenizer)["train"].num_tokens


def test_full_disk_when_syncing_leaves_nothing(
    tmp_path, corpus, tokenizer, monkeypatch
):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"disk.*is full"):
        build(tmp_path / "stores" / "s", corpus, tokenizer)
    assert list((tmp_path / "stores").glob("*")) == []


def test_damaged_corpus_leaves_nothing(tmp_path, tokenizer):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "one"}\n' * 3000 + '{"text": "cut sh')
    corpus = corpora.open_corpus(str(path), text_field="text")
    with pytest.raises(DataError, match="line 3001"):
        build(tmp_path / "stores" / "s", corpus, tokenizer)
    assert list((tmp_path / "stores").glob("*")) == []


def test_leftovers_of_killed_writers_are_removed(tmp_path, corpus, tokenizer):
    leftover = tmp_path / f"{files.TEMPORARY}s-abc"
    leftover.mkdir()
    (leftover / "train.tokens").write_bytes(b"half")
    build(tmp_path / "s", corpus, tokenizer)
    assert not leftover.exists()


def damage_cut(folder):
    path = folder / "train.tokens"
    path.write_bytes(path.read_bytes()[:-2])


def damage_edit(folder):
    path = folder / "train.tokens"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def damage_counts(folder):
    path = folder / "train.counts"
    path.write_bytes(b"\x01" + path.read_bytes()[1:])


def damage_missing(folder):
    (folder / "heldout.documents").unlink()


def damage_header(folder):
    path = folder / "header.json"
    path.write_text(path.read_text().replace('"eod_id": 7', '"eod_id": 8'))


def damage_no_header(folder):
    (folder / "header.json").unlink()


def damage_format(folder):
    path = folder / "header.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))


DAMAGES = {
    damage_cut: "train.tokens is .* bytes long, not",
    damage_edit: "train.tokens was changed",
    damage_counts: "train.counts was changed",
    damage_missing: "heldout.documents is missing",
    damage_header: "header.json was changed",
    damage_no_header: "header.json cannot be read",
    damage_format: "its format is 0",
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found(tmp_path, corpus, tokenizer, monkeypatch, damage, large):
    if large:
        monkeypatch.setattr(store, "ALWAYS_VERIFIED_BYTES", 0)
    folder = tmp_path / "s"
    build(folder, corpus, tokenizer)
    store.open_store(folder)
    damage(folder)
    with pytest.raises(DataError, match=DAMAGES[damage]) as error:
        build(folder, corpus, tokenizer)
    assert str(folder) in str(error.value) and "Delete" in str(error.value)


def test_large_stores_are_checked_once(tmp_path, corpus, tokenizer, monkeypatch):
    monkeypatch.setattr(store, "ALWAYS_VERIFIED_BYTES", 0)
    build(tmp_path / "s", corpus, tokenizer)
    monkeypatch.setattr(store, "checksum", None)
    store.open_store(tmp_path / "s")


# Reading.


def test_gather_and_first_document():
    lengths = [3, 1, 5, 2, 7]
    found = helpers.memory_store(lengths)
    total, row_length = sum(lengths), 6
    owner = np.repeat(np.arange(len(lengths)), lengths)
    tokens, first = found.gather(np.arange(total), row_length)
    for start in range(total):
        index = np.arange(start, start + row_length) % total
        assert (tokens[start] == found.tokens[index]).all()
        assert first[start] == owner[start]
        # Later documents follow by counting [EOD], around the end of the stream too.
        ends = np.cumsum(tokens[start] == 7) - (tokens[start] == 7)
        assert ((first[start] + ends) % len(lengths) == owner[index]).all()
    assert tokens.dtype == first.dtype == np.int32


def test_rows_longer_than_the_stream_wrap():
    found = helpers.memory_store([2, 3])
    tokens, _ = found.gather(np.array([4]), 12)
    assert (tokens[0] == found.tokens[(4 + np.arange(12)) % 5]).all()


def test_document_numbers_are_checked():
    found = helpers.memory_store([2, 3])
    assert len(found.document(1)) == 2
    with pytest.raises(IndexError, match="Document 2 of 2"):
        found.document(2)
