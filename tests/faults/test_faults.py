"""Whatever happens to a run, the same command goes on to the same losses, bit for bit.

python -m pytest tests/faults --kills=50
"""

from __future__ import annotations

import random
import signal

import jax
import numpy as np
import pytest

from research.training import checkpoints
from tests.faults.harness import Runs

pytestmark = pytest.mark.slow

STEPS, INTERVAL = 60, 5


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = Runs(tmp_path_factory.mktemp("faults"), steps=STEPS, interval=INTERVAL)
    ended = found.run("undisturbed")
    assert ended.code == 0, ended.errors
    assert ended.last_step == STEPS
    return found


def assert_same_as_undisturbed(runs: Runs, name: str) -> None:
    assert runs.numbers(name) == runs.numbers("undisturbed")
    first, second = (
        checkpoints.load_params(runs.folder / run / "checkpoints")[0]
        for run in (name, "undisturbed")
    )
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_killed_at_random_moments(runs, request):
    """A fresh run is begun whenever one finishes, until there were enough kills."""
    rng = random.Random(0)
    kills, name, reached, lost = 0, "killed0", 0, 0
    wanted = request.config.getoption("--kills", default=4)
    while kills < wanted:
        ended = runs.killed(name, rng)
        if ended.code == 0:
            assert_same_as_undisturbed(runs, name)
            name, reached = f"killed{kills}", 0
            continue
        assert ended.code == -signal.SIGKILL, ended.errors
        kills += 1
        if ended.last_step:
            # Steps here are quicker than writing: a kill may take the checkpoint that
            # is being written along with the interval after it, and never more.
            assert ended.first_step >= reached - 2 * INTERVAL
            lost = max(lost, reached - ended.first_step)
            reached = ended.last_step
    ended = runs.run(name)
    assert ended.code == 0, ended.errors
    assert_same_as_undisturbed(runs, name)
    print(f"{kills} kills: at most {lost} steps lost, {INTERVAL} between checkpoints")


def test_sigterm_loses_nothing(runs):
    ended = runs.signalled("terminated", signal.SIGTERM, after_lines=13, delay=0.0)
    assert ended.code == 0, ended.errors
    assert ended.last_step < STEPS
    (last,) = [line for line in ended.lines if line.startswith("stopped by SIGTERM")]
    step = int(last.split()[5])
    assert step >= ended.last_step
    again = runs.run("terminated")
    assert again.first_step == step
    assert_same_as_undisturbed(runs, "terminated")


def test_two_runs_in_one_workdir_are_refused(runs):
    first = runs.start("busy")
    assert first.stdout is not None
    lines = [first.stdout.readline()]  # It holds the lock by its first line.
    second = runs.start("busy")
    refused = runs.end(second, "busy", [])
    assert refused.code == 2
    assert "is in use by process" in refused.errors
    assert runs.end(first, "busy", lines).code == 0
    assert_same_as_undisturbed(runs, "busy")


# Files larger than this cannot be written, as on a disk that is full.
LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
"""


def test_a_checkpoint_that_cannot_be_written_costs_nothing_else(runs):
    ended = runs.signalled("full", signal.SIGTERM, after_lines=13, delay=0.0)
    assert ended.code == 0, ended.errors
    before = checkpoints.steps_in(runs.folder / "full/checkpoints")
    failed = runs.run("full", before=LIMITED)
    assert failed.code == 2, failed.errors
    assert "could not be written" in failed.errors
    assert "Traceback" not in failed.errors
    newest = checkpoints.steps_in(runs.folder / "full/checkpoints")[-1]
    assert newest == before[-1]
    checkpoints.verify(runs.folder / "full/checkpoints" / str(newest))
    assert runs.run("full").code == 0
    assert_same_as_undisturbed(runs, "full")


def test_other_devices_and_modes_may_go_on(runs):
    """Resuming by pmap, with microbatches, is the same run up to rounding."""
    ended = runs.signalled("moved", signal.SIGTERM, after_lines=13, delay=0.0)
    assert ended.code == 0, ended.errors
    again = runs.run(
        "moved",
        before="import os; os.environ['XLA_FLAGS'] = "
        "'--xla_force_host_platform_device_count=4'",
        overrides=(
            "--config.parallel.mode=pmap",
            "--config.train.num_microbatches=2",
        ),
    )
    assert again.code == 0, again.errors
    assert again.first_step > 0
    for moved, still in zip(
        runs.numbers("moved"), runs.numbers("undisturbed"), strict=True
    ):
        assert moved["step"] == still["step"]
        assert moved["loss"] == pytest.approx(still["loss"], abs=1e-3)
