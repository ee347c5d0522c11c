"""The table of evaluations, and building one from its section of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from research.config import strict
from research.errors import UserError, nearest
from research.evaluation.acceptability import Acceptability
from research.evaluation.blimp.evaluation import Blimp
from research.evaluation.glue.evaluation import Glue
from research.evaluation.interface import Evaluation
from research.evaluation.probe import Probe
from research.evaluation.squad.evaluation import Squad

EVALUATIONS: dict[str, type[Evaluation]] = {
    "acceptability": Acceptability,
    "blimp": Blimp,
    "glue": Glue,
    "probe": Probe,
    "squad": Squad,
}


def create(name: str, settings: Mapping[str, Any]) -> Evaluation:
    """Builds the evaluation that a section of a config describes.

    Args:
      name: of the section, for messages.
      settings: `kind`, a key of EVALUATIONS, and that evaluation's fields.

    Raises:
      UserError: for an unknown kind or field.
    """
    values = dict(settings)
    kind = values.pop("kind", None)
    if kind not in EVALUATIONS:
        raise UserError(
            f"config.evaluations.{name}.kind = {kind!r}: there is no such evaluation."
            f"{nearest(str(kind), EVALUATIONS)} Valid: {', '.join(EVALUATIONS)}."
        )
    return strict.parsed(
        EVALUATIONS[kind],
        values,
        f"config.evaluations.{name}",
        complete="experiments/comparison_base.py",
    )
