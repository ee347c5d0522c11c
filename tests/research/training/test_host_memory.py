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
from research.training import host_memory

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
"""
PAGES = 96e6 / resource.getpagesize()

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc lets a program keep memory"
)


def faults(how: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", STEP, how], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_kept_memory_is_not_mapped_again():
    assert faults("keep") < 0.01 * PAGES


def test_without_it_every_page_is():
    """Else the test above would prove nothing."""
    assert faults("give back") > 0.5 * PAGES
