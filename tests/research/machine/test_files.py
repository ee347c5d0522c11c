"""Files and folders are written as a whole or not at all."""

import json
import re

import numpy as np
import pytest

from research.machine import files


def test_a_writer_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "arrays.npz"
    files.write(path, "before")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        assert temporary.suffix == ".npz"
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    with pytest.raises(RuntimeError), files.making_folder(tmp_path / "new") as folder:
        (folder / "file").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [path]


def test_of_two_processes_that_make_a_folder_the_first_is_kept(tmp_path):
    path = tmp_path / "store"
    with files.making_folder(path) as late:
        (late / "by").write_text("second")
        with files.making_folder(path) as early:
            (early / "by").write_text("first")
    assert (path / "by").read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not JSON"),
        (b"[]", "holds no JSON object but a list"),
        (b'{"step": 1', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"step": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"step": "\xff"}', "is not JSON"),
        (b"{}", "lacks 'step'"),
        (b'{"step": "1"}', "'step' cannot be '1'"),
    ],
)
def test_what_is_not_the_json_expected_is_refused_by_name(tmp_path, content, problem):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(files.Damaged, match=f"^{re.escape(str(path))}.* {problem}"):
        files.read_json(path, step=int)
    # What follows a mark of the byte order, empty lines and separators inside a line.
    good = '\ufeff{"step": 0, "text": "\u2028\u0085"}\n\n'
    path.write_bytes(good.encode() + (content or b"{") + b"\n")
    with pytest.raises(
        files.Damaged, match=f"^{re.escape(str(path))}, line 3.* {problem}"
    ):
        files.read_json_lines(path, step=int)
    path.write_bytes(good.encode() + content)
    with_end = files.read_json_lines(path, step=int, appended=True)
    assert with_end == [{"step": 0, "text": "\u2028\u0085"}]


def test_a_line_is_appended_after_the_last_whole_one(tmp_path):
    path = tmp_path / "results.jsonl"
    for number in range(3):
        files.append_line(path, json.dumps({"number": number}))
        with path.open("a") as file:
            file.write('{"numb')
    lines = files.read_json_lines(path, appended=True)
    assert lines == [{"number": number} for number in range(3)]


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_arrays_that_were_cut_or_changed_are_refused(tmp_path, suffix):
    path, values = tmp_path / f"arrays{suffix}", np.arange(1000)
    with path.open("wb") as file:
        np.savez(file, a=values) if suffix == ".npz" else np.save(file, values)
    (found,) = files.read_arrays(path).values()
    np.testing.assert_array_equal(found, values)
    data = bytearray(path.read_bytes())
    for damaged in (data[:0], data[: len(data) // 2], b"PK" + data[2:40]):
        path.write_bytes(damaged)
        with pytest.raises(files.Damaged, match=re.escape(str(path))):
            files.read_arrays(path)
