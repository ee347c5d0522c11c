"""Errors that are the user's to mend: printed as one message, without a traceback."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

USAGE_ERROR = 2  # Exit code of a program whose user has something to mend.


class UserError(Exception):
    """Says what was given, what is allowed and how to fix it."""


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns a ValueError or OSError that is raised inside into a UserError.

    For code that reads what users wrote (configs, corpora, tokenizers), where these
    are messages to them and not bugs. The cause stays chained.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def nearest(name: str, valid: Iterable[str]) -> str:
    """' Did you mean ...?' with the closest valid names, or ''."""
    close = difflib.get_close_matches(name, list(valid), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""
