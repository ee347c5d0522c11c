"""Ends the processes of a run when one of them dies, with a line that names its host.

Every process keeps a connection to process 0. The system closes that of a process that is
killed at once; JAX's own heartbeat takes a minute to notice, and ends the others with a
stack trace of C++.
"""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import sys
import threading
import time
from typing import Any, TextIO

from research.errors import USAGE_ERROR

_KEY = "palimpsest_peers"
_JOIN_MILLISECONDS = 60_000
# What a process says last: it has finished, or an error ended it, which it has printed.
_DONE, _FAILED = "done", "failed"
# Time for this process to end with an error of its own, if all have the same one.
_GRACE_SECONDS = 5.0

_connections: list[TextIO] = []


def watch(state: Any) -> None:
    """Connects this process to process 0, and ends it when another one dies.

    Args:
      state: of jax.distributed, connected.
    """
    name = f"process {state.process_id} on {socket.gethostname()}"
    if state.process_id == 0:
        server = socket.create_server(("", 0))
        # Only processes of this run can read it.
        token = secrets.token_hex(16)
        state.client.key_value_set(_KEY, f"{server.getsockname()[1]} {token} {name}")
        _start(_accept, server, token)
    else:
        found = state.client.blocking_key_value_get(_KEY, _JOIN_MILLISECONDS)
        port, token, first = found.split(" ", 2)
        host = state.coordinator_address.rpartition(":")[0].strip("[]")
        connection = socket.create_connection((host, int(port))).makefile("rw")
        _connections.append(connection)
        _tell(f"{token} {name}")
        _start(_listen, connection, first)
    # Before JAX's own, which waits for all processes.
    atexit.register(_tell, _FAILED)


def leave() -> None:
    """Tells the others that this process has finished."""
    _tell(_DONE)
    _connections.clear()


def _start(function: Any, *arguments: Any) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def _accept(server: socket.socket, token: str) -> None:
    while True:
        connection = server.accept()[0].makefile("rw")
        _start(_welcome, connection, token)


def _welcome(connection: TextIO, token: str) -> None:
    given, _, name = connection.readline().strip().partition(" ")
    if given == token:
        _connections.append(connection)
        _listen(connection, name)


def _listen(connection: TextIO, name: str) -> None:
    """Waits for the last word of the process at the other end."""
    try:
        word = connection.readline().strip()
    except OSError:
        word = ""
    if word == _DONE:
        return
    if word == _FAILED:
        time.sleep(_GRACE_SECONDS)
    # Process 0 tells the others which one it was.
    lost = name if word in ("", _FAILED) else word
    _tell(lost)
    print(
        f"error: {lost} has ended, and the run needs all of its processes. Start them "
        f"again to go on from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(USAGE_ERROR)


def _tell(word: str) -> None:
    for connection in _connections:
        try:
            connection.write(f"{word}\n")
            connection.flush()
        except OSError:  # It is gone, too.
            continue
