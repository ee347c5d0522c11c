"""JAX's cache of compiled programs on disk, which makes a second start quick."""

from __future__ import annotations

import os
import pathlib

import jax

# Programs that compile in less time are not stored.
LEAST_SECONDS = 0.3


def enable() -> None:
    """Keeps compiled programs in ~/.cache/palimpsest/xla.

    JAX_COMPILATION_CACHE_DIR names another folder; empty, it switches the cache off.
    """
    chosen = jax.config.values.get("jax_compilation_cache_dir")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or chosen:
        return
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(base / "palimpsest/xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
