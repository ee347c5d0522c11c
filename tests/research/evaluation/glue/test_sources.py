"""Every row exactly as the files have it, and one clear message where they do not."""

import re

import numpy as np
import pytest

from research.data import tfds
from research.errors import UserError
from research.evaluation.finetuning.data import Split, TaskData, cut, head, swapped_too
from research.evaluation.glue import sources, tsv
from research.evaluation.glue.tasks import DIAGNOSTIC, TASKS, resolve
from tests.helpers import DATA
from tests.research.evaluation.glue import made_up
from tests.research.evaluation.toy import needs_glue

EVERYTHING = (*TASKS.values(), DIAGNOSTIC)


@pytest.fixture(scope="module")
def made_up_glue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    made_up.write(folder)
    return folder


def test_every_task_is_read(made_up_glue):
    source = sources.load(str(made_up_glue), EVERYTHING)
    assert set(source.tasks) == {*TASKS, "ax"} and not source.missing
    for data in source.tasks.values():
        for split, rows in data.splits.items():
            assert len(rows) == made_up.SIZES[split.partition("_")[0]]
            assert (rows.labels is None) == (split in data.task.test)
            assert all(len(row) == len(data.task.texts) for row in rows.texts)


def test_marks_and_quotes_of_the_official_files_are_read(made_up_glue):
    # A byte order mark, no newline at the end, no header, and lone quotation marks.
    mrpc, cola = made_up_glue / "MRPC", made_up_glue / "CoLA"
    assert (mrpc / "train.tsv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert not (cola / "dev.tsv").read_bytes().endswith(b"\n")
    assert (cola / "train.tsv").read_text().count("\n") == made_up.SIZES["train"]
    rows = sources.read_folder(mrpc, TASKS["mrpc"]).splits["train"]
    assert any(row[0].startswith('" The') for row in rows.texts)


def test_reading_is_exact(tmp_path):
    path = tmp_path / "x.tsv"
    # A quotation mark that never closes, U+0085 and U+2028 inside a sentence, '\r\n',
    # a trailing space, and no newline at the end.
    path.write_bytes('\ufeffa\tb\r\n"x \t1\ny\x85\u2028z\t2'.encode())
    table = tsv.read(path, columns=None, max_broken=0)
    assert table.columns == ("a", "b")
    assert table.column("a") == ('"x ', "y\x85\u2028z")
    assert table.column("b") == ("1", "2")
    assert table.where(1).endswith("x.tsv, line 3")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("RTE/train.tsv", "index\tsentence1\n0\ta\n", "no column 'sentence2'"),
        (
            "RTE/train.tsv",
            "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tb\n",
            "line 3: 3 cells, but 4 were expected (index, sentence1",
        ),
        (
            "RTE/dev.tsv",
            "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tneutral\n",
            "line 2: label is 'neutral'; expected one of 'entailment', 'not_ent",
        ),
        (
            "STS-B/dev.tsv",
            "sentence1\tsentence2\tscore\na\tb\t5.1\n",
            "line 2: score is '5.1'; expected a number from 0 to 5",
        ),
        ("STS-B/dev.tsv", "sentence1\tsentence2\tscore\na\tb\tx\n", "score is 'x'"),
        ("CoLA/dev.tsv", "gj04\t1\tThe sailors\n", "line 1: 3 cells, but 4"),
        ("SST-2/dev.tsv", "", "no rows"),
        ("SST-2/dev.tsv", "sentence\tlabel\n", "no rows"),
    ],
)
def test_broken_files_are_named(tmp_path, file, text, message):
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        sources.load(str(tmp_path), EVERYTHING)
    assert str(path) in str(error.value)


def test_text_that_is_no_utf8(tmp_path):
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2/train.tsv").write_bytes(b"sentence\tlabel\n\xff\xfe\t1\n")
    with pytest.raises(UserError, match=r"train\.tsv: not UTF-8"):
        sources.load(str(tmp_path), EVERYTHING)


