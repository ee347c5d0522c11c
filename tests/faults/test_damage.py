"""Every file of a workdir, damaged in every way, before the run goes on.

The run is then refused in one message that names the file, or its parameters are those of
a run that was never damaged, bit for bit.
"""

from __future__ import annotations

import gc
import os
import pathlib
import shutil
import signal
from collections.abc import Callable

import jax
import numpy as np
import pytest

from research.errors import UserError
from research.training import checkpoints, pretraining, workdir
from tests.research.training import tiny

CLOCKS = ("tokens_per_second", "step_seconds", "teraflops", "input_wait", "seconds")


def flipped(path: pathlib.Path, other: pathlib.Path) -> None:
    """The lowest bit of the middle byte: '2' becomes '3', 'b' becomes 'c'."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: pathlib.Path, other: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: pathlib.Path, other: pathlib.Path) -> None:
    path.write_bytes(b"")


def foreign(path: pathlib.Path, other: pathlib.Path) -> None:
    """The file of a run with another seed and tokenizer."""
    shutil.copy(other, path)


DAMAGES: tuple[Callable[[pathlib.Path, pathlib.Path], None], ...] = (
    flipped,
    cut,
    emptied,
    foreign,
)

# One message that names the file, or the run if it could be another run's.
REFUSED = "refused"
# One line says which checkpoint is damaged, and the one before it is used.
ASIDE = "set aside"
# Nothing is said; parameters and metrics.jsonl are as if never damaged.
HARMLESS = "harmless"

ALL_REFUSED = (REFUSED,) * 4
ALL_ASIDE = (ASIDE,) * 4
ALL_HARMLESS = (HARMLESS,) * 4

# Pattern of files of the workdir -> what comes of each of DAMAGES. What a run reads again
# when it goes on stands in the first part, its newest checkpoint in the second.
OUTCOMES = {
    "config.json": ALL_REFUSED,
    "data.json": ALL_REFUSED,
    "run.json": ALL_REFUSED,
    "checksums.json": ALL_REFUSED,
    "tokenizer/tokenizer.json": ALL_REFUSED,
    # Equal in both runs.
    "tokenizer/special_tokens_map.json": (REFUSED, REFUSED, REFUSED, HARMLESS),
    "tokenizer/unigram_counts.npy": ALL_REFUSED,
    "tokenizer/checksums.json": ALL_REFUSED,
    "events.out.tfevents.*": ALL_HARMLESS,
    "metrics.jsonl": ALL_REFUSED,
    "unlogged.jsonl": ALL_REFUSED,
}
PARTS = ("params", "progress")
OUTCOMES_OF_A_CHECKPOINT = {
    "_CHECKPOINT_METADATA": (HARMLESS, ASIDE, ASIDE, HARMLESS),
    "commit_success.txt": ALL_HARMLESS,
    "metrics/metrics": (HARMLESS, ASIDE, ASIDE, HARMLESS),
    "metrics/commit_success.txt": ALL_HARMLESS,
} | {
    f"{part}/{pattern}": outcomes
    for part in PARTS
    for pattern, outcomes in {
        "commit_success.txt": ALL_HARMLESS,
        # Equal in all runs of one model.
        "_sharding": (ASIDE, ASIDE, ASIDE, HARMLESS),
        "_METADATA": ALL_ASIDE,
        "array_metadatas/process_0": ALL_ASIDE,
        "checksums.json": ALL_ASIDE,
        "manifest.ocdbt": ALL_ASIDE,
        "ocdbt.process_0/manifest.ocdbt": ALL_ASIDE,
        "d/*": ALL_ASIDE,
        "ocdbt.process_0/d/*": ALL_ASIDE,
    }.items()
}


class Runs:
    """A run that was stopped, another one that was, and the first one as it ends.

    Both stop after a checkpoint whose last steps are in no line of metrics.jsonl yet.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        tiny.write_corpus(folder / "corpus", 100)
        self.train("other", stop=True)
        self.train("run", stop=True)
        steps = checkpoints.steps_in(folder / "run/checkpoints")
        assert len(steps) == 2
        self.newest = f"checkpoints/{steps[-1]}"
        self.start("whole")
        self.train("whole")
        self.whole = self.results("whole")

    def start(self, name: str) -> pathlib.Path:
        """A copy of the stopped run."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(self.folder / "run", self.folder / name)
        return self.folder / name

    def train(self, name: str, *, stop: bool = False) -> list[str]:
        """Begins a run or goes on with it; returns what was said."""
        other = {"train__seed": 1, "data__tokenizer__vocab_size": 500}
        config = tiny.config(
            data__source=str(self.folder / "corpus"),
            data__cache_dir=str(self.folder / "cache"),
            data__heldout_fraction=0.1,
            train__num_train_steps=6,
            train__log_every_steps=3,
            eval__every_steps=1,
            checkpoint__every_steps=2,
            **(other if name == "other" else {}),
        )
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            if stop and line.startswith("step 4  held-out"):
                os.kill(os.getpid(), signal.SIGTERM)

        pretraining.pretrain(config, self.folder / name, say=say)
        return said

    def results(self, name: str) -> tuple[list[np.ndarray], list[dict]]:
        """Parameters, and what metrics.jsonl tells without clocks."""
        folder = self.folder / name
        params, _ = checkpoints.load_params(folder / "checkpoints")
        numbers = [
            {field: value for field, value in line.items() if field not in CLOCKS}
            for line in workdir.read_metrics(folder)
        ]
        return jax.tree.leaves(params), numbers

    def outcome(self, file: str, damage: Callable[..., None]) -> str:
        """Damages one file of a copy and goes on; REFUSED and so on, or what is wrong."""
        folder = self.start("damaged")
        damage(folder / file, self._counterpart(file))
        try:
            said = self.train("damaged")
        except UserError as error:
            return REFUSED if str(folder) in str(error) else str(error)
        finally:
            gc.collect()  # Of compiled programs: a process can map so many.
        (params, numbers), (right, lines) = self.results("damaged"), self.whole
        if not all(map(np.array_equal, params, right)):
            return "other parameters"
        if any("is damaged" in line for line in said):
            return ASIDE if numbers == lines else "another record"
        return HARMLESS if numbers == lines else "another record"

    def _counterpart(self, file: str) -> pathlib.Path:
        """The same file of the other run; files with names of their own by number."""
        other = self.folder / "other" / file
        if other.exists():
            return other
        mine = sorted((self.folder / "run" / file).parent.iterdir())
        theirs = sorted(other.parent.iterdir())
        return theirs[mine.index(self.folder / "run" / file) % len(theirs)]

    def fitting(self, pattern: str) -> list[str]:
        """Files of the workdir that a pattern means."""
        found = (self.folder / "run").glob(pattern)
        return [str(path.relative_to(self.folder / "run")) for path in sorted(found)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with tiny.shared_steps():
        yield Runs(tmp_path_factory.mktemp("damage"))


@pytest.mark.parametrize("pattern", OUTCOMES)
def test_files_of_a_run(runs, pattern):
    assert_outcomes(runs, pattern, OUTCOMES[pattern])


@pytest.mark.slow
@pytest.mark.parametrize("pattern", OUTCOMES_OF_A_CHECKPOINT)
def test_files_of_the_newest_checkpoint(runs, pattern):
    outcomes = OUTCOMES_OF_A_CHECKPOINT[pattern]
    assert_outcomes(runs, f"{runs.newest}/{pattern}", outcomes)


def assert_outcomes(runs: Runs, pattern: str, expected: tuple[str, ...]) -> None:
    files = runs.fitting(pattern)
    assert files
    for file in files:
        for damage, outcomes in zip(DAMAGES, expected, strict=True):
            found = runs.outcome(file, damage)
            assert found in outcomes.split("|"), f"{file} {damage.__name__}: {found}"


def test_every_file_is_in_a_table(runs):
    patterns = [
        ".lock",
        *OUTCOMES,
        *(f"{runs.newest}/{pattern}" for pattern in OUTCOMES_OF_A_CHECKPOINT),
    ]
    known = {file for pattern in patterns for file in runs.fitting(pattern)}
    run = runs.folder / "run"
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    older = {f for f in files if f.startswith("checkpoints/") and runs.newest not in f}
    assert files - older <= known
