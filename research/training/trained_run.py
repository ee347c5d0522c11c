"""A pretrained run, as everything downstream of pretraining reads it."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from models.backbone import BackboneConfig
from objectives.base import Objective
from objectives.vocabulary import Vocabulary
from research.config import objective_section
from research.config.sections import RunConfig
from research.data import tokenizer_files
from research.data.tokenizer import Tokenizer
from research.errors import UserError, user_errors
from research.machine import arrays
from research.training import initialise, program, rngs, state, workdir
from research.training.adaptation import Params


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TrainedRun:
    """A run's weights and what is needed to use them.

    Attributes:
      config: of the run, checked.
      tokenizer: the run's.
      vocabulary: the tokenizer's, with the training split's unigram counts.
      model_config: `config.model` with the vocabulary's size.
      params: the weights of all networks: a nested dict of arrays for each, on one
        device.
      step: optimizer steps taken; 0 for fresh parameters.
      workdir: where it was loaded from.
      pooler: an imported BERT's tanh layer, which fine-tuning begins with; None for
        other runs.
    """

    config: RunConfig
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    model_config: BackboneConfig
    params: Params
    step: int
    workdir: pathlib.Path
    pooler: Params | None

    def __repr__(self) -> str:
        return f"TrainedRun({self.objective.name}, step {self.step} of {self.workdir})"

    @functools.cached_property
    def objective(self) -> Objective:
        """The run's objective over its vocabulary; `params['heads']` are its heads."""
        with user_errors():
            return objective_section.create(self.config, self.vocabulary)


def load(path: str | os.PathLike[str], which: str = "last") -> TrainedRun:
    """Loads a run from its workdir: 'last', 'best' (lowest held-out loss), or a step.

    Raises:
      UserError: if there is no run, no such checkpoint, or it is damaged.
    """
    folder = pathlib.Path(path)
    config = workdir.load_run(folder)
    if not (folder / "tokenizer").is_dir():
        raise UserError(f"{folder} has no tokenizer/: it is not the workdir of a run.")
    with user_errors():
        tokenizer = tokenizer_files.load(folder / "tokenizer")
    vocabulary = tokenizer.vocabulary()
    params, step = initialise.run_weights(folder, str(which))
    model_config = program.resolve_model(config.model, vocabulary)
    return TrainedRun(
        config=config,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        model_config=model_config,
        params=params,
        step=step,
        workdir=folder,
        pooler=_pooler(
            folder / workdir.IMPORTED / workdir.POOLER, model_config.emb_dim
        ),
    )


def _pooler(path: pathlib.Path, dim: int) -> Params | None:
    if not path.exists():
        return None
    shapes = {"kernel": (dim, dim), "bias": (dim,)}
    like = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}
    loaded = arrays.load(path, like)
    if loaded is None:
        raise UserError(f"{path} is damaged: convert the checkpoint again.")
    return loaded[0]


def random_init(run: TrainedRun, seed: int) -> TrainedRun:
    """The same run before its first step: the floor of every evaluation.

    The run's own seed gives the parameters it began with.
    """
    init = _compiled_init(run.model_config, run.objective)
    params = init(rngs.stream(seed, "params"))
    return dataclasses.replace(run, params=params, step=0, pooler=None)


@functools.lru_cache(maxsize=8)
def _compiled_init(
    config: BackboneConfig, objective: Objective
) -> Callable[[jax.Array], Params]:
    return jax.jit(functools.partial(state.init_params, config, objective))
