"""Saves the checkpoints of a run in the background, and restores the newest.

orbax writes into a temporary folder and renames it when it is complete. The last
checkpoints and the best one are kept; damaged ones are moved aside before a run goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from research.config.sections import CheckpointConfig
from research.errors import UserError
from research.machine import hosts
from research.machine.files import Damaged
from research.training.checkpoints import (
    PARAMS,
    PROGRESS,
    Handler,
    Save,
    flatten,
    restore_as,
    saved_loss,
    steps_in,
    unflatten,
    verify,
)
from research.training.state import TrainState

DAMAGED = "damaged_checkpoints"
_TENSORSTORE_ERROR = re.compile(r"\s*([^:\[\]]+?) \[os_error_code=")


class Checkpoints:
    """The checkpoints of one run; `say` prints what happened to damaged ones.

    Raises:
      UserError: if there are checkpoints and all of them are damaged.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        config: CheckpointConfig,
        *,
        say: Callable[[str], None] = print,
    ):
        self._folder = folder
        self._writing: int | None = None  # Step of the checkpoint under way.
        with hosts.together("checkpoints_verified"):
            if jax.process_index() == 0:
                with writing(folder, None):
                    folder.mkdir(parents=True, exist_ok=True)
                _set_damaged_aside(folder, say)
        keep: list[Any] = [_Scheduled(config.every_steps, config.keep_last)]
        if config.keep_best:
            keep.append(
                checkpoint_managers.BestN(
                    get_metric_fn=_saved_loss,
                    reverse=True,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        options = ocp.CheckpointManagerOptions(
            # Metrics are written only where orbax is told what the best one is.
            best_fn=_saved_loss,
            best_mode="min",
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,
            enable_background_delete=True,
        )
        with writing(folder, None):
            self._manager = ocp.CheckpointManager(
                folder.absolute(),
                item_handlers={PARAMS: Handler(), PROGRESS: Handler()},
                options=options,
            )

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, *, loss: float | None = None) -> None:
        """Copies the state and writes it in the background.

        Args:
          step: of the state.
          state: copied at once, so the caller may donate it afterwards.
          loss: held-out loss at this step, if it was evaluated; the best checkpoint is
            the one with the lowest finite loss.

        Raises:
          UserError: if this or the previous checkpoint cannot be written.
        """
        # Else the next one would be blamed for it.
        self.wait()
        self._writing = step
        items = _items(state)
        is_known = loss is not None and math.isfinite(loss)
        with writing(self._folder, step):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{name: Save(values) for name, values in items.items()}
                ),
                metrics={"loss": loss} if is_known else None,
            )

    def wait(self) -> None:
        """Waits until everything is on disk; UserError if it could not be written."""
        with writing(self._folder, self._writing):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def restore(self, template: TrainState) -> TrainState:
        """The newest checkpoint, in the shapes and shardings of the template.

        Raises:
          UserError: if the checkpoint has other parameters or shapes.
        """
        step = self.latest_step
        if step is None:
            raise ValueError("There is no checkpoint to restore.")
        wanted = _items(template)
        found = self._manager.item_metadata(step)
        problems = []
        for item, values in wanted.items():
            problems += _shape_problems(values, dict(found[item].items()))
        if problems:
            raise UserError(
                f"{self._folder / str(step)} holds other parameters than the config "
                f"describes:\n  " + "\n  ".join(problems[:10])
            )
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{name: restore_as(values) for name, values in wanted.items()}
            ),
        )
        return _from_items(template, {name: restored[name] for name in wanted})

    def close(self) -> None:
        """Waits for deletions and releases threads."""
        self._manager.close()


@dataclasses.dataclass(frozen=True)
class _Scheduled(checkpoint_managers.PreservationPolicy):
    """Keeps the newest checkpoint and the last due ones before it, `keep_last` in all.

    A checkpoint that a stopped session saved between two due ones is deleted when the
    next is written; it replaces none of the due ones.
    """

    every_steps: int
    keep_last: int

    def should_preserve(self, checkpoints, *, context):
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        due = [step for step in steps[:-1] if step % self.every_steps == 0]
        kept = {*due[max(0, len(due) + 1 - self.keep_last) :], *steps[-1:]}
        return [step in kept for step in steps]


