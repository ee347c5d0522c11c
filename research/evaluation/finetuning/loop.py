"""The fine-tuning loop: epochs, selection, early stopping, saving and continuing.

Its step is that of pretraining, on labelled batches. It is compiled once for each shape
and head, and serves all tasks, seeds and hyperparameters, which are data to it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import models
from models.backbone import BackboneConfig
from objectives.base import Objective
from research.evaluation.finetuning import layer_depths, optimizer
from research.evaluation.finetuning.settings import FinetuneSettings
from research.machine import arrays, host_memory
from research.training import state as state_lib
from research.training.metrics import duration
from research.training.optimizer import Optimizer
from research.training.state import Modules, Params, TrainState
from research.training.step import make_train_step

Batch = Any  # A pytree of numpy arrays with a leading axis of rows.
# Between two lines about a fine-tuning that is not finished.
_SAY_SECONDS = 30.0
# What takes longer was compiled, and not read from a cache.
_COMPILING_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """The compiled functions of one backbone and head.

    Attributes:
      config: of the backbone, with the dropout of fine-tuning.
      objective: classification, text-to-text or span extraction.
      modules: backbone and head without parameters.
      init: key -> fresh parameters of backbone and head.
      init_heads: key -> fresh parameters of the head alone, the same ones.
      step: (state, constants, batch) -> (state, metrics); the state is donated.
      outputs: (params, batch) -> the objective's outputs.
    """

    config: BackboneConfig
    objective: Objective
    modules: Modules
    init: Callable[[jax.Array], Params]
    init_heads: Callable[[jax.Array], Params]
    step: Any
    outputs: Callable[[Params, Batch], Any]


def dropout_config(config: BackboneConfig, rate: float | None) -> BackboneConfig:
    """The backbone's config with the dropout of fine-tuning."""
    return config if rate is None else config.with_dropout(rate)


