"""A tree comes back as it was, or not at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.machine import arrays

TREE = {
    "layers": [jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), np.int32(2)],
    "scale": np.float32([0.5]),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "folder" / "x.npz"
    arrays.save(path, TREE, {"epoch": 1, "losses": [0.5]})
    return path


def test_trees_come_back(file):
    tree, meta = arrays.load(file, TREE)
    assert meta == {"epoch": 1, "losses": [0.5]}
    assert jax.tree.structure(tree) == jax.tree.structure(TREE)
    for found, wanted in zip(jax.tree.leaves(tree), jax.tree.leaves(TREE)):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    assert [path.name for path in file.parent.iterdir()] == ["x.npz"]


@pytest.mark.parametrize(
    "other",
    [
        {**TREE, "scale": np.float32([0.5, 1.0])},
        {**TREE, "scale": np.float64([0.5])},
        {**TREE, "bias": np.zeros(1)},
        {"layers": TREE["layers"]},
        {"layers": TREE["layers"], "bias": TREE["scale"]},
    ],
)
def test_another_tree_is_not_read(file, other):
    assert arrays.load(file, other) is None


def test_damaged_files_are_not_read(file):
    whole = file.read_bytes()
    assert arrays.load(file.with_name("absent.npz"), TREE) is None
    for size in range(0, len(whole), 31):
        file.write_bytes(whole[:size])
        assert arrays.load(file, TREE) is None, size
    for place in range(0, len(whole), 13):
        flipped = bytes([whole[place] ^ 255])
        file.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        found = arrays.load(file, TREE)
        assert found is None or found[1] == {"epoch": 1, "losses": [0.5]}, place
