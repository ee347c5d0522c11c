"""Strict JAX that compiles quickly, in the tests and in the processes they start."""

import os
import pathlib
import sys

# What tests compile runs once or twice on tiny arrays, so LLVM need not optimise it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Programs of earlier tests and of earlier sessions. A folder for each worker, because JAX
# writes entries that another process could read half.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
_PROGRAMS = pathlib.Path(__file__).parent.parent / ".pytest_cache/programs" / _WORKER
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
from absl import flags

# grain reads absl flags on import of its loaders; unparsed flags raise there.
if not flags.FLAGS.is_parsed():
    flags.FLAGS(sys.argv[:1])

jax.config.update("jax_numpy_rank_promotion", "raise")
