"""Gives random bad input to the real commands, and reports what they should not do.

    python -m tests.fuzz --seconds=120 --seed=0           # `make fuzz`, what CI runs
    python -m tests.fuzz --kind=workdirs --number=17      # one input again, kept

A command must end within 20 seconds of CPU time, with its work done or with one message
and exit code 2. A traceback, another end, or a result that is not the one of the
undamaged input without a word about it is a fault. An input follows from the seed, its
kind and its number alone.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import importlib
import json
import logging
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings

CPU_SECONDS = 20
# A process that sleeps takes no CPU time; other work beside it may slow it down.
WALL_SECONDS = 300
# Sessions, host names and times are no part of a result.
UNCOMPARED = ("README.md", "run.json", "_METADATA", "_CHECKPOINT_METADATA")

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from research.config import command_line
from research.training import checkpoints, streamed
from tests.fuzz import kinds


def start(attempt: kinds.Attempt, folder: pathlib.Path) -> int:
    """Runs a command in a child that has imported everything already; its pid."""
    with warnings.catch_warnings():
        # No backend of JAX lives in the parent, so none is copied.
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid:
        return pid
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    os.setpgid(0, 0)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    module = importlib.import_module(f"research.{attempt.command}")
    sys.argv = [f"research.{attempt.command}", *attempt.arguments]
    code = 1
    try:
        command_line.run(module.main, module.define_flags)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code == 0 and attempt.params_of is not None:
            write_params(attempt.params_of)
    except Exception:
        logging.getLogger(__name__).exception("not one of the project's errors")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def write_params(workdir: pathlib.Path) -> None:
    """Digests of the parameters of a run, into params.json beside it."""
    params, _ = streamed.open_params(workdir / "checkpoints")
    digests = {
        name: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        for name, leaf in checkpoints.flatten(params).items()
    }
    (workdir.parent / "params.json").write_text(json.dumps(digests, sort_keys=True))


def digests(path: pathlib.Path) -> dict[str, str]:
    """Name -> digest of the files in a folder, or of one, that hold a result."""
    if path.is_file():
        return {"": hashlib.sha256(path.read_bytes()).hexdigest()}
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file() and file.name not in UNCOMPARED
    }


def fault(attempt: kinds.Attempt, folder: pathlib.Path, status: int) -> str | None:
    """What a command that has ended should not have done, or None."""
    output = (folder / "output.txt").read_text(errors="replace")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        is_late = number in (signal.SIGXCPU, signal.SIGKILL)
        return "hang" if is_late else f"signal {number}"
    if "Traceback (most recent call last)" in output:
        return "traceback"
    code = os.WEXITSTATUS(status)
    if code not in (0, 2):
        return f"exit code {code}"
    if code == 2 and "error: " not in output:
        return "refused without a word"
    if code == 0 and attempt.result is not None and attempt.right is not None:
        said = any(word in output for word in ("damaged", "not done", "no readable"))
        if not said and digests(attempt.result) != digests(attempt.right):
            return "silent"
    return None


def reaped(running: dict[int, tuple], *, block: bool) -> list[tuple]:
    """(what was started, status) of children that ended or were too slow."""
    ended = []
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            ended.append((running.pop(pid), status))
            continue
        for late, (*_, started) in running.items():
            if time.monotonic() - started > WALL_SECONDS:
                os.kill(late, signal.SIGKILL)
        if ended or not block:
            break
        time.sleep(0.005)
    return ended


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--inputs", type=int, default=10**9, help="at most so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(kinds.KINDS))
    parser.add_argument("--number", type=int, help="of one input, run alone and kept")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    for command in kinds.FLAGS:
        importlib.import_module(f"research.{command}")
    base = pathlib.Path(tempfile.mkdtemp(prefix="fuzz_"))
    began = time.monotonic()
    for index, attempt in enumerate(kinds.prepare(base)):
        folder = base / f"prepare{index}"
        _, status = os.waitpid(start(attempt, folder), 0)
        if status:
            print((folder / "output.txt").read_text(), file=sys.stderr)
            return 1
    print(
        f"prepared in {time.monotonic() - began:.0f} s, seed {given.seed}", flush=True
    )
    names = [given.kind] if given.kind else list(kinds.KINDS)
    numbers = [given.number] if given.number is not None else range(10**9)
    todo = (
        (name, number)
        for number in numbers
        for name in names
        if given.kind or number % kinds.EVERY.get(name, 1) == 0
    )
    counts: collections.Counter[str] = collections.Counter()
    faults = 0
    running: dict[int, tuple] = {}
    began = time.monotonic()
    is_over = False
    while running or not is_over:
        while not is_over and len(running) < given.processes:
            case = next(todo, None)
            count = counts.total() + len(running)
            is_late = time.monotonic() - began > given.seconds
            if case is None or is_late or count >= given.inputs:
                is_over = True
                break
            name, number = case
            folder = base / f"{name}{number}"
            folder.mkdir()
            rng = random.Random(f"{given.seed} {name} {number}")
            attempt = kinds.KINDS[name](rng, base, folder)
            pid = start(attempt, folder)
            running[pid] = (case, attempt, folder, time.monotonic())
        for (case, attempt, folder, _), status in reaped(running, block=True):
            counts[case[0]] += 1
            found = fault(attempt, folder, status)
            if found:
                faults += 1
                output = (folder / "output.txt").read_text(errors="replace")
                print(f"\n{case[0]} {case[1]}: {found}")
                print(
                    f"  {attempt.command} {' '.join(map(repr, attempt.arguments))}"[
                        :600
                    ]
                )
                print("  " + "\n  ".join(output.strip().splitlines()[-6:])[:1500])
                sys.stdout.flush()
            if given.number is None:
                shutil.rmtree(folder, ignore_errors=True)
    shown = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    seconds = time.monotonic() - began
    print(f"\n{counts.total()} inputs in {seconds:.0f} s ({shown}): {faults} faults")
    if given.number is not None:
        print(f"kept in {base}")
    else:
        shutil.rmtree(base, ignore_errors=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