def test_known_breaks_are_left_out_and_reported(tmp_path):
    (tmp_path / "QQP").mkdir()
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    rows = "0\t1\t2\ta\tb\t1\n1\t3\t4\tcut\n2\t5\t6\tc\td\t0\n"
    (tmp_path / "QQP/train.tsv").write_text(header + rows)
    data = sources.load(str(tmp_path), [TASKS["qqp"]]).tasks["qqp"]
    assert data.splits["train"].texts == (("a", "b"), ("c", "d"))
    assert any("1 broken rows left out (lines 3)" in note for note in data.notes)
    # In a test set, a row left out would give its successors other numbers.
    (tmp_path / "QQP/test.tsv").write_text("id\tquestion1\tquestion2\n0\ta\tb\tc\n")
    with pytest.raises(UserError, match=r"test\.tsv, line 2: 4 cells"):
        sources.load(str(tmp_path), [TASKS["qqp"]])


def test_missing_pieces_are_reported(made_up_glue, tmp_path):
    folder = tmp_path / "MNLI"
    folder.mkdir()
    for name in ("train.tsv", "dev_matched.tsv"):
        (folder / name).write_bytes((made_up_glue / "MNLI" / name).read_bytes())
    source = sources.load(str(tmp_path), [TASKS["mnli"], TASKS["rte"]])
    notes = " | ".join(source.tasks["mnli"].notes)
    assert "no dev_mismatched set (dev_mismatched.tsv is absent)" in notes
    assert "no test_matched set" in notes
    assert "partial train set: 120 rows, officially 392,702" in notes
    assert "partial dev_matched set: 40 rows, officially 9,815; scores" in notes
    assert set(source.missing) == {"rte"}