@functools.lru_cache(maxsize=8)
def model_shapes(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the backbone, by its path."""

    def build() -> Params:
        return nnx.to_pure_dict(nnx.state(models.create(config, rngs=nnx.Rngs(0))))

    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(build))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in leaves
    }


@functools.lru_cache(maxsize=8)
def make_program(config: BackboneConfig, objective: Any) -> Program:
    """Builds the program, once for equal arguments: jit caches by function."""
    modules = state_lib.create_modules(config, objective)
    step = make_train_step(
        objective,
        modules,
        OPTIMIZER,
        num_microbatches=1,
        effective=layer_depths.join,
    )

    def outputs(params: Params, batch: Batch) -> Any:
        return objective.outputs(modules.merge(params), batch)

    init = functools.partial(state_lib.init_params, config, objective)
    return Program(
        config=config,
        objective=objective,
        modules=modules,
        init=jax.jit(init),
        # The compiler drops what is not returned: the backbone.
        init_heads=jax.jit(lambda rng: init(rng)["heads"]),
        step=jax.jit(step, donate_argnums=0),
        outputs=jax.jit(outputs),
    )


def _no_init(params: Params) -> Any:
    raise NotImplementedError("Its state needs hyperparameters; see `train`.")


# The learning rate is in the updates, so that it can differ between fine-tunings.
OPTIMIZER = Optimizer(
    transformation=optax.GradientTransformation(_no_init, optimizer.update),
    schedule=lambda step: jnp.ones((), jnp.float32),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """A finished training.

    Attributes:
      params: of the selected step.
      losses: mean train loss of each epoch.
      best_epoch: the selected epoch, counted from 1.
      num_steps: steps taken.
      finite: whether every loss and gradient was finite.
      seconds: spent training, evaluation excluded, of this process.
      trained_rows: rows seen in those seconds.
    """

    params: Params
    losses: tuple[float, ...]
    best_epoch: int
    num_steps: int
    finite: bool
    seconds: float
    trained_rows: int


@dataclasses.dataclass
class _Position:
    """How far a fine-tuning is; stored as JSON beside its parameters."""

    epoch: int = 0
    step_in_epoch: int = 0
    epoch_losses: list[float] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    scores: list[float] = dataclasses.field(default_factory=list)
    best_epoch: int = 0


def hyperparameters(
    params: Params, config: BackboneConfig, settings: FinetuneSettings, steps: int
) -> optimizer.Hyperparameters:
    """The settings as data for `steps` steps; `params` are all parameters."""
    scalars = {
        "learning_rate": settings.learning_rate,
        "warmup_steps": math.ceil(settings.warmup_fraction * steps),
        "num_steps": steps,
        "final_fraction": settings.final_fraction,
        "weight_decay": settings.weight_decay,
        "beta1": settings.beta1,
        "beta2": settings.beta2,
        "epsilon": settings.epsilon,
        "clip_norm": settings.clip_norm or math.inf,
    }
    factors = layer_depths.multipliers(params, config, settings.layer_decay)
    learned, _ = layer_depths.split(factors, config, settings.frozen_layers)
    return optimizer.Hyperparameters(
        schedule=jnp.int32(optimizer.SCHEDULES.index(settings.schedule)),
        multipliers=learned,
        **{name: jnp.float32(value) for name, value in scalars.items()},
    )


def train(
    program: Program,
    params: Params,
    epoch_batches: Callable[[int], Sequence[Callable[[], Batch]]],
    settings: FinetuneSettings,
    *,
    seed: int,
    score: Callable[[Params], float] | None,
    progress_file: pathlib.Path | None,
    save_seconds: float,
    say: Callable[[str], None] | None = None,
) -> Outcome:
    """Trains over the epochs and returns the selected parameters.

    Args:
      program: of the backbone and head.
      params: to start from.
      epoch_batches: epoch, counted from 0, to functions that make its batches; they
        follow from the epoch alone, and every epoch has equally many.
      settings: of the fine-tuning.
      seed: of dropout.
      score: of parameters, higher is better; None if nothing is selected.
      progress_file: where an unfinished fine-tuning is saved and continued from.
      save_seconds: seconds between two saves.
      say: told twice a minute how far it is.
    """
    steps_per_epoch = len(epoch_batches(0))
    total = settings.num_epochs * steps_per_epoch
    hyper = hyperparameters(params, program.config, settings, total)
    params, constants = layer_depths.split(
        params, program.config, settings.frozen_layers
    )
    state = TrainState(
        seed=jnp.asarray(seed, jnp.uint32),
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        # A copy, because the step donates the memory of its state.
        params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params, hyper),
    )
    # All on one device, as after a step: jit compiles again for another placement.
    state = jax.device_put(state, jax.local_devices()[0])
    best = state.params if score is not None else {}
    run = _Training(
        program=program,
        constants=constants,
        state=state,
        best=best,
        at=_Position(),
        total=total,
        progress_file=progress_file,
        save_seconds=save_seconds,
        say=say,
    )
    run.restore()
    while run.at.epoch < settings.num_epochs and not run.out_of_patience(settings):
        run.epoch(epoch_batches(run.at.epoch))
        if score is not None:
            run.score(score(layer_depths.join(run.state.params, constants)))
        run.maybe_save()
    use_best = settings.selection == "best" and score is not None
    params = run.best if use_best else run.state.params
    return Outcome(
        params=layer_depths.join(params, constants),
        losses=tuple(run.at.losses),
        best_epoch=run.at.best_epoch if use_best else run.at.epoch,
        num_steps=int(run.state.step),
        finite=int(run.state.skipped) == 0,
        seconds=run.seconds,
        trained_rows=run.trained_rows,
    )


@dataclasses.dataclass
class _Training:
    """A fine-tuning in progress: everything that changes while it runs."""

    program: Program
    constants: Params
    state: TrainState
    best: Params
    at: _Position
    total: int
    progress_file: pathlib.Path | None
    save_seconds: float
    say: Callable[[str], None] | None
    seconds: float = 0.0
    compiling: float = 0.0
    shapes: set[Any] = dataclasses.field(default_factory=set)
    steps: int = 0
    trained_rows: int = 0
    saved: float = dataclasses.field(default_factory=time.monotonic)
    said: float = dataclasses.field(default_factory=time.monotonic)

    def restore(self) -> None:
        if self.progress_file is not None:
            loaded = arrays.load(self.progress_file, (self.state, self.best))
            if loaded is not None:
                (self.state, self.best), position = loaded
                self.at = _Position(**position)
        # A copy, because the step donates the memory of its state.
        self.best = jax.tree.map(jnp.copy, self.best)

    def epoch(self, batches: Sequence[Callable[[], Batch]]) -> None:
        """Trains on the batches of an epoch that are left."""
        started, at, losses = time.monotonic(), self.at, []
        while at.step_in_epoch < len(batches):
            batch = batches[at.step_in_epoch]()
            self.compile(batch)
            self.state, metrics = self.program.step(self.state, self.constants, batch)
            losses.append(metrics.sums["loss"][0])
            self.trained_rows += jax.tree.leaves(batch)[0].shape[0]
            at.step_in_epoch += 1
            self.steps += 1
            self.maybe_say(len(batches), losses[-1], started)
            if self.save_is_due():
                at.epoch_losses += [float(loss) for loss in jax.device_get(losses)]
                losses = []
                self.maybe_save()
        at.epoch_losses += [float(loss) for loss in jax.device_get(losses)]
        at.losses.append(float(np.mean(at.epoch_losses)))
        at.epoch, at.step_in_epoch, at.epoch_losses = at.epoch + 1, 0, []
        self.seconds += time.monotonic() - started

    def compile(self, batch: Batch) -> None:
        """Compiles the step for the shapes of a batch, if it has not met them yet."""
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
        if shapes in self.shapes:
            return
        self.shapes.add(shapes)
        started = time.monotonic()
        # The call of the step finds what is compiled here.
        self.program.step.lower(self.state, self.constants, batch).compile()
        seconds = time.monotonic() - started
        self.compiling += seconds
        if seconds > _COMPILING_SECONDS:
            # The compiler leaves hundreds of megabytes that the step then needs.
            host_memory.give_back()

    def maybe_say(self, per_epoch: int, loss: jax.Array, started: float) -> None:
        """How far the run is; this process began the epoch at `started`."""
        if self.say is None or time.monotonic() - self.said < _SAY_SECONDS:
            return
        done = self.at.epoch * per_epoch + self.at.step_in_epoch
        value = float(loss)  # Waits for the steps, which are timed here.
        seconds = self.seconds + time.monotonic() - started - self.compiling
        left = (self.total - done) * seconds / self.steps
        self.say(
            f"epoch {self.at.epoch + 1} of {self.total // per_epoch}, step {done:,} of "
            f"{self.total:,}, loss {value:.3f}, {duration(left)} left"
        )
        self.said = time.monotonic()

    def score(self, value: float) -> None:
        """Notes an epoch's score, and its parameters if none was better before."""
        value = value if math.isfinite(value) else -math.inf
        if not self.at.scores or value > max(self.at.scores):
            self.at.best_epoch = self.at.epoch
            self.best = jax.tree.map(jnp.copy, self.state.params)
        self.at.scores.append(value)

    def out_of_patience(self, settings: FinetuneSettings) -> bool:
        waited = self.at.epoch - self.at.best_epoch
        return bool(
            settings.patience and self.at.scores and waited >= settings.patience
        )

    def save_is_due(self) -> bool:
        if self.progress_file is None:
            return False
        return time.monotonic() - self.saved >= self.save_seconds

    def maybe_save(self) -> None:
        if self.progress_file is not None and self.save_is_due():
            tree = (self.state, self.best)
            arrays.save(self.progress_file, tree, dataclasses.asdict(self.at))
            self.saved = time.monotonic()
