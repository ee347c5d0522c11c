"""Our reader and writer against the safetensors library, and broken files."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from research.conversion import safetensors
from research.errors import UserError

TENSORS = {
    "b.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.bias": np.arange(3, dtype=np.float16),
    "count": np.array(7, np.int64),
    "flags": np.array([True, False]),
    "none": np.zeros((0, 4), np.float32),
    "half": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3),
}


def write(path):
    specs = {name: (t.dtype, t.shape) for name, t in TENSORS.items()}
    safetensors.write(path, specs, TENSORS.__getitem__)


def test_the_library_reads_what_we_write(tmp_path):
    path = tmp_path / "model.safetensors"
    write(path)
    loaded = load_file(path)
    assert set(loaded) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        np.testing.assert_array_equal(loaded[name], tensor)


def test_we_read_what_the_library_writes(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    loaded = safetensors.open_folder(tmp_path)
    assert set(loaded) == set(TENSORS)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(loaded[name], tensor)


def test_shards(tmp_path):
    names = sorted(TENSORS)
    shards = {"one.safetensors": names[:2], "two.safetensors": names[2:]}
    for file, held in shards.items():
        save_file({name: TENSORS[name] for name in held}, tmp_path / file)
    index = {name: file for file, held in shards.items() for name in held}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    loaded = safetensors.open_folder(tmp_path)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(loaded[name], tensor)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks two\.safetensors"):
        safetensors.open_folder(tmp_path)


@pytest.mark.parametrize(
    "offsets",
    {
        "gap": ([0, 8], [12, 20]),
        "overlap": ([0, 8], [4, 12]),
        "reversed": ([8, 0], [8, 16]),
        "negative": ([-8, 0], [0, 8]),
        "cut": ([0, 8], [8, 24]),
        "of another size": ([0, 4], [4, 16]),
    }.items(),
    ids=lambda item: item[0],
)
def test_headers_that_lie(tmp_path, offsets):
    header = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": span}
        for name, span in zip("ab", offsets[1], strict=True)
    }
    encoded = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(16))
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        safetensors.open_folder(tmp_path)


@pytest.mark.parametrize(
    ("index", "named"),
    [
        ({"weight_map": {"a": "../a.safetensors"}}, "only"),
        ({"weight_map": {"a": "/a.safetensors"}}, "only"),
        ({"weight_map": {"a": 3}}, "weight_map"),
        ({}, "weight_map"),
        ([], "no JSON object"),
    ],
)
def test_an_index_that_lies(tmp_path, index, named):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(TENSORS, tmp_path.parent / "a.safetensors")
    with pytest.raises((ValueError, UserError), match=named):
        safetensors.open_folder(tmp_path)


@pytest.mark.parametrize("size", [4, 40, -5])
def test_truncated(tmp_path, size):
    path = tmp_path / "model.safetensors"
    write(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="damaged"):
        safetensors.open_folder(tmp_path)


def test_pickles_are_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="save_pretrained"):
        safetensors.open_folder(tmp_path)


def test_nothing_half_written_is_left(tmp_path):
    path = tmp_path / "model.safetensors"

    def fail(name):
        raise OSError(28, "No space left on device")

    specs = {name: (t.dtype, t.shape) for name, t in TENSORS.items()}
    with pytest.raises(OSError, match="No space"):
        safetensors.write(path, specs, fail)
    assert not list(tmp_path.iterdir())
