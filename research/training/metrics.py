"""Metrics of a run: means over steps, progress lines, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from research.machine import checksums, files
from research.training.workdir import METRICS, UNLOGGED, writing


class Means:
    """Adds (sum, weight) pairs over steps; a mean is divided once."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, sums: Mapping[str, tuple[Any, Any]]) -> None:
        """Adds the pairs of one step, as numbers on the host."""
        for name, (value, weight) in sums.items():
            old_value, old_weight = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = old_value + float(value), old_weight + float(weight)

    def values(self) -> dict[str, float]:
        """The mean of every name that has weight."""
        return {
            name: value / weight
            for name, (value, weight) in self._sums.items()
            if weight > 0
        }

    @property
    def sums(self) -> dict[str, tuple[float, float]]:
        """The sums since the beginning or the last `clear`."""
        return dict(self._sums)

    def clear(self) -> None:
        """Forgets all sums."""
        self._sums = {}


class Writer:
    """Writes metrics.jsonl and the TensorBoard event file of one session.

    TensorBoard hides values of earlier sessions from `first_step` on. Every method raises
    a UserError if the files cannot be written.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int):
        # This imports torch where it is installed, which takes a second.
        from tensorboardX.event_file_writer import EventsWriter

        self._path = workdir / METRICS
        self._unlogged = workdir / UNLOGGED
        with writing(self._path):
            self._lines = open(self._path, "a")  # noqa: SIM115
            # SummaryWriter would write in a thread: on a full disk that thread dies,
            # and then its queue blocks training.
            self._events = EventsWriter(str(workdir / "events"), f".{os.getpid()}")
            self._write_event(first_step, session_log={"status": "START"})

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Adds one object with `step`, `split` ('train' or 'eval') and the values.

        Raises:
          UserError: if the disk is full.
        """
        # JSON has no NaN; a value that is not finite is null.
        safe = {n: v if math.isfinite(v) else None for n, v in values.items()}
        line = json.dumps({"step": step, "split": split, **safe}, allow_nan=False)
        with writing(self._path):
            self._lines.write(line + "\n")
            self._lines.flush()
            scalars = [
                {"tag": f"{split}/{name}", "simple_value": value}
                for name, value in values.items()
            ]
            self._write_event(step, summary={"value": scalars})

    def _write_event(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(step=step, wall_time=time.time(), **content)
        self._events.write_event(event)
        self._events.flush()

    def write_unlogged(
        self, step: int, sums: Mapping[str, tuple[float, float]], seconds: float
    ) -> None:
        """Writes the sums since the last 'train' line, for a run that resumes here."""
        line = json.dumps({"step": step, "seconds": seconds, "sums": sums})
        with writing(self._unlogged):
            files.append_line(self._unlogged, line)
            checksums.record(self._path.parent, METRICS, UNLOGGED)

    def close(self) -> None:
        """Closes both files."""
        # Closing writes what is buffered, which may fail on a full disk.
        with writing(self._path), contextlib.closing(self._events):
            self._lines.close()
            checksums.record(self._path.parent, METRICS)


def progress_line(
    step: int,
    num_steps: int,
    values: Mapping[str, float],
    terms: tuple[str, ...],
    seconds_left: float,
) -> str:
    """The progress line of one step, e.g.

    step  120/1000  loss 6.412 (mlm 5.73, nsp 0.68)  lr 9.1e-04  grad 1.20
    42.1k tokens/s  88.1 ms a step  515.2 TFLOP/s  MFU 52%  input 0.1%  3m12s left
    """
    parts = [f"step {step:>{len(str(num_steps))}}/{num_steps}"]
    parts.append(f"loss {values['loss']:.3f}{_terms(values, terms)}")
    parts.append(f"lr {values['learning_rate']:.1e}")
    parts.append(f"grad {values['grad_norm']:.2f}")
    parts.append(f"{short(values['tokens_per_second'])} tokens/s")
    parts.append(f"{short_seconds(values['step_seconds'])} a step")
    parts.append(flop_rate(1e12 * values["teraflops"]))
    if "mfu" in values:
        parts.append(f"MFU {values['mfu']:.0%}")
    parts.append(f"input {values['input_wait']:.1%}")
    parts.append(f"{duration(seconds_left)} left")
    return "  ".join(parts)


def _terms(values: Mapping[str, float], terms: tuple[str, ...]) -> str:
    """' (mlm 5.73, nsp 0.68)'; nothing for a single term, which is the loss."""
    if len(terms) < 2:
        return ""
    return f" ({', '.join(f'{t} {values[t]:.3f}' for t in terms if t in values)})"


def short(number: float) -> str:
    """42100 as '42.1k'."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def flop_rate(flops_per_second: float) -> str:
    """5.152e14 as '515.2 TFLOP/s'."""
    for unit, size in (("T", 1e12), ("G", 1e9)):
        if flops_per_second >= size:
            return f"{flops_per_second / size:.1f} {unit}FLOP/s"
    return f"{flops_per_second / 1e6:.1f} MFLOP/s"


def short_seconds(seconds: float) -> str:
    """0.0881 as '88.1 ms', 4.6 as '4.6 s'."""
    return f"{1e3 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def duration(seconds: float) -> str:
    """3725 as '1h02m', 192 as '3m12s'."""
    seconds = max(round(seconds), 0)
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
