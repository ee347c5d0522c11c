"""One pretraining run, from a config and a workdir to the last checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping

import jax
import ml_collections

from research.config import parse as config_lib
from research.config.sections import RunConfig
from research.data import record, run_data
from research.data.run_data import Data
from research.errors import UserError, user_errors
from research.machine import compilation_cache, hosts, terminal
from research.training import (
    flops,
    initialise,
    loop,
    memory,
    metrics,
    parallelism,
    program,
    summary,
    workdir,
)
from research.training.adaptation import Params
from research.training.monitor import Monitor
from research.training.program import Program
from research.training.saving import Checkpoints
from research.training.state import TrainState
from research.training.steps import Steps


def pretrain(
    config: ml_collections.ConfigDict,
    folder: str | os.PathLike[str],
    *,
    profile_steps: tuple[int, int] | None = None,
    say: Callable[[str], None] | None = None,
) -> loop.Result:
    """Runs a config in a workdir, from the start or from where it stopped.

    Args:
      config: of one run, as experiments give it.
      folder: the workdir.
      profile_steps: first and last step to trace; None = none.
      say: prints lines of progress; None = print.

    Returns:
      The last state, its step, its held-out loss, and why the session ended.

    Raises:
      UserError: for mistakes in the config, data or workdir, before any work where
        that is possible.
    """
    say = _quiet_unless_first(say)
    compilation_cache.enable()
    run = config_lib.parse(config)
    parallelism.check(run)
    _check_steps(profile_steps, run.train.num_train_steps)
    folder = pathlib.Path(folder)
    with contextlib.ExitStack() as closing:
        with hosts.together("workdir_taken"):
            closing.enter_context(workdir.locked(folder))
            workdir.check_config(folder, config)
        closing.enter_context(memory.explained("the step", memory.advice(run)))
        corpus = _load_data(run, folder)
        parts = program.create(run, corpus.vocabulary)
        checkpoints = Checkpoints(folder / "checkpoints", run.checkpoint, say=say)
        closing.callback(checkpoints.close)
        first_step = checkpoints.latest_step or 0
        steps = Steps(parts, first_step)
        closing.callback(steps.close)
        say(summary.opening(parts, corpus, first_step))
        if profile_steps is not None and profile_steps[0] < first_step:
            say(
                f"no step is traced: --profile_steps begins with {profile_steps[0]}, "
                f"this session with {first_step}"
            )
        start, constants = _restore_or_init(parts, checkpoints, say)
        steps.train(first_step)  # Nothing is recorded of a run that does not compile.
        has_begun = checkpoints.latest_step is not None
        initialise.check_constants(folder, constants, has_begun=has_begun)
        writer, seconds, unlogged = _record(folder, config, first_step)
        if writer is not None:
            closing.callback(writer.close)
        monitor = Monitor(
            train=run.train,
            optimizer=run.optimizer,
            row_length=run.data.row_length,
            terms=tuple(parts.objective.terms),
            switches=parts.objective.switches,
            writer=writer,
            say=say,
            first_step=first_step,
            seconds_before=seconds,
            unlogged=unlogged,
            flops_per_token=_flops_per_token(parts),
            last_checkpoint=lambda: checkpoints.latest_step,
        )
        result = loop.train(
            parts,
            steps,
            start,
            constants,
            first_step=first_step,
            train_store=corpus.train,
            heldout_store=corpus.heldout,
            checkpoints=checkpoints,
            monitor=monitor,
            writer=writer,
            say=say,
            profile=loop.Profile(folder, profile_steps),
        )
        say(summary.closing(run.train.num_train_steps, result, monitor.values, folder))
    return result


def _load_data(run: RunConfig, folder: pathlib.Path) -> Data:
    """Loads tokens and tokenizer; the first host writes what the others read."""
    is_first = jax.process_index() == 0
    with user_errors():
        with hosts.together("data_written"):
            if is_first:
                tokenizer = None
                # A resumed run has its own copy; the other run may be gone.
                if run.train.init_from and not record.has_tokenizer(folder):
                    tokenizer = initialise.source_tokenizer(run)
                corpus = run_data.load(run.data, workdir=folder, tokenizer=tokenizer)
        with hosts.together("data_read"):
            if not is_first:
                corpus = run_data.load_recorded(run.data, workdir=folder)
    return corpus


def _restore_or_init(
    parts: Program, checkpoints: Checkpoints, say: Callable[[str], None]
) -> tuple[TrainState, Params]:
    """State and constants: of the newest checkpoint, of another run, or fresh ones.

    Checkpoints hold no constants, so these are computed again.
    """
    if checkpoints.latest_step is None:
        return parts.start(initialise.weights(parts, say=say))
    state = checkpoints.restore(dataclasses.replace(parts.state, seed=parts.seed))
    if not jax.tree.leaves(parts.constants):
        return state, parts.constants
    return state, parts.constants_of(initialise.weights(parts, say=say))


def _record(
    folder: pathlib.Path, config: ml_collections.ConfigDict, first_step: int
) -> tuple[metrics.Writer | None, float, Mapping[str, tuple[float, float]]]:
    """Saves the config and appends this session to run.json.

    Returns:
      The writer of its metrics (None on other hosts), the seconds of training before
      it, and the sums of steps that are in no line of metrics.jsonl yet.
    """
    if jax.process_index() != 0:
        return None, 0.0, {}
    workdir.save_config(folder, config)
    workdir.add_session(folder, first_step)
    seconds, unlogged = workdir.trim_metrics(folder, first_step)
    return metrics.Writer(folder, first_step), seconds, unlogged


def _flops_per_token(parts: Program) -> Callable[[int], float]:
    """Training FLOPs of a token at a step, counted once for each phase."""
    trainable = parts.config.train.trainable
    counts = {
        start: flops.count(parts.model_config, parts.objective.at(start), trainable)
        for start in (0, *parts.objective.switches)
    }

    def at(step: int) -> float:
        count = counts[max(start for start in counts if start <= step)]
        return count.training / count.tokens

    return at


def _quiet_unless_first(say: Callable[[str], None] | None) -> Callable[[str], None]:
    if jax.process_index() != 0:
        return lambda line: None
    return say or terminal.say


def _check_steps(steps: tuple[int, int] | None, num_train_steps: int) -> None:
    if steps is not None and steps[1] >= num_train_steps:
        raise UserError(
            f"--profile_steps={steps[0]}:{steps[1]}: the run has the steps 0 to "
            f"{num_train_steps - 1}; choose some of them, or raise "
            f"config.train.num_train_steps = {num_train_steps}."
        )
