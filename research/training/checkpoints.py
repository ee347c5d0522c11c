"""Files of checkpoints: their format, which there are, whether they are whole.

A checkpoint is two items of flat dicts {'model/stack/layers/0/...': array}: 'params',
which other runs and evaluations read, and 'progress' (step, skipped steps, optimizer).
The checksum of every file is written beside it.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from research.errors import UserError
from research.machine import checksums, files
from research.machine.files import Damaged
from research.training.partitioning import path_name
from research.training.state import Params

PARAMS, PROGRESS = "params", "progress"


class Handler(ocp.PyTreeCheckpointHandler):
    """orbax's handler of trees of arrays; it also writes the checksums of all files."""

    def finalize(self, directory: Any) -> None:
        """Runs when the files are written and before orbax renames their folder."""
        super().finalize(directory)
        folder = pathlib.Path(directory)
        written = (path for path in sorted(folder.rglob("*")) if path.is_file())
        checksums.record(folder, *(str(path.relative_to(folder)) for path in written))


@ocp.args.register_with_handler(Handler, for_save=True)
@dataclasses.dataclass
class Save(ocp.args.PyTreeSave):
    """Arguments of orbax for saving an item."""


@ocp.args.register_with_handler(Handler, for_restore=True)
@dataclasses.dataclass
class Restore(ocp.args.PyTreeRestore):
    """Arguments of orbax for restoring an item."""


def restore_as(values: dict[str, Any]) -> Restore:
    """Arguments to restore arrays in the shapes, types and shardings of `values`."""
    how = ocp.checkpoint_utils.construct_restore_args(values)
    return Restore(item=values, restore_args=how)


def verify(checkpoint: pathlib.Path) -> None:
    """Compares a checkpoint's files with their checksums.

    Raises:
      Damaged: naming the first file that is missing or different.
    """
    for item in (PARAMS, PROGRESS):
        sums = checkpoint / item / checksums.CHECKSUMS
        if not sums.is_file():
            raise Damaged(f"{sums} is missing")
        if problem := checksums.find_problem(checkpoint / item):
            raise Damaged(problem)
    # What orbax itself adds. It is small, and unreadable metadata would stop it.
    saved_loss(checkpoint.parent, int(checkpoint.name))
    if (metadata := checkpoint / "_CHECKPOINT_METADATA").is_file():
        files.read_json(metadata)


def steps_in(folder: pathlib.Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


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
    if str(which).isdecimal() and int(which) in steps:
        return int(which)
    raise UserError(
        f"{folder} has no checkpoint {which!r}: use 'last', 'best' or one of "
        f"{', '.join(map(str, steps))}."
    )


def saved_loss(folder: pathlib.Path, step: int) -> float | None:
    """Held-out loss of a checkpoint; None if it was not evaluated.

    Raises:
      Damaged: it cannot be read.
    """
    path = folder / str(step) / "metrics/metrics"
    if not path.is_file():
        return None
    return files.read_json(path, loss=(int, float))["loss"]


def load_params(folder: pathlib.Path, which: str = "last") -> tuple[Params, int]:
    """Parameters of a checkpoint, as nested dicts of arrays on one device, and its step.

    `which` is 'last', 'best' (lowest held-out loss) or a step.

    Raises:
      UserError: if there is no such checkpoint or it is damaged.
    """
    item, step = find_params(folder, which)
    handler = Handler()
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        for name, leaf in handler.metadata(item).items()
    }
    return nest_params(handler.restore(item, args=restore_as(shapes))), step


def find_params(folder: pathlib.Path, which: str) -> tuple[pathlib.Path, int]:
    """The 'params' item of a checkpoint whose files are whole, and its step.

    Raises:
      UserError: if there is no such checkpoint or it is damaged.
    """
    step = choose(folder, which)
    checkpoint = (folder / str(step)).absolute()
    try:
        verify(checkpoint)
    except Damaged as error:
        raise UserError(f"{checkpoint} is damaged: {error}.") from error
    return checkpoint / PARAMS, step


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{'model/stack/final_norm/scale': leaf} of a tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {prefix + path_name(path): leaf for path, leaf in leaves}


def unflatten(template: Any, values: dict[str, Any], prefix: str = "") -> Any:
    """The tree of the template with leaves from `flatten`'s dict."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: values[prefix + path_name(path)], template
    )


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


def nest_params(flat: dict[str, Any]) -> Params:
    """Nested parameters of both networks.

    Tied heads without a bias have no parameters, and flat dicts hold no empty ones.
    """
    return {"model": {}, "heads": {}, **nest(flat)}
