"""What the machine can do, for utilisation, and what it is, for the record."""

from __future__ import annotations

import functools
import os
import pathlib
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp
import psutil

from research.machine import devices

_SIZE = 1024
_ROUNDS = 5
_SECONDS = 0.1


@functools.cache
def matrix_rate(dtype: str) -> float | None:
    """FLOP/s of matrix products that utilisation is measured against.

    The vendor's peak where there is a data sheet; on CPUs the best measured rate of
    square products.
    """
    peak = devices.peak_flops()
    if peak is not None:
        return peak
    if jax.default_backend() != "cpu":
        return None
    matrix = jnp.ones((_SIZE, _SIZE), jnp.dtype(dtype))
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    best = 0.0
    for _ in range(_ROUNDS):
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < _SECONDS:
            product(matrix, matrix).block_until_ready()
            count += 1
        elapsed = time.perf_counter() - started
        best = max(best, count * 2.0 * _SIZE**3 / elapsed)
    return best


def description() -> dict[str, Any]:
    """Processor, cores, memory and system."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
    }


def _processor() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
