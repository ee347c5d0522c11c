"""Claims on jobs, so that several processes can divide a comparison's work.

A job's folder holds numbered claim files, `claim.1`, `claim.2`, ...; the process that
made the one with the highest number holds the job. A claim is made by creating the next
number exclusively, which the file system grants to one process only. Nothing is ever
renamed or deleted: two processes that both find a dead claim try to create the same
number, and one of them fails.

A claim is dead once its process is. On the same machine, that is looked up. A process on
another machine touches its claim every few seconds, and counts as dead when the file has
not changed for a while by the observer's own clock.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import re
import socket
import threading
import time

import psutil

from research.machine import files

HEARTBEAT_SECONDS = 15.0
# Several missed heartbeats: network file systems cache attributes for up to a minute.
GIVEN_UP_SECONDS = 180.0
# Every claim leaves a file and lines in the log, so a vain one is not repeated soon.
LEFT_ALONE_SECONDS = 60.0
_CLAIM = re.compile(r"claim\.([1-9][0-9]{0,8})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that holds a claim."""

    machine: str
    host: str
    pid: int
    started: float

    @classmethod
    def me(cls) -> Holder:
        pid = os.getpid()
        return cls(
            machine=_machine(),
            host=socket.gethostname(),
            pid=pid,
            started=psutil.Process(pid).create_time(),
        )


@functools.cache
def _machine() -> str:
    """Identifies a table of process ids: host name, boot and pid namespace."""
    parts = [socket.gethostname()]
    for read in (
        lambda: pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read())
        except OSError:  # not Linux: the host name has to do
            pass
    return "/".join(parts)


class Claims:
    """The claims of one process; a thread touches those that it holds."""

    def __init__(self):
        self._me = Holder.me()
        self._held: dict[pathlib.Path, pathlib.Path] = {}
        # Of other machines' claims: last change seen, and when it was seen.
        self._seen: dict[pathlib.Path, tuple[int, float]] = {}
        # Jobs that are not to be claimed before a time.
        self._left_alone: dict[pathlib.Path, float] = {}
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def acquire(self, folder: pathlib.Path) -> bool:
        """Claims the job of `folder`; False while another live process holds it.

        What the job needs must be looked at again after this: the last holder may
        have finished in between.
        """
        if time.monotonic() < self._left_alone.get(folder, 0.0):
            return False
        folder.mkdir(parents=True, exist_ok=True)
        number, current = _latest(folder)
        if current is not None and self.alive(current):
            return False
        claim = folder / f"claim.{number + 1}"
        # Written aside and linked into place, so that a claim is never seen half
        # written; link fails if the number is taken.
        draft = folder / f".claim.{self._me.pid}.{time.monotonic_ns()}"
        draft.write_text(json.dumps(dataclasses.asdict(self._me)))
        try:
            os.link(draft, claim)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        self._held[folder] = claim
        return True

    def release(self, folder: pathlib.Path) -> None:
        """Gives a job up, finished or not."""
        claim = self._held.pop(folder)
        released = claim.with_name(claim.name.replace("claim", "released"))
        released.touch()

    def leave_alone(self, folder: pathlib.Path) -> None:
        """Does not claim a job for a while: its last holder turned out to be alive."""
        self._left_alone[folder] = time.monotonic() + LEFT_ALONE_SECONDS

    def holds(self, folder: pathlib.Path) -> bool:
        """Whether this process still holds the job, and no other took it over."""
        claim = self._held.get(folder)
        return claim is not None and _latest(folder)[1] == claim

    def alive(self, claim: pathlib.Path) -> bool:
        """Whether the process behind a claim still works on it."""
        if claim.with_name(claim.name.replace("claim", "released")).exists():
            return False
        holder = _read(claim)
        # A claim that a crash of its machine has cut is judged by its age alone.
        if holder is not None and holder.machine == self._me.machine:
            return _is_running(holder)
        changed = claim.stat().st_mtime_ns
        now = time.monotonic()
        last, since = self._seen.setdefault(claim, (changed, now))
        if changed != last:
            self._seen[claim] = (changed, now)
            return True
        return now - since < GIVEN_UP_SECONDS

    def close(self) -> None:
        """Stops the heartbeat and releases what is held."""
        self._stop.set()
        for folder in list(self._held):
            self.release(folder)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            for claim in list(self._held.values()):
                try:
                    os.utime(claim)
                except OSError:  # the shared disk is away; the next beat may succeed
                    pass


def _latest(folder: pathlib.Path) -> tuple[int, pathlib.Path | None]:
    names = [_CLAIM.fullmatch(path.name) for path in folder.iterdir()]
    number = max((int(name[1]) for name in names if name), default=0)
    return number, folder / f"claim.{number}" if number else None


def _read(claim: pathlib.Path) -> Holder | None:
    """Who made a claim; None if its file was cut or is no claim."""
    try:
        holder = Holder(**files.read_json(claim, pid=int, started=(int, float)))
    except (files.Damaged, TypeError):
        return None
    return holder if 0 < holder.pid < 2**31 else None


def _is_running(holder: Holder) -> bool:
    try:
        process = psutil.Process(holder.pid)
        # Process ids are used again; the time of birth tells the two apart.
        same = abs(process.create_time() - holder.started) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
