"""Reads and writes parameters of a checkpoint one at a time.

Conversion uses this: it never holds more than its largest tensor in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from research.errors import UserError
from research.training import checkpoints, saving


@dataclasses.dataclass(frozen=True, eq=False)
class Deferred:
    """An array that is read, or computed, whenever it is needed, and not kept.

    Attributes:
      shape, dtype: of the array.
      read: returns the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Number of scalars."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # What is read belongs to the caller.
        return np.asarray(self.read(), dtype)


class _OneByOne(ocp.type_handlers.NumpyHandler):
    """Writes deferred arrays in turn; orbax alone would hold copies of all of them."""

    async def serialize(
        self,
        values: Sequence[Any],
        infos: Sequence[Any],
        args: Sequence[Any] | None = None,
    ) -> list[Any]:
        args = args or [ocp.SaveArgs()] * len(values)
        for value, info, arg in zip(values, infos, args, strict=True):
            array = np.asarray(value)
            for commit in await super().serialize([array], [info], [arg]):
                commit.result()
        return []


def save_params(folder: pathlib.Path, params: Any, *, step: int = 0) -> None:
    """Writes parameters without an optimizer's state, for an imported run.

    They are nested dicts of arrays, NumPy's or deferred ones.

    Raises:
      UserError: if they cannot be written.
    """
    items = {
        checkpoints.PARAMS: checkpoints.flatten(params),
        checkpoints.PROGRESS: {"step": np.array(step, np.int32)}
        | {"skipped": np.array(0, np.int32)},
    }
    with saving.writing(folder, None):
        folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
        registry = ocp.type_handlers.create_type_handler_registry(
            (Deferred, _OneByOne()),
            (np.ndarray, _OneByOne()),
            (jax.Array, ocp.type_handlers.ArrayHandler()),
        )
        manager = ocp.CheckpointManager(
            folder.absolute(),
            item_handlers={
                name: checkpoints.Handler(type_handler_registry=registry)
                for name in items
            },
            options=options,
        )
        with contextlib.closing(manager):
            args = {name: checkpoints.Save(values) for name, values in items.items()}
            if not manager.save(step, args=ocp.args.Composite(**args)):
                raise UserError(f"{folder} has a checkpoint of step {step} already.")
            manager.wait_until_finished()


def open_params(
    folder: pathlib.Path, which: str = "last"
) -> tuple[checkpoints.Params, int]:
    """As `checkpoints.load_params`, with deferred arrays."""
    item, step = checkpoints.find_params(folder, which)
    handler = checkpoints.Handler()

    def reader(name: str) -> Callable[[], np.ndarray]:
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        args = checkpoints.Restore(
            item={name: 0}, restore_args={name: as_numpy}, partial_restore=True
        )
        return lambda: handler.restore(item, args=args)[name]

    flat = {
        name: Deferred(tuple(leaf.shape), np.dtype(leaf.dtype), reader(name))
        for name, leaf in handler.metadata(item).items()
    }
    return checkpoints.nest_params(flat), step
