"""The training loop, top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from research.data import loader
from research.data.store import TokenStore
from research.training import guards, memory, metrics
from research.training import heldout as heldout_lib
from research.training.adaptation import Params
from research.training.heldout import HeldoutLoss
from research.training.monitor import Monitor
from research.training.program import Program
from research.training.saving import Checkpoints
from research.training.state import TrainState
from research.training.steps import Steps

# Batches on their way to the devices ahead of the step that takes them.
DEVICE_PREFETCH = 2


@dataclasses.dataclass(frozen=True)
class Result:
    """How a session ended.

    Attributes:
      state: the last one.
      step: its step.
      heldout: its held-out loss; None if the session was stopped before the end.
      stopped_by: name of the signal that asked it to stop, or None. One that came in
        its last evaluation found it finished.
      exit_code: of a process that has nothing else to do.
      peak_bytes: memory of its compiled steps on one device; None where unknown.
    """

    state: TrainState = dataclasses.field(repr=False)
    step: int
    heldout: HeldoutLoss | None
    stopped_by: str | None
    exit_code: int
    peak_bytes: int | None


def train(
    program: Program,
    steps: Steps,
    state: TrainState,
    constants: Params,
    *,
    first_step: int,
    train_store: TokenStore,
    heldout_store: TokenStore,
    checkpoints: Checkpoints,
    monitor: Monitor,
    writer: metrics.Writer | None,
    say: Callable[[str], None],
    profile: Profile,
) -> Result:
    """Trains from `first_step` to the end of the config, or until asked to stop.

    The state is donated. `writer` is None on hosts that write nothing.

    Raises:
      NonFinite: after the checkpoints under way are on disk.
      UserError: if a checkpoint cannot be written.
      TooLittleMemory: for an evaluation; a checkpoint that was due is on disk.
    """
    config = program.config
    last_step = config.train.num_train_steps
    batches = train_batches(program, train_store, first_step)
    evaluation = Evaluation(program, steps, heldout_store)
    watchdog = guards.Watchdog(config.train.hang_seconds, say)
    heldout, step = None, first_step

    with (
        contextlib.closing(watchdog),
        contextlib.closing(profile),
        guards.stop_signals() as stop,
        jax.transfer_guard("disallow"),
    ):
        monitor.start()
        while step < last_step and not stop.at(step):
            profile.before(step)
            with monitor.waiting():
                batch = next(batches)
            state, step_metrics = steps.train(step)(state, constants, batch)
            step += 1
            watchdog.beat(f"the step after {step}")
            monitor.add(step, step_metrics)
            profile.after(step, state)

            is_last = step == last_step
            is_eval = is_last or step % config.eval.every_steps == 0
            is_save = is_last or step % config.checkpoint.every_steps == 0
            if not (is_eval or is_save):
                continue
            # What follows reads the state, so it has to be a finite one.
            _finish(monitor, checkpoints)
            if is_save:
                monitor.keep_unlogged(step)
            with monitor.pausing(), jax.transfer_guard("allow"):
                if is_eval:
                    watchdog.beat(f"the evaluation after step {step}")
                try:
                    heldout = evaluation(state, constants) if is_eval else None
                except memory.TooLittleMemory:
                    # The steps are good, and go on with other settings. Only the last
                    # one is none to go on from: it would never be evaluated.
                    if is_save and not is_last:
                        checkpoints.save(step, state)
                        checkpoints.wait()
                    raise
                if heldout is not None:
                    say(f"step {step}  held-out {heldout.line()}")
                    if writer is not None:
                        writer.write(step, "eval", heldout.flat())
                if is_save:
                    watchdog.beat(f"saving the checkpoint of step {step}")
                    loss = None if heldout is None else heldout.loss
                    checkpoints.save(step, state, loss=loss)
            watchdog.beat(f"the step after {step}")

        watchdog.close()  # The last write may take as long as it takes.
        profile.close()
        _finish(monitor, checkpoints)
        with jax.transfer_guard("allow"):
            if checkpoints.latest_step != step and step > first_step:
                monitor.keep_unlogged(step)
                checkpoints.save(step, state)
            checkpoints.wait()
    return Result(
        state=state,
        step=step,
        heldout=heldout if step == last_step else None,
        stopped_by=stop.name,
        exit_code=0 if step == last_step else stop.exit_code,
        peak_bytes=steps.peak_bytes(),
    )


def train_batches(
    program: Program, store: TokenStore, first_step: int
) -> Iterator[Any]:
    """This host's part of every batch, on the devices ahead of its step."""
    train, parallel = program.config.train, program.parallel
    num_parts, parts = parallel.host_part
    batches = loader.train_batches(
        store,
        row_length=program.config.data.row_length,
        batch_size=train.batch_size,
        seed=train.seed,
        start_step=first_step,
        num_parts=num_parts,
        parts=parts,
    )
    return loader.device_prefetch(batches, parallel.place, size=DEVICE_PREFETCH)


class Evaluation:
    """The held-out loss of a state; rows and keys are the same every time."""

    def __init__(self, program: Program, steps: Steps, store: TokenStore):
        config, parallel = program.config, program.parallel
        num_parts, parts = parallel.host_part
        batches = loader.heldout_batches(
            store,
            row_length=config.data.row_length,
            batch_size=config.eval.batch_size,
            num_batches=config.eval.num_batches,
            num_parts=num_parts,
            parts=parts,
        )
        self._advice = memory.evaluation_advice(config)
        self._steps = steps
        self._objective = program.objective
        self._batches = [parallel.place(batch) for batch in batches]
        self._numbers = [
            jax.device_put(np.int32(number), parallel.replicated)
            for number in range(len(self._batches))
        ]
        self._seed = jax.device_put(np.uint32(config.train.seed), parallel.replicated)

    def __call__(self, state: TrainState, constants: Params) -> HeldoutLoss:
        """The held-out loss.

        Raises:
          TooLittleMemory: with advice for evaluations, not for steps.
        """
        with memory.explained("the evaluation", self._advice):
            return heldout_lib.evaluate(
                self._steps.evaluation(),
                (state.params, constants, state.step),
                self._batches,
                seed=self._seed,
                numbers=self._numbers,
                objective=self._objective,
            )


def _finish(monitor: Monitor, checkpoints: Checkpoints) -> None:
    """Waits for the last step; if it stops the run, checkpoints are made safe first."""
    try:
        monitor.catch_up()
    except Exception:
        checkpoints.wait()
        raise


class Profile:
    """Traces some steps for XProf and TensorBoard.

    Args:
      folder: where the trace goes.
      steps: (first, last) step to trace, counted from 0; None = none.
    """

    def __init__(self, folder: pathlib.Path, steps: tuple[int, int] | None):
        self._folder = folder
        self._steps = steps
        self._running = False

    def before(self, step: int) -> None:
        """Begins the trace before its first step."""
        if self._steps is not None and step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, state: TrainState) -> None:
        """Ends the trace once its last step has run."""
        if self._running and self._steps is not None and step > self._steps[1]:
            jax.block_until_ready(state.step)
            self.close()

    def close(self) -> None:
        """Writes a trace whose last step the session did not reach."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
