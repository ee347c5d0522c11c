"""Finds an experiment by name or path, runs its file and calls its get_config()."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import ml_collections

from research.config import kinds
from research.errors import UserError, nearest

FOLDER = pathlib.Path(__file__).parent.parent.parent / "experiments"
# Files in experiments/ that other experiments import.
_NO_EXPERIMENTS = ("__init__", "base", "comparison_base", "imported", "presets")


def resolve(name: str) -> str:
    """The path of the experiment that a name or path means, with what follows a colon.

    In the working directory and its experiments/ first, then among those of this
    project: a file of the user's wins. A name that means none is returned as it is.
    """
    given, colon, argument = name.partition(":")
    return f"{_find(given) or given}{colon}{argument}"


def _find(given: str) -> pathlib.Path | None:
    path = pathlib.Path(given)
    if not path.name:
        return None
    file = path if path.suffix == ".py" else path.with_name(f"{path.name}.py")
    candidates = [file]
    if file.parent == pathlib.Path():
        candidates.append("experiments" / file)
    if file.parent in (pathlib.Path(), pathlib.Path("experiments")):
        candidates.append(FOLDER / file.name)
    return next((one for one in candidates if one.is_file()), None)


def load_config(path: str) -> ml_collections.ConfigDict:
    """get_config() of an experiment.

    Args:
      path: its name or file, see `resolve`; what follows a colon is the argument of its
        get_config.

    Raises:
      UserError: for a file that does not exist, listing those that do, that cannot be
        run, or whose get_config does not take the argument or returns no config.
    """
    file, colon, argument = path.partition(":")
    get_config = _get_config_of(file)
    given = [argument] if colon else []
    try:
        inspect.signature(get_config).bind(*given)
    except TypeError:
        raise UserError(
            f"{path}: {file} takes nothing after a colon: --config={file}."
            if colon
            else f"{file} needs an option: --config={file}:OPTION."
        ) from None
    try:
        config = get_config(*given)
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"{path}: get_config() returned {config!r}, and must return a ConfigDict. "
            f"Does it end with `return config`?"
        )
    return config


def _get_config_of(file: str) -> Callable[..., Any]:
    """Runs an experiment file and returns its get_config."""
    source = _find(file) or pathlib.Path(file)
    if file and source.is_dir():
        raise UserError(f"{file} is a folder, no experiment.{_available(source)}")
    if not source.is_file():
        raise UserError(f"there is no experiment {file!r}.{_available(source)}")
    spec = importlib.util.spec_from_file_location(f"experiment_{source.stem}", source)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is no Python file with get_config().")
    module = importlib.util.module_from_spec(spec)
    # Experiments import their base and presets as experiments.*, from any directory.
    root = str(FOLDER.parent)
    if root not in sys.path:
        sys.path.append(root)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{file}: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, "get_config", None)):
        raise UserError(
            f"{file} has no get_config(), so it is no experiment.{_available(source)}"
        )
    return module.get_config


def listing() -> str:
    """The experiments by the commands that take them, with a line about each."""
    lines = []
    files = {**_files(FOLDER), **_files(pathlib.Path("experiments")), **_files()}
    marks = {name: set(load_config(str(file))) for name, file in files.items()}
    width = max(map(len, files))
    for kind in kinds.KINDS:
        lines.append(f"{kind.name}, for {', '.join(kind.commands)}:")
        for name, file in sorted(files.items()):
            if kind.mark in marks[name]:
                docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
                lines.append(f"  {name:{width}}  {docstring.partition(chr(10))[0]}")
        lines.append("")
    return "\n".join([*lines, "--config=NAME takes one; --print_config shows it."])


def _files(folder: pathlib.Path = pathlib.Path()) -> dict[str, pathlib.Path]:
    """The experiments in a folder, by name."""
    return {
        path.stem: path
        for path in sorted(folder.glob("*.py"))
        if path.stem not in _NO_EXPERIMENTS
        and "def get_config(" in path.read_text(encoding="utf-8", errors="replace")
    }


def _available(given: pathlib.Path) -> str:
    """The experiments beside a path or in a folder, and those of this project."""
    folder = given if given.is_dir() else given.parent
    if not _files(folder):
        folder = pathlib.Path("experiments")
    own = {} if folder.resolve() == FOLDER.resolve() else _files(folder)
    shipped = _files(FOLDER)
    hint = nearest(given.stem, [*own, *shipped])
    beside = (
        f" Available in {os.path.relpath(folder)}: {', '.join(own)}." if own else ""
    )
    where = (
        "by name" if beside or not folder.is_dir() else f"in {os.path.relpath(folder)}"
    )
    return f"{hint}{beside} Available {where}: {', '.join(shipped)}."
