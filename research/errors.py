"""Mistakes of users: errors that are printed as one message, without a traceback."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

USAGE_ERROR = 2  # Exit code after a mistake of the user.


class UserError(Exception):
    """Says what was given, what is allowed and how to fix it."""


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns a ValueError or OSError that is raised inside into a UserError.

    For code that reads what users wrote (configs, corpora, tokenizers), where these
    are mistakes of the user and no bugs. The cause stays chained.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def nearest(name: str, valid: Iterable[str]) -> str:
    """' Did you mean ...?' with the closest valid names, or ''."""
    close = difflib.get_close_matches(name, list(valid), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""
