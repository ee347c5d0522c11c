"""Parameters from another run: train.init_from and train.extend_vocabulary."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from objectives.vocabulary import Vocabulary
from research.config import parse as config_lib
from research.config.sections import RunConfig
from research.data import tokenizer_files
from research.data.tokenizer import Tokenizer
from research.errors import UserError, user_errors
from research.training import checkpoints
from research.training.program import Program
from research.training.state import TrainState


def source_tokenizer(config: RunConfig) -> Tokenizer:
    """The tokenizer that the parameters of `train.init_from` were trained with.

    With `train.extend_vocabulary` it has the special tokens besides that the config's
    objective lacks; without, an objective that lacks one refuses it by name later.

    Raises:
      UserError: if `train.init_from` is no workdir.
    """
    folder = pathlib.Path(config.train.init_from) / "tokenizer"
    if not folder.is_dir():
        raise UserError(
            f"config.train.init_from = {config.train.init_from!r} is not the workdir of "
            f"a run: it has no tokenizer/."
        )
    with user_errors():
        tokenizer = tokenizer_files.load(folder)
    if not config.train.extend_vocabulary:
        return tokenizer
    missing = missing_tokens(config, tokenizer.vocabulary())
    sentinels = config.data.tokenizer.num_sentinels
    return tokenizer.extend(missing, num_sentinels=sentinels) if missing else tokenizer


def missing_tokens(config: RunConfig, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Special tokens that the config's objective asks for and the vocabulary lacks."""
    fields = {
        f.name: getattr(vocabulary, f.name) for f in dataclasses.fields(vocabulary)
    }
    recorder = _Recorder(**fields, missing=[])
    try:
        config_lib.create_objective(config, recorder)
    except ValueError:
        # Something else is wrong as well; it is reported when the objective is built.
        pass
    return tuple(dict.fromkeys(recorder.missing))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _Recorder(Vocabulary):
    """A vocabulary that notes what it lacks where others refuse."""

    missing: list[str]

    def require(self, objective: str, *names: str) -> None:
        del objective
        self.missing.extend(name for name in names if not self.has(name))


def from_run(
    program: Program, state: TrainState, *, say: Callable[[str], None]
) -> TrainState:
    """The state with the parameters of `train.init_from` in place of fresh ones.

    Tables with a row a token take the rows they had; rows of appended tokens stay as
    drawn. Heads that the other run did not have stay as drawn.

    Raises:
      UserError: if the backbones differ.
    """
    source = pathlib.Path(program.config.train.init_from)
    params, step = checkpoints.load_params(source / "checkpoints")
    old = checkpoints.flatten(params)
    new = checkpoints.flatten(state.params)
    old_size = old["model/token_embedding"].shape[0]
    new_size = new["model/token_embedding"].shape[0]
    problems, fresh, values = [], [], {}
    for name, value in new.items():
        found = old.get(name)
        extended = None
        if found is not None:
            extended = _extended(np.asarray(found), value, old_size, new_size)
        if extended is not None:
            values[name] = _put(extended, value)
        elif name.startswith("heads/") and found is None:
            fresh.append(name)
            values[name] = value
        else:
            there = "missing" if found is None else str(tuple(found.shape))
            problems.append(f"{name}: {there} there, {tuple(value.shape)} here")
    unused = [n for n in old if n.startswith("model/") and n not in new]
    problems += [f"{name}: there, not in this model" for name in unused]
    if problems:
        raise UserError(
            f"config.model does not describe the model in {source}:\n  "
            + "\n  ".join(problems[:10])
        )
    say(f"parameters of {source} at step {step}")
    if fresh:
        say(f"drawn anew, not in {source}: {', '.join(fresh)}")
    tree = checkpoints.unflatten(state.params, values)
    return dataclasses.replace(state, params=tree)


def _extended(
    found: np.ndarray, drawn: Any, old_size: int, new_size: int
) -> np.ndarray | None:
    """The found values in the drawn one's shape; None if they do not fit."""
    if found.shape == drawn.shape:
        return found
    if found.ndim != drawn.ndim or new_size <= old_size:
        return None
    differ = [i for i in range(found.ndim) if found.shape[i] != drawn.shape[i]]
    sizes = [(found.shape[i], drawn.shape[i]) for i in differ]
    if sizes != [(old_size, new_size)]:
        return None
    (axis,) = differ
    # Every host needs the whole drawn table to complete the found one.
    rest = np.take(_whole(drawn), np.arange(old_size, new_size), axis=axis)
    return np.concatenate([found, rest.astype(found.dtype)], axis=axis)


def _whole(array: jax.Array) -> np.ndarray:
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _put(value: np.ndarray, like: jax.Array) -> jax.Array:
    value = value.astype(like.dtype)
    return jax.make_array_from_callback(
        value.shape, like.sharding, lambda index: value[index]
    )
