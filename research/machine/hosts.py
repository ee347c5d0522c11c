"""Connects the processes of a run on several hosts and lets them wait for each other."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax._src import distributed  # Its client is public in orbax only.

from research.errors import USAGE_ERROR, UserError
from research.machine import peers

# Environment variables of launchers: (number of processes, number of this process).
LAUNCHERS = {
    "Slurm": ("SLURM_NTASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
}
TIMEOUT_SECONDS = 300
# Longer than building any corpus takes. The service itself detects dead hosts.
BARRIER_SECONDS = 7 * 24 * 3600
MESSAGE_BYTES = 2048
_barriers = itertools.count()


def initialise(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Connects to the other processes of the run, if there are any.

    Args:
      coordinator: 'host:port' of process 0; None = ask the environment
        (JAX_COORDINATOR_ADDRESS, Slurm, Open MPI, TPU pods); this process may be the
        only one.
      num_processes, process_id: with a coordinator; None = ask the environment.

    Raises:
      UserError: if the other processes do not connect in time, or the flags contradict
        each other.
    """
    if coordinator is None and not _launched_with_others():
        return
    if coordinator is not None and not re.fullmatch(r"\S+:\d{1,5}", coordinator):
        raise UserError(
            f"--coordinator={coordinator}: must be HOST:PORT of process 0, such as "
            f"node1:1234."
        )
    if num_processes is not None and not -1 < (process_id or 0) < num_processes:
        raise UserError(
            f"--process_id={process_id}: must be 0 to {num_processes - 1} for "
            f"--num_processes={num_processes}."
        )
    if coordinator is not None and (num_processes is None) != (process_id is None):
        raise UserError(
            "--num_processes and --process_id go together: give both, or neither for "
            "the launcher's (Slurm, Open MPI, TPU)."
        )
    seconds = int(os.environ.get("PALIMPSEST_JOIN_SECONDS", TIMEOUT_SECONDS))
    message = (
        f"the processes of this run did not find each other within {seconds} s "
        f"(coordinator {coordinator or 'from the environment'}, process {process_id} of "
        f"{num_processes}). Check that all hosts were started and can reach the "
        f"coordinator's port."
    )
    # JAX's own timeout ends the process in C++ with a stack trace, and cannot be caught:
    # ours is shorter.
    timer = threading.Timer(seconds, _give_up, [message])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
            initialization_timeout=2 * seconds,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{message} {str(error).splitlines()[0]}") from error
    finally:
        timer.cancel()
    peers.watch(distributed.global_state)


def _give_up(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(USAGE_ERROR)


def _launched_with_others() -> bool:
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        return True
    for size, rank in LAUNCHERS.values():
        if rank in os.environ and int(os.environ.get(size, "1")) > 1:
            return True
    # Every worker of a TPU slice has this: a list of host names.
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def wait_for_all(name: str) -> None:
    """Waits until every host has called this.

    The coordination service waits, not the devices: those time out (Gloo after 30 s,
    NCCL after 10 min), and building a corpus takes longer. The service also ends this
    process if another one dies.
    """
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        # Each name of a barrier can be used once.
        key = f"{name}_{next(_barriers)}"
        multihost.get_barrier_sync_fn()(key=key, timeout_ms=BARRIER_SECONDS * 1000)


@contextlib.contextmanager
def together(name: str) -> Iterator[None]:
    """Runs the body on every host; if it fails on one, all of them stop.

    Args:
      name: of the work, for the barrier.

    Raises:
      UserError: on a host where the body succeeded, with the message of another host's
        error. The host that failed raises its own error.
    """
    problem = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the others stop for any error
        problem = error
    if jax.process_count() > 1:
        wait_for_all(name)
        others = _messages("" if problem is None else str(problem) or repr(problem))
    if problem is not None:
        raise problem
    if jax.process_count() > 1:
        for number, message in enumerate(others):
            if message:
                raise UserError(f"process {number} stopped: {message}")


def _messages(own: str) -> list[str]:
    """The message of every host, by its number."""
    from jax.experimental import multihost_utils

    text = np.zeros(MESSAGE_BYTES, np.uint8)
    encoded = own.encode()[:MESSAGE_BYTES]
    text[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    found = multihost_utils.process_allgather(text)
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in found]
