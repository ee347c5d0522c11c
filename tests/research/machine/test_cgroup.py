"""The least limit of all groups that a process is in, in both versions."""

import pytest

from research.machine import cgroup

UNLIMITED_V1 = "9223372036854771712"


def limit(folder, membership, files):
    (folder / "membership").write_text(membership)
    for name, text in files.items():
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return cgroup.memory_limit(folder / "membership", folder / "root")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/memory.max": "300", "a/b/memory.max": "max"}, 300),  # of the group above
        ({"a/memory.max": "300", "a/b/memory.max": "200"}, 200),
        ({"a/memory.max": "max", "a/b/memory.max": "max"}, None),
        ({"memory.max": "100"}, 100),  # in a container, whose root is its own group
        ({"c/memory.max": "100"}, None),  # of others
        ({}, None),
    ],
)
def test_version_2(tmp_path, files, expected):
    assert limit(tmp_path, "0::/a/b\n", files) == expected


def test_version_1_has_a_tree_of_its_own(tmp_path):
    membership = "5:cpu,cpuacct:/x\n4:hugetlb,memory:/job/step\n0::/\n"
    files = {
        "memory/memory.limit_in_bytes": UNLIMITED_V1,
        "memory/job/memory.limit_in_bytes": "4096",
        "memory/job/step/memory.limit_in_bytes": UNLIMITED_V1,
        "memory/x/memory.limit_in_bytes": "1",
    }
    assert limit(tmp_path, membership, files) == 4096


def test_no_groups_are_no_limit(tmp_path):
    assert cgroup.memory_limit(tmp_path / "none", tmp_path) is None
