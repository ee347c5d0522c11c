"""What mixtures and phases share: named components over one set of networks."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

import models
from models.backbone import BackboneConfig
from models.pytree import pytree
from objectives.base import Objective
from objectives.heads import Heads, Readout
from objectives.types import Example, Lengths, Target, Term


@pytree
class MixedExample:
    """An Example for each component, over the component's own rows.

    Attributes:
      components: by the component's name.
    """

    components: dict[str, Any]

    @property
    def targets(self) -> dict[str, Target]:
        """Targets of all components, named component/term."""
        return _prefixed({n: e.targets for n, e in self.components.items()})

    @property
    def metrics(self) -> dict[str, Float[Array, " _"]]:
        """Counts of all components, named component/metric."""
        return _prefixed({n: e.metrics for n, e in self.components.items()})


def examples_of(example: Example | MixedExample) -> dict[str, Example]:
    """Every component's Example by name; an Example alone has the name ''."""
    if isinstance(example, Example):
        return {"": example}
    return {
        "/".join(filter(None, (name, inner))): found
        for name, component in example.components.items()
        for inner, found in examples_of(component).items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Components(Objective):
    """Objectives over the same networks, told apart by the names of their terms.

    Terms are named component/term. The networks are the union of the components',
    united by name; heads by their `head_name`. Components that name the same network
    or head share it, and have to agree on its settings.

    Attributes:
      components: (name, objective), in order.
    """

    components: tuple[tuple[str, Objective], ...]

    def __post_init__(self):
        names = [name for name, _ in self.components]
        if not names:
            raise ValueError(f"{self.kind} has no components: name at least one.")
        if len(set(names)) < len(names):
            raise ValueError(f"{self.kind} names a component twice: {names}.")
        for name, component in self.components:
            if "/" in name:
                raise ValueError(f"{self.kind}: the name {name!r} holds a '/'.")
            if component.row_length != self.row_length:
                raise ValueError(
                    f"{self.kind}: {name!r} takes rows of {component.row_length} "
                    f"tokens, not of {self.row_length} as the others."
                )
        if len({component.exported for _, component in self.components}) > 1:
            raise ValueError(
                f"The components of {self.kind} export different networks: "
                f"{ {n: c.exported for n, c in self.components} }."
            )

        whole = {name: c.trains_whole_model for name, c in self.components}
        if len(set(whole.values())) > 1:
            raise ValueError(
                f"{self.kind}: {', '.join(n for n in whole if not whole[n])} trains a "
                f"model that reads tables of another network, the other components one "
                f"that has its own. Share the tables in another way, or train it alone."
            )

    @property
    def kind(self) -> str:
        """'mixture' or 'phases'."""
        raise NotImplementedError

    @property
    def name(self) -> str:  # type: ignore[override]
        """E.g. 'mixture(span_corruption × 6, prefix_lm)'."""
        counts = collections.Counter(c.name for _, c in self.components)
        names = (f"{name} × {n}" if n > 1 else name for name, n in counts.items())
        return f"{self.kind}({', '.join(names)})"

    @property
    def frozen(self) -> tuple[str, ...]:  # type: ignore[override]
        found = (name for _, c in self.components for name in c.frozen)
        return tuple(dict.fromkeys(found))

    @property
    def exported(self) -> str:  # type: ignore[override]
        return self.components[0][1].exported

    @property
    def terms(self) -> dict[str, Term]:
        return _prefixed({name: c.terms for name, c in self.components})

    @property
    def lengths(self) -> Lengths:
        """The longest of any component, and the slots of every term."""
        lengths = {name: c.lengths for name, c in self.components}
        return Lengths(
            inputs=max(found.inputs for found in lengths.values()),
            encoder=max(found.encoder for found in lengths.values()),
            targets=_prefixed({n: found.targets for n, found in lengths.items()}),
        )

    def networks(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> dict[str, Any]:
        """The union of the components' networks, and of their heads.

        Raises:
          ValueError: if two components mean different things by one name.
        """
        networks: dict[str, Any] = {}
        heads: dict[str, nnx.Module] = {}
        for name, component in self.components:
            if component.has_own_networks:
                found = component.networks(config, rngs=rngs)
                own_heads = found.pop("heads")
            else:
                # One backbone serves them all; building it again takes seconds.
                if "model" not in networks:
                    networks["model"] = models.create(config, rngs=rngs)
                found, own_heads = {}, component.init_heads(config, rngs=rngs)
            assert isinstance(own_heads, Heads), "combinators name their heads"
            _unite(heads, own_heads.by_name(), f"heads of {name!r}")
            _unite(networks, found, f"networks of {name!r}")
        return {**networks, "heads": Heads(heads)}

    def init_heads(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> Heads:
        """The heads of all components under their names."""
        heads: dict[str, nnx.Module] = {}
        for name, component in self.components:
            found = component.init_heads(config, rngs=rngs)
            assert isinstance(found, Heads), "combinators name their heads"
            _unite(heads, found.by_name(), f"heads of {name!r}")
        return Heads(heads)

    @property
    def trains_whole_model(self) -> bool:
        return all(component.trains_whole_model for _, component in self.components)

    def complete(self, weights: dict[str, Any]) -> dict[str, Any]:
        for _, component in self.components:
            weights = component.complete(weights)
        return weights

    @property
    def has_own_networks(self) -> bool:
        return any(component.has_own_networks for _, component in self.components)

    @property
    def row_wise(self) -> bool:  # type: ignore[override]
        return all(component.row_wise for _, component in self.components)

    @property
    def head_names(self) -> tuple[str, ...]:
        names = (name for _, c in self.components for name in c.head_names)
        return tuple(dict.fromkeys(names))

    def read_at(self, term: str, target: Target) -> Int[Array, "B P"] | None:
        component, own = self._owner(term)
        return component.read_at(own, target)

    def readout(self, term: str, heads: Any, *args: Any, **kwargs: Any) -> Readout:
        component, own = self._owner(term)
        return component.readout(own, heads, *args, **kwargs)

    def parts(self) -> tuple[tuple[str, Objective, float], ...]:
        return tuple(
            ("/".join(filter(None, (name, inner))), part, share * inner_share)
            for (name, component), share in zip(
                self.components, self.component_shares, strict=True
            )
            for inner, part, inner_share in component.parts()
        )

    @property
    def component_shares(self) -> tuple[float, ...]:
        """Share of the run's rows that each component gets; they sum to 1."""
        raise NotImplementedError

    @property
    def denominator(self) -> int:
        return math.lcm(*(component.denominator for _, component in self.components))

    def _owner(self, term: str) -> tuple[Objective, str]:
        """The component that a term belongs to, and the component's name for it."""
        name, _, own = term.partition("/")
        return dict(self.components)[name], own


def _unite(
    united: dict[str, nnx.Module], found: dict[str, nnx.Module], whose: str
) -> None:
    """Adds modules by name; those that are there already have to be equal."""
    for name, module in found.items():
        if name in united and _settings(united[name]) != _settings(module):
            raise ValueError(
                f"The {whose} include {name!r}, which another component has with other "
                f"settings: give both the same settings, or one of them another name."
            )
        united.setdefault(name, module)


def _settings(module: nnx.Module) -> Any:
    """What a module is made of, without the values of its parameters."""
    graph, state = nnx.split(module)
    return graph, jax.tree.map(lambda x: (x.shape, x.dtype), nnx.to_pure_dict(state))


def _prefixed(values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """{'a': {'x': 1}} -> {'a/x': 1}"""
    return {
        f"{name}/{key}": value
        for name, inner in values.items()
        for key, value in inner.items()
    }
