"""What a compiled program multiplies: the FLOPs of its matrix products.

Reads the text of an optimised HLO module, so it sees what really runs: dead products
are gone, recomputed ones are counted again, and loops count as often as they run.
"""

from __future__ import annotations

import math
import re

import jax

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_SHAPE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = \(?\w+\[([\d,]*)\]")
_DOT = re.compile(r" dot\((.*?)\), .*?lhs_contracting_dims=\{([\d,]*)\}")
_OPERAND = re.compile(r"%?([\w.\-]+)$")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BODY = re.compile(r" while\(.*body=%?([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_CALLED_LIST = re.compile(r"(?:called_computations|branch_computations)=\{([^}]*)\}")


def compiled_dot_flops(compiled: jax.stages.Compiled) -> float:
    """FLOPs of all matrix products of one run of a compiled function."""
    return dot_flops(compiled.as_text() or "")


def dot_flops(text: str) -> float:
    """FLOPs of all matrix products of one run of an HLO module.

    A product of [m, k] and [k, n] is 2 m k n.

    Raises:
      ValueError: for a loop with products whose trip count is not in the text, and for
        products hidden in library calls that the text does not spell out.
    """
    computations, entry = _split(text)
    cache: dict[str, float] = {}

    def count(name: str) -> float:
        if name not in cache:
            cache[name] = _count_computation(computations[name], count)
        return cache[name]

    return count(entry)


def _split(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the entry computation."""
    computations: dict[str, list[str]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            found = _COMPUTATION.match(line)
            if found:
                current = computations.setdefault(found[1], [])
                if line.startswith("ENTRY"):
                    entry = found[1]
        elif line.startswith("}"):
            current = None
        else:
            current.append(line)
    if not entry:
        raise ValueError("No ENTRY computation: this is not the text of an HLO module.")
    return computations, entry


def _count_computation(lines: list[str], count) -> float:
    shapes = {}
    for line in lines:
        if found := _SHAPE.match(line):
            shapes[found[1]] = [int(size) for size in found[2].split(",") if size]
    total = 0.0
    for line in lines:
        if found := _DOT.search(line):
            total += _one_dot(line, found, shapes)
        elif found := _BODY.search(line):
            total += _one_loop(line, count(found[1]))
        elif "conditional(" in line:
            total += max(count(name) for name in _called(line))
        else:
            total += sum(count(name) for name in _called(line))
            if "custom-call(" in line and re.search("matmul|gemm|dnn", line):
                raise ValueError(f"A product inside a library call: {line.strip()}")
    return total


def _called(line: str) -> list[str]:
    names = _CALLED.findall(line)
    for group in _CALLED_LIST.findall(line):
        names += [name.strip().lstrip("%") for name in group.split(",")]
    return names


def _one_dot(line: str, found: re.Match, shapes: dict[str, list[int]]) -> float:
    # The first operand, with or without its shape before the name.
    first = re.split(r",\s*(?![^\[{]*[\]}])", found[1])[0]
    operand = _OPERAND.search(first)
    result = _SHAPE.match(line)
    assert operand is not None and result is not None
    left = shapes[operand[1]]
    contracted = math.prod(left[int(dim)] for dim in found[2].split(",") if dim)
    return 2.0 * math.prod(shapes[result[1]]) * contracted


def _one_loop(line: str, inside: float) -> float:
    if inside == 0.0:
        return 0.0
    trips = _TRIP_COUNT.search(line)
    if trips is None:
        raise ValueError(f"A loop with products and no trip count: {line.strip()}")
    return inside * int(trips[1])
