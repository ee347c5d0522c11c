"""Turns ConfigDicts into checked, frozen dataclasses.

`parse` checks a config whole, before any work, and reports every problem in one
message. Functions elsewhere take dataclasses, and no field has a default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections
from flax import nnx

import models
from research.config import checks, kinds, objective_section, strict
from research.config.sections import SECTIONS, RunConfig
from research.errors import UserError, nearest


def parse(config: ml_collections.ConfigDict) -> RunConfig:
    """Checks a whole config and turns it into dataclasses.

    Raises:
      UserError: one message with every problem: unknown and missing fields with
        their nearest valid names, wrong types, values that are not allowed, and
        fields that contradict each other; or that it is a config of another kind.
    """
    values = plain(config)
    kinds.check(values, kinds.RUN)
    problems: list[str] = []
    complete = kinds.RUN.complete
    names = (*SECTIONS, "objective")
    strict.check_names(values, names, "config", problems, complete=complete)
    classes = {
        name: _model_class(values[name], problems) if name == "model" else cls
        for name, cls in SECTIONS.items()
        if name in values
    }
    # Any: each section has the type that RunConfig's field of its name has.
    sections: dict[str, Any] = {
        name: strict.build(
            cls, values[name], f"config.{name}", problems, complete=complete
        )
        for name, cls in classes.items()
        if cls is not None
    }
    if "objective" in values:
        sections["objective"] = objective_section.parse(values["objective"], problems)
    problems += checks.section_problems(sections)
    _refuse(problems)
    run = RunConfig(**sections)
    _refuse(_objective_problems(run))
    return run


def _model_class(values: Any, problems: list[str]) -> type | None:
    """The config class of the backbone that a model section names."""
    if not isinstance(values, Mapping):
        return SECTIONS["model"]
    name = values.get("backbone")
    if name in models.BACKBONES:
        return models.BACKBONES[name].config_class
    valid = tuple(models.BACKBONES)
    problems.append(
        f"config.model.backbone = {name!r}: there is no such backbone."
        f"{nearest(str(name), valid)} Valid: {', '.join(valid)}."
    )
    return None


def plain(config: Any) -> Any:
    """The config as dicts, tuples and scalars, references resolved."""
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return tuple(plain(value) for value in config)
    return config


def differing_fields(first: Any, second: Any) -> dict[str, tuple[Any, Any]]:
    """{'train.seed': (value in first, value in second)} where two configs differ.

    A field that one of them lacks has the value None there.
    """
    first, second = (flatten(plain(config)) for config in (first, second))
    return {
        name: (first.get(name), second.get(name))
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}"""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _refuse(problems: list[str]) -> None:
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise UserError(f"{len(problems)} problems in the config:\n{listed}")


def _objective_problems(run: RunConfig) -> list[str]:
    """Builds the objective over a vocabulary like the configured one.

    Finds the wrong backbone, hyperparameters out of range, networks that do not fit,
    too few sentinels and sequences that are too long before any text is read.
    """
    try:
        objective = objective_section.provisional(run)
        if objective.has_own_networks:
            size = run.model.vocab_size or objective.vocabulary.vocab_size
            model = dataclasses.replace(run.model, vocab_size=size)
            nnx.eval_shape(lambda: objective.networks(model, rngs=nnx.Rngs(0)))
    except (ValueError, TypeError) as error:
        return [f"config.objective: {error}"]
    return checks.length_problems(run.model, objective)
