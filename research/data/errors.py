"""Errors about corpora, tokenizers and token stores, and about the disk they are on."""

from __future__ import annotations

import errno
import pathlib

from research.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DataError(UserError, ValueError):
    """A corpus, tokenizer or token store that cannot be used as given."""


def cannot_write(what: str, folder: pathlib.Path, error: OSError) -> OSError:
    """The error to raise when `what` could not be written into a cache folder."""
    if error.errno in DISK_FULL:
        problem = f"the disk that holds {folder} is full"
    else:
        problem = f"{folder} cannot be written ({error})"
    return OSError(
        error.errno,
        f"The {what} was not written and nothing of it is left: {problem}. Free some "
        "space, or set data.cache_dir to a folder on another disk.",
    )
