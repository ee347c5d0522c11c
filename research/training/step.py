"""The train step and the evaluation step: pure functions of state and batch.

    weights  = effective(params, constants)     of all networks, learned or not
    example  = corrupt(global batch)            clean tokens to inputs and targets
    divisors = sum of each term's denominators  before anything is computed
    grads    = sum over microbatches of d/dparams  sum_t w_t * (loss sum_t / divisor_t)
    state    = update(state, grads)             or unchanged, if they are not finite

Every term is divided once, by its weight in the whole batch, so the result does not
depend on how rows are spread over microbatches and devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt32

from models.pytree import pytree
from models.sharding import ANYWHERE, Placement, placing
from objectives.base import Objective, WeightedSum
from objectives.types import Example
from research.training import adaptation, rngs
from research.training.adaptation import Effective, Params
from research.training.optimizer import Optimizer
from research.training.state import Modules, TrainState

Batch = Any  # A pytree of arrays with a leading axis of rows.


@dataclasses.dataclass(frozen=True)
class Distribution:
    """What a step does because it is spread over devices.

    Attributes:
      gather: the batch that this program sees to the whole batch.
      own: the whole batch's example to the rows of this program.
      add: sums over this program's rows to sums over the whole batch.
      place_params: parameters to where computations want them.
      placement: what blocks are told likewise; see models.sharding.
    """

    gather: Callable[[Batch], Batch]
    own: Callable[[Example], Example]
    add: Callable[[Any], Any]
    place_params: Callable[[Params], Params]
    placement: Placement


def _same(tree: Any) -> Any:
    return tree


# A program that sees everything on one device.
ONE_DEVICE = Distribution(
    gather=_same,
    own=_same,
    add=_same,
    place_params=_same,
    placement=ANYWHERE,
)


@pytree
class StepMetrics:
    """What a step reports, as scalars on the device.

    Attributes:
      sums: (sum, weight) pairs; the ratio is the value: 'loss', every term, 'grad_norm',
        'learning_rate', and the objective's own.
      finite: whether loss and gradients were finite; if not, the state's parameters
        are those of before.
      skipped: steps skipped so far in the run.
    """

    sums: dict[str, WeightedSum]
    finite: Array
    skipped: Int[Array, ""]


TrainStep = Callable[[TrainState, Params, Batch], tuple[TrainState, StepMetrics]]


def make_train_step(
    objective: Objective,
    modules: Modules,
    optimizer: Optimizer,
    *,
    num_microbatches: int,
    distribution: Distribution = ONE_DEVICE,
    effective: Effective = adaptation.join,
    trained: tuple[str, ...] = (),
) -> TrainStep:
    """The step (state, constants, batch) of an objective, for jax.jit or jax.pmap.

    Args:
      objective: any; its `corrupt(rng, batch)` gives the Example to learn from.
      modules: the networks that params and constants are of.
      optimizer: update rule and schedule.
      num_microbatches: parts of the batch that are computed one after another.
      distribution: how the step is spread over devices.
      effective: params and constants to the weights of the networks.
      trained: the optimizer's units that the step moves, where it has any.
    """

    def train_step(
        state: TrainState, constants: Params, batch: Batch
    ) -> tuple[TrainState, StepMetrics]:
        rng = rngs.at(state.seed, "corruption", state.step)
        example = objective.corrupt(rng, distribution.gather(batch))
        weights = term_weights(objective, example)
        counts = _row_counts(example)
        example = distribution.own(example)
        losses_rng = rngs.at(state.seed, "dropout", state.step)

        def loss_fn(params: Params, part: Example) -> tuple[Array, Any]:
            with placing(distribution.placement):
                used = effective(params, constants, state.step)
                networks = modules.merge(distribution.place_params(used))
                terms, metrics = objective.losses(
                    networks, part, rng=losses_rng, deterministic=False
                )
            return _total(objective, terms, weights), (terms, metrics)

        grads, (terms, metrics) = _accumulate(
            loss_fn, state.params, microbatches(example, num_microbatches)
        )
        grads, terms, metrics = distribution.add((grads, terms, metrics))
        metrics = {**counts, **metrics}
        return _apply(
            objective, optimizer, trained, state, grads, terms, metrics, weights
        )

    return train_step


def term_weights(objective: Objective, example: Example) -> dict[str, Float[Array, ""]]:
    """What each term's sum is divided by: its denominators over the whole batch."""
    return {
        term: example.targets[term].denominators().sum() for term in objective.terms
    }


def _row_counts(example: Example) -> dict[str, WeightedSum]:
    """The objective's own counts, as means a row."""
    return {
        name: (values.sum(), jnp.float32(values.shape[0]))
        for name, values in example.metrics.items()
    }


def _total(
    objective: Objective, terms: dict[str, WeightedSum], weights: dict[str, Array]
) -> Float[Array, ""]:
    """sum_t w_t * sum_t / weight_t; a term without any target is 0, not 0 / 0."""
    total = jnp.zeros((), jnp.float32)
    for name, term in objective.terms.items():
        has_targets = weights[name] > 0
        divisor = jnp.where(has_targets, weights[name], 1.0)
        total += term.weight * jnp.where(has_targets, terms[name][0] / divisor, 0.0)
    return total


