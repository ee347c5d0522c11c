"""The objective section: stages, a mixture or phases, parsed and built.

    {name: (STAGE, ..), STAGE: {hyperparameter: value, ..}, ..}
    {mixture: (COMPONENT, ..), shares: (1, ..), weights: (1.0, ..), COMPONENT: section, ..}
    {phases: (COMPONENT, ..), ends: (0.5, .., 1.0), COMPONENT: section, ..}

A component's section is again one of these; a mixture holds stages alone.
"""

from __future__ import annotations

import collections
import typing
from collections.abc import Mapping
from typing import Any

import objectives
from objectives import Mixture, Objective, Phases
from objectives.vocabulary import Vocabulary
from research.config import checks, strict
from research.config.experiments import FOLDER
from research.config.sections import (
    AnyObjectiveConfig,
    MixtureConfig,
    ObjectiveConfig,
    PhasesConfig,
    RunConfig,
)
from research.errors import nearest

_STAGES, _MIXTURE, _PHASES = "name", "mixture", "phases"
# Fields beside the names of the components, and the types of their values.
_FIELDS: dict[str, dict[str, Any]] = {
    _STAGES: {},
    _MIXTURE: {"shares": tuple[int, ...], "weights": tuple[float, ...]},
    _PHASES: {"ends": tuple[float, ...]},
}
# What may be a component of what.
_INSIDE = {_MIXTURE: (_STAGES,), _PHASES: (_STAGES, _MIXTURE)}


def title(values: Mapping[str, Any]) -> str:
    """What a section describes, e.g. 'mixture(span_corruption × 6, prefix_lm)'."""
    if _STAGES in values:
        return " + ".join(values[_STAGES])
    kind = _MIXTURE if _MIXTURE in values else _PHASES
    counts = collections.Counter(title(values[name]) for name in values[kind])
    parts = [f"{name} × {n}" if n > 1 else name for name, n in counts.items()]
    return f"{kind}({', '.join(parts)})"


def parse(
    values: Any,
    problems: list[str],
    *,
    path: str = "config.objective",
    kinds: tuple[str, ...] = tuple(_FIELDS),
) -> AnyObjectiveConfig | None:
    """The section as dataclasses; None after noting what is wrong.

    Args:
      values: the section as plain values.
      problems: what is wrong is appended here.
      path: where the section stands, for messages.
      kinds: which of 'name', 'mixture' and 'phases' it may be.
    """
    found = [kind for kind in _FIELDS if isinstance(values, Mapping) and kind in values]
    if len(found) != 1 or found[0] not in kinds:
        makers = {_STAGES: "objective", _MIXTURE: "mixture", _PHASES: "phases"}
        valid = ", ".join(f"presets.{makers[kind]}(...)" for kind in kinds)
        problems.append(
            f"{path} must be one of {valid}, with objectives of "
            f"{', '.join(sorted(objectives.OBJECTIVES))}."
        )
        return None
    before = len(problems)
    (kind,) = found
    names = _names(values[kind], f"{path}.{kind}", problems)
    fields = {
        field: strict.check_type(hint, values.get(field), f"{path}.{field}", problems)
        for field, hint in _FIELDS[kind].items()
    }
    for name in values:
        if name not in (kind, *_FIELDS[kind], *names):
            problems.append(
                f"{path}.{name} is none of {path}.{kind} = {names!r}: name it there, "
                f"or set {path} anew."
            )
    if kind == _STAGES:
        params = {name: _stage(name, values, path, problems) for name in names}
        return None if len(problems) > before else ObjectiveConfig(names, params)
    components = {
        name: parse(
            values.get(name), problems, path=f"{path}.{name}", kinds=_INSIDE[kind]
        )
        for name in names
    }
    if len(problems) > before:
        return None
    made: Any = {_MIXTURE: MixtureConfig, _PHASES: PhasesConfig}[kind]
    return made(components=components, **fields)


def _names(values: Any, path: str, problems: list[str]) -> tuple[str, ...]:
    names = (values,) if isinstance(values, str) else values
    if not names or not isinstance(names, tuple):
        problems.append(f"{path} = {names!r}: must be one name or several.")
        return ()
    return names


def _stage(
    name: str, values: Mapping[str, Any], path: str, problems: list[str]
) -> dict[str, Any]:
    """The hyperparameters of one stage, checked against the fields of its dataclass."""
    valid_names = tuple(sorted(objectives.OBJECTIVES))
    if name not in valid_names:
        problems.append(
            f"{path}.name: there is no objective {name!r}."
            f"{nearest(str(name), valid_names)} Valid: {', '.join(valid_names)}."
        )
        return {}
    given = values.get(name)
    if not isinstance(given, Mapping):
        problems.append(
            f"{path} lacks the section {name!r}: set {path} = "
            f"presets.objective({name!r}), or begin with {_experiment_of(name)}."
        )
        return {}
    cls = objectives.OBJECTIVES[name]
    hints = typing.get_type_hints(cls)
    valid = objectives.hyperparameters(name)
    complete = f"presets.objective({name!r})"
    strict.check_names(given, valid, f"{path}.{name}", problems, complete=complete)
    return {
        field: strict.check_type(
            hints[field], value, f"{path}.{name}.{field}", problems
        )
        for field, value in given.items()
        if field in valid
    }


def _experiment_of(name: str) -> str:
    """What can be typed to have an objective, which one field alone does not give."""
    if (FOLDER / f"{name}.py").is_file():
        return f"--config=experiments/{name}.py"
    return "the experiment that has it"


def create(run: RunConfig, vocabulary: Vocabulary) -> Objective:
    """The configured objective over a vocabulary.

    Raises:
      ValueError: if it does not fit the architecture, the rows or the vocabulary.
    """
    return _create(run.objective, run, vocabulary)


def provisional(run: RunConfig) -> Objective:
    """The objective over a vocabulary like the configured one, before there is one.

    Raises:
      ValueError: as `create`.
    """
    return create(run, checks.provisional_vocabulary(run.data.tokenizer))


def _create(
    section: AnyObjectiveConfig, run: RunConfig, vocabulary: Vocabulary
) -> Objective:
    common: dict[str, Any] = {
        "vocabulary": vocabulary,
        "row_length": run.data.row_length,
        "architecture": run.model.architecture,
    }
    if isinstance(section, ObjectiveConfig):
        return objectives.create(section.name, section.params, **common)
    components = tuple(
        (name, _create(inner, run, vocabulary))
        for name, inner in section.components.items()
    )
    if isinstance(section, MixtureConfig):
        return Mixture(
            components=components,
            shares=section.shares,
            weights=section.weights,
            **common,
        )
    return Phases(
        components=components,
        ends=section.ends,
        num_train_steps=run.train.num_train_steps,
        **common,
    )
