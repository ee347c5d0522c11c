"""Checkpoints: asynchronous, checksummed, under our own names.

A checkpoint is two items of flat dicts {'model/stack/layers/0/...': array}: 'params',
which other runs and evaluations read, and 'progress' (step, skipped steps, optimizer).
orbax writes them in the background and renames the finished folder into place. Before
that every file's checksum is written beside it, so what is there is whole or is known
not to be.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pathlib
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from research.config.sections import CheckpointConfig
from research.errors import UserError
from research.machine import hosts
from research.training.parallelism import path_name
from research.training.state import Params, TrainState

CHECKSUMS = "checksums.json"
PARAMS, PROGRESS = "params", "progress"
DAMAGED = "damaged_checkpoints"
_CHUNK = 2**24
_TENSORSTORE_ERROR = re.compile(r"\s*([^:\[\]]+?) \[os_error_code=")


class Damaged(Exception):
    """A checkpoint whose files are not what was written."""


class Checksums:
    """Makes an orbax handler write the checksums of all files beside them."""

    def finalize(self, directory: Any) -> None:
        """Runs when the files are written and the folder is not in place yet."""
        super().finalize(directory)  # type: ignore[misc]
        folder = pathlib.Path(directory)
        sums = {
            str(path.relative_to(folder)): _checksum(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        (folder / CHECKSUMS).write_text(json.dumps(sums))


class _Handler(Checksums, ocp.StandardCheckpointHandler):
    """orbax's handler of trees of arrays, with checksums."""


@ocp.args.register_with_handler(_Handler, for_save=True)
@dataclasses.dataclass
class _Save(ocp.args.StandardSave):
    pass


@ocp.args.register_with_handler(_Handler, for_restore=True)
@dataclasses.dataclass
class _Restore(ocp.args.StandardRestore):
    pass


