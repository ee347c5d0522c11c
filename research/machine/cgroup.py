"""What a container or a batch system lets this process have of the machine's memory."""

from __future__ import annotations

import pathlib

_MEMBERSHIP = pathlib.Path("/proc/self/cgroup")
_ROOT = pathlib.Path("/sys/fs/cgroup")


def memory_limit(
    membership: pathlib.Path = _MEMBERSHIP, root: pathlib.Path = _ROOT
) -> int | None:
    """Bytes that the process and those beside it may take; None without a limit.

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
    """Those of a group and of all it is in.

    In a container the group may be named as the host sees it, and be the tree itself.
    """
    limits = []
    inside = pathlib.PurePosixPath(group.lstrip("/"))
    for part in (inside, *inside.parents):
        try:
            limits.append(int((tree / part / name).read_text()))
        except (OSError, ValueError):  # No such file, or 'max'.
            continue
    return limits