def test_sources_that_do_not_exist(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        sources.load(str(tmp_path / "absent"), EVERYTHING)
    with pytest.raises(UserError, match="none of the tasks is there"):
        sources.load(str(tmp_path), EVERYTHING)


def test_task_names():
    assert [task.name for task in resolve(["RTE", "cola"])] == ["cola", "rte"]
    with pytest.raises(UserError, match=r"no GLUE task 'mrcp'.*mrpc.*Valid: cola"):
        resolve(["mrcp"])
    with pytest.raises(UserError, match="No task"):
        resolve([""])


def test_single_class_and_missing_labels():
    texts = (("a",), ("b",))
    ones, both = np.array([1, 1], np.int32), np.array([0, 1], np.int32)
    dev = {"dev": Split(texts, both)}
    data = TaskData(TASKS["cola"], {"train": Split(texts, ones), **dev}, ())
    with pytest.raises(UserError, match="all 2 train rows have the class '1'"):
        data.check_trainable()
    assert "no labelled train set" in TaskData(TASKS["cola"], dev, ()).untrainable
    train_only = TaskData(TASKS["cola"], {"train": Split(texts, both)}, ())
    assert "no labelled evaluation set" in train_only.untrainable


def test_cutting_a_share():
    labels = np.repeat(np.array([0, 1], np.int32), [90, 10])
    split = Split(tuple((str(i),) for i in range(100)), labels)
    rest, share = cut(split, 0.2, seed=0, stratify=True)
    assert (len(rest), len(share)) == (80, 20)
    assert share.labels.sum() == 2
    assert {*rest.texts, *share.texts} == set(split.texts)
    again = cut(split, 0.2, seed=0, stratify=True)[1]
    assert again.texts == share.texts
    assert cut(split, 0.2, seed=1, stratify=True)[1].texts != share.texts
    # Every class keeps a row on both sides.
    tiny, one = cut(split.take(np.array([0, 1, 90, 91])), 0.01, seed=0, stratify=True)
    assert sorted(one.labels) == [0, 1] and sorted(tiny.labels) == [0, 1]


def test_both_orders_and_heads():
    split = Split((("a", "b"), ("c", "d")), np.array([0, 1], np.int32))
    doubled = swapped_too(split)
    assert doubled.texts == (("a", "b"), ("c", "d"), ("b", "a"), ("d", "c"))
    assert doubled.labels.tolist() == [0, 1, 0, 1]
    assert head(split, 2, seed=0) is split
    assert head(split, 1, seed=0).texts[0] in split.texts


def test_tfds_examples_come_back_in_the_official_order():
    rows = [
        dict(idx=1, premise=b"c", hypothesis=b"d", label=2),
        dict(idx=0, premise=b"a", hypothesis=b"b", label=0),
    ]
    opened = []

    def open_split(name):
        opened.append(name)
        unlabelled = name.startswith("test")
        return [{**r, "label": -1} if unlabelled else r for r in rows]

    data = sources.from_examples(TASKS["mnli"], open_split)
    assert data.splits["dev_mismatched"].texts == (("a", "b"), ("c", "d"))
    assert data.splits["dev_mismatched"].labels.tolist() == [0, 2]
    assert data.splits["test_matched"].labels is None
    assert set(opened) == {
        "train",
        "validation_matched",
        "validation_mismatched",
        "test_matched",
        "test_mismatched",
    }


def test_tfds_without_a_network_says_what_to_give(tmp_path, monkeypatch):
    from tensorflow_datasets.text import glue

    monkeypatch.setattr(tfds, "_has_network", lambda: False)
    with pytest.raises(UserError, match=r"no network.*TFDS_DATA_DIR.*official TSVs"):
        sources.load("tfds", [TASKS["rte"]])

    def offline(self, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(tfds, "_has_network", lambda: True)
    monkeypatch.setattr(glue.Glue, "download_and_prepare", offline)
    with pytest.raises(UserError, match=r"official TSVs") as error:
        sources.load(f"tfds:{tmp_path}", [TASKS["rte"]])
    assert "Network is unreachable" in str(error.value)


def test_tfds_writes_and_reads_the_same_rows(made_up_glue, tmp_path, monkeypatch):
    import tensorflow_datasets

    def downloaded(self, urls):
        folder = str(made_up_glue)
        return folder if isinstance(urls, str) else dict.fromkeys(urls, folder)

    monkeypatch.setattr(tfds, "_has_network", lambda: True)
    manager = tensorflow_datasets.download.DownloadManager
    monkeypatch.setattr(manager, "download_and_extract", downloaded)
    for name in ("rte", "stsb"):
        ours = sources.load(str(made_up_glue), [TASKS[name]]).tasks[name].splits
        theirs = sources.load(f"tfds:{tmp_path}", [TASKS[name]]).tasks[name].splits
        assert set(ours) == set(theirs)
        for split, rows in ours.items():
            assert theirs[split].texts == rows.texts
            assert (rows.labels is None) == (theirs[split].labels is None)
            if rows.labels is not None:
                np.testing.assert_array_equal(rows.labels, theirs[split].labels)


# Rows and label counts of the official files (or of the part that is there).
REAL_COUNTS = {
    "cola": dict(train=(2528, 6023), dev=(322, 721), test=1063),
    "sst2": dict(train=(29780, 37569), dev=(428, 444), test=1821),
    "mrpc": dict(train=(1194, 2474), dev=(129, 279), test=1725),
    "rte": dict(train=(1249, 1241), dev=(146, 131), test=3000),
    "wnli": dict(train=(323, 312), dev=(40, 31), test=146),
    "qnli": dict(train=(5173, 5120), dev=(2702, 2761), test=5463),
    "mnli": dict(train=(3565, 3470, 3436), dev_matched=(3479, 3123, 3213)),
    "qqp": dict(train=(14750, 8747), dev=(5394, 2259)),
    "stsb": dict(train=5749, dev=1500, test=1379),
    "ax": dict(test=1104),
}


@needs_glue
def test_official_files():
    source = sources.load(str(DATA / "glue"), EVERYTHING)
    assert set(source.tasks) == set(REAL_COUNTS) and not source.missing
    for name, expected in REAL_COUNTS.items():
        data = source.tasks[name]
        assert set(data.splits) == set(expected), name
        for split, wanted in expected.items():
            rows = data.splits[split]
            if isinstance(wanted, tuple):
                assert tuple(np.bincount(rows.labels)) == wanted, (name, split)
            else:
                assert len(rows) == wanted, (name, split)
    complete = [name for name, data in source.tasks.items() if not data.notes]
    assert complete == ["cola", "sst2", "mrpc", "stsb", "rte", "wnli", "ax"]
    splits = {name: data.splits for name, data in source.tasks.items()}
    assert splits["cola"]["dev"].texts[0][0].startswith("The sailors rode the breeze")
    assert splits["mrpc"]["dev"].texts[0][1].startswith('" The foodservice pie')
    assert splits["sst2"]["dev"].texts[0][0].endswith("affecting journey . ")
    assert splits["stsb"]["train"].labels[1] == np.float32(3.8)
    assert splits["ax"]["test"].texts[0] == (
        "The cat sat on the mat.",
        "The cat did not sit on the mat.",
    )
