"""Runs of `python -m research.pretrain` that can be killed at any moment."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

from research.training import workdir
from tests.research.training import tiny

ROOT = pathlib.Path(__file__).parent.parent.parent
EXPERIMENT = """
from tests.research.training import tiny

def get_config():
    return tiny.config(
        data__source={corpus!r},
        data__cache_dir={cache!r},
        data__heldout_fraction=0.1,
        train__num_train_steps={steps},
        train__log_every_steps=1,
        eval__every_steps=10,
        checkpoint__every_steps={interval},
    )
"""
# Of numbers that clocks give.
CLOCKS = ("tokens_per_second", "step_seconds", "teraflops", "input_wait", "seconds")


@dataclasses.dataclass
class Ended:
    """A process that ended.

    Attributes:
      code: its exit code; -9 if it was killed.
      lines: of its standard output.
      errors: its standard error.
    """

    code: int
    lines: list[str]
    errors: str

    @property
    def last_step(self) -> int:
        """The last step it reported, 0 if none."""
        steps = [
            int(line.split()[1].partition("/")[0])
            for line in self.lines
            if line.startswith("step ") and line.split()[1].partition("/")[0].isdigit()
        ]
        return max(steps, default=0)

    @property
    def first_step(self) -> int:
        """The step it went on from."""
        for line in self.lines:
            if line.startswith("going on from the checkpoint of step "):
                return int(line.split()[-1])
        return 0


class Runs:
    """Runs of one experiment in several workdirs, sharing every cache."""

    def __init__(self, folder: pathlib.Path, *, steps: int, interval: int):
        self.folder = folder
        self.steps = steps
        self.interval = interval
        corpus = tiny.write_corpus(folder / "corpus")
        self.experiment = folder / "experiment.py"
        self.experiment.write_text(
            EXPERIMENT.format(
                corpus=corpus,
                cache=str(folder / "cache"),
                steps=steps,
                interval=interval,
            )
        )

    def start(
        self, name: str, *, before: str = "", overrides: tuple[str, ...] = ()
    ) -> subprocess.Popen:
        """Starts a run; `before` is Python that runs first in its process."""
        code = f"{before}\nimport runpy\nrunpy.run_module('research.pretrain', "
        code += "run_name='__main__', alter_sys=True)"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                code,
                f"--config={self.experiment}",
                f"--workdir={self.folder / name}",
                *overrides,
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=open(self.folder / f"{name}.stderr", "w"),
            text=True,
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen, name: str, lines: list[str]) -> Ended:
        """Reads what is left until the process has ended."""
        assert process.stdout is not None
        lines += [line.rstrip("\n") for line in process.stdout]
        code = process.wait(timeout=600)
        errors = (self.folder / f"{name}.stderr").read_text()
        return Ended(code=code, lines=lines, errors=errors)

    def run(self, name: str, **settings) -> Ended:
        """A run to its end."""
        return self.end(self.start(name, **settings), name, [])

    def signalled(
        self, name: str, number: int, *, after_lines: int, delay: float
    ) -> Ended:
        """A run that gets a signal `delay` seconds after so many lines of progress."""
        process = self.start(name)
        assert process.stdout is not None
        lines: list[str] = []
        steps_seen = 0
        while steps_seen < after_lines:
            line = process.stdout.readline()
            if not line:
                break
            lines.append(line.rstrip("\n"))
            steps_seen += line.startswith("step ")
        time.sleep(delay)
        if process.poll() is None:
            os.killpg(process.pid, number)
        return self.end(process, name, lines)

    def killed(self, name: str, rng: random.Random) -> Ended:
        """kill -9 at a random moment: while starting, training or writing."""
        if rng.random() < 0.2:
            return self.signalled(
                name, signal.SIGKILL, after_lines=0, delay=rng.uniform(0.5, 8.0)
            )
        return self.signalled(
            name,
            signal.SIGKILL,
            after_lines=rng.randint(1, 2 * self.interval),
            delay=rng.uniform(0.0, 0.3),
        )

    def numbers(self, name: str) -> list[dict]:
        """metrics.jsonl without clocks."""
        return [
            {key: value for key, value in line.items() if key not in CLOCKS}
            for line in workdir.read_metrics(self.folder / name)
        ]
