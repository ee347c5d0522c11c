"""The folder of a run: its lock, config, sessions and metrics.

config.json     the config as it was run
run.json        data checksum; commit, versions and devices of every session
metrics.jsonl   one object a logged step
unlogged.jsonl  one object a checkpoint: sums since the last logged step
checksums.json  of these files, see research/machine/checksums.py
checkpoints/    tokenizer/    events.out.tfevents.*
"""

from __future__ import annotations

import contextlib
import datetime
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections

from research.config import kinds, saved
from research.config.parse import differing_fields, parse, plain
from research.config.sections import RunConfig
from research.errors import UserError
from research.machine import checksums, files, locking, provenance

CONFIG, RUN, METRICS, LOCK = "config.json", "run.json", "metrics.jsonl", ".lock"
UNLOGGED = "unlogged.jsonl"
COMPARISON = "comparison.json"  # Of a folder that holds the runs of a comparison.
IMPORTED = "huggingface"  # Files of the checkpoint that a run was imported from.
POOLER = "pooler.npz"  # There: the tanh layer that reads [CLS].

# Fields that may change when a run is resumed: none of them changes what is trained.
# eval.batch_size changes which held-out rows are read, but a run that has too little
# memory for an evaluation could not be resumed otherwise.
RESUMABLE = (
    "parallel.",
    "checkpoint.",
    "train.log_every_steps",
    "train.num_microbatches",
    "train.spike_deviations",
    "train.hang_seconds",
    "eval.batch_size",
    "data.cache_dir",
    "data.num_workers",
)


class InUseError(UserError):
    """Another process holds the workdir."""


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the workdir for one process; the lock ends with the process.

    Raises:
      InUseError: if another process holds it, saying which.
      UserError: if the folder cannot be written.
    """
    if jax.process_index() != 0:
        yield
        return
    with contextlib.ExitStack() as held:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            held.enter_context(locking.locked(workdir / LOCK, wait=False))
        except locking.HeldError as error:
            raise InUseError(
                f"workdir {workdir} is in use by {error}. Wait for it, stop it, or "
                "choose another workdir."
            ) from None
        except OSError as error:
            raise UserError(
                f"workdir {workdir} cannot be written: {error.strerror}. Choose another."
            ) from error
        yield


def check_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Refuses to resume a run with another config.

    Raises:
      UserError: listing the fields that differ and may not.
    """
    check_kind(workdir, kinds.RUN)
    if not (workdir / CONFIG).is_file():
        return
    if reason := saved.refusal(_read_config(workdir)):
        raise UserError(
            f"workdir {workdir}{written_by(workdir)}: {reason}. Choose another workdir, "
            f"or go on with that version."
        )
    different = differing_fields(load_config(workdir), config)
    refused = {
        name: values
        for name, values in different.items()
        if not name.startswith(RESUMABLE)
    }
    if refused:
        listed = "\n".join(
            f"  config.{name}: {old!r} there, {new!r} now"
            for name, (old, new) in refused.items()
        )
        raise UserError(
            f"workdir {workdir} holds a run of another config{written_by(workdir)}:\n"
            f"{listed}\n"
            f"Set these back to go on with it, or choose another workdir."
        )


def check_kind(folder: pathlib.Path, kind: kinds.Kind) -> None:
    """Refuses a folder that holds another kind of work, whose files would be lost.

    Raises:
      UserError: naming what it holds.
    """
    if (folder / COMPARISON).exists():
        found: kinds.Kind | None = kinds.COMPARISON
    elif (folder / CONFIG).exists():
        found = kinds.of(_read_config(folder))
    else:
        return
    if found is not kind:
        raise UserError(
            f"workdir {folder} holds {found.name if found else 'another config'}, and "
            f"{kind.name} needs a folder of its own: choose another --workdir."
        )


def load_run(workdir: pathlib.Path) -> RunConfig:
    """The checked config of the run in a workdir.

    Raises:
      UserError: if there is none, or another version wrote it and this one cannot read
        it, saying which.
    """
    config = load_config(workdir)
    try:
        return parse(config)
    except UserError as error:
        raise UserError(
            f"the run in {workdir}{written_by(workdir)} cannot be read: {error}"
        ) from error


