"""Kinds of configs, and the commands that take them.

A config of the wrong kind has only unknown fields. Its kind is a shorter message than
the list of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from research.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of config.

    Attributes:
      name: what is configured.
      mark: a field that no other kind has.
      complete: the function that gives every field.
      commands: modules that take it.
    """

    name: str
    mark: str
    complete: str
    commands: tuple[str, ...]


RUN = Kind(
    name="a pretraining run",
    mark="train",
    complete="get_config() of experiments/base.py",
    commands=("research.pretrain", "research.preview", "research.plan"),
)
COMPARISON = Kind(
    name="a comparison",
    mark="arms",
    complete="get_config() of experiments/comparison_base.py",
    commands=("research.compare",),
)
GLUE = Kind(
    name="an evaluation on GLUE",
    mark="protocol",
    complete="get_config() of experiments/glue.py",
    commands=("research.glue",),
)
SQUAD = Kind(
    name="an evaluation on SQuAD",
    mark="train_file",
    complete="get_config() of experiments/squad.py",
    commands=("research.squad",),
)
KINDS = (RUN, COMPARISON, GLUE, SQUAD)


def of(values: Mapping[str, Any]) -> Kind | None:
    """The kind of a config; None if it is of none."""
    return next((kind for kind in KINDS if kind.mark in values), None)


def check(values: Mapping[str, Any], expected: Kind) -> None:
    """Refuses a config of another kind.

    Raises:
      UserError: naming its kind and the commands that take it.
    """
    if expected.mark in values:
        return
    if kind := of(values):
        raise UserError(
            f"this is the config of {kind.name}, which {_listed(kind)}. The config of "
            f"{expected.name} is needed here: begin with {expected.complete}, or take an "
            f"experiment that does."
        )


def _listed(kind: Kind) -> str:
    *others, last = (f"python -m {command}" for command in kind.commands)
    if not others:
        return f"{last} takes"
    return f"{', '.join(others)} and {last} take"
