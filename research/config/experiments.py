"""Loads an experiment file: runs it and calls its get_config()."""

from __future__ import annotations

import importlib.util
import inspect
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import ml_collections

from research.errors import UserError, nearest

FOLDER = pathlib.Path(__file__).parent.parent.parent / "experiments"
# Files in experiments/ that other experiments import.
_NO_EXPERIMENTS = ("__init__", "base", "comparison_base", "imported", "presets")


def load_config(path: str) -> ml_collections.ConfigDict:
    """get_config() of an experiment file.

    Args:
      path: the file; what follows a colon is the argument of its get_config.

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
    source = pathlib.Path(file)
    if file and source.is_dir():
        raise UserError(f"{file} is a folder, no experiment.{_experiments(source)}")
    if not source.is_file():
        raise UserError(f"there is no experiment {file!r}.{_experiments(source)}")
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
            f"{file} has no get_config(), so it is no experiment.{_experiments(source)}"
        )
    return module.get_config


def _experiments(given: pathlib.Path) -> str:
    """The experiments beside a path or in a folder, else those of this project."""
    folder = given if given.is_dir() else given.parent
    if not any(folder.glob("*.py")):
        folder = pathlib.Path("experiments")
    if not folder.is_dir():
        folder = FOLDER
    names = sorted(
        path.stem for path in folder.glob("*.py") if path.stem not in _NO_EXPERIMENTS
    )
    shown = os.path.relpath(folder)
    hint = nearest(given.stem, names)
    return f"{hint} Available in {shown}: {', '.join(names) or 'none'}."
