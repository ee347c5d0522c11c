"""Wall-clock measurements that hold on a noisy machine."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from research.machine import devices


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Measured times of one function.

    Attributes:
      all: every measurement.
    """

    all: tuple[float, ...]

    @property
    def median(self) -> float:
        """The time that tables show."""
        return statistics.median(self.all)

    @property
    def best(self) -> float:
        """The fastest measurement."""
        return min(self.all)


def alternate(
    steps: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    repeats: int,
    warmup: int = 2,
) -> dict[str, Seconds]:
    """Times several functions in turn, A B A B ..., so that drift affects all of them.

    A turn counts as the mean of its `repeats` calls; functions return when their work is
    done.
    """
    for step in steps.values():
        for _ in range(warmup):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            begin = time.perf_counter()
            for _ in range(repeats):
                step()
            times[name].append((time.perf_counter() - begin) / repeats)
    return {name: Seconds(tuple(values)) for name, values in times.items()}


@functools.cache
def matrix_rate(dtype: str) -> float | None:
    """FLOP/s of matrix products that utilisation is measured against.

    The vendor's peak where there is a data sheet; on CPUs the best measured rate of
    square products; None on other devices.
    """
    peak = devices.peak_flops()
    if peak is None and jax.default_backend() == "cpu":
        peak = matmul_rate(dtype, size=1024, rounds=20)
    return peak


def matmul_rate(dtype: str, *, size: int = 2048, rounds: int = 8) -> float:
    """Best measured FLOP/s of a square matrix product."""
    product, flops = matrix_product(dtype, size=size)
    product()
    best = np.inf
    for _ in range(rounds):
        begin = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - begin)
    return flops / best


def matrix_product(
    dtype: str, *, size: int = 2048
) -> tuple[Callable[[], object], float]:
    """A square matrix product that waits for its result, and its FLOPs."""
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.standard_normal((size, size)), dtype)
    product = jax.jit(jnp.matmul)
    return lambda: product(a, a).block_until_ready(), 2.0 * size**3
