"""Checks config fields on the command line, --config.SECTION.FIELD=VALUE.

This runs before ml_collections parses them: its errors are tracebacks, or name neither
the field nor its type.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags

from research.config import strict


def problems(
    config: ml_collections.ConfigDict, argv: Sequence[str], flag: str
) -> list[str]:
    """Problems of the overrides among the arguments of a program.

    Args:
      config: of the experiment, before any override.
      argv: the program, then its arguments.
      flag: name of the config flag.
    """
    found = []
    for index, argument in enumerate(argv[1:], start=1):
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or not name.startswith(f"{flag}."):
            continue
        if not equals:
            value = argv[index + 1] if index + 1 < len(argv) else ""
        found.append(_problem(config, name.split("."), value))
    return [problem for problem in found if problem]


def _problem(
    config: ml_collections.ConfigDict, names: list[str], value: str
) -> str | None:
    """The problem of one override; `names` begins with the name of the flag."""
    flag, *path = names
    section: Any = config
    kind: type = ml_collections.ConfigDict
    for depth, name in enumerate(path, start=1):
        where = ".".join(names[:depth])
        if not isinstance(section, ml_collections.ConfigDict):
            return f"{where} is a value, not a section: it has no field {name!r}."
        # The name of the tuple, if an element of it is given: 'name' of 'name[0]'.
        name, bracket, index = name.partition("[")
        if name not in section:
            valid = tuple(section.keys())
            elsewhere = tuple(_paths(config, flag))
            return strict.unknown_name(where, name, valid, elsewhere)
        # A placeholder is None and knows its type.
        section, kind = section[name], section.get_type(name)
        if bracket:
            size = len(section) if isinstance(section, (tuple, list)) else 0
            if not (index[:-1].isdecimal() and int(index[:-1]) < size):
                return f"{where}.{name} has {size} elements: there is no [{index}."
            return None
    if kind is int and not _is_integer(value):
        return f"{'.'.join(names)} = {value}: must be a whole number{_whole(value)}."
    if issubclass(kind, ml_collections.ConfigDict) and not _is_dict(value):
        paths = _paths(section, ".".join(names))
        example = f", such as --{paths[0]}=..." if paths else "."
        return f"{'.'.join(names)} is a section: set a field of it{example}"
    return None


def _is_integer(text: str) -> bool:
    try:
        flags.IntegerParser().parse(text)
    except ValueError:
        return False
    return True


def _whole(text: str) -> str:
    """', such as 10000', if the text is a whole number in another notation."""
    try:
        number = float(text)
    except ValueError:
        return ""
    return f", such as {number:.0f}" if number.is_integer() else ""


def _is_dict(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text), dict)
    except (ValueError, SyntaxError):
        return False


def _paths(section: ml_collections.ConfigDict, prefix: str) -> list[str]:
    """Full paths of all fields in a section."""
    paths = []
    for name, value in section.items():
        paths.append(f"{prefix}.{name}")
        if isinstance(value, ml_collections.ConfigDict):
            paths += _paths(value, f"{prefix}.{name}")
    return paths
