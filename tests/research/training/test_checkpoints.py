"""Checkpoints come back bit for bit, or are known not to."""

import dataclasses
import errno
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.errors import UserError
from research.training import checkpoints, saving, state
from research.training.saving import Checkpoints
from tests.research.training import tiny


def make_state(step: int = 0, **overrides) -> state.TrainState:
    """A state with a different value in every element."""
    program = tiny.program(**overrides)
    counter = iter(range(10**6))

    def fill(shape):
        first = next(counter)
        size = int(np.prod(shape.shape))
        values = (np.arange(size) * 0.37 + first + step).reshape(shape.shape)
        return jnp.asarray(values.astype(shape.dtype))

    filled = jax.tree.map(fill, program.state)
    return dataclasses.replace(filled, step=jnp.int32(step))


def config(**changes):
    return dataclasses.replace(tiny.run_config().checkpoint, **changes)


@pytest.fixture
def open_checkpoints(tmp_path):
    opened = []

    def open_them(**changes):
        found = Checkpoints(
            tmp_path / "checkpoints", config(**changes), say=said.append
        )
        opened.append(found)
        return found

    said: list[str] = []
    open_them.said = said
    open_them.folder = tmp_path / "checkpoints"
    yield open_them
    for found in opened:
        found.close()


def assert_equal(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_state_comes_back_bit_for_bit(open_checkpoints):
    saved = make_state(5, optimizer__moment_dtype="bfloat16")
    first = open_checkpoints()
    first.save(5, saved)
    first.wait()
    second = open_checkpoints()
    assert second.latest_step == 5
    template = jax.tree.map(jnp.zeros_like, saved)
    template = dataclasses.replace(template, seed=saved.seed)
    assert_equal(second.restore(template), saved)
    params, step = checkpoints.load_params(open_checkpoints.folder)
    assert step == 5
    assert_equal(params, saved.params)
    assert jax.tree.structure(params) == jax.tree.structure(saved.params)


def test_last_and_best_stay(open_checkpoints):
    found = open_checkpoints(every_steps=1, keep_last=2, keep_best=True)
    saved = make_state()
    for step, loss in [(1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 2.5)]:
        found.save(step, saved, loss=loss)
    found.wait()
    assert found.steps == [2, 4, 5]
    found.close()  # What is old is deleted in the background.
    assert checkpoints.load_params(open_checkpoints.folder, "best")[1] == 2
    assert checkpoints.load_params(open_checkpoints.folder, "4")[1] == 4
    with pytest.raises(UserError, match="'last', 'best' or one of 2, 4, 5"):
        checkpoints.load_params(open_checkpoints.folder, "3")
    resumed = open_checkpoints(every_steps=1, keep_last=2, keep_best=True)
    resumed.save(6, saved, loss=1.5)
    resumed.wait()
    assert resumed.steps == [2, 5, 6]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_not_the_best(open_checkpoints, loss):
    found = open_checkpoints(every_steps=1, keep_last=1, keep_best=True)
    saved = make_state()
    found.save(1, saved, loss=loss)
    found.wait()
    with pytest.raises(UserError, match="no checkpoint .* finite: use 'last'"):
        checkpoints.choose(open_checkpoints.folder, "best")
    for step, later in [(2, 3.0), (3, loss), (4, 5.0)]:
        found.save(step, saved, loss=later)
    found.wait()
    found.close()
    assert checkpoints.steps_in(open_checkpoints.folder) == [2, 4]
    assert checkpoints.choose(open_checkpoints.folder, "best") == 2


def test_losses_of_older_checkpoints_that_are_not_numbers_are_passed_over(
    open_checkpoints,
):
    first = open_checkpoints(every_steps=1, keep_last=3)
    for step, loss in [(1, 1.0), (2, 3.0), (3, 4.0)]:
        first.save(step, make_state(step), loss=loss)
    first.wait()
    first.close()
    metrics = open_checkpoints.folder / "1/metrics/metrics"
    metrics.write_text(json.dumps({"loss": math.nan}))
    assert checkpoints.choose(open_checkpoints.folder, "best") == 2
    second = open_checkpoints(every_steps=1, keep_last=1, keep_best=True)
    second.save(4, make_state(4), loss=5.0)
    second.wait()
    assert second.steps == [2, 4]


def test_a_stopped_session_pushes_out_no_checkpoint_that_was_due(open_checkpoints):
    found, saved = open_checkpoints(every_steps=25, keep_last=4), make_state()
    for step in (25, 50, 60, 75, 100):
        found.save(step, saved)
    found.wait()
    assert found.steps == [25, 50, 75, 100]


def test_keep_last_counts_the_one_after_the_last_that_was_due(open_checkpoints):
    found, saved = open_checkpoints(every_steps=4, keep_last=2), make_state()
    for step in (4, 8, 12, 14):
        found.save(step, saved)
    found.wait()
    assert found.steps == [12, 14]


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


DAMAGES = {
    "a flipped bit in the largest file": lambda folder: _flip(
        max(_files(folder / "params"), key=lambda path: path.stat().st_size)
    ),
    "a flipped bit in the optimizer": lambda folder: _flip(
        max(_files(folder / "progress"), key=lambda path: path.stat().st_size)
    ),
    "a truncated file": lambda folder: next(
        p for p in _files(folder / "params") if p.stat().st_size > 100
    ).write_bytes(b""),
    "a missing file": lambda folder: (folder / "params/manifest.ocdbt").unlink(),
    "missing checksums": lambda folder: (folder / "params/checksums.json").unlink(),
    "unreadable metrics": lambda folder: (folder / "metrics/metrics").write_text("{"),
    "unreadable metadata": lambda folder: (folder / "_CHECKPOINT_METADATA").write_text(
        "{"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(open_checkpoints, damage):
    first = open_checkpoints()
    older = make_state(1)
    first.save(1, older, loss=1.0)
    first.save(2, make_state(2), loss=2.0)
    first.wait()
    first.close()
    DAMAGES[damage](open_checkpoints.folder / "2")
    second = open_checkpoints()
    assert second.latest_step == 1
    assert_equal(second.restore(older), older)
    (line,) = open_checkpoints.said
    assert "step 2 is damaged" in line
    # It can be written again.
    second.save(2, make_state(2), loss=2.0)
    second.wait()
    assert second.steps == [1, 2]
    checkpoints.verify(open_checkpoints.folder / "2")


def test_an_older_checkpoint_with_unreadable_metrics_is_set_aside(open_checkpoints):
    first = open_checkpoints(every_steps=1, keep_last=3)
    for step in (1, 2, 3):
        first.save(step, make_state(step), loss=1.0)
    first.wait()
    first.close()
    DAMAGES["unreadable metrics"](open_checkpoints.folder / "1")
    second = open_checkpoints(every_steps=1, keep_last=3)
    assert second.steps == [2, 3]
    (line,) = open_checkpoints.said
    assert "step 1 is damaged" in line and "is used" not in line


def test_nothing_is_overwritten_when_all_are_damaged(open_checkpoints):
    first = open_checkpoints()
    first.save(1, make_state(1))
    first.wait()
    first.close()
    DAMAGES["a truncated file"](open_checkpoints.folder / "1")
    with pytest.raises(UserError, match="every checkpoint in .* is damaged"):
        open_checkpoints()
    assert (open_checkpoints.folder / "1").is_dir()
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.load_params(open_checkpoints.folder)


def test_unfinished_checkpoints_are_swept_away(open_checkpoints):
    first = open_checkpoints()
    first.save(1, make_state(1))
    first.wait()
    first.close()
    half = open_checkpoints.folder / "2.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "something").write_text("half")
    second = open_checkpoints(every_steps=1)
    assert second.steps == [1]
    second.save(2, make_state(2))
    second.wait()
    assert second.steps == [1, 2]


def test_other_shapes_are_named(open_checkpoints):
    found = open_checkpoints()
    found.save(1, make_state())
    found.wait()
    other = make_state(model__mlp_dim=96)
    with pytest.raises(UserError, match=r"mlp/up/kernel: \(32, 64\) in the checkpoint"):
        found.restore(other)


def test_a_full_disk_is_an_error_that_says_what_is_safe(open_checkpoints, monkeypatch):
    found = open_checkpoints()
    found.save(1, make_state(1))
    found.wait()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.Handler, "finalize", full)
    with pytest.raises(UserError, match="step 2.*No space left.*steps 1 are whole"):
        found.save(2, make_state(2))
        found.save(3, make_state(3))  # Which finds that the one before it failed.
    monkeypatch.undo()
    checkpoints.verify(open_checkpoints.folder / "1")
    again = open_checkpoints()
    assert again.latest_step == 1


def test_the_words_of_the_operating_system_are_found():
    text = (
        'OUT_OF_RANGE: Error writing "a/0" in OCDBT database at local file "/w/": '
        "Failed to write 3071 bytes to file 33: No space left on device "
        "[os_error_code='28'] [source locations='x.cc:1']"
    )
    wrapped = RuntimeError("background save failed")
    wrapped.__cause__ = ValueError(text)
    assert saving._disk_error(wrapped) == "No space left on device"
    assert saving._disk_error(OSError(30, "Read-only file system")) == (
        "Read-only file system"
    )
    assert saving._disk_error(ValueError("shapes differ")) is None


def test_errors_that_are_not_about_disks_stay_what_they_are():
    with (
        pytest.raises(KeyError),
        saving.writing(saving.pathlib.Path("x"), 1),
    ):
        raise KeyError("bug")


def test_no_checkpoint_is_an_error_with_its_folder(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoints.load_params(tmp_path)


def test_checksums_cover_every_file_of_the_arrays(open_checkpoints):
    found = open_checkpoints()
    found.save(1, make_state())
    found.wait()
    for item in ("params", "progress"):
        folder = open_checkpoints.folder / "1" / item
        sums = json.loads((folder / "checksums.json").read_text())
        named = {str(path.relative_to(folder)) for path in _files(folder)}
        assert named - sums.keys() <= {"checksums.json", "commit_success.txt"}
        assert any("/d/" in f"/{name}" for name in sums)
