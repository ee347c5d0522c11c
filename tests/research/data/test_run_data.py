"""run_data.load: everything is built once, and a run that is resumed reads the same tokens."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tokenizers

from research.data import run_data, store_writer, tokenizer_files, tokenizer_training
from research.data.errors import DataError
from research.errors import UserError
from tests.research.data import helpers


def write_corpus(path, seed=0):
    path.write_text("\n\n".join(helpers.sentences(150, seed)))
    return path


@pytest.fixture
def config(tmp_path):
    return helpers.data_config(
        write_corpus(tmp_path / "corpus.txt"), tmp_path / "cache"
    )


def forbid_work(monkeypatch):
    def forbidden(*_):
        raise AssertionError("work was done again")

    monkeypatch.setattr(store_writer, "_write", forbidden)
    monkeypatch.setattr(tokenizer_training, "train", forbidden)


def test_load_builds_once_and_finds_it_again(config, monkeypatch):
    first = run_data.load(config)
    forbid_work(monkeypatch)
    second = run_data.load(config)
    assert first.tokenizer.fingerprint == second.tokenizer.fingerprint
    assert (first.train.tokens == second.train.tokens).all()
    assert first.vocabulary.vocab_size == 320
    counts = first.vocabulary.unigram_counts
    assert (counts == np.bincount(first.train.tokens, minlength=320)).all()
    texts = [first.tokenizer.decode(first.heldout.document(i)) for i in range(3)]
    assert set(texts) <= set(helpers.sentences(150))


@pytest.mark.parametrize(
    "changes",
    [
        {"heldout_fraction": 0.2},
        {"tokenizer": helpers.tokenizer_config(vocab_size=330)},
    ],
)
def test_other_settings_are_another_store(config, changes):
    first = run_data.load(config)
    second = run_data.load(dataclasses.replace(config, **changes))
    assert first.train.header["checksum"] != second.train.header["checksum"]


def test_workdir_keeps_tokenizer_and_record(config, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    workdir.mkdir()
    data = run_data.load(config, workdir=workdir)
    loaded = tokenizer_files.load(workdir / "tokenizer")
    assert loaded.fingerprint == data.tokenizer.fingerprint
    counts = loaded.vocabulary().unigram_counts
    assert (counts == data.train.unigram_counts).all()
    record = json.loads((workdir / "data.json").read_text())
    assert record["source"] == config.source
    # Resumed, it neither needs the corpus nor works again.
    pathlib.Path(config.source).unlink()
    forbid_work(monkeypatch)
    again = run_data.load(config, workdir=workdir)
    assert (again.train.tokens == data.train.tokens).all()


def test_the_record_has_the_size_and_digest_of_the_text(config, tmp_path):
    records = []
    changes = ({}, {"heldout_fraction": 0.2}, {"source": str(tmp_path / "other.txt")})
    write_corpus(tmp_path / "other.txt", seed=1)
    for number, change in enumerate(changes):
        data = run_data.load(
            dataclasses.replace(config, **change), workdir=tmp_path / str(number)
        )
        records.append(
            json.loads((tmp_path / str(number) / "data.json").read_text())["text"]
        )
        assert records[-1] == data.text()
    texts = helpers.sentences(150)
    assert records[0]["num_documents"] == len(texts)
    assert records[0]["num_bytes"] == sum(len(text.encode()) for text in texts)
    # Of the text, not of its split or its tokens.
    assert records[1]["digest"] == records[0]["digest"]
    assert records[2]["digest"] != records[0]["digest"]


def test_a_changed_corpus_is_refused_on_resume(config, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    run_data.load(config, workdir=workdir)
    write_corpus(pathlib.Path(config.source), seed=1)
    moved = dataclasses.replace(config, cache_dir=str(tmp_path / "other"))
    with pytest.raises(DataError, match="has changed since .*another workdir"):
        run_data.load(moved, workdir=workdir)
    # The same text again, newer than before, is the same data.
    write_corpus(pathlib.Path(config.source), seed=0)
    run_data.load(moved, workdir=workdir)


def test_other_hosts_load_what_was_recorded(config, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    with pytest.raises(DataError, match="a folder that all hosts share"):
        run_data.load_recorded(config, workdir=workdir)
    data = run_data.load(config, workdir=workdir)
    write_corpus(pathlib.Path(config.source), seed=1)
    found = run_data.load_recorded(config, workdir=workdir)
    assert found.tokenizer.fingerprint == data.tokenizer.fingerprint
    assert (found.train.tokens == data.train.tokens).all()
    # A host whose cache has other tokens stops.
    other = dataclasses.replace(config, cache_dir=str(tmp_path / "other"))
    with pytest.raises(DataError, match="has changed since"):
        run_data.load_recorded(other, workdir=workdir)


def test_a_workdir_of_other_data_is_refused(config, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    run_data.load(config, workdir=workdir)
    other = dataclasses.replace(config, heldout_fraction=0.2)
    with pytest.raises(DataError, match=r"data\.heldout_fraction was 0\.1 and is 0\.2"):
        run_data.load(other, workdir=workdir)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"row_length": 10**6}, "The train split of .* lower data.row_length"),
        ({"row_length": 500}, "The heldout split of .* raise data.heldout_fraction"),
    ],
)
def test_a_split_without_a_row_is_refused_before_it_is_recorded(
    config, tmp_path, changes, words
):
    workdir = tmp_path / "run"
    workdir.mkdir()
    short = dataclasses.replace(config, **changes)
    with pytest.raises(DataError, match=words):
        run_data.load(short, workdir=workdir)
    assert list(workdir.iterdir()) == []
    # Without a run, as for a preview, one split may do.
    assert run_data.load(short).train.num_tokens > 500
    # What the message says can be done.
    more = dataclasses.replace(config, row_length=50, heldout_fraction=0.5)
    run_data.load(more, workdir=workdir)


def test_a_recorded_run_is_not_resumed_into_too_little_text(config, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    run_data.load(config, workdir=workdir)
    with pytest.raises(DataError, match="not one row"):
        run_data.load(dataclasses.replace(config, row_length=10**6), workdir=workdir)


def test_a_tokenizer_can_be_given(config, tmp_path):
    tokenizer = tokenizer_training.train(
        helpers.sentences(50), helpers.tokenizer_config()
    )
    longer = tokenizer.extend(["sentinel_ids"], num_sentinels=4)
    data = run_data.load(config, tokenizer=longer)
    assert data.tokenizer.fingerprint == longer.fingerprint
    tokenizer.save(tmp_path / "saved")
    settings = helpers.tokenizer_config("file", path=str(tmp_path / "saved"))
    data = run_data.load(dataclasses.replace(config, tokenizer=settings))
    assert data.tokenizer.fingerprint == tokenizer.fingerprint


def test_bad_input_is_refused_before_work(config, tmp_path, monkeypatch):
    forbid_work(monkeypatch)

    def load(**changes):
        return run_data.load(dataclasses.replace(config, **changes))

    with pytest.raises(UserError, match="not found"):
        load(source=str(tmp_path / "missing"))
    with pytest.raises(DataError, match="leaves room for 4"):
        load(tokenizer=helpers.tokenizer_config(vocab_size=20))
    with pytest.raises(DataError, match="bpe, wordpiece, unigram"):
        load(tokenizer=helpers.tokenizer_config("bytes"))
    with pytest.raises(DataError, match="needs data.tokenizer.path"):
        load(tokenizer=helpers.tokenizer_config("file"))
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"no token to separate documents.*\[EOD\]"):
        load(
            tokenizer=helpers.tokenizer_config(
                "file", path=str(tmp_path / "tokenizer.json")
            )
        )


@pytest.mark.parametrize("step", ["tokenizer", "token store"])
def test_full_disk_leaves_nothing(config, monkeypatch, step):
    cache = pathlib.Path(config.cache_dir)
    if step == "token store":
        run_data.load(dataclasses.replace(config, heldout_fraction=0.3))
        shutil.rmtree(cache / "stores")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"The {step} was not written.*data\.cache_dir"):
        run_data.load(config)
    left = [path for path in cache.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(cache / "tokenizers") for path in left)
    assert bool(left) is (step == "token store")
    monkeypatch.undo()
    assert run_data.load(config).train.num_tokens > 0


def test_unwritable_cache_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    broken = dataclasses.replace(config, cache_dir=str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot be written.*data\.cache_dir"):
        run_data.load(broken)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert run_data.cache_folder("") == tmp_path / "palimpsest"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_data.cache_folder("") == tmp_path / ".cache" / "palimpsest"
    assert run_data.cache_folder("~/c") == tmp_path / "c"
