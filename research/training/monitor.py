"""Reports the metrics of steps: log lines, files, warnings, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

from research.config.sections import OptimizerConfig, TrainConfig
from research.errors import UserError
from research.machine import devices
from research.training import metrics
from research.training.guards import SpikeDetector
from research.training.step import StepMetrics

# Share of rows without any target of a term from which on the run says so.
MANY_WITHOUT_TARGETS = 0.25


class NonFinite(UserError):
    """Loss or gradients were not finite more often than the config allows."""


class Monitor:
    """Reports each step while the device computes the next one.

    Args:
      switches: steps at which the objective changes: a line ends there, and the loss may
        jump.
      writer: where values go; None on hosts that write nothing.
      seconds_before: training time of earlier sessions.
      unlogged: sums of the steps that earlier sessions took after their last line.
      flops_per_token: of training at a step, for TFLOP/s and MFU.
      last_checkpoint: returns the step of the newest checkpoint.
    """

    def __init__(
        self,
        *,
        train: TrainConfig,
        optimizer: OptimizerConfig,
        row_length: int,
        terms: tuple[str, ...],
        switches: tuple[int, ...],
        writer: metrics.Writer | None,
        say: Callable[[str], None],
        first_step: int,
        seconds_before: float,
        unlogged: Mapping[str, tuple[float, float]],
        flops_per_token: Callable[[int], float],
        last_checkpoint: Callable[[], int | None],
    ):
        self._train = train
        self._optimizer = optimizer
        self._tokens_per_step = train.batch_size * row_length
        self._terms = terms
        self._switches = switches
        self._writer = writer
        self._say = say
        self._flops_per_token = flops_per_token
        self._last_checkpoint = last_checkpoint
        self._peak = devices.peak_flops()
        self._spikes = SpikeDetector(train.spike_deviations)
        self._means = metrics.Means()
        self._means.add(unlogged)
        self._pending: tuple[int, StepMetrics] | None = None
        self._first_step = first_step
        self._logged_step = first_step
        self._seconds = seconds_before
        self._session_seconds = 0.0
        self._start = time.perf_counter()
        self._waited = 0.0
        self._paused = 0.0
        self.values: dict[str, float] = {}
        self._warned: set[str] = set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for input."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Does not count the time inside as training: evaluations, checkpoints."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def start(self) -> None:
        """Starts the clock of training."""
        self._start = time.perf_counter()

    def add(self, step: int, step_metrics: StepMetrics) -> None:
        """Takes a step that was just dispatched, and reports the one before it.

        Raises:
          NonFinite: if that one is not finite and may not be skipped.
        """
        for leaf in jax.tree.leaves(step_metrics):
            leaf.copy_to_host_async()
        previous, self._pending = self._pending, (step, step_metrics)
        if previous is not None:
            self._report(*previous)

    def catch_up(self) -> None:
        """Waits for the last step and reports it.

        Raises:
          NonFinite: if it is not finite and may not be skipped.
        """
        previous, self._pending = self._pending, None
        if previous is not None:
            self._report(*previous)

    def keep_unlogged(self, step: int) -> None:
        """Writes the sums and seconds that a run resumed at this step starts with."""
        if self._writer is not None:
            now = time.perf_counter()
            seconds = self._seconds + now - self._start - self._paused
            self._writer.write_unlogged(step, self._means.sums, seconds)

    def _report(self, step: int, step_metrics: StepMetrics) -> None:
        fetched: StepMetrics = jax.device_get(step_metrics)
        if fetched.finite:
            self._means.add(fetched.sums)
            loss = float(fetched.sums["loss"][0])
            median = self._spikes.add(loss)
            if median is not None:
                self._say(
                    f"step {step}  warning: the loss jumped to {loss:.3f}, its recent "
                    f"median is {median:.3f}"
                )
        else:
            self._not_finite(step, fetched)
        ends = (self._train.num_train_steps, *self._switches)
        if step % self._train.log_every_steps == 0 or step in ends:
            self._log(step)
        if step in self._switches:
            self._spikes = SpikeDetector(self._train.spike_deviations)

    def _not_finite(self, step: int, fetched: StepMetrics) -> None:
        allowed = self._train.max_skipped_steps
        skipped = int(fetched.skipped)
        what = (
            f"loss {float(fetched.sums['loss'][0])}, gradient norm "
            f"{float(fetched.sums['grad_norm'][0])}"
        )
        if skipped <= allowed:
            self._say(
                f"step {step}  warning: skipped, {what} (skipped {skipped} of {allowed} "
                f"allowed)"
            )
            return
        checkpoint = self._last_checkpoint()
        saved = (
            "there is no checkpoint yet"
            if checkpoint is None
            else f"the last good checkpoint is of step {checkpoint}"
        )
        optimizer = self._optimizer
        raise NonFinite(
            f"step {step} is not finite: {what}; {saved}. What to try: a lower "
            f"config.optimizer.learning_rate (it was {optimizer.learning_rate:g}) or a "
            f"longer warmup_steps ({optimizer.warmup_steps}), a smaller clip_norm "
            f"({optimizer.clip_norm:g}), float32 for config.model.dtype, or "
            f"config.train.max_skipped_steps above {allowed} if it is a rare batch; "
            f"config.train.init_from begins a new run from this one's checkpoint."
        )

    def _log(self, step: int) -> None:
        values = self._means.values()
        values |= self._speed(step)
        self._means.clear()
        self._logged_step = step
        if "loss" not in values:  # Every step since the last line was skipped.
            return
        self.values = values
        self._warn_of_rows_without_targets(step)
        if self._writer is not None:
            self._writer.write(step, "train", values)
        total = self._train.num_train_steps
        seconds = self._session_seconds / (step - self._first_step)
        self._say(
            metrics.progress_line(
                step, total, values, self._terms, seconds * (total - step)
            )
        )

    def _warn_of_rows_without_targets(self, step: int) -> None:
        for name, share in self.values.items():
            many = name.endswith("_no_targets") and share > MANY_WITHOUT_TARGETS
            if many and name not in self._warned:
                self._warned.add(name)
                self._say(
                    f"step {step}  warning: {share:.0%} of the rows have no target of "
                    f"{name.removesuffix('_no_targets')} and teach it nothing; "
                    f"research.preview shows some"
                )

    def _speed(self, step: int) -> dict[str, float]:
        now = time.perf_counter()
        seconds = max(now - self._start - self._paused, 1e-9)
        steps = step - self._logged_step
        self._seconds += seconds
        self._session_seconds += seconds
        rate = steps * self._tokens_per_step / seconds
        flops = rate * self._flops_per_token(step - 1)
        speed: dict[str, Any] = {
            "tokens": step * self._tokens_per_step,
            "tokens_per_second": rate,
            "step_seconds": seconds / steps,
            "teraflops": flops / 1e12,
            "input_wait": self._waited / seconds,
            "seconds": self._seconds,
        }
        if self._peak is not None:
            speed["mfu"] = flops / self._peak
        self._start, self._waited, self._paused = now, 0.0, 0.0
        return speed
