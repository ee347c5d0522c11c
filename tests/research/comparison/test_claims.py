"""Claims: one live holder at a time, whatever is killed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from research.comparison import claims

_WORKER = """
import pathlib, sys, time
from research.comparison.claims import Claims
claims = Claims()
folder = pathlib.Path(sys.argv[1])
deadline = time.monotonic() + 30
while not claims.acquire(folder) and time.monotonic() < deadline:
    time.sleep(0.01)
print("claimed", flush=True)
time.sleep(60)
"""


@pytest.fixture
def mine():
    held = claims.Claims()
    yield held
    held.close()


def start_worker(folder):
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    return worker


def test_held_released_and_claimed_again(tmp_path, mine):
    assert mine.acquire(tmp_path) and mine.holds(tmp_path)
    other = claims.Claims()
    assert not other.acquire(tmp_path)
    assert json.loads((tmp_path / "claim.1").read_text())["pid"] == os.getpid()
    mine.release(tmp_path)
    assert other.acquire(tmp_path) and not mine.holds(tmp_path)
    other.close()


def test_claim_of_a_killed_process_is_taken_over(tmp_path, mine):
    worker = start_worker(tmp_path)
    assert worker.stdout.readline() == "claimed\n"
    assert not mine.acquire(tmp_path)
    worker.send_signal(signal.SIGKILL)
    # Not yet waited for: a zombie is dead as well.
    deadline = time.monotonic() + 10
    while not mine.acquire(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.wait()
    worker.stdout.close()
    assert mine.holds(tmp_path)


def test_a_reused_process_id_is_not_the_holder(tmp_path, mine):
    dead = claims.Holder.me()
    record = {**vars(dead), "started": dead.started - 1000}
    (tmp_path / "claim.1").write_text(json.dumps(record))
    assert mine.acquire(tmp_path)
    assert (tmp_path / "claim.2").exists()


def test_other_machines_are_given_up_when_they_stop_changing(
    tmp_path, mine, monkeypatch
):
    record = {**vars(claims.Holder.me()), "machine": "elsewhere", "pid": 1}
    claim = tmp_path / "claim.1"
    claim.write_text(json.dumps(record))
    now = time.monotonic()
    clock = [now]
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock[0])
    assert not mine.acquire(tmp_path)
    clock[0] += claims.GIVEN_UP_SECONDS * 0.9
    os.utime(claim)  # a heartbeat
    assert not mine.acquire(tmp_path)
    clock[0] += claims.GIVEN_UP_SECONDS * 0.9
    assert not mine.acquire(tmp_path)
    clock[0] += claims.GIVEN_UP_SECONDS * 0.2
    assert mine.acquire(tmp_path)


def _race(folder, barrier, wins):
    held = claims.Claims()
    won = 0
    for index in range(20):
        barrier.wait()
        won += held.acquire(folder / str(index))
    wins.put(won)
    # Others may still be looking at the claims of this process.
    barrier.wait()


def test_of_many_racing_processes_one_wins(tmp_path):
    # Every job begins with a dead claim, which all of them find.
    dead = {**vars(claims.Holder.me()), "started": 1.0}
    for index in range(20):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "claim.1").write_text(json.dumps(dead))
    context = multiprocessing.get_context("spawn")
    barrier, wins = context.Barrier(4), context.Queue()
    racers = [
        context.Process(target=_race, args=(tmp_path, barrier, wins)) for _ in range(4)
    ]
    for racer in racers:
        racer.start()
    total = sum(wins.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join()
    assert total == 20
    assert {path.name for path in tmp_path.glob("*/claim.*")} == {"claim.1", "claim.2"}


@pytest.mark.parametrize(
    "content",
    [
        b'{"machine": "a',
        b"[]",
        b"\xff",
        b"[" * 100_000,
        json.dumps({**vars(claims.Holder.me()), "pid": "x"}).encode(),
        json.dumps({**vars(claims.Holder.me()), "pid": 10**30}).encode(),
    ],
)
def test_a_damaged_claim_is_given_up_like_that_of_another_machine(
    tmp_path, mine, monkeypatch, content
):
    (tmp_path / "claim.1").write_bytes(content)
    for stray in ("claim.txt", "claim.", "claim.2.old", "claim.1e3"):
        (tmp_path / stray).touch()
    clock = [time.monotonic()]
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock[0])
    assert not mine.acquire(tmp_path)
    clock[0] += claims.GIVEN_UP_SECONDS + 1
    assert mine.acquire(tmp_path)
