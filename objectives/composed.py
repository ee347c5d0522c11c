"""One objective or several, applied to the same rows one after the other."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from models.backbone import BackboneConfig
from objectives.base import Objective
from objectives.corruption import rows
from objectives.statistics import Statistic
from objectives.types import Example, Lengths, Target, TokenBatch


class Heads(nnx.Module):
    """The heads of each stage, under the stage's name."""

    def __init__(
        self,
        stages: tuple[Objective, ...],
        config: BackboneConfig,
        *,
        rngs: nnx.Rngs,
    ):
        for stage in stages:
            setattr(self, stage.name, stage.init_heads(config, rngs=rngs))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composed(Objective):
    """Stages composed left to right: each corrupts what the one before it leaves.

    Inputs are those of the last stage; targets, loss terms and heads are those of all.
    What `objectives.create` returns, also for a single stage, so that clean rows enter
    and heads are named in one way.

    Attributes:
      stages: the objectives, each arranged to follow its predecessor.
    """

    stages: tuple[Objective, ...]

    def __post_init__(self):
        terms = [term for stage in self.stages for term in stage.terms]
        if len(set(terms)) < len(terms):
            raise ValueError(
                f"{self.name}: two stages have the same loss term: {terms}."
            )
        own = [s.name for s in self.stages if type(s).losses is not Objective.losses]
        if own and len(self.stages) > 1:
            raise ValueError(
                f"{', '.join(own)} computes its losses in its own way, so it cannot be "
                f"composed with other objectives: train it alone."
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        """Names of the stages, e.g. 'next_sentence+masked_lm'."""
        return "+".join(stage.name for stage in self.stages)

    @property
    def terms(self) -> dict[str, float]:
        return {t: weight for s in self.stages for t, weight in s.terms.items()}

    @property
    def lengths(self) -> Lengths:
        targets = {t: k for s in self.stages for t, k in s.lengths.targets.items()}
        return dataclasses.replace(
            self.stages[-1].lengths, targets=targets, tokens=self.row_length
        )

    def corrupt(self, rng: Array, batch: TokenBatch | Example) -> Example:
        """Clean rows to inputs and the targets of all stages."""
        example = self._clean(batch)
        for index, stage in enumerate(self.stages):
            example = stage.corrupt(jax.random.fold_in(rng, index), example)
        return example

    def init_heads(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> Heads:
        """A module that holds each stage's heads under the stage's name."""
        return Heads(self.stages, config, rngs=rngs)

    def read_at(self, term: str, target: Target) -> Int[Array, "B P"] | None:
        return self._owner(term).read_at(term, target)

    def readout(
        self,
        term: str,
        heads: Any,
        hidden_states: Float[Array, "B P D"],
        target: Target,
        embedding: Float[Array, "V _"],  # Labels have features of another width.
    ) -> tuple[Float[Array, "B K E"], Float[Array, "C E"], Float[Array, " C"] | None]:
        stage = self._owner(term)
        heads = getattr(heads, stage.name)
        return stage.readout(term, heads, hidden_states, target, embedding)

    def z_loss_of(self, term: str) -> float:
        return self._owner(term).z_loss_of(term)

    def losses(self, model: Any, heads: Any, example: Example, **kwargs: Any):
        """The only stage's own losses, else the shared ones of all terms."""
        if len(self.stages) > 1:
            return super().losses(model, heads, example, **kwargs)
        (stage,) = self.stages
        return stage.losses(model, getattr(heads, stage.name), example, **kwargs)

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        return {t: names for s in self.stages for t, names in s.label_names.items()}

    def statistics(
        self, rng: Array, batch: TokenBatch | Example
    ) -> dict[str, Statistic]:
        """Those of all stages, each from what the one before it leaves."""
        example = self._clean(batch)
        statistics: dict[str, Statistic] = {}
        for index, stage in enumerate(self.stages):
            stage_rng = jax.random.fold_in(rng, index)
            statistics |= stage.statistics(stage_rng, example)
            example = stage.corrupt(stage_rng, example)
        return statistics

    @property
    def start_id(self) -> int:
        return self.stages[-1].start_id

    def at(self, step: int) -> Objective:
        stages = tuple(stage.at(step) for stage in self.stages)
        if all(new is old for new, old in zip(stages, self.stages, strict=True)):
            return self
        return dataclasses.replace(self, stages=stages)

    def _clean(self, batch: TokenBatch | Example) -> Example:
        if isinstance(batch, TokenBatch):
            return rows.clean(batch, self.vocabulary)
        return batch

    def _owner(self, term: str) -> Objective:
        """The stage a loss term belongs to."""
        return next(stage for stage in self.stages if term in stage.terms)
