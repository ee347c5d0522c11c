"""A mixture of objectives: the rows of every batch are dealt out among them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from models.inputs import ModelInputs
from objectives.base import Networks, Objective, WeightedSum, dropout_rngs
from objectives.components import Components, MixedExample
from objectives.scoring import Scoring
from objectives.statistics import Statistic
from objectives.types import Example, PromptFrame, Term, TokenBatch

Losses = tuple[dict[str, WeightedSum], dict[str, WeightedSum]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(Components):
    """Every row of a batch belongs to one component, by its number in the step.

    The shares are whole numbers over their sum, the denominator. Row i belongs to the
    component into whose part of 0 .. denominator - 1 the number i % denominator falls:

        shares (2, 1)     row        0  1  2  3  4  5  ..
                          component  a  a  b  a  a  b  ..

    So every device and every microbatch holds the same shares. The corpus is shuffled
    anew at each epoch, so a text meets each component in proportion to its share.

        loss = sum over c of weight_c * share_c * (loss of c's rows / their targets)

    Each component is divided by its own targets in the whole batch: pooled, a
    component with few targets a row (masked LM: 15%) would count less than its share.
    UL2 (Tay et al. 2023, section 3.1) is a mixture of seven denoisers; GPT-BERT
    (Charpentier and Samuel 2024, section 2) mixes causal and masked prediction on one
    decoder stack.

    Components whose inputs have the same length and are read in the same direction share
    a pass of the backbone; others take a pass each, so that a decoder's kernels and
    relative positions are those of the direction.

    Attributes:
      shares: rows of each component in every `denominator` rows.
      weights: factor of each component's loss, besides its share of the rows.

    Raises:
      ValueError: for shares or weights that are no positive numbers, one for each
        component.
    """

    shares: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        super().__post_init__()
        if any(component.switches for _, component in self.components):
            raise ValueError(
                "A mixture holds phases: let phases hold the mixture instead."
            )
        for field in ("shares", "weights"):
            values = getattr(self, field)
            if len(values) != len(self.components) or not all(
                0 < value < math.inf for value in values
            ):
                raise ValueError(
                    f"mixture.{field} = {values}: must be a positive number for each "
                    f"of the components {', '.join(n for n, _ in self.components)}."
                )

    @property
    def kind(self) -> str:
        return "mixture"

    @property
    def denominator(self) -> int:
        return sum(self.shares) * super().denominator

    @property
    def component_shares(self) -> tuple[float, ...]:
        return tuple(share / sum(self.shares) for share in self.shares)

    @property
    def terms(self) -> dict[str, Term]:
        factors = {
            name: weight * share
            for (name, _), weight, share in zip(
                self.components, self.weights, self.component_shares, strict=True
            )
        }
        return {
            name: dataclasses.replace(
                term, weight=term.weight * factors[name.partition("/")[0]]
            )
            for name, term in super().terms.items()
        }

    def corrupt(self, rng: Array, batch: TokenBatch) -> MixedExample:
        """Each component's corruption of its rows.

        A component draws for a row what it would draw alone, since keys fold in the
        row's number and no row belongs to two components.
        """
        dealt = self._dealt(batch)
        return MixedExample(
            components={
                name: component.corrupt(rng, dealt[name])
                for name, component in self.components
            }
        )

    def losses(
        self,
        networks: Networks,
        example: MixedExample,  # type: ignore[override]
        *,
        rng: Array | None = None,
        deterministic: bool = True,
    ) -> Losses:
        settings: dict[str, Any] = {"rng": rng, "deterministic": deterministic}
        found: dict[str, Losses] = {}
        passes: dict[Any, list[str]] = {}
        for name, component in self.components:
            own = example.components[name]
            form = _form(own.inputs) if component.reads_one_pass else name
            passes.setdefault(form, []).append(name)
        for names in passes.values():
            if len(names) > 1:
                found |= self._one_pass(networks, example, names, **settings)
            else:
                own = example.components[names[0]]
                component = dict(self.components)[names[0]]
                found[names[0]] = component.losses(networks, own, **settings)
        terms: dict[str, WeightedSum] = {}
        metrics: dict[str, WeightedSum] = {}
        for name, _ in self.components:
            own_terms, own_metrics = found[name]
            terms |= {f"{name}/{term}": value for term, value in own_terms.items()}
            metrics |= {f"{name}/{key}": value for key, value in own_metrics.items()}
        return terms, metrics

    def _one_pass(
        self,
        networks: Networks,
        mixed: MixedExample,
        names: list[str],
        *,
        rng: Array | None,
        deterministic: bool,
    ) -> dict[str, Losses]:
        """Losses of components whose rows the backbone takes together."""
        shares = [self._shares[name] for name in names]
        examples = [mixed.components[name] for name in names]
        components = [dict(self.components)[name] for name in names]
        positions = [c.read_positions(e) for c, e in zip(components, examples)]
        at = _joined_positions(positions, shares)
        row_ids = _joined([example.row_ids for example in examples], shares)
        states = networks["model"](
            _joined(_with_prefixes([e.inputs for e in examples]), shares),
            at=at,
            deterministic=deterministic,
            rngs=dropout_rngs(rng, row_ids, deterministic),
        )
        found = {}
        for name, component, example, own in zip(
            names, components, examples, _split(states, shares), strict=True
        ):
            read = None if at is None else component.read_positions(example)
            found[name] = component.read_losses(
                networks,
                example,
                component.states_of_terms(own, example, read),
                with_accuracy=deterministic,
            )
        return found

    def statistics(self, rng: Array, batch: TokenBatch) -> dict[str, Statistic]:
        """Those of every component over its own rows."""
        dealt = self._dealt(batch)
        return {
            f"{name}/{key}": statistic
            for name, component in self.components
            for key, statistic in component.statistics(rng, dealt[name]).items()
        }

    @property
    def _writer(self) -> tuple[str, Objective]:
        """The component that continues prompts; else one that fills them; else any."""
        prompts = {name: component.prompt for name, component in self.components}
        writes = [n for n, prompt in prompts.items() if prompt and not prompt.fills]
        fills = [name for name, prompt in prompts.items() if prompt]
        name = next(iter((*writes, *fills, *prompts)))
        return name, dict(self.components)[name]

    @property
    def token_term(self) -> str | None:
        """That of the component that writes."""
        name, component = self._writer
        return component.token_term and f"{name}/{component.token_term}"

    @property
    def prompt(self) -> PromptFrame | None:
        """That of the component that writes."""
        return self._writer[1].prompt

    def scoring(self) -> Scoring | None:
        """That of the component that writes."""
        name, component = self._writer
        scoring = component.scoring()
        if scoring is None:
            return None

        def arrange(tokens: Array, lengths: Array, hidden: Array | None) -> Example:
            example = scoring.arrange(tokens, lengths, hidden)
            targets = {f"{name}/{t}": target for t, target in example.targets.items()}
            return example.replace(targets=targets)

        return dataclasses.replace(scoring, arrange=arrange)

    @property
    def attention(self) -> str:
        """Both ways if any component reads so: a text that is there is read whole."""
        kinds = {component.attention for _, component in self.components}
        return (
            "bidirectional" if "bidirectional" in kinds else self._writer[1].attention
        )

    @property
    def _shares(self) -> dict[str, int]:
        return dict(zip(dict(self.components), self.shares, strict=True))

    def _dealt(self, batch: TokenBatch) -> dict[str, TokenBatch]:
        """The rows of each component."""
        num_rows = batch.tokens.shape[0]
        if num_rows % sum(self.shares):
            raise ValueError(
                f"{num_rows} rows are not dealt out evenly in shares of "
                f"{':'.join(map(str, self.shares))}: their number must be a multiple "
                f"of {sum(self.shares)}."
            )
        batch = jax.tree.map(jnp.asarray, batch)
        return dict(zip(self._shares, _split(batch, list(self.shares)), strict=True))


def _split(tree: Any, shares: list[int]) -> list[Any]:
    """The rows of each share: [n * sum(shares), ..] to [n * share, ..] for each."""
    ends = list(itertools.accumulate(shares, initial=0))

    def rows(x: Array, first: int, last: int) -> Array:
        blocks = x.reshape(-1, ends[-1], *x.shape[1:])[:, first:last]
        return blocks.reshape(-1, *x.shape[1:])

    return [
        jax.tree.map(lambda x, a=a, b=b: rows(x, a, b), tree)
        for a, b in itertools.pairwise(ends)
    ]


def _joined(trees: list[Any], shares: list[int]) -> Any:
    """The inverse of `_split`: every device keeps the rows that it has."""

    def rows(*parts: Array) -> Array:
        blocks = [
            x.reshape(-1, share, *x.shape[1:])
            for x, share in zip(parts, shares, strict=True)
        ]
        return jnp.concatenate(blocks, axis=1).reshape(-1, *parts[0].shape[1:])

    return jax.tree.map(rows, *trees)


def _joined_positions(
    positions: list[Int[Array, "B _"] | None], shares: list[int]
) -> Int[Array, "B P"] | None:
    """Positions that any component reads, filled up with 0; None = all."""
    some = [at for at in positions if at is not None]
    if len(some) < len(positions):
        return None
    longest = max(at.shape[1] for at in some)
    padded = [jnp.pad(at, ((0, 0), (0, longest - at.shape[1]))) for at in some]
    return _joined(padded, shares)


def _form(inputs: ModelInputs) -> Any:
    """What inputs have to have in common to be read together: lengths and direction."""
    leaves, structure = jax.tree.flatten(
        dataclasses.replace(inputs, bidirectional=None)
    )
    return structure, tuple(leaf.shape[1:] for leaf in leaves)


def _with_prefixes(all_inputs: list[ModelInputs]) -> list[ModelInputs]:
    """Inputs that all say what their prefix is, if any of them has one."""
    if all(inputs.bidirectional is None for inputs in all_inputs):
        return all_inputs
    return [
        dataclasses.replace(inputs, bidirectional=jnp.zeros(inputs.tokens.shape, bool))
        if inputs.bidirectional is None
        else inputs
        for inputs in all_inputs
    ]
