"""Memory limit that a container or a batch system sets for this process."""

from __future__ import annotations

import pathlib

_MEMBERSHIP = pathlib.Path("/proc/self/cgroup")
_ROOT = pathlib.Path("/sys/fs/cgroup")


def memory_limit(
    membership: pathlib.Path = _MEMBERSHIP, root: pathlib.Path = _ROOT
) -> int | None:
    """Bytes that the process and the others in its group may use; None without a limit.

    Args:
      membership: lines HIERARCHY:CONTROLLERS:GROUP; version 2 names no controllers.
      root: where the groups are folders; version 1 has one tree a controller.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # Not Linux.
        return None
    limits = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            limits += _limits(root, group, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(root / "memory", group, "memory.limit_in_bytes")
    return min(limits, default=None)


def _limits(tree: pathlib.Path, group: str, name: str) -> list[int]:
    """Limits of a group and of all groups above it.

    In a container the name may be the host's, and the group itself the root of the tree.
    """
    limits = []
    inside = pathlib.PurePosixPath(group.lstrip("/"))
    for part in (inside, *inside.parents):
        try:
            limits.append(int((tree / part / name).read_text()))
        except (OSError, ValueError):  # No such file, or 'max'.
            continue
    return limits
