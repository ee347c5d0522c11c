"""Commit, library versions and devices, recorded beside every result."""

from __future__ import annotations

import functools
import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

import jax

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def provenance() -> dict[str, Any]:
    """Commit, versions and devices that a number comes from."""
    devices = jax.devices()
    return {
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
        },
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "hosts": jax.process_count(),
    }


@functools.cache
def commit() -> str:
    """Hash of the code's commit, with '+' if files differ from it; '' outside a checkout."""
    root = pathlib.Path(__file__).parent.parent.parent

    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
        return result.stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        return head + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
