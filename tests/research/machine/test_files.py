"""Files and folders are written as a whole or not at all."""

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
