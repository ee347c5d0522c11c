"""Wall-clock measurements that survive a noisy machine."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Times of one thing.

    Attributes:
      all: every measurement.
    """

    all: tuple[float, ...]

    @property
    def median(self) -> float:
        """What is quoted."""
        return statistics.median(self.all)

    @property
    def best(self) -> float:
        """The fastest, for a peer at its best."""
        return min(self.all)


def alternate(
    steps: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    repeats: int,
    warmup: int = 2,
) -> dict[str, Seconds]:
    """Times several things in turn, A B A B ..., so that drift meets all of them.

    Args:
      steps: what to time; each returns when its work is done.
      rounds: turns of each.
      repeats: calls a turn; a turn counts as the mean of its calls.
      warmup: calls of each before the first turn.
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


def matmul_rate(dtype: str, *, size: int = 2048, rounds: int = 8) -> float:
    """FLOP/s of a square matrix product, the machine's measured limit."""
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
