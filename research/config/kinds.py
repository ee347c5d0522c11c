"""Kinds of configs, and the commands that take them.

A config of the wrong kind lacks every field and has as many unknown ones. What it is
says more than the list of them.
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
      name: what it is the config of.
      mark: a field that no other kind has.
      complete: what has every field.
      commands: that take it.
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


def check(values: Mapping[str, Any], expected: Kind) -> None:
    """Refuses a config of another kind than the expected one.

    Raises:
      UserError: saying what the config is, and which commands take which.
    """
    if expected.mark in values:
        return
    for kind in KINDS:
        if kind.mark in values:
            raise UserError(
                f"this is the config of {kind.name}, which {_listed(kind)}. The config "
                f"of {expected.name} is needed here: begin with {expected.complete}, or "
                f"take an experiment that does."
            )


def _listed(kind: Kind) -> str:
    *others, last = (f"python -m {command}" for command in kind.commands)
    if not others:
        return f"{last} takes"
    return f"{', '.join(others)} and {last} take"
