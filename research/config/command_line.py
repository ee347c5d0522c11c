"""What the entry points share: flags, configs from the command line, readable errors.

An entry point ends with ``cli.run(main)``. Mistakes in flags, configs and data print
one message and exit with code 2; ``--verbosity=1`` shows the traceback as well.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from absl import app, flags, logging

from research.config import overrides
from research.errors import UserError, nearest

USAGE_ERROR = 2
CONFIG_FLAG = "config"
# Files among the experiments that are what experiments begin with.
_NO_EXPERIMENTS = ("__init__", "base", "comparison_base", "presets")


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Parses flags, calls `main`, and exits with its return value."""
    app.run(lambda argv: _guarded(main, argv), flags_parser=_parse_flags)


def _guarded(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]):
    quiet_libraries()
    try:
        if len(argv) > 1:
            raise UserError(
                f"unknown arguments: {' '.join(argv[1:])}. All arguments are flags, "
                f"--NAME=VALUE; --help lists them."
            )
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


def required(**examples: str) -> list[Any]:
    """Values of the flags that a command cannot do without.

    Args:
      **examples: what each flag may look like, by its name.

    Raises:
      UserError: naming all of them, if one is missing.
    """
    values = [flags.FLAGS[name].value for name in examples]
    if not all(values):
        *others, last = (f"--{name}={value}" for name, value in examples.items())
        raise UserError(f"give {', '.join(others)} and {last}.")
    return values


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


def _check_config_flags(argv: Sequence[str]) -> None:
    path = _flag_value(argv, CONFIG_FLAG)
    if path is None or CONFIG_FLAG not in flags.FLAGS:
        return
    problems = overrides.problems(load_config(path), argv, CONFIG_FLAG)
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
            f"{path}: {file} takes nothing after a colon: --{CONFIG_FLAG}={file}."
            if colon
            else f"{file} needs an option: --{CONFIG_FLAG}={file}:OPTION."
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
    """The function of an experiment file, which is run for it."""
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
    root = str(pathlib.Path(__file__).parent.parent.parent)
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
        folder = pathlib.Path(__file__).parent.parent.parent / "experiments"
    names = sorted(
        path.stem for path in folder.glob("*.py") if path.stem not in _NO_EXPERIMENTS
    )
    shown = os.path.relpath(folder)
    hint = nearest(given.stem, names)
    return f"{hint} Available in {shown}: {', '.join(names) or 'none'}."