def _saved_loss(metrics: dict[str, float]) -> float:
    # Older checkpoints may hold a NaN, which compares as neither less nor more.
    return metrics["loss"] if math.isfinite(metrics["loss"]) else math.inf


def _items(state: TrainState) -> dict[str, dict[str, Any]]:
    """The two flat dicts of a state, without the seed, which the config holds."""
    progress = {
        "step": state.step,
        "skipped": state.skipped,
        **flatten(state.opt_state, "opt_state/"),
    }
    return {PARAMS: flatten(state.params), PROGRESS: progress}


def _from_items(template: TrainState, items: dict[str, dict[str, Any]]) -> TrainState:
    progress = items[PROGRESS]
    seed = template.seed
    if isinstance(seed, jax.ShapeDtypeStruct):
        raise TypeError("The template's seed must be an array.")
    return TrainState(
        seed=seed,
        step=progress["step"],
        skipped=progress["skipped"],
        params=unflatten(template.params, items[PARAMS]),
        opt_state=unflatten(template.opt_state, progress, "opt_state/"),
    )


def _shape_problems(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    problems = [f"{name}: not in the checkpoint" for name in wanted.keys() - found]
    problems += [f"{name}: not in the model" for name in found.keys() - wanted]
    for name in wanted.keys() & found.keys():
        if tuple(wanted[name].shape) != tuple(found[name].shape):
            problems.append(
                f"{name}: {tuple(found[name].shape)} in the checkpoint, "
                f"{tuple(wanted[name].shape)} in the model"
            )
    return sorted(problems)


def _set_damaged_aside(folder: pathlib.Path, say: Callable[[str], None]) -> None:
    """Moves damaged checkpoints aside until the newest one left is whole."""
    steps = steps_in(folder)
    damaged = []
    for step in reversed(steps):
        try:
            verify(folder / str(step))
        except Damaged as error:
            damaged.append((step, str(error)))
            continue
        break
    damaged += _unreadable(folder, steps[: max(0, len(steps) - len(damaged) - 1)])
    if damaged and len(damaged) == len(steps):
        listed = "; ".join(f"step {step}: {why}" for step, why in damaged)
        raise UserError(
            f"every checkpoint in {folder} is damaged ({listed}). Restore the files, "
            f"or delete the folder to begin again."
        )
    for step, why in damaged:
        aside = folder.parent / DAMAGED / str(step)
        aside.parent.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        (folder / str(step)).rename(aside)
        then = ", the one before it is used" if step == steps[-1] else ""
        say(f"checkpoint of step {step} is damaged ({why}): moved to {aside}{then}")


def _unreadable(folder: pathlib.Path, steps: list[int]) -> list[tuple[int, str]]:
    """Older checkpoints whose losses cannot be read; orbax would stop at them."""
    found = []
    for step in steps:
        try:
            saved_loss(folder, step)
        except Damaged as error:
            found.append((step, str(error)))
    return found


@contextlib.contextmanager
def writing(folder: pathlib.Path, step: int | None) -> Iterator[None]:
    """Turns errors of the disk into a UserError that names the whole checkpoints."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _disk_error(error)
        if reason is None:
            raise
        what = "checkpoints" if step is None else f"the checkpoint of step {step}"
        whole = [s for s in steps_in(folder) if s != step]
        kept = (
            f"Those of steps {', '.join(map(str, whole))} are whole. " if whole else ""
        )
        raise UserError(
            f"{what} could not be written to {folder}: {reason}. {kept}"
            f"Fix that and run the same command again to go on."
        ) from error


def _disk_error(error: BaseException | None) -> str | None:
    """The operating system's message in an error or its causes; None if there is none.

    tensorstore raises ValueErrors that end in "to file 33: File too large
    [os_error_code='27']".
    """
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if match := _TENSORSTORE_ERROR.search(str(error)):
            return match[1]
        error = error.__cause__ or error.__context__
    return None
