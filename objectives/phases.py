"""Phases of training: one objective after the other on the same networks."""

from __future__ import annotations

import dataclasses
import itertools

from objectives.base import Objective
from objectives.components import Components
from objectives.corruption.selection import round_share
from objectives.mixture import Mixture
from objectives.scoring import Scoring
from objectives.types import PromptFrame, Term


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phases(Components):
    """Component i trains until its share of the run's steps is over.

        ends (0.75, 1.0) of 1000 steps    causal_lm 0 .. 749    masked_lm 750 .. 999

    All networks exist from step 0. One that waits is left alone, bit for bit: no
    update, no weight decay, and its own count of updates once it wakes. The learning
    rate follows one schedule over the run. Causal LM and then masked LM on one decoder
    stack (Gisserot-Boukhlef et al. 2025), falling mask rates and a curriculum are
    phases.

    Whatever is asked of a run as a whole (scores, prompts, held-out loss) is answered
    by the last phase. Held-out terms are measured for all phases at any time.

    Attributes:
      ends: share of the steps at which each component ends, rising to 1.
      num_train_steps: of the run.

    Raises:
      ValueError: for ends that do not rise to 1, or a phase without any step.
    """

    ends: tuple[float, ...]
    num_train_steps: int

    def __post_init__(self):
        super().__post_init__()
        names = ", ".join(name for name, _ in self.components)
        rises = all(a < b for a, b in zip((0.0, *self.ends), self.ends))
        if len(self.ends) != len(self.components) or not rises or self.ends[-1] != 1:
            raise ValueError(
                f"phases.ends = {self.ends}: must rise to 1, with the share of the "
                f"steps at which each of {names} ends, such as (0.75, 1.0)."
            )
        if len(set(self.boundaries)) < len(self.boundaries):
            raise ValueError(
                f"phases.ends = {self.ends} of {self.num_train_steps} steps leave a "
                f"phase without a step: raise train.num_train_steps, or change the ends."
            )

    @property
    def kind(self) -> str:
        return "phases"

    @property
    def boundaries(self) -> tuple[int, ...]:
        """First step of each phase, and the number of steps: share * steps, rounded."""
        ends = (round_share(self.num_train_steps, end) for end in self.ends)
        return (0, *(int(end) for end in ends))

    @property
    def switches(self) -> tuple[int, ...]:
        return self.boundaries[1:-1]

    def at(self, step: int) -> Objective:
        """The phase of a step, its terms named as among the others."""
        return self._phase(sum(step >= end for end in self.switches))

    def _phase(self, index: int) -> Mixture:
        return Mixture(
            architecture=self.architecture,
            vocabulary=self.vocabulary,
            row_length=self.row_length,
            components=(self.components[index],),
            shares=(1,),
            weights=(1.0,),
        )

    @property
    def _last(self) -> Mixture:
        return self._phase(-1)

    @property
    def component_shares(self) -> tuple[float, ...]:
        starts = self.boundaries
        return tuple(
            (end - start) / self.num_train_steps
            for start, end in itertools.pairwise(starts)
        )

    @property
    def terms(self) -> dict[str, Term]:
        """Those of all phases; only the last one's count in the held-out loss."""
        last = self._last.terms
        return {
            name: last.get(name, dataclasses.replace(term, weight=0.0))
            for name, term in super().terms.items()
        }

    @property
    def token_term(self) -> str | None:
        return self._last.token_term

    @property
    def prompt(self) -> PromptFrame | None:
        return self._last.prompt

    def scoring(self) -> Scoring | None:
        return self._last.scoring()

    @property
    def attention(self) -> str:
        return self._last.attention
