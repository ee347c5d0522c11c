"""Update rules: AdamW, Adafactor and Muon as chains of optax transformations.

A rule turns gradients into updates for a learning rate of 1; the train step adds them
times the learning rate of the step. Every part of the chain has a name, which is its
state's name in a checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, Float, Int

from models.pytree import pytree
from research.config.sections import OptimizerConfig
from research.errors import UserError
from research.training import schedules

# Last parts of the names of parameters that weight decay leaves alone.
UNDECAYED = ("bias", "scale", "relative_bias")
# Name of the states of all units in a chain.
UNITS = "units"
_MOMENTUM = 0.95  # Muon's


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An update rule and its learning rate.

    Attributes:
      transformation: optax; its updates are to be multiplied by the learning rate and
        added.
      schedule: the learning rate as a function of the step, from 0.
      units: path prefixes of the parameters that some steps move and others leave
        alone; each has a state of its own. () = all steps move everything.
    """

    transformation: optax.GradientTransformation
    schedule: schedules.Schedule
    units: tuple[str, ...] = ()

    def apply(
        self,
        grads: Any,
        opt_state: Any,
        params: Any,
        learning_rate: Float[Array, ""],
        trained: tuple[str, ...],
    ) -> tuple[Any, Any]:
        """Parameters and state after an update of the units in `trained`.

        The others keep parameters and state bit for bit: weight decay would shrink
        them, and a step count that ran on would make their first update too large.
        """
        updates, new_state = self.transformation.update(grads, opt_state, params)

        def updated(path: tuple[Any, ...], param: Array, update: Array) -> Array:
            if self.units and unit_of(path, self.units) not in trained:
                return param
            return (param + learning_rate * update).astype(param.dtype)

        new_params = jax.tree_util.tree_map_with_path(updated, params, updates)
        if self.units:
            before, after = opt_state[UNITS].inner_states, new_state[UNITS].inner_states
            kept = {u: (after if u in trained else before)[u] for u in self.units}
            new_state = new_state | {UNITS: optax.transforms.PartitionState(kept)}
        return new_params, new_state


def create(
    config: OptimizerConfig, num_train_steps: int, units: tuple[str, ...] = ()
) -> Optimizer:
    """The configured rule over a run of `num_train_steps`; see `Optimizer.units`."""
    rule = RULES[config.name](config)
    if config.weight_decay > 0.0:
        decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
        rule.append(("decay", decay))
    if units:
        by_unit = dict.fromkeys(units, optax.named_chain(*rule))
        rule = [(UNITS, optax.partition(by_unit, lambda p: _units(p, units)))]
    if config.clip_norm > 0.0:
        rule.insert(0, ("clip", optax.clip_by_global_norm(config.clip_norm)))
    return Optimizer(
        transformation=optax.named_chain(*rule, ("descend", optax.scale(-1.0))),
        schedule=schedules.create(config, num_train_steps),
        units=units,
    )


def _units(params: Any, units: tuple[str, ...]) -> Any:
    """The unit of every parameter."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: unit_of(path, units), params
    )


def unit_of(path: tuple[Any, ...], units: tuple[str, ...]) -> str:
    """The prefix among `units` of a parameter's path."""
    name = jax.tree_util.keystr(path, simple=True, separator="/") + "/"
    return next(unit for unit in units if name.startswith(f"{unit}/"))


def decay_mask(params: Any) -> Any:
    """True for every parameter that weight decay shrinks: no bias, no norm's scale.

    Fine-tuning takes the same.
    """

    def decayed(path: tuple[Any, ...], _: Any) -> bool:
        return str(getattr(path[-1], "key", path[-1])) not in UNDECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)


@pytree
class AdamState:
    """Updates so far, and running means of gradients and of their squares."""

    count: Int[Array, ""]
    mean: Any
    square: Any


def _adam(config: OptimizerConfig) -> list[tuple[str, optax.GradientTransformation]]:
    """m / (sqrt(v) + epsilon), decoupled weight decay after it (AdamW).

    Kingma and Ba 2015; without `bias_correction` as in BERT's own optimizer. Of the two
    moments only the first is kept in `moment_dtype`: with beta2 = 0.999 the second
    changes by a thousandth of itself a step, which bfloat16 would round away.
    """
    b1, b2 = config.beta1, config.beta2
    dtype = jnp.dtype(config.moment_dtype)

    def init(params: Any) -> AdamState:
        return AdamState(
            count=jnp.zeros((), jnp.int32),
            mean=jax.tree.map(lambda p: jnp.zeros(p.shape, dtype), params),
            square=jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params),
        )

    def update(grads: Any, state: AdamState, params: Any = None):
        del params
        count = state.count + 1
        mean = jax.tree.map(
            lambda m, g: b1 * m.astype(jnp.float32) + (1 - b1) * g, state.mean, grads
        )
        square = jax.tree.map(
            lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.square, grads
        )
        mean_scale = square_scale = jnp.ones((), jnp.float32)
        if config.bias_correction:
            t = count.astype(jnp.float32)
            mean_scale, square_scale = 1 / (1 - b1**t), 1 / (1 - b2**t)
        updates = jax.tree.map(
            lambda m, v: m * mean_scale / (jnp.sqrt(v * square_scale) + config.epsilon),
            mean,
            square,
        )
        mean = jax.tree.map(lambda m: m.astype(dtype), mean)
        return updates, AdamState(count=count, mean=mean, square=square)

    return [("adam", optax.GradientTransformation(init, update))]


