"""Several hosts: started by flags, by the environment, or not at all."""

from __future__ import annotations

import os
import sys
import threading

import jax

from research import cli
from research.errors import UserError

# What launchers leave in the environment: (number of processes, its own number).
LAUNCHERS = {
    "Slurm": ("SLURM_NTASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
}
TIMEOUT_SECONDS = 300


def initialise(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other hosts' processes, if there are any.

    Args:
      coordinator: 'host:port' of process 0; None = ask the environment
        (JAX_COORDINATOR_ADDRESS, Slurm, Open MPI, TPU pods), which may say that this
        process is alone.
      num_processes, process_id: with a coordinator; None = ask the environment.

    Raises:
      UserError: if the others do not come, or the flags contradict each other.
    """
    if coordinator is None and not _launched_with_others():
        return
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
    # JAX's own timeout ends the process from C++, with a stack trace and no way to
    # catch it, so ours comes first.
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


def _give_up(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(cli.USAGE_ERROR)


def _launched_with_others() -> bool:
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        return True
    for size, rank in LAUNCHERS.values():
        if rank in os.environ and int(os.environ.get(size, "1")) > 1:
            return True
    # Set on every worker of a TPU slice: one name a host.
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def wait_for_all(name: str) -> None:
    """Returns once every host has come here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
