"""What the entry points share: flags, configs from the command line, readable errors.

An entry point ends with ``cli.run(main)``. Mistakes in flags, configs and data print
one message and exit with code 2; ``--verbosity=1`` shows the traceback as well.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from absl import app, flags, logging

from research import strict
from research.errors import UserError, nearest

USAGE_ERROR = 2
CONFIG_FLAG = "config"


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Parses flags, calls `main`, and exits with its return value."""
    app.run(lambda argv: _guarded(main, argv), flags_parser=_parse_flags)


def _guarded(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]):
    quiet_libraries()
    try:
        sys.exit(main(argv) or 0)
    except UserError as error:
        _fail(error)
    except OSError as error:
        # Disks are full, read-only or away: nothing a traceback would explain.
        _fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _fail(error: BaseException) -> None:
    if flags.FLAGS.is_parsed() and logging.get_verbosity() > logging.INFO:
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def quiet_libraries() -> None:
    """Keeps other libraries' progress out of the run's own lines."""
    if flags.FLAGS.is_parsed() and flags.FLAGS["verbosity"].present:
        return
    # orbax logs what it raises as well, traceback and all.
    logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = functools.partial(_without_late_writes, sys.unraisablehook)


def _without_late_writes(hook: Callable[[Any], None], unraisable: Any) -> None:
    """Shows what no one can catch, but for those of a failed checkpoint's other files.

    orbax closes its event loop at the first file that fails; each one still being
    written would print that it finds the loop closed.
    """
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        hook(unraisable)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        _check_config_flags(argv)
        return flags.FLAGS(argv)
    except (UserError, flags.Error, AttributeError, KeyError, TypeError) as error:
        _fail(error)
        raise


# Config flags, checked before ml_collections sees them: its own errors are tracebacks.


def _check_config_flags(argv: Sequence[str]) -> None:
    path = _flag_value(argv, CONFIG_FLAG)
    if path is None or CONFIG_FLAG not in flags.FLAGS:
        return
    config = load_config(path)
    problems = []
    for argument in argv[1:]:
        name, _, _ = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name.startswith(f"{CONFIG_FLAG}."):
            problem = _unknown_override(config, name.split(".")[1:])
            problems += [problem] if problem else []
    if problems:
        raise UserError("\n       ".join(problems))


def _flag_value(argv: Sequence[str], flag: str) -> str | None:
    for index, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == flag:
            if equals:
                return value
            return argv[index + 1] if index + 1 < len(argv) else None
    return None


def _unknown_override(config: ml_collections.ConfigDict, path: list[str]) -> str | None:
    """The message about an override of a field that does not exist."""
    section: Any = config
    for depth, name in enumerate(path):
        where = ".".join([CONFIG_FLAG, *path[:depth]])
        if not isinstance(section, ml_collections.ConfigDict):
            return f"{where} is a value, not a section: it has no field {name!r}."
        # The base name of a tuple's element, 'name' of 'name[0]'.
        name = name.partition("[")[0]
        if name not in section:
            valid = tuple(section.keys())
            return strict.unknown_name(where, name, valid, tuple(_paths(config)))
        section = section[name]
    return None


def _paths(config: ml_collections.ConfigDict, prefix: str = CONFIG_FLAG) -> list[str]:
    paths = []
    for name, value in config.items():
        paths.append(f"{prefix}.{name}")
        if isinstance(value, ml_collections.ConfigDict):
            paths += _paths(value, f"{prefix}.{name}")
    return paths


def load_config(path: str) -> ml_collections.ConfigDict:
    """get_config() of an experiment file.

    Args:
      path: the file; what follows a colon is the argument of its get_config.

    Raises:
      UserError: for a file that does not exist, listing those that do, or that
        cannot be run.
    """
    file, colon, argument = path.partition(":")
    source = pathlib.Path(file)
    if not source.is_file():
        raise UserError(f"there is no experiment {file!r}.{_experiments(source)}")
    spec = importlib.util.spec_from_file_location(f"experiment_{source.stem}", source)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is no Python file with get_config().")
    module = importlib.util.module_from_spec(spec)
    # Experiments import their base and presets as experiments.*, from any directory.
    root = str(pathlib.Path(__file__).parent.parent)
    if root not in sys.path:
        sys.path.append(root)
    try:
        spec.loader.exec_module(module)
        return module.get_config(argument) if colon else module.get_config()
    except Exception as error:
        raise UserError(f"{file}: {type(error).__name__}: {error}") from error


def _experiments(missing: pathlib.Path) -> str:
    folder = missing.parent if missing.parent.is_dir() else pathlib.Path("experiments")
    if not folder.is_dir():
        folder = pathlib.Path(__file__).parent.parent / "experiments"
    names = sorted(
        path.stem
        for path in folder.glob("*.py")
        if path.stem not in ("__init__", "base", "presets")
    )
    shown = os.path.relpath(folder)
    hint = nearest(missing.stem, names)
    return f"{hint} Available in {shown}: {', '.join(names) or 'none'}."
