"""JAX's cache of compiled programs on disk, which makes a second start quick."""

from __future__ import annotations

import os
import pathlib
import zlib

import jax
from jax._src import compilation_cache as jax_cache
from jax._src.lru_cache import LRUCache

from research.machine import files

# Programs that compile in less time are not stored.
LEAST_SECONDS = 0.3


def enable() -> None:
    """Keeps compiled programs in ~/.cache/palimpsest/xla.

    JAX_COMPILATION_CACHE_DIR names another folder; empty, it switches the cache off.
    """
    jax_cache.get_file_cache = _checked
    chosen = jax.config.values.get("jax_compilation_cache_dir")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or chosen:
        return
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(base / "palimpsest/xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class CheckedCache(LRUCache):
    """JAX's cache with a checksum beside each entry; what does not fit it is compiled anew.

    JAX has none: a program with a flipped bit crashes, or gives other numbers.
    """

    def get(self, key: str) -> bytes | None:
        """The entry, or None if there is none, or it has changed."""
        value = super().get(key)
        if value is None:
            return None
        path = self._checksum(key)
        if path.is_file() and path.read_bytes() == _sum(value):
            return value
        # JAX keeps the entry there is.
        (self.path / f"{key}-cache").unlink(missing_ok=True)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Adds an entry and its checksum."""
        super().put(key, value)
        files.write(self._checksum(key), _sum(value))

    def _checksum(self, key: str) -> pathlib.Path:
        return pathlib.Path(self.path) / f"{key}-crc32"


def _sum(value: bytes) -> bytes:
    return b"%d" % zlib.crc32(value)


def _checked(path: str) -> tuple[CheckedCache, str]:
    size = jax.config.values["jax_compilation_cache_max_size"]
    return CheckedCache(path, max_size=size), path
