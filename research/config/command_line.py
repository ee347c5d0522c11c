"""Runs an entry point: parses its flags, calls it, prints errors as one message.

An entry point ends with ``command_line.run(main, define_flags)``. It defines its flags in
a function and not when it is imported, so that one process can import several of them.
Mistakes in flags, configs and data print one message and exit with code 2;
``--verbosity=1`` shows the traceback as well.
"""

from __future__ import annotations

import functools
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from absl import app, flags, logging
from ml_collections import config_flags

from research.config import experiments, overrides
from research.errors import USAGE_ERROR, UserError

CONFIG_FLAG = "config"
# What absl, ml_collections and the system raise for flags and paths that are none.
_MISTAKES: tuple[type[Exception], ...] = (UserError, flags.Error, OSError)
_MISTAKES += (AttributeError, KeyError, TypeError, ValueError)
# Takes the values of the flags and returns the exit code; None = 0.
Main: TypeAlias = Callable[[flags.FlagValues], int | None]


# A flag that is defined here is one of the command that has it defined, in its --help.
flags.disclaim_key_flags()


def define_config() -> None:
    """Defines --config, and the flags that show what it may be and what it is."""
    config_flags.DEFINE_config_file(
        CONFIG_FLAG, None, "an experiment: its name, or a file; NAME:OPTION"
    )
    flags.DEFINE_bool("list", False, "list the experiments, and stop")
    flags.DEFINE_bool("print_config", False, "print the config as JSON, and stop")


def run(main: Main, define_flags: Callable[[], None]) -> None:
    """Defines and parses the flags, calls `main` with them and exits with its code."""
    try:
        # ml_collections reads flag files where its flag is defined, outside of any guard.
        sys.argv[1:] = flags.FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False)
    except (flags.Error, UnicodeDecodeError) as error:
        _fail(error)
    define_flags()
    app.run(lambda argv: _guarded(main, argv), flags_parser=_parse_flags)


def _guarded(main: Main, argv: Sequence[str]) -> None:
    quiet_libraries()
    try:
        if len(argv) > 1:
            raise UserError(
                f"unknown arguments: {' '.join(argv[1:])}. All arguments are flags, "
                f"--NAME=VALUE; --help lists them."
            )
        if not _show(flags.FLAGS):
            sys.exit(main(flags.FLAGS) or 0)
    except UserError as error:
        _fail(error)
    except OSError as error:
        # A disk is full, read-only or away: a traceback would explain nothing.
        _fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _show(given: flags.FlagValues) -> bool:
    """Prints what --list or --print_config ask for; False if neither is given."""
    if "list" not in given:
        return False
    if given.list:
        print(experiments.listing())
    elif given.print_config:
        require(given, config="NAME")
        print(json.dumps(given.config.to_dict(), indent=2, default=list))
    return bool(given.list or given.print_config)


def _fail(error: BaseException) -> None:
    if flags.FLAGS.is_parsed() and logging.get_verbosity() > logging.INFO:
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def require(given: flags.FlagValues, **examples: str) -> None:
    """Checks the flags that a command cannot do without.

    Args:
      given: the values of the flags.
      **examples: an example value of each required flag, by its name.

    Raises:
      UserError: naming all of them, if one is missing.
    """
    if not all(given[name].value for name in examples):
        *others, last = (f"--{name}={value}" for name, value in examples.items())
        first = f"{', '.join(others)} and " if others else ""
        raise UserError(f"give {first}{last}.")


def quiet_libraries() -> None:
    """Hides what other libraries log, unless --verbosity is given."""
    if flags.FLAGS.is_parsed() and flags.FLAGS["verbosity"].present:
        return
    # orbax also logs every exception that it raises, with its traceback.
    logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = functools.partial(_without_late_writes, sys.unraisablehook)


def _without_late_writes(hook: Callable[[Any], None], unraisable: Any) -> None:
    """Reports an unraisable exception, unless a failed checkpoint caused it.

    orbax closes its event loop at the first file that fails; each file still being
    written would then print "Event loop is closed".
    """
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        hook(unraisable)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    if {"--help", "-help", "-h"} & set(argv):
        app.usage(shorthelp=True, writeto_stdout=True)
        sys.exit(0)
    try:
        return flags.FLAGS(_checked_config_flags(argv))
    except _MISTAKES as error:
        _fail(error)
        raise  # Not reached; for the type checker.


def _checked_config_flags(argv: Sequence[str]) -> list[str]:
    """The arguments with the experiment as a path, which is all ml_collections takes."""
    argv = list(argv)
    if CONFIG_FLAG not in flags.FLAGS:
        return argv
    for index, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name != CONFIG_FLAG:
            continue
        if not equals:
            value = "".join(argv[index + 1 : index + 2])
        problems = overrides.problems(experiments.load_config(value), argv, CONFIG_FLAG)
        if problems:
            raise UserError("\n       ".join(problems))
        argv[index : index + (1 if equals else 2)] = [
            f"--{CONFIG_FLAG}={experiments.resolve(value)}"
        ]
    return argv
