"""A step takes the memory that the step before it gave back."""

import platform
import resource
import subprocess
import sys

import pytest

# Page faults of a step whose intermediate results fill 96 MB, on the CPU.
STEP = """
import resource, sys
import jax
import jax.numpy as jnp
from research.machine import host_memory

if sys.argv[1] == "keep":
    host_memory.keep_freed()

@jax.jit
def step(x):
    logits = jnp.roll(x @ jnp.ones((8, 4096)), 1, axis=0)
    return jax.nn.log_softmax(logits).sum(axis=0)

x = jnp.ones((6000, 8))
for _ in range(3):
    step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step(x).block_until_ready()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 4)
import psutil
held = psutil.Process().memory_info().rss
host_memory.give_back()
print(held - psutil.Process().memory_info().rss)
"""
PAGES = 96e6 / resource.getpagesize()

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc lets a program keep memory"
)


def measure(how: str) -> tuple[float, float]:
    """Page faults a step, and bytes that giving back returns after the last."""
    done = subprocess.run(
        [sys.executable, "-c", STEP, how], capture_output=True, text=True, check=True
    )
    faults, returned = map(float, done.stdout.split())
    return faults, returned


def test_kept_memory_is_not_mapped_again():
    # A machine that is short of memory may take pages back: the best of three counts.
    faults, returned = min(measure("keep") for _ in range(3))
    assert faults < 0.1 * PAGES
    assert returned > 0.9 * 96e6


def test_without_it_every_page_is():
    """Else the test above would prove nothing."""
    faults, _ = measure("as it is")
    assert faults > 0.5 * PAGES
