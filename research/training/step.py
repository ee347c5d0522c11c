"""The train step and the evaluation step: pure functions of state and batch.

    example  = corrupt(global batch)            clean tokens to inputs and targets
    weights  = sum of each term's denominators  before anything is computed
    grads    = sum over microbatches of d/dparams  sum_t w_t * (loss sum_t / weights_t)
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
from jaxtyping import Array, Float, Int

from models.dropout import DropoutRngs
from models.pytree import pytree
from models.sharding import ANYWHERE, Placement, placing
from objectives.base import Objective, WeightedSum
from objectives.types import Example
from research.training import rngs
from research.training.optimizer import Optimizer
from research.training.state import Modules, Params, TrainState

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


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def make_train_step(
    objective: Objective,
    modules: Modules,
    optimizer: Optimizer,
    *,
    num_microbatches: int,
    distribution: Distribution = ONE_DEVICE,
) -> TrainStep:
    """The step of an objective, ready for jax.jit or jax.pmap.

    Args:
      objective: any; its `corrupt(rng, batch)` gives the Example to learn from.
      modules: backbone and heads of the state's parameters.
      optimizer: update rule and schedule.
      num_microbatches: parts of the batch that are computed one after another.
      distribution: how the step is spread over devices.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        rng = rngs.at(state.seed, "corruption", state.step)
        example = objective.corrupt(rng, distribution.gather(batch))
        weights = term_weights(objective, example)
        counts = _row_counts(example)
        example = distribution.own(example)
        dropout_rng = rngs.at(state.seed, "dropout", state.step)

        def loss_fn(params: Params, part: Example) -> tuple[Array, Any]:
            with placing(distribution.placement):
                model, heads = modules.merge(distribution.place_params(params))
                terms, metrics = objective.losses(
                    model,
                    heads,
                    part,
                    rngs=DropoutRngs.from_key(dropout_rng, part.row_ids),
                    deterministic=False,
                )
            return _total(objective, terms, weights), (terms, metrics)

        grads, (terms, metrics) = _accumulate(
            loss_fn, state.params, microbatches(example, num_microbatches)
        )
        grads, terms, metrics = distribution.add((grads, terms, metrics))
        return _apply(
            objective, optimizer, state, grads, terms, {**counts, **metrics}, weights
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
    for term, factor in objective.terms.items():
        has_targets = weights[term] > 0
        divisor = jnp.where(has_targets, weights[term], 1.0)
        total += factor * jnp.where(has_targets, terms[term][0] / divisor, 0.0)
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
    updates, opt_state = optimizer.transformation.update(
        grads, state.opt_state, state.params
    )
    rate = optimizer.schedule(state.step)
    params = jax.tree.map(
        lambda p, u: (p + rate * u).astype(p.dtype), state.params, updates
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


EvalStep = Callable[[Params, Batch, Int[Array, ""], Int[Array, ""]], EvalSums]


def make_eval_step(
    objective: Objective,
    modules: Modules,
    *,
    distribution: Distribution = ONE_DEVICE,
) -> EvalStep:
    """The sums of one held-out batch, from parameters, batch, seed and batch number.

    The number of the batch alone decides its corruption, so every evaluation of every
    run with the same seed sees the same examples.
    """

    def eval_step(
        params: Params, batch: Batch, seed: Int[Array, ""], number: Int[Array, ""]
    ) -> EvalSums:
        rng = rngs.at(seed, "evaluation", number)
        example = objective.corrupt(rng, distribution.gather(batch))
        counts = _row_counts(example)
        weights = term_weights(objective, example)
        targets = _target_counts(objective, example)
        example = distribution.own(example)
        with placing(distribution.placement):
            model, heads = modules.merge(distribution.place_params(params))
            terms, metrics = objective.losses(model, heads, example, deterministic=True)
        terms, metrics = distribution.add((terms, metrics))
        sums = {term: (value, weights[term]) for term, (value, _) in terms.items()}
        return EvalSums(sums={**counts, **metrics, **sums}, targets=targets)

    return eval_step


def _target_counts(
    objective: Objective, example: Example
) -> dict[str, Float[Array, " V"]]:
    """Weighted number of occurrences of each value, for terms that predict ids."""
    size = objective.vocabulary.vocab_size
    counts = {}
    for term in objective.terms:
        target = example.targets[term]
        if jnp.issubdtype(target.values.dtype, jnp.integer):
            counts[term] = (
                jnp.zeros(size, jnp.float32)
                .at[target.values.reshape(-1)]
                .add(target.loss_weights.reshape(-1))
            )
    return counts
