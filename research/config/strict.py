"""Builds frozen dataclasses from plain values; every name and type is checked."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from research.errors import UserError, nearest

# Of any number in a config: FLOPs of a budget are the largest.
LARGEST_FLOAT, LARGEST_INT = 1e30, 2**53

Section = TypeVar("Section")


def build(
    cls: type[Section], values: Any, path: str, problems: list[str], *, complete: str
) -> Section | None:
    """An instance of the dataclass from exactly its fields.

    Args:
      cls: a frozen dataclass; fields that are dataclasses are built from sections.
      values: its section of the config.
      path: its place in the config, for messages, e.g. 'config.data'.
      problems: messages are appended here.
      complete: what gives every field, e.g. 'get_config() of experiments/base.py'.

    Returns:
      The instance, or None after appending to `problems`.
    """
    if not isinstance(values, Mapping):
        problems.append(f"{path} = {values!r}: must be a section with fields.")
        return None
    hints = typing.get_type_hints(cls)
    names = field_names(cls)
    before = len(problems)
    check_names(values, names, path, problems, complete=complete)
    arguments = {}
    for name in names:
        if name not in values:
            continue
        where = f"{path}.{name}"
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = build(
                hints[name], values[name], where, problems, complete=complete
            )
        else:
            arguments[name] = check_type(hints[name], values[name], where, problems)
    if len(problems) > before:
        return None
    try:
        return cls(**arguments)
    except ValueError as error:
        problems.append(f"{path}: {error}")
        return None


def parsed(cls: type[Section], values: Any, path: str, *, complete: str) -> Section:
    """The same, of a whole config or a part of it by itself.

    Raises:
      UserError: one message with every problem.
    """
    problems: list[str] = []
    found = build(cls, values, path, problems, complete=complete)
    if found is None:
        raise UserError("\n".join(problems))
    return found


def field_names(cls: Any) -> tuple[str, ...]:
    """Names of a dataclass's fields."""
    return tuple(field.name for field in dataclasses.fields(cls))


def check_names(
    values: Mapping[str, Any],
    valid: tuple[str, ...],
    path: str,
    problems: list[str],
    *,
    complete: str,
) -> None:
    """Appends unknown names, with the nearest valid ones, and missing names to `problems`.

    `complete` gives every name, e.g. 'get_config() of experiments/base.py'.
    """
    for name in values:
        if name not in valid:
            problems.append(unknown_name(path, name, valid))
    missing = [name for name in valid if name not in values]
    if missing:
        problems.append(
            f"{path} lacks {', '.join(missing)}: begin with {complete}, which has "
            f"every field."
        )


def unknown_name(
    path: str, name: str, valid: tuple[str, ...], elsewhere: tuple[str, ...] = ()
) -> str:
    """The message about a field that does not exist.

    `elsewhere` are full paths of fields in other sections; those of the same name are
    offered where nothing in the section itself is near.
    """
    hint = nearest(name, valid)
    same = [other for other in elsewhere if other.rpartition(".")[2] == name]
    if same and not hint:
        hint = f" There is {' and '.join(same)}."
    return f"{path} has no field {name!r}.{hint} Valid: {', '.join(sorted(valid))}."


def check_type(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    """The value if it has the type of the annotation; integers serve as floats.

    The elements of a tuple[X, ...] are checked as well, one by one.
    """
    if _has_type(hint, value):
        allowed = _allowed(hint)
        element = _element(hint)
        if element is not None and isinstance(value, tuple):
            return tuple(
                check_type(element, item, f"{where}[{index}]", problems)
                for index, item in enumerate(value)
            )
        largest = LARGEST_FLOAT if float in allowed else LARGEST_INT
        if isinstance(value, (int, float)) and not abs(value) <= largest:
            problems.append(
                f"{where} = {value!r}: must be finite and at most {largest:g}."
            )
            return None
        is_float = type(value) is int and float in allowed and int not in allowed
        return float(value) if is_float else value
    given, wanted = _type_name(type(value)), _type_name(hint)
    problems.append(f"{where} = {value!r}: must be {wanted}, got {given}.")
    return None


def _element(hint: Any) -> Any:
    """X of tuple[X, ...]; None for any other annotation."""
    arguments = typing.get_args(hint)
    is_uniform = typing.get_origin(hint) is tuple and arguments[1:] == (...,)
    return arguments[0] if is_uniform else None


def _allowed(hint: Any) -> tuple[Any, ...]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return tuple(typing.get_origin(arg) or arg for arg in typing.get_args(hint))
    return (typing.get_origin(hint) or hint,)


def _has_type(hint: Any, value: Any) -> bool:
    allowed = _allowed(hint)
    if Any in allowed:
        return True
    if isinstance(value, bool):  # Python counts booleans as integers.
        return bool in allowed
    if isinstance(value, int):
        return int in allowed or float in allowed
    return isinstance(value, allowed)


def _type_name(hint: Any) -> str:
    names = {types.NoneType: "None", Any: "any value"}
    return " or ".join(names.get(cls, cls.__name__) for cls in _allowed(hint))
