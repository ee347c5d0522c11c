"""The error of everything a person gives as data."""

from __future__ import annotations

from research.errors import UserError


class DataError(UserError, ValueError):
    """A corpus, tokenizer or token store that cannot be used as given."""
