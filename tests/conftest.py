"""Strict JAX that compiles quickly, in the tests and in the processes they start."""

import gc
import os
import pathlib
import sys

# What tests compile runs once or twice on tiny arrays, so LLVM need not optimise it, and
# XLA's older emitters, in one module, get there in a third of the processor time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_QUICK = (
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
    "--xla_cpu_parallel_codegen_split_count=1",
)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_QUICK])
# Programs of earlier tests and of earlier sessions. A folder for each worker, because JAX
# writes entries that another process could read half.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
_PROGRAMS = pathlib.Path(__file__).parent.parent / ".pytest_cache/programs" / _WORKER
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.03")

import jax
import jaxtyping
import pytest
from absl import flags

# grain reads absl flags on import of its loaders; unparsed flags raise there.
if not flags.FLAGS.is_parsed():
    flags.FLAGS(sys.argv[:1])

jax.config.update("jax_numpy_rank_promotion", "raise")

_TYPED = ("tests/models/", "tests/objectives/")


def pytest_collection_finish():
    """What importing made stays: it need not be searched for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Array annotations are checked in the tests of the packages that have them."""
    is_typed = item.nodeid.startswith(_TYPED)
    jaxtyping.config.update("jaxtyping_disable", not is_typed)
