"""What is learned: objectives as pure functions, their heads and losses.

objective = objectives.create(
    ("next_sentence", "masked_lm"), params,
    vocabulary=vocabulary, row_length=128, architecture="encoder",
)
example = objective.corrupt(rng, batch)
networks = objective.networks(config, rngs=nnx.Rngs(0))
terms, metrics = objective.losses(networks, example)
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from objectives.base import Objective
from objectives.causal_lm import CausalLM
from objectives.composed import Composed
from objectives.deshuffling import Deshuffling
from objectives.fill_in_the_middle import FillInTheMiddle
from objectives.masked_diffusion import MaskedDiffusion
from objectives.masked_lm import MaskedLM
from objectives.masked_next_token import MaskedNextToken
from objectives.mixture import Mixture
from objectives.multi_token import MultiToken
from objectives.next_sentence import NextSentence
from objectives.phases import Phases
from objectives.prefix_lm import PrefixLM
from objectives.replaced_token import ReplacedToken
from objectives.span_boundary import SpanBoundary
from objectives.span_corruption import SpanCorruption
from objectives.text_infilling import TextInfilling
from objectives.types import Example, Lengths, Target, Term, TokenBatch
from objectives.vocabulary import Vocabulary

OBJECTIVES: dict[str, type[Objective]] = {
    "causal_lm": CausalLM,
    "masked_lm": MaskedLM,
    "next_sentence": NextSentence,
    "replaced_token": ReplacedToken,
    "span_boundary": SpanBoundary,
    "span_corruption": SpanCorruption,
    "prefix_lm": PrefixLM,
    "text_infilling": TextInfilling,
    "deshuffling": Deshuffling,
    "masked_diffusion": MaskedDiffusion,
    "masked_next_token": MaskedNextToken,
    "fill_in_the_middle": FillInTheMiddle,
    "multi_token": MultiToken,
}

# Fields of an objective that are no hyperparameters.
_GIVEN = {field.name for field in dataclasses.fields(Objective)}


def create(
    name: str | Sequence[str],
    params: Mapping[str, Mapping[str, Any]],
    *,
    vocabulary: Vocabulary,
    row_length: int,
    architecture: str,
) -> Composed:
    """Builds one objective, or several composed left to right.

    Args:
      name: a key of OBJECTIVES, or a tuple of them.
      params: the hyperparameters of each named stage, every one given.
      vocabulary: the tokenizer's.
      row_length: R, clean tokens a row.
      architecture: 'encoder', 'decoder' or 'encoder_decoder'.

    Raises:
      ValueError: for anything that is not allowed, saying what is.
    """
    names = (name,) if isinstance(name, str) else tuple(name)
    _check_names(names, params)
    stages: list[Objective] = []
    for stage_name in names:
        stage_class = OBJECTIVES[stage_name]
        _check_architecture(stage_class, architecture)
        _check_hyperparameters(stage_class, params[stage_name])
        stage = stage_class(
            vocabulary=vocabulary,
            row_length=row_length,
            architecture=architecture,
            **params[stage_name],
        )
        stages.append(stage.following(stages[-1]) if stages else stage)
    return Composed(
        vocabulary=vocabulary,
        row_length=row_length,
        architecture=architecture,
        stages=tuple(stages),
    )


def hyperparameters(name: str) -> tuple[str, ...]:
    """Names of an objective's hyperparameters."""
    fields = dataclasses.fields(OBJECTIVES[name])
    return tuple(field.name for field in fields if field.name not in _GIVEN)


def _check_names(names: tuple[str, ...], params: Mapping[str, Any]) -> None:
    if not names:
        raise ValueError(f"objective.name is empty: give one of {_listed(OBJECTIVES)}.")
    for name in names:
        if name not in OBJECTIVES:
            raise ValueError(
                f"Unknown objective {name!r}.{_nearest(name, OBJECTIVES)} "
                f"Valid ones: {_listed(OBJECTIVES)}."
            )
        if name not in params:
            raise ValueError(
                f"objective.{name} is missing: give its hyperparameters "
                f"{_listed(hyperparameters(name))}, e.g. with "
                f"presets.objective({name!r})."
            )
    if len(set(names)) < len(names):
        raise ValueError(f"objective.name = {names}: a stage may occur only once.")
    unused = sorted(set(params) - set(names))
    if unused:
        raise ValueError(
            f"objective has hyperparameters of {_listed(unused)}, which objective.name "
            f"= {names} does not use."
        )


def _check_architecture(stage: type[Objective], architecture: str) -> None:
    if architecture not in stage.architectures:
        raise ValueError(
            f"Objective {stage.name!r} cannot train architecture {architecture!r}: it "
            f"is arranged for {_listed(stage.architectures)}. Set model.architecture."
        )


def _check_hyperparameters(stage: type[Objective], given: Mapping[str, Any]) -> None:
    valid = hyperparameters(stage.name)
    for field in given:
        if field not in valid:
            raise ValueError(
                f"Unknown hyperparameter objective.{stage.name}.{field}."
                f"{_nearest(field, valid)} Valid ones: {_listed(valid)}."
            )
    missing = [field for field in valid if field not in given]
    if missing:
        raise ValueError(
            f"objective.{stage.name} lacks {_listed(missing)}: there are no defaults "
            f"outside experiments/presets.py."
        )


def _nearest(name: str, valid: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


__all__ = [
    "OBJECTIVES",
    "Composed",
    "Example",
    "Lengths",
    "Mixture",
    "Objective",
    "Phases",
    "Target",
    "Term",
    "TokenBatch",
    "Vocabulary",
    "create",
    "hyperparameters",
]
