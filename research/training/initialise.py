"""Parameters from another run: train.init_from and train.extend_vocabulary."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objectives.vocabulary import Vocabulary
from research.config import objective_section
from research.config import parse as config_lib
from research.config.sections import RunConfig
from research.data import tokenizer_files
from research.data.tokenizer import Tokenizer
from research.errors import UserError, user_errors
from research.machine import checksums, files
from research.training import adaptation, checkpoints, parallelism, workdir
from research.training import program as program_lib
from research.training.adaptation import EVERYTHING, Params
from research.training.program import Program

# Where a workdir keeps the fingerprint of what its run does not learn.
CONSTANTS = "constants.json"


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
        objective_section.create(config, recorder)
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


def weights(program: Program, *, say: Callable[[str], None]) -> Params:
    """The weights that a run begins with: fresh, or from `train.init_from`.

    Raises:
      UserError: if the other run's model differs.
    """
    drawn = program.init_weights()
    source = program.config.train.init_from
    if not source:
        return drawn
    whole = program.objective.trains_whole_model
    return from_run(pathlib.Path(source), drawn, whole=whole, say=say)


def from_run(
    source: pathlib.Path, drawn: Params, *, whole: bool, say: Callable[[str], None]
) -> Params:
    """Freshly drawn weights with those of another run in their place.

    Tables with a row a token take the rows they had; rows of appended tokens stay as
    drawn. Heads and further networks that the other run did not have stay as drawn,
    networks only if the model is `whole` without them (`trains_whole_model`).

    Raises:
      UserError: if the models differ.
    """
    found_weights, step = run_weights(source)
    old = checkpoints.flatten(found_weights)
    new = checkpoints.flatten(drawn)
    old_size = old["model/token_embedding"].shape[0]
    new_size = new["model/token_embedding"].shape[0]
    problems, fresh, values = [], [], {}
    may_be_fresh = tuple(f"{n}/" for n in drawn if n != "model") if whole else "heads/"
    for name, value in new.items():
        found = old.get(name)
        extended = None
        if found is not None:
            extended = _extended(np.asarray(found), value, old_size, new_size)
        if extended is not None:
            values[name] = _put(extended, value)
        elif found is None and name.startswith(may_be_fresh):
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
    return checkpoints.unflatten(drawn, values)


def run_weights(folder: pathlib.Path, which: str = "last") -> tuple[Params, int]:
    """The weights of all networks of a run, on one device, and their step.

    What the run did not learn is in no checkpoint: it is made again as the run made it,
    and compared with the fingerprint that the run left.

    Raises:
      UserError: if there is no such checkpoint, it is damaged, or constants are no
        longer what they were.
    """
    params, step = checkpoints.load_params(folder / "checkpoints", which)
    config = config_lib.parse(workdir.load_config(folder))
    complete = objective_section.provisional(config).complete
    if not has_constants(config):
        return complete(params), step
    with user_errors():
        vocabulary = tokenizer_files.load(folder / "tokenizer").vocabulary()
    parts = program_lib.create(
        config, vocabulary, parallel=parallelism.one_device(jax.local_devices()[0])
    )
    try:
        begun = weights(parts, say=lambda line: None)
    except UserError as error:
        raise UserError(
            f"{folder} learned only a part of its parameters; the others come from "
            f"config.train.init_from = {config.train.init_from!r}: {error}"
        ) from error
    constants = parts.constants_of(begun)
    check_constants(folder, constants, has_begun=True)
    return complete(adaptation.join(params, constants, jnp.int32(0))), step


def has_constants(config: RunConfig) -> bool:
    """Whether a run has parameters that it does not learn."""
    frozen = objective_section.provisional(config).frozen
    return config.train.trainable != EVERYTHING or bool(frozen)


def check_constants(
    folder: pathlib.Path, constants: Params, *, has_begun: bool
) -> None:
    """Compares constants with those that a run began with, or notes them if it begins.

    Raises:
      UserError: if they differ, as when the run in `train.init_from` trained on.
    """
    if not jax.tree.leaves(constants):
        return
    path = folder / CONSTANTS
    found = int(adaptation.fingerprint(constants))
    if not (has_begun and path.exists()):
        if jax.process_index() == 0:
            workdir.write_json(path, {"fingerprint": found})
        return
    checksums.check(folder, CONSTANTS)
    if files.read_json(path, fingerprint=int)["fingerprint"] != found:
        raise UserError(
            f"The parameters that {folder} does not train are not those it began with: "
            f"the run in train.init_from has changed, or another version of the code "
            f"draws others. Bring that run back, or begin in a new workdir."
        )


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
