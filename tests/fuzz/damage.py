"""Random values, documents and files that a user, a disk or an attacker might give."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

NUMBERS = (-1, 0, 1, 2, 3, 7, 64, 2**31, 2**63, 10**20, -0.5, 0.5, 1e-320, 1e308)
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "",
    " ",
    "é",
    "²",
    "none",
    "None",
    "1e4",
    "../x",
    "a/b",
    "/dev/null",
    "$\\frac$",
)
TEXTS += ('x"><img src=x onerror=alert(1)>', "=cmd()", "\u2028", "a" * 5000, "{", "[1,")
# What stands in files. Command lines cannot hold NUL.
BYTES = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\r",
    b"\n\n",
    b'"',
    b"{",
    b"]",
)
BYTES += (b"[" * 3000, b"9" * 6000, b"NaN", b"null", b"\xf0\x9f\x98\x80", b" " * 9000)


def value(rng: random.Random) -> Any:
    """Any JSON value, mostly a number or a text."""
    pool = rng.choice(
        (NUMBERS, NUMBERS, NOT_FINITE, TEXTS, (None, True, False, [], {}))
    )
    picked = rng.choice(pool)
    if rng.random() < 0.1:
        return rng.choice(([picked], {"a": picked}, [picked] * 3, [[picked]]))
    return picked


def number_near(rng: random.Random, right: float) -> float:
    """A number that may be just as good as the right one."""
    scaled = right * rng.choice((-1, 0, 0.5, 2, 3, 1e6))
    near = rng.choice((right + 1, right - 1, scaled, scaled))
    return int(near) if isinstance(right, int) else near


def other_value(rng: random.Random, right: Any) -> Any:
    """Something else in the place of a value of a config."""
    is_number = isinstance(right, (int, float)) and not isinstance(right, bool)
    if is_number and rng.random() < 0.5:
        return number_near(rng, right)
    if isinstance(right, str) and right and rng.random() < 0.3:
        return rng.choice((right.upper(), right[:-1], right + "s", f" {right}"))
    if isinstance(right, bool) and rng.random() < 0.5:
        return not right
    return value(rng)


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    """Paths of all values in nested dicts and lists, containers included."""
    found = [path] if path else []
    if isinstance(tree, dict):
        items = list(tree.items())
    else:
        items = list(enumerate(tree)) if isinstance(tree, list) else []
    for key, below in items:
        found += places(below, (*path, key))
    return found


def other_tree(rng: random.Random, tree: Any) -> Any:
    """A copy in which one to three values are changed, left out, moved or added."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 3))):
        paths = places(tree)
        if not paths:
            return value(rng)
        *above, last = rng.choice(paths)
        parent = tree
        for key in above:
            parent = parent[key]
        action = rng.choice(("change", "change", "change", "drop", "add", "swap"))
        if action == "drop":
            del parent[last]
        elif action == "add" and isinstance(parent, dict):
            parent[rng.choice(TEXTS[:9])] = value(rng)
        elif action == "swap":
            *others, other = rng.choice(paths)
            source = copy.deepcopy(tree)
            for key in others:
                source = source[key]
            parent[last] = source[other]
        else:
            parent[last] = other_value(rng, parent[last])
    return tree


def other_bytes(rng: random.Random, data: bytes) -> bytes:
    """A file with flipped bits, a part cut, doubled or filled, or other bytes put in."""
    if not data:
        return rng.choice(BYTES)
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    action = rng.choice(("flip", "flip", "flip", "cut", "end", "zero", "double", "put"))
    if action == "flip":
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 8))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if action == "cut":
        return data[:at] + data[end:]
    if action == "end":
        return data[:at]
    if action == "zero":
        return data[:at] + bytes(end - at) + data[end:]
    if action == "double":
        return data[:end] + data[at:]
    return data[:at] + rng.choice(BYTES) + data[at:]
