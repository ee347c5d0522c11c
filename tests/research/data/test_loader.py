"""The loader: permutations, position a function of (seed, step), hosts, speed."""

import itertools
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from research.data import loader
from research.data.errors import DataError
from tests.research.data import helpers

ROOT = pathlib.Path(__file__).parents[3]
ROW_LENGTH = 8
STORE = helpers.memory_store([5, 17, 1, 30, 11, 8, 21, 40, 3, 64, 2, 9] * 4)


def batches(count, **changes):
    values = dict(
        row_length=ROW_LENGTH,
        batch_size=6,
        seed=3,
        start_step=0,
    )
    found = loader.train_batches(STORE, **(values | changes))
    return list(itertools.islice(found, count))


def same(first, second):
    return all(
        (getattr(first, name) == getattr(second, name)).all()
        for name in ("tokens", "row_ids", "first_document")
    )


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_permute_is_a_permutation(size):
    keys = (11, 22, 33, 44, 55, 66)
    images = loader.permute(np.arange(size), size, keys)
    assert (np.sort(images) == np.arange(size)).all()
    # One at a time or all at once, the image is the same.
    assert loader.permute(np.array([size - 1]), size, keys)[0] == images[-1]


def test_permute_reaches_far():
    size = 2**40 + 12345
    indices = np.arange(0, size, size // 1000)
    images = loader.permute(indices, size, (1, 2, 3, 4, 5, 6))
    assert len(set(images.tolist())) == len(indices)
    assert images.min() >= 0 and images.max() < size


def test_permute_looks_random():
    size, seeds = 60, 4000
    images = np.stack(
        [
            loader.permute(np.arange(size), size, loader._epoch_keys(seed, 0)[1])
            for seed in range(seeds)
        ]
    )
    # Chi-squared of where an index goes, and of the step between neighbours.
    for values, cells in (
        (images[:, 7], size),
        ((images[:, 8] - images[:, 7]) % size - 1, size - 1),
    ):
        counts = np.bincount(values, minlength=cells)
        expected = seeds / cells
        statistic = ((counts - expected) ** 2 / expected).sum()
        # Mean cells - 1, standard deviation sqrt(2 (cells - 1)) = 10.9.
        assert abs(statistic - (cells - 1)) < 5 * np.sqrt(2 * (cells - 1))


def test_an_epoch_has_every_row_once_and_epochs_differ():
    rows = STORE.rows(ROW_LENGTH)
    order = loader.RowOrder(num_tokens=STORE.num_tokens, row_length=ROW_LENGTH, seed=0)
    epochs = order.starts(0, 3 * rows).reshape(3, rows)
    phases = set()
    for starts in epochs:
        covered = (starts[:, None] + np.arange(ROW_LENGTH)) % STORE.num_tokens
        assert len(np.unique(covered)) == rows * ROW_LENGTH
        phase = (np.sort(starts) % ROW_LENGTH)[0]
        phases.add(int(phase))
    assert len(phases) > 1
    assert not (epochs[0] == epochs[1]).all()
    # Any part can be asked for, across blocks and epochs.
    whole = order.starts(0, 3000)
    assert (order.starts(1000, 700) == whole[1000:1700]).all()


def test_batches_are_a_function_of_seed_and_step():
    found = batches(40)
    for step in (0, 1, 7, 29):
        resumed = batches(3, start_step=step)
        assert all(map(same, resumed, found[step : step + 3]))
    assert all(map(same, batches(40), found))
    other = batches(40, seed=4)
    assert not any(map(same, other, found))


def test_batches_hold_the_store_s_tokens():
    order = loader.RowOrder(num_tokens=STORE.num_tokens, row_length=ROW_LENGTH, seed=3)
    for step, batch in enumerate(batches(20)):
        starts = order.starts(step * 6, 6)
        tokens, first = STORE.gather(starts, ROW_LENGTH)
        assert (batch.tokens == tokens).all() and (batch.first_document == first).all()
        assert batch.row_ids.tolist() == list(range(6))
        for array in (batch.tokens, batch.row_ids, batch.first_document):
            assert array.dtype == np.int32


@pytest.mark.parametrize("num_parts", [2, 3, 6])
def test_parts_partition_the_batch(num_parts):
    whole = batches(5)
    parts = [batches(5, num_parts=num_parts, parts=[n]) for n in range(num_parts)]
    for step, batch in enumerate(whole):
        for name in ("tokens", "row_ids", "first_document"):
            joined = np.concatenate([getattr(part[step], name) for part in parts])
            assert (joined == getattr(batch, name)).all()


def test_a_host_can_have_parts_that_are_not_side_by_side():
    whole = batches(5)
    first, second = (batches(5, num_parts=3, parts=own) for own in ((0, 2), (1, 2)))
    for step, batch in enumerate(whole):
        for name in ("tokens", "row_ids", "first_document"):
            rows = getattr(batch, name)
            assert (getattr(first[step], name) == rows[[0, 1, 4, 5]]).all()
            assert (getattr(second[step], name) == rows[[2, 3, 4, 5]]).all()
    parts = heldout(num_parts=3, parts=(0, 2))
    for part, batch in zip(parts, heldout(), strict=True):
        assert (part.tokens == batch.tokens[[0, 1, 4, 5]]).all()
        assert part.row_ids.tolist() == [0, 1, 4, 5]


def test_impossible_batches_are_refused():
    with pytest.raises(ValueError, match="6 rows cannot be divided into 4 parts"):
        batches(1, num_parts=4)
    with pytest.raises(ValueError, match="not among the 2"):
        batches(1, num_parts=2, parts=(0, 2))
    with pytest.raises(DataError, match="not one row of 5000.*row_length"):
        batches(1, row_length=5000)


def heldout(**changes):
    values = dict(row_length=ROW_LENGTH, batch_size=6, num_batches=4)
    return list(loader.heldout_batches(STORE, **(values | changes)))


def test_heldout_batches_are_fixed_full_and_distinct():
    found = heldout()
    assert len(found) == 4 and all(map(same, heldout(), found))
    rows = np.concatenate([batch.tokens for batch in found])
    assert rows.shape == (24, ROW_LENGTH)
    stream = STORE.tokens[: STORE.rows(ROW_LENGTH) * ROW_LENGTH].reshape(-1, ROW_LENGTH)
    positions = [np.flatnonzero((stream == row).all(1))[0] for row in rows]
    assert (np.diff(positions) > 0).all()
    assert positions[-1] > len(stream) * 0.9
    everything = heldout(num_batches=10**6)
    assert len(everything) == STORE.rows(ROW_LENGTH) // 6
    parts = [heldout(num_parts=2, parts=[n]) for n in (0, 1)]
    for batch, *shares in zip(found, *parts, strict=True):
        joined = np.concatenate([share.tokens for share in shares])
        assert (joined == batch.tokens).all()


def test_heldout_rows_are_repeated_where_there_are_too_few():
    (batch,) = heldout(row_length=100, batch_size=40)
    count = STORE.rows(100)
    assert count < 40
    assert (batch.tokens == batch.tokens[np.arange(40) % count]).all()
    assert len(np.unique(batch.tokens, axis=0)) == count


def test_device_prefetch_places_ahead():
    placed = []

    def place(item):
        placed.append(item)
        return item

    found = loader.device_prefetch(iter(range(6)), place, size=2)
    assert next(found) == 0 and placed == [0, 1, 2]
    assert list(found) == [1, 2, 3, 4, 5]


PROGRAMS = {
    "plain script": "use([])",
    "absl app": """
        from absl import app, flags
        flags.DEFINE_integer("number", 1, "A flag.")

        def main(argv):
            assert flags.FLAGS.number == 5
            use(argv)

        app.run(main)
    """,
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_with_and_without_flags(tmp_path, program):
    # grain reads absl flags, also where none were parsed. The program ends although
    # the batches do not.
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(
            """
            import itertools
            from research.data import loader
            from tests.research.data import helpers

            def use(argv):
                found = loader.train_batches(
                    helpers.memory_store([20] * 9), row_length=8, batch_size=2,
                    seed=0, start_step=0)
                print(next(found).tokens.shape, next(found).row_ids)
            """
        )
        + textwrap.dedent(PROGRAMS[program])
    )
    finished = subprocess.run(
        [sys.executable, str(script), "--number=5"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "(2, 8) [0 1]"