def microbatches(example: Any, num_microbatches: int) -> Any:
    """Every array [B, ...] as [M, B / M, ...], rows dealt out like cards.

    Microbatch m has the rows m, M + m, 2M + m, ...: each device, which holds a block
    of consecutive rows, keeps its own rows in every microbatch.
    """

    def deal(x: Array) -> Array:
        size = x.shape[0] // num_microbatches
        return x.reshape((size, num_microbatches) + x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(deal, example)


def _accumulate(
    loss_fn: Callable[[Params, Example], tuple[Array, Any]],
    params: Params,
    parts: Example,
) -> tuple[Params, Any]:
    """Gradients and auxiliary sums, added over the microbatches."""
    gradient = jax.grad(loss_fn, has_aux=True)
    first = jax.tree.map(lambda x: x[0], parts)
    if jax.tree.leaves(parts)[0].shape[0] == 1:
        return gradient(params, first)

    def add(sums: Any, part: Example) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, gradient(params, part)), None

    shapes = jax.eval_shape(gradient, params, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, parts)[0]


def _apply(
    objective: Objective,
    optimizer: Optimizer,
    trained: tuple[str, ...],
    state: TrainState,
    grads: Params,
    terms: dict[str, WeightedSum],
    metrics: dict[str, WeightedSum],
    weights: dict[str, Array],
) -> tuple[TrainState, StepMetrics]:
    """One update, or none if the loss or a gradient is not finite."""
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    loss = _total(objective, terms, weights)
    grad_norm = optax.global_norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    rate = optimizer.schedule(state.step)
    params, opt_state = optimizer.apply(
        grads, state.opt_state, state.params, rate, trained
    )

    def keep(new: Array, old: Array) -> Array:
        return jnp.where(finite, new, old)

    state = dataclasses.replace(
        state,
        step=state.step + 1,
        skipped=state.skipped + (~finite).astype(jnp.int32),
        params=jax.tree.map(keep, params, state.params),
        opt_state=jax.tree.map(keep, opt_state, state.opt_state),
    )
    one = jnp.ones((), jnp.float32)
    sums = {term: (value, weights[term]) for term, (value, _) in terms.items()}
    sums |= metrics
    sums |= {
        "loss": (loss, one),
        "grad_norm": (grad_norm, one),
        "learning_rate": (rate, one),
    }
    return state, StepMetrics(sums=sums, finite=finite, skipped=state.skipped)


@pytree
class EvalSums:
    """What evaluation adds up over held-out batches.

    Attributes:
      sums: (sum, weight) pairs of the terms and of the objective's metrics.
      targets: how often each token id (or class) is a target of a term, weighted by
        the loss weights; for the unigram baseline.
    """

    sums: dict[str, WeightedSum]
    targets: dict[str, Float[Array, " V"]]


# (params, constants, step, batch, seed, number of the batch) to its sums.
EvalStep = Callable[
    [Params, Params, Int[Array, ""], Batch, UInt32[Array, ""], Int[Array, ""]], EvalSums
]


def make_eval_step(
    objective: Objective,
    modules: Modules,
    *,
    distribution: Distribution = ONE_DEVICE,
    effective: Effective = adaptation.join,
) -> EvalStep:
    """The sums of one held-out batch.

    Every part of the objective is asked all rows, so the terms of a mixture's or of
    phases' components compare with those of an objective alone. The number of the
    batch alone decides its corruption, so every evaluation of every run with the same
    seed sees the same examples.
    """

    def eval_step(
        params: Params,
        constants: Params,
        step: Int[Array, ""],
        batch: Batch,
        seed: UInt32[Array, ""],
        number: Int[Array, ""],
    ) -> EvalSums:
        rng = rngs.at(seed, "evaluation", number)
        losses_rng = rngs.at(seed, "evaluation_losses", number)
        batch = distribution.gather(batch)
        sums: dict[str, WeightedSum] = {}
        targets: dict[str, Float[Array, " V"]] = {}
        with placing(distribution.placement):
            used = effective(params, constants, step)
            networks = modules.merge(distribution.place_params(used))
            for name, part, _ in objective.parts():
                example = part.corrupt(rng, batch)
                counts = _row_counts(example)
                weights = term_weights(part, example)
                found = target_counts(part, example)
                terms, metrics = distribution.add(
                    part.losses(
                        networks,
                        distribution.own(example),
                        rng=losses_rng,
                        deterministic=True,
                    )
                )
                terms = {t: (value, weights[t]) for t, (value, _) in terms.items()}
                prefix = f"{name}/" if name else ""
                for key, value in {**counts, **metrics, **terms}.items():
                    sums[prefix + key] = value
                for key, count in found.items():
                    targets[prefix + key] = count
        return EvalSums(sums=sums, targets=targets)

    return eval_step


def target_counts(
    objective: Objective, example: Example
) -> dict[str, Float[Array, " V"]]:
    """Weighted number of occurrences of each value, for terms that predict ids."""
    size = objective.vocabulary.vocab_size
    counts = {}
    for name, term in objective.terms.items():
        if term.predicts == "score":
            continue
        target = example.targets[name]
        values = target.values.astype(jnp.int32).reshape(-1)
        counts[name] = (
            jnp.zeros(size, jnp.float32).at[values].add(target.loss_weights.reshape(-1))
        )
    return counts
