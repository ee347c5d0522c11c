"""The arms of a comparison: in what they differ, and what they share.

Arms are whole run configs. The fields in which they may differ are declared; if any
other field differs, the comparison is refused before any work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from research.comparison import budgets
from research.config import objective_section
from research.config.parse import flatten
from research.errors import UserError, nearest

MISSING = "—"  # a field that an arm's objective does not have


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the pretraining setups that are compared.

    Attributes:
      name: key in the comparison's config, used in folders and results.csv.
      label: its name in reports.
      experiment: name of the experiment it started from.
      config: the whole run config that results, as plain values.
    """

    name: str
    label: str
    experiment: str
    config: Mapping[str, Any]


def differing_fields(arms: Iterable[Arm]) -> dict[str, dict[str, Any]]:
    """Dotted fields whose values differ: field -> {arm name: value or MISSING}.

    Fields that the comparison itself sets (`budgets.FITTED`) are left out.
    """
    flat = {arm.name: flatten(arm.config) for arm in arms}
    fields = dict.fromkeys(field for values in flat.values() for field in values)
    rows = {}
    for field in fields:
        values = {name: config.get(field, MISSING) for name, config in flat.items()}
        if field not in budgets.FITTED and len({repr(v) for v in values.values()}) > 1:
            rows[field] = values
    return rows


def shared_fields(arms: Sequence[Arm]) -> dict[str, Any]:
    """Dotted fields that have one value in all arms."""
    differing = differing_fields(arms)
    return {
        field: value
        for field, value in flatten(arms[0].config).items()
        if field not in differing and field not in budgets.FITTED
    }


def confounded(arm: Arm, reference: Arm) -> tuple[str, ...]:
    """In what an arm differs from the reference, if in more than one thing; else ().

    Another objective is one thing, with its own settings and the architecture that it
    needs, and so is another backbone; of the same ones, every field is.
    """
    other_objective = objective_section.title(
        arm.config["objective"]
    ) != objective_section.title(reference.config["objective"])
    other_backbone = (
        arm.config["model"]["backbone"] != (reference.config["model"]["backbone"])
    )

    def thing(field: str) -> str:
        is_architecture = field == "model.architecture"
        if other_objective and (field.startswith("objective.") or is_architecture):
            return "objective"
        return "backbone" if other_backbone and field.startswith("model.") else field

    things = dict.fromkeys(map(thing, differing_fields((arm, reference))))
    return tuple(things) if len(things) > 1 else ()


def check(arms: list[Arm], varies: tuple[str, ...]) -> None:
    """Refuses arms that differ in what they claim to share.

    Args:
      varies: dotted fields or sections in which arms may differ.

    Raises:
      UserError: naming each field that differs, its values, and what to do; also without
        arms, and for a name in `varies` that no arm has.
    """
    if not arms:
        raise UserError("A comparison needs at least one arm; config.arms is empty.")
    known = {
        prefix
        for arm in arms
        for field in flatten(arm.config)
        for prefix in _prefixes(field)
    }
    for name in varies:
        if name not in known:
            raise UserError(
                f"config.varies names {name!r}, no field of an arm."
                f"{nearest(name, known)}"
            )
    wrong = {
        field: values
        for field, values in differing_fields(arms).items()
        if not set(_prefixes(field)) & set(varies)
    }
    if wrong:
        listed = "\n".join(
            f"  {field}: "
            + ", ".join(f"{arm}={value!r}" for arm, value in values.items())
            for field, values in wrong.items()
        )
        raise UserError(
            f"The arms differ in fields that the comparison claims to hold equal:\n"
            f"{listed}\nGive them one value, or declare them in config.varies "
            f"(now {', '.join(varies) or 'empty'}) so that the report says so."
        )


def _prefixes(field: str) -> list[str]:
    """'a.b.c' -> ['a', 'a.b', 'a.b.c']"""
    parts = field.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]