def _adafactor(
    config: OptimizerConfig,
) -> list[tuple[str, optax.GradientTransformation]]:
    """Factored second moments and updates relative to the parameters' size.

    Shazeer and Stern 2018, with the values of T5: no first moment, updates clipped at
    an RMS of 1, parameters counted as at least 1e-3.
    """
    factored = optax.scale_by_factored_rms(decay_rate=config.decay_rate)
    return [
        ("factored", factored),
        ("update_clip", _by_layer(optax.clip_by_block_rms(1.0))),
        ("relative", _by_layer(optax.scale_by_param_block_rms())),
    ]


def _by_layer(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """A stateless rule over blocks of parameters, applied to each layer of a scan.

    A scan keeps the parameters of all layers in one array [layers, ...], which would
    otherwise be one block.
    """

    def update(updates: Any, state: Any, params: Any = None):
        def of_block(path: tuple[Any, ...], update: Array, param: Array) -> Array:
            def apply(u: Array, p: Array) -> Array:
                return rule.update(u, state, p)[0]

            return (jax.vmap(apply) if _is_stacked(path) else apply)(update, param)

        return jax.tree_util.tree_map_with_path(of_block, updates, params), state

    return optax.GradientTransformation(rule.init, update)


def _muon(config: OptimizerConfig) -> list[tuple[str, optax.GradientTransformation]]:
    """Orthogonalised momentum for the matrices of layers, AdamW's rule for the rest.

    Jordan et al. 2024, with Liu et al. 2025's scale (arXiv:2502.16982, section 2.2): an
    update of an m x n matrix is multiplied by 0.2 sqrt(max(m, n)), so that its RMS is
    about Adam's and one learning rate and one weight decay serve both parts. Momentum
    is 0.95 with Nesterov's step; five Newton-Schulz iterations.
    """
    matrices = optax.chain(
        optax.contrib.scale_by_muon(
            beta=_MOMENTUM, weight_dimension_numbers=_matrix_axes
        ),
        optax.stateless_with_tree_map(lambda u, _: 0.2 * max(u.shape[-2:]) ** 0.5 * u),
    )
    rules = {"matrices": matrices, "others": optax.named_chain(*_adam(config))}
    return [("muon", optax.partition(rules, _matrices_and_others))]


def _matrix_axes(params: Any) -> Any:
    """Which axes of each parameter are a matrix's rows and columns; None = no matrix.

    Matrices are the kernels below `layers` and the dense kernels of heads. optax's own
    rule goes by the number of axes: embeddings and class tables would be matrices, and
    the kernels that a scan stacks would not.
    """

    def axes(
        path: tuple[Any, ...], _: Any
    ) -> optax.contrib.MuonDimensionNumbers | None:
        *above, last = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if last != "kernel" or not {"layers", "dense"} & set(above):
            return None
        first = int(_is_stacked(path))
        return optax.contrib.MuonDimensionNumbers(first, first + 1)

    return jax.tree_util.tree_map_with_path(axes, params)


def _matrices_and_others(params: Any) -> Any:
    """The part of `_muon` that every parameter belongs to."""
    labels = jax.tree.map(
        lambda axes: "others" if axes is None else "matrices",
        _matrix_axes(params),
        is_leaf=lambda x: (
            x is None or isinstance(x, optax.contrib.MuonDimensionNumbers)
        ),
    )
    if "matrices" not in jax.tree.leaves(labels):
        raise UserError(
            "optimizer.name = 'muon', and no layer of this model has a kernel, so there "
            "is nothing that Muon would update: choose optimizer.name = 'adamw'."
        )
    return labels


def _is_stacked(path: tuple[Any, ...]) -> bool:
    """Whether a parameter has an axis of layers: stack/layers/attention/..., no number."""
    names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    return "layers" in names and not names[names.index("layers") + 1].isdigit()


RULES: dict[str, Callable] = {
    "adamw": _adam,
    "adafactor": _adafactor,
    "muon": _muon,
}