def written_by(folder: pathlib.Path) -> str:
    """' (written by commit 1234567, not by this version)', for messages; or ''.

    Args:
      folder: workdir of a run, or of a comparison, which holds several.
    """
    for path in (folder / RUN, *sorted(folder.rglob(RUN))):
        if sessions := _sessions(path):
            commit = sessions[-1].get("commit", "")
            if commit and commit != provenance.commit():
                return f" (written by commit {commit}, not by this version)"
            return ""
    return ""


def imported_ends(workdir: pathlib.Path) -> tuple[int, ...]:
    """Ids that end a text, as the files say that an imported run came with."""
    for name in ("generation_config.json", "config.json"):
        path = workdir / IMPORTED / name
        ends = files.read_json(path).get("eos_token_id") if path.exists() else None
        if ends is not None:
            return tuple(ends) if isinstance(ends, list) else (ends,)
    return ()


def load_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """The config of the run in a workdir, with the fields that were added since.

    Raises:
      UserError: if there is none.
    """
    return ml_collections.ConfigDict(plain(saved.complete(_read_config(workdir))))


def _read_config(workdir: pathlib.Path) -> dict[str, Any]:
    if not (workdir / CONFIG).is_file():
        raise UserError(f"{workdir} is not the workdir of a run: no {CONFIG}.")
    checksums.check(workdir, CONFIG)
    return files.read_json(workdir / CONFIG)


def save_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Writes config.json."""
    write_json(workdir / CONFIG, plain(config))


def write_json(path: pathlib.Path, values: Any) -> None:
    """Writes a JSON file of a workdir, and its checksum."""
    with writing(path):
        checksums.write(path, json.dumps(values, indent=2) + "\n")


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turns an OSError inside into a message with the file and what to do.

    Raises:
      UserError: for an OSError inside, whose own message names no file.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}. Fix that and run "
            f"the same command again to go on from the last checkpoint."
        ) from error


def add_session(workdir: pathlib.Path, step: int) -> None:
    """Appends a session that starts at `step` to run.json.

    Raises:
      UserError: if the file is damaged, or cannot be written.
    """
    path = workdir / RUN
    sessions = _sessions(path)
    sessions.append(
        {
            "step": step,
            "time": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
            "command": sys.argv,
            **provenance.provenance(),
        }
    )
    write_json(path, {"sessions": sessions})


def _sessions(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        checksums.check(path.parent, path.name)
        return files.read_json(path, sessions=list)["sessions"]
    except files.Damaged as error:
        raise UserError(
            f"{error} {path} holds only the record of earlier sessions: delete it to go "
            f"on."
        ) from error


def trim_metrics(
    workdir: pathlib.Path, step: int
) -> tuple[float, Mapping[str, tuple[float, float]]]:
    """Deletes lines of metrics.jsonl after a step, and a line cut short by a kill.

    The resumed run logs these steps again.

    Returns:
      Seconds of training up to the step, and sums of the steps after its last line.

    Raises:
      Damaged: if the lines are not those that were written.
    """
    kept = [line for line in read_metrics(workdir) if line["step"] <= step]
    unlogged = [line for line in _lines(workdir / UNLOGGED) if line["step"] == step]
    for name, lines in ((METRICS, kept), (UNLOGGED, unlogged)):
        if (workdir / name).is_file():
            with writing(workdir / name):
                text = "".join(json.dumps(line) + "\n" for line in lines)
                checksums.write(workdir / name, text)
    nothing: dict[str, Any] = {"seconds": 0.0, "sums": {}}
    last = unlogged[-1] if unlogged else nothing
    seconds = [last["seconds"], *(line.get("seconds", 0.0) for line in kept)]
    return max(seconds), last["sums"]


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without one that a kill cut short.

    Raises:
      Damaged: if they are not those that were written.
    """
    return _lines(workdir / METRICS)


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    checksums.check(path.parent, path.name)
    try:
        return files.read_json_lines(path, appended=True, step=int)
    except files.Damaged as error:
        raise files.Damaged(f"{error} Delete the line to go on without it.") from error
