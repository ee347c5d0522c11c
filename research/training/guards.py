"""Watches a run: signals to stop, losses that jump, steps that hang."""

from __future__ import annotations

import collections
import contextlib
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

import jax


class StopSignal:
    """Remembers a request to stop: SIGTERM, SIGHUP or the first Ctrl-C.

    A second Ctrl-C interrupts at once. Several hosts agree on the step to stop at
    through JAX's preemption service.
    """

    def __init__(self) -> None:
        self.name: str | None = None

    def at(self, step: int) -> bool:
        """Whether to stop after this step."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.name = "SIGTERM"
        return self.name is not None

    @property
    def exit_code(self) -> int:
        """0 for a preemption, which is not a failure; 130 for Ctrl-C."""
        return exit_code(self.name)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.name == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


def exit_code(signal_name: str | None) -> int:
    """Exit code of a process that a signal stopped; None = no signal."""
    return 130 if signal_name == "SIGINT" else 0


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignal]:
    """Turns SIGTERM, SIGHUP and Ctrl-C into a request while the context lasts.

    SIGHUP (the terminal has gone away) stays ignored under nohup.
    """
    stop = StopSignal()
    # Only the main thread can set handlers. Several hosts use the preemption service.
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or jax.process_count() > 1:
        yield stop
        return
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop._receive) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class SpikeDetector:
    """Detects losses far above those of recent steps.

    Args:
      deviations: a spike is so many scaled median absolute deviations above the median;
        0 = no loss is a spike.
      window: number of recent steps.
    """

    # For a normal variable, this times the median absolute deviation is the standard
    # deviation.
    _SCALE = 1.4826
    _LEAST = 20

    def __init__(self, deviations: float, window: int = 100):
        self._deviations = deviations
        self._recent: collections.deque[float] = collections.deque(maxlen=window)

    def add(self, loss: float) -> float | None:
        """The recent median if this loss is a spike, else None; spikes are not kept."""
        if self._deviations and len(self._recent) >= self._LEAST:
            median = statistics.median(self._recent)
            spread = statistics.median(abs(x - median) for x in self._recent)
            if loss > median + self._deviations * self._SCALE * max(spread, 1e-6):
                return median
        self._recent.append(loss)
        return None


class Watchdog:
    """Reports the stack of the program when a step or the work between steps hangs.

    Args:
      seconds: time after which work counts as hanging; 0 = never.
      say: receives the report.
    """

    def __init__(self, seconds: float, say: Callable[[str], None]):
        self._seconds = seconds
        self._say = say
        self._watched = threading.get_ident()
        self._beat = time.monotonic()
        self._what = "the first step"
        self._reported = False
        self._stop = threading.Event()
        if seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, what: str) -> None:
        """Restarts the clock; the program now does `what`."""
        self._what = what
        self._beat = time.monotonic()
        self._reported = False

    def close(self) -> None:
        """Stops watching."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(min(self._seconds / 4, 10.0)):
            late = time.monotonic() - self._beat
            if late > self._seconds and not self._reported:
                self._reported = True
                self._say(self._report(late))

    def _report(self, late: float) -> str:
        frame = sys._current_frames().get(self._watched)
        stack = "".join(traceback.format_stack(frame)[-8:]) if frame else ""
        return (
            f"{self._what} has taken {late:.0f} s (train.hang_seconds = "
            f"{self._seconds:g}). With several hosts or devices the usual cause is one "
            f"that does not answer. The stack of this program:\n{stack}"
        )
