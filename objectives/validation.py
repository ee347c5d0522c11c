"""Checks of hyperparameters that objectives share."""

from __future__ import annotations

from collections.abc import Sequence


def check_range(
    objective: str,
    field: str,
    value: float | int,
    *,
    above: float | int | None = None,
    at_least: float | int | None = None,
    below: float | int | None = None,
    at_most: float | int | None = None,
) -> None:
    """Refuses a value outside the limits, naming them.

    Raises:
      ValueError: "masked_lm.noise_density = 1.5: must be > 0 and < 1."
    """
    limits = [
        (">", above, lambda limit: value > limit),
        (">=", at_least, lambda limit: value >= limit),
        ("<", below, lambda limit: value < limit),
        ("<=", at_most, lambda limit: value <= limit),
    ]
    given = [(sign, limit, holds) for sign, limit, holds in limits if limit is not None]
    if not all(holds(limit) for _, limit, holds in given):
        allowed = " and ".join(f"{sign} {limit:g}" for sign, limit, _ in given)
        raise ValueError(f"{objective}.{field} = {value}: must be {allowed}.")


def check_choice(
    objective: str, field: str, value: object, allowed: Sequence[object]
) -> None:
    """Refuses a value that is none of `allowed`, listing them."""
    if value not in allowed:
        names = ", ".join(repr(name) for name in allowed)
        raise ValueError(f"{objective}.{field} = {value!r}: must be one of {names}.")


def check_row_length(objective: str, row_length: int, least: int) -> None:
    """Refuses rows that are too short to hold an example."""
    if row_length < least:
        raise ValueError(
            f"data.row_length = {row_length} is too short for objective "
            f"{objective!r}: it needs at least {least} tokens a row."
        )
