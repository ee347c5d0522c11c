"""What the entry points share: flags, configs from the command line, readable errors.

An entry point ends with ``command_line.run(main)``. Mistakes in flags, configs and data print
one message and exit with code 2; ``--verbosity=1`` shows the traceback as well.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from research.config import overrides
from research.config.experiments import load_config
from research.errors import USAGE_ERROR, UserError

CONFIG_FLAG = "config"


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
