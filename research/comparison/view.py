"""Shows the progress of a comparison while it runs.

In a terminal, a small table that is redrawn in place: every arm and seed, what is being
done, the run's own line of progress, and the time left. Elsewhere, a line for every job
that begins or ends.
"""

from __future__ import annotations

import pathlib
import statistics
import time
from collections import defaultdict
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from research.comparison import arms as arms_lib
from research.comparison import budgets, jobs, outcomes
from research.comparison.config import ComparisonConfig
from research.comparison.jobs import Job
from research.comparison.report import formats

_MARKS = {"done": "●", "failed": "✗", "running": "◐", "left": "○"}


class View:
    """Progress of the jobs of this process; a context manager."""

    def __init__(self, config: ComparisonConfig, workdir: pathlib.Path):
        self._config = config
        self._workdir = workdir
        self._plan = jobs.plan(config)
        self._console = Console(stderr=False)
        self._live: Live | None = None
        self._job: Job | None = None
        self._line = ""
        self._started = time.monotonic()
        self._job_started = self._started
        # Seconds that finished jobs of a kind took, those of earlier sessions included.
        self._durations: dict[tuple[str, str | None], list[float]] = defaultdict(list)
        for job in self._plan:
            seconds = _seconds_taken(workdir / job.folder)
            if seconds is not None:
                self._durations[job.kind, job.evaluation].append(seconds)
        self._is_waiting = False

    def __enter__(self) -> Self:
        print(opening(self._config), flush=True)
        if self._console.is_terminal:
            self._live = Live(
                self, console=self._console, refresh_per_second=2, transient=True
            )
            self._live.start()
        else:
            print(self._summary(), flush=True)
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, job: Job) -> None:
        """A job of this process begins."""
        self._job, self._line = job, ""
        self._job_started = time.monotonic()
        self._is_waiting = False
        if self._live is None:
            print(f"{job.description} ...", flush=True)

    def say(self, line: str) -> None:
        """A line of the job's own progress, which is also added to its log.txt."""
        if self._job is not None:
            path = self._workdir / self._job.folder / "log.txt"
            with path.open("a") as file:
                file.write(line + "\n")
        self._line = line.splitlines()[-1] if line else ""
        if self._live is None and "held-out" in line:
            print(f"  {self._line.strip()}", flush=True)

    def end(self, job: Job, problem: str) -> None:
        """A job of this process has ended; `problem` is '' if it went well."""
        seconds = time.monotonic() - self._job_started
        self._job = None
        if not problem:
            self._durations[job.kind, job.evaluation].append(seconds)
        mark = "failed" if problem else "done"
        text = (
            f"{_MARKS[mark]} {job.description}: {problem or formats.duration(seconds)}"
        )
        if self._live is not None:
            self._live.console.print(Text(text))
        else:
            print(f"{text}. {self._summary()}", flush=True)

    def waiting(self) -> None:
        """Other processes are doing what is left."""
        if not self._is_waiting and self._live is None:
            print("waiting for jobs of other processes", flush=True)
        self._is_waiting = True

    def _summary(self) -> str:
        done = sum(self._state(job) == "done" for job in self._plan)
        text = f"{done} of {len(self._plan)} jobs done"
        left, spread, unknown = self.seconds_left()
        if left:
            text += f", about {formats.duration(left)} left"
        if spread >= 1:
            text += f" (± {formats.duration(spread)})"
        if left and unknown:
            text += f", and {formats.plural(unknown, 'job')} of kinds not yet seen"
        return text

    def seconds_left(self) -> tuple[float, float, int]:
        """An estimate from finished jobs of the same kind, for one process.

        Returns:
          Seconds, their standard deviation, and how many jobs are not in them, because
          none of their kind has finished yet.
        """
        total, variance, unknown = 0.0, 0.0, 0
        for job in self._plan:
            if self._state(job) in ("done", "failed"):
                continue
            durations = self._durations.get((job.kind, job.evaluation))
            if not durations:
                unknown += 1
                continue
            spent = time.monotonic() - self._job_started if job == self._job else 0.0
            total += max(statistics.fmean(durations) - spent, 0.0)
            if len(durations) > 1:
                variance += statistics.variance(durations)
        return total, variance**0.5, unknown

    def _state(self, job: Job) -> str:
        if job == self._job:
            return "running"
        folder = self._workdir / job.folder
        if outcomes.is_done(folder):
            return "done"
        return "failed" if outcomes.has_failed(folder) else "left"

    def __rich__(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("arm")
        columns = ["tuning"] if self._config.tuning.learning_rates else []
        columns += ["pretraining", *self._config.evaluations]
        for column in columns:
            table.add_column(column)
        for arm in self._config.arms:
            # As text: square brackets are no markup.
            label = Text(arm.label)
            table.add_row(label, *(self._cell(arm.name, c) for c in columns))
        elapsed = formats.duration(time.monotonic() - self._started)
        lines: list[Any] = [table, Text("")]
        if self._job is not None:
            lines.append(Text(self._job.description, style="bold"))
            lines.append(Text(self._line.strip(), overflow="ellipsis", no_wrap=True))
        elif self._is_waiting:
            lines.append(Text("waiting for jobs of other processes"))
        lines.append(Text(f"{self._summary()}, {elapsed} so far", style="dim"))
        return Group(*lines)

    def _cell(self, arm: str, column: str) -> str:
        kind = {"tuning": "trial", "pretraining": "run"}.get(column, "evaluation")
        chosen = [
            job
            for job in self._plan
            if job.arm == arm
            and job.kind == kind
            and (kind != "evaluation" or job.evaluation == column)
        ]
        return "".join(_MARKS[self._state(job)] for job in chosen)


def opening(config: ComparisonConfig) -> str:
    """What is compared: arms, seeds, budget; and which arms are confounded."""
    count = len(config.seeds)
    # Number and names, because --config.seeds=3 is the one seed 3, not three seeds.
    seeds = f"{count} seed{'s' * (count > 1)} ({', '.join(map(str, config.seeds))})"
    budget = f"{formats.large(config.budget.amount)} {budgets.AXES[config.budget.axis]}"
    arms = ", ".join(arm.name for arm in config.arms)
    lines = [
        f"{config.name}: {len(config.arms)} arms ({arms}), {seeds}, {budget} a run"
    ]
    reference = config.arm(config.primary.reference)
    lines += [
        f"note: {arm.name} differs from {reference.name} in more than one thing "
        f"({', '.join(things)}), so no difference can be put down to one of them"
        for arm in config.arms
        if (things := arms_lib.confounded(arm, reference))
    ]
    return "\n".join(lines)


def _seconds_taken(folder: pathlib.Path) -> float | None:
    """Time of a finished job; None if it has not finished, or its record is damaged."""
    try:
        return float(outcomes.read(folder / outcomes.DONE)["task_seconds"])
    except (OSError, KeyError, outcomes.DamagedError):
        return None
