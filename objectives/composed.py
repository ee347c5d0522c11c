"""One objective or several, applied to the same rows one after the other."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from models.backbone import BackboneConfig
from objectives.base import Networks, Objective
from objectives.corruption import rows
from objectives.heads import Heads, Readout
from objectives.scoring import Scoring
from objectives.statistics import Statistic
from objectives.types import Example, Lengths, PromptFrame, Target, Term, TokenBatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composed(Objective):
    """Stages composed left to right: each corrupts what the one before it leaves.

    Inputs are those of the last stage; targets, loss terms and heads are those of all.
    What `objectives.create` makes of a single stage, too, so that clean rows enter and
    heads are named in one way.

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
        own = [stage.name for stage in self.stages if not _is_simple(stage)]
        if own and len(self.stages) > 1:
            raise ValueError(
                f"{', '.join(own)} has losses or networks of its own, so it cannot be "
                f"composed with other objectives: train it alone."
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        """Names of the stages, e.g. 'next_sentence+masked_lm'."""
        return "+".join(stage.name for stage in self.stages)

    @property
    def frozen(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.stages[-1].frozen

    @property
    def exported(self) -> str:  # type: ignore[override]
        return self.stages[-1].exported

    @property
    def terms(self) -> dict[str, Term]:
        return {name: term for s in self.stages for name, term in s.terms.items()}

    @property
    def lengths(self) -> Lengths:
        targets = {t: k for s in self.stages for t, k in s.lengths.targets.items()}
        return dataclasses.replace(self.stages[-1].lengths, targets=targets)

    def corrupt(self, rng: Array, batch: TokenBatch | Example) -> Example:
        """Clean rows to inputs and the targets of all stages.

        The metrics count the rows that have no target of a term, TERM_no_targets.
        """
        example = self._clean(batch)
        for index, stage in enumerate(self.stages):
            example = stage.corrupt(jax.random.fold_in(rng, index), example)
        empty = {
            f"{term}_no_targets": (target.loss_weights.sum(1) == 0).astype(jnp.float32)
            for term, target in example.targets.items()
        }
        return example.replace(metrics={**example.metrics, **empty})

    def init_heads(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> Heads:
        """A module that holds each stage's heads under their name."""
        return Heads(
            {s.head_name: s.init_heads(config, rngs=rngs) for s in self.stages}
        )

    def networks(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> dict[str, Any]:
        """Backbone and heads of all stages, or the only stage's own networks."""
        if not self.has_own_networks:
            return super().networks(config, rngs=rngs)
        (stage,) = self.stages
        networks = stage.networks(config, rngs=rngs)
        return {**networks, "heads": Heads({stage.head_name: networks["heads"]})}

    @property
    def trains_whole_model(self) -> bool:
        return self.stages[-1].trains_whole_model

    def complete(self, weights: dict[str, Any]) -> dict[str, Any]:
        return self.stages[-1].complete(weights)

    @property
    def token_term(self) -> str | None:
        return next(filter(None, (stage.token_term for stage in self.stages)), None)

    @property
    def has_own_networks(self) -> bool:
        return any(stage.has_own_networks for stage in self.stages)

    @property
    def row_wise(self) -> bool:  # type: ignore[override]
        return all(stage.row_wise for stage in self.stages)

    @property
    def head_names(self) -> tuple[str, ...]:
        return tuple(stage.head_name for stage in self.stages)

    def read_at(self, term: str, target: Target) -> Int[Array, "B P"] | None:
        return self._owner(term).read_at(term, target)

    def readout(self, term: str, heads: Any, *args: Any, **kwargs: Any) -> Readout:
        stage = self._owner(term)
        heads = getattr(heads, stage.head_name)
        return stage.readout(term, heads, *args, **kwargs)

    @property
    def reads_one_pass(self) -> bool:
        return all(stage.reads_one_pass for stage in self.stages)

    def losses(self, networks: Networks, example: Example, **kwargs: Any):
        """The shared losses of all terms, or the only stage's own."""
        if self.reads_one_pass:
            return super().losses(networks, example, **kwargs)
        (stage,) = self.stages
        heads = getattr(networks["heads"], stage.head_name)
        return stage.losses({**networks, "heads": heads}, example, **kwargs)

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

    def scoring(self) -> Scoring | None:
        """That of the stage that has one: what corrupts pairs of segments scores them."""
        found = (stage.scoring() for stage in self.stages)
        return next((scoring for scoring in found if scoring is not None), None)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(note for stage in self.stages for note in stage.notes)

    @property
    def attention(self) -> str:
        return self.stages[-1].attention

    @property
    def prompt(self) -> PromptFrame | None:
        found = (stage.prompt for stage in self.stages)
        return next((prompt for prompt in found if prompt is not None), None)

    def _clean(self, batch: TokenBatch | Example) -> Example:
        if isinstance(batch, TokenBatch):
            return rows.clean(batch, self.vocabulary)
        return batch

    def _owner(self, term: str) -> Objective:
        """The stage a loss term belongs to."""
        return next(stage for stage in self.stages if term in stage.terms)


def _is_simple(stage: Objective) -> bool:
    """Whether a stage has the shared losses and no networks of its own."""
    return stage.reads_one_pass and not stage.has_own_networks