def _checksum(path: pathlib.Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def verify(checkpoint: pathlib.Path) -> None:
    """Compares a checkpoint's files with their checksums.

    Raises:
      Damaged: naming the first file that is missing or different.
    """
    for item in (PARAMS, PROGRESS):
        try:
            sums = json.loads((checkpoint / item / CHECKSUMS).read_text())
        except (OSError, ValueError) as error:
            raise Damaged(f"{item}/{CHECKSUMS} cannot be read") from error
        for name, value in sums.items():
            path = checkpoint / item / name
            if not path.is_file():
                raise Damaged(f"{item}/{name} is missing")
            if _checksum(path) != value:
                raise Damaged(f"{item}/{name} has changed")
    # What orbax itself adds. It is small, and unreadable metadata would stop it.
    for path in (checkpoint / "metrics/metrics", checkpoint / "_CHECKPOINT_METADATA"):
        try:
            if path.is_file():
                json.loads(path.read_text())
        except ValueError as error:
            raise Damaged(f"{path.relative_to(checkpoint)} cannot be read") from error


def steps_in(folder: pathlib.Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: workdir / 'checkpoints'.
      config: which ones to keep.
      say: prints what happened to damaged checkpoints.

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
            self._manager = _manager(folder, options)

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
          state: may be donated as soon as this returns.
          loss: held-out loss at this step, if it was evaluated; the best checkpoint is
            the one with the lowest, and one that is not finite is none.

        Raises:
          UserError: if this or the previous checkpoint cannot be written.
        """
        items = _items(state)
        is_known = loss is not None and math.isfinite(loss)
        with writing(self._folder, step):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{name: _Save(values) for name, values in items.items()}
                ),
                metrics={"loss": loss} if is_known else None,
            )

    def wait(self) -> None:
        """Waits until everything is on disk; UserError if it could not be written."""
        with writing(self._folder, self._manager.latest_step()):
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
                **{name: _Restore(values) for name, values in wanted.items()}
            ),
        )
        return _from_items(template, {name: restored[name] for name in wanted})

    def close(self) -> None:
        """Waits for deletions and releases threads."""
        self._manager.close()


@dataclasses.dataclass(frozen=True)
class _Scheduled(checkpoint_managers.PreservationPolicy):
    """The newest checkpoint and the last ones before it that were due, `keep_last` in all.

    One that a stopped session left in between goes when the next is written, and pushes
    out none.
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
    # Older checkpoints may have one that is not a number, which sorts anywhere.
    return metrics["loss"] if math.isfinite(metrics["loss"]) else math.inf


def _manager(
    folder: pathlib.Path, options: ocp.CheckpointManagerOptions
) -> ocp.CheckpointManager:
    handlers = {PARAMS: _Handler(), PROGRESS: _Handler()}
    return ocp.CheckpointManager(
        folder.absolute(), item_handlers=handlers, options=options
    )


def _items(state: TrainState) -> dict[str, dict[str, Any]]:
    """The two flat dicts of a state. The seed is the config's."""
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


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{'model/stack/final_norm/scale': leaf} of a tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {prefix + path_name(path): leaf for path, leaf in leaves}


def unflatten(template: Any, values: dict[str, Any], prefix: str = "") -> Any:
    """The tree of the template with leaves from `flatten`'s dict."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: values[prefix + path_name(path)], template
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
    """Moves damaged checkpoints away until the newest one left is whole."""
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
    """Of older checkpoints, those whose losses orbax would stop at."""
    found = []
    for step in steps:
        try:
            saved_loss(folder, step)
        except (ValueError, KeyError, TypeError):
            found.append((step, "metrics/metrics cannot be read"))
    return found


@contextlib.contextmanager
def writing(folder: pathlib.Path, step: int | None) -> Iterator[None]:
    """Turns failures of writing into a UserError that says what is safe."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not _is_about_writing(error):
            raise
        what = "checkpoints" if step is None else f"the checkpoint of step {step}"
        whole = [s for s in steps_in(folder) if s != step]
        kept = (
            f"Those of steps {', '.join(map(str, whole))} are whole. " if whole else ""
        )
        raise UserError(
            f"{what} could not be written to {folder}: {_reason(error)}. {kept}"
            f"Mend that and run the same command again to go on."
        ) from error


def _is_about_writing(error: BaseException) -> bool:
    """Whether a disk is behind an error."""
    return _disk_error(error) is not None


def _reason(error: BaseException) -> str:
    """What the operating system said."""
    return _disk_error(error) or str(error).splitlines()[0]


def _disk_error(error: BaseException | None) -> str | None:
    """The operating system's words in an error or its causes; None if there are none.

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


def load_params(folder: pathlib.Path, which: str = "last") -> tuple[Params, int]:
    """Parameters of a run, as nested dicts of arrays on the default device.

    Args:
      folder: workdir / 'checkpoints'.
      which: 'last', 'best' (lowest held-out loss) or a step.

    Returns:
      The parameters and their step.

    Raises:
      UserError: if there is no such checkpoint or it is damaged.
    """
    step = choose(folder, which)
    verified(folder / str(step))
    options = ocp.CheckpointManagerOptions(read_only=True, create=False)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # orbax warns about read_only itself.
    try:
        manager = _manager(folder, options)
    finally:
        logging.set_verbosity(verbosity)
    with contextlib.closing(manager):
        found = manager.item_metadata(step)[PARAMS]
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            for name, leaf in found.items()
        }
        args = ocp.args.Composite(**{PARAMS: _Restore(shapes)})
        params = nest(manager.restore(step, args=args)[PARAMS])
        # Tied heads without a bias have no parameters, and flat dicts no empty ones.
        return {"model": {}, "heads": {}, **params}, step


def verified(checkpoint: pathlib.Path) -> None:
    """Raises UserError if a checkpoint is damaged."""
    try:
        verify(checkpoint)
    except Damaged as error:
        raise UserError(f"{checkpoint} is damaged: {error}.") from error


def choose(folder: pathlib.Path, which: str) -> int:
    """The step that 'last', 'best' or a number means.

    Raises:
      UserError: if there is none, naming those there are.
    """
    steps = steps_in(folder)
    if not steps:
        raise UserError(f"there is no checkpoint in {folder}.")
    if which == "last":
        return steps[-1]
    if which == "best":
        losses = {step: saved_loss(folder, step) for step in steps}
        known = {
            step: loss
            for step, loss in losses.items()
            if loss is not None and math.isfinite(loss)
        }
        if not known:
            raise UserError(
                f"no checkpoint in {folder} has a held-out loss that is finite: use "
                f"'last'."
            )
        return min(known, key=lambda step: known[step])
    if str(which).isdigit() and int(which) in steps:
        return int(which)
    raise UserError(
        f"{folder} has no checkpoint {which!r}: use 'last', 'best' or one of "
        f"{', '.join(map(str, steps))}."
    )


def saved_loss(folder: pathlib.Path, step: int) -> float | None:
    """Held-out loss of a checkpoint; None if it was not evaluated."""
    path = folder / str(step) / "metrics/metrics"
    return json.loads(path.read_text())["loss"] if path.is_file() else None


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """{'a/0/b': x} as {'a': {0: {'b': x}}}, digits as the integers of lists."""
    tree: dict[Any, Any] = {}
    for name, leaf in flat.items():
        *parts, last = (int(p) if p.isdigit() else p for p in name.split("/"))
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree
