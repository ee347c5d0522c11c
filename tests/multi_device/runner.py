"""Starts programs on made-up devices, in one process or in several."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent


def environment(num_devices: int) -> dict[str, str]:
    """Of a process that sees `num_devices` CPU devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={num_devices}"
    return {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def start(
    module: str, *arguments: str, num_devices: int, **variables: str
) -> subprocess.Popen:
    """A process that runs `python -m module`."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment(num_devices) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, timeout: float = 1200) -> str:
    """Its standard output, once it has ended well."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-3000:]
    return out


def losses(cases: list[dict[str, Any]], num_devices: int = 8) -> list[list[float]]:
    """`tests.multi_device.losses` of the cases in one process."""
    process = start(
        "tests.multi_device.losses", json.dumps(cases), num_devices=num_devices
    )
    return json.loads(finish(process).strip().splitlines()[-1])


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]
