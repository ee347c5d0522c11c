"""Checks of hyperparameters that objectives share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models import backbone


def check_range(
    objective: Any,
    *fields: str,
    above: float | int | None = None,
    at_least: float | int | None = None,
    below: float | int | None = None,
    at_most: float | int | None = None,
) -> None:
    """Refuses fields whose values are outside the limits, naming them.

    Raises:
      ValueError: "masked_lm.noise_density = 1.5: must be > 0 and < 1."
    """
    limits = [
        (">", above, lambda value, limit: value > limit),
        (">=", at_least, lambda value, limit: value >= limit),
        ("<", below, lambda value, limit: value < limit),
        ("<=", at_most, lambda value, limit: value <= limit),
    ]
    given = [(sign, limit, holds) for sign, limit, holds in limits if limit is not None]
    allowed = " and ".join(f"{sign} {limit:g}" for sign, limit, _ in given)
    for field in fields:
        value = getattr(objective, field)
        if not all(holds(value, limit) for _, limit, holds in given):
            raise ValueError(f"{objective.name}.{field} = {value}: must be {allowed}.")


def check_choice(objective: Any, field: str, allowed: Sequence[Any]) -> None:
    """Refuses a field whose value is none of `allowed`, listing them."""
    name, value = f"{objective.name}.{field}", getattr(objective, field)
    backbone.check_choice(name, value, tuple(allowed))


def check_row_length(objective: Any, least: int) -> None:
    """Refuses rows that are too short to hold an example."""
    if objective.row_length < least:
        raise ValueError(
            f"data.row_length = {objective.row_length} is too short for objective "
            f"{objective.name!r}: it needs at least {least} tokens a row."
        )
