"""Files are what was written, or are refused by name."""

import json

import pytest

from research.machine import checksums, files


def test_files_that_changed_are_named(tmp_path):
    checksums.write(tmp_path / "config.json", "old")
    checksums.write(tmp_path / "other.json", "other")
    (tmp_path / "unknown").write_text("no checksum")
    checksums.check(tmp_path)
    for damaged in ("", "ol", "olf", "older"):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(files.Damaged, match=r"config\.json has changed"):
            checksums.check(tmp_path)
        checksums.check(tmp_path, "other.json", "unknown")
    (tmp_path / "config.json").unlink()
    with pytest.raises(files.Damaged, match=r"config\.json is missing"):
        checksums.check(tmp_path)
    (tmp_path / checksums.CHECKSUMS).write_text(json.dumps({"other.json": [3]}))
    with pytest.raises(files.Damaged, match="holds no checksums"):
        checksums.check(tmp_path)


def test_a_kill_between_the_checksum_and_the_file_leaves_a_whole_one(
    tmp_path, monkeypatch
):
    path = tmp_path / "config.json"
    write, killed = files.write, False

    def write_or_die(target, data):
        if killed and target == path:
            raise KeyboardInterrupt
        write(target, data)

    monkeypatch.setattr(files, "write", write_or_die)
    checksums.write(path, "1")
    for new in ("2", "3"):
        killed = True
        with pytest.raises(KeyboardInterrupt):
            checksums.write(path, new)
        checksums.check(tmp_path)
        assert path.read_text() == "1"
    killed = False
    checksums.write(path, "4")
    checksums.check(tmp_path)


def test_lines_may_be_appended_and_none_before_them_changed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for number in range(3):
        files.append_line(path, f"{number}")
        checksums.record(tmp_path, path.name)
    files.append_line(path, "not recorded yet")
    checksums.check(tmp_path)
    path.write_text(path.read_text().replace("1", "7"))
    # What is appended does not make the changed line right.
    checksums.record(tmp_path, path.name)
    with pytest.raises(files.Damaged, match=r"metrics\.jsonl has changed"):
        checksums.check(tmp_path)
