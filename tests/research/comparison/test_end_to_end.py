"""A whole comparison from the command line: killed, resumed, shared, rebuilt."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from research.comparison import results

ROOT = pathlib.Path(__file__).parents[3]
TIMES = ("seconds", "tokens_per_second")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents of plain sentences from a small grammar."""
    rng = np.random.default_rng(0)
    nouns = ["cat", "dog", "bird", "house", "river", "child", "tree", "stone"]
    verbs = ["sees", "finds", "likes", "follows", "hears", "leaves"]
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    documents = []
    for _ in range(400):
        lines = []
        for _ in range(rng.integers(3, 7)):
            first, second, third = rng.choice(nouns, 3)
            where = rng.choice(["near", "under", "behind"])
            verb = rng.choice(verbs)
            lines.append(f"The {first} {verb} the {second} {where} the {third}.")
        documents.append(" ".join(lines))
    path.write_text("\n\n".join(documents) + "\n")
    return path


def command(corpus, workdir, *changes):
    return [
        sys.executable,
        "-m",
        "research.compare",
        "--config=experiments/quickstart.py",
        f"--workdir={workdir}",
        f"--config.shared.data.source={corpus}",
        f"--config.shared.data.cache_dir={corpus.parent / 'cache'}",
        "--config.shared.data.tokenizer.vocab_size=400",
        "--config.shared.data.row_length=32",
        "--config.shared.data.heldout_fraction=0.2",
        "--config.shared.model.emb_dim=32",
        "--config.shared.model.mlp_dim=64",
        "--config.budget.amount=200000",
        "--config.evaluations.acceptability.sampling.num_train=60",
        "--config.evaluations.acceptability.sampling.num_test=40",
        "--config.evaluations.acceptability.finetune.num_epochs=1",
        *changes,
    ]


def run(corpus, workdir, *changes):
    return subprocess.run(
        command(corpus, workdir, *changes),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """A comparison that was never stopped."""
    workdir = tmp_path_factory.mktemp("finished")
    done = run(corpus, workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir


def numbers(workdir):
    """Every number of results.csv that is no time."""
    with (workdir / "results.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["metric"] not in TIMES]


def test_all_arms_learn_and_the_report_is_there(finished):
    found = results.load(finished)
    assert not found.problems
    for arm in found.config.arms:
        (done,) = found.finished_runs(arm.name)
        assert done.summary["heldout_loss"] < done.summary["unigram_loss"]
        assert done.summary["flops"] > 0 and done.summary["utilisation"] > 0
    assert "Causal LM" in (finished / "report.md").read_text()
    assert (finished / "report.html").stat().st_size > 20_000


def test_killed_and_started_again_it_gives_the_same_numbers(finished, corpus, tmp_path):
    log = tmp_path / "log"
    for pause in (0.0, 8.0):
        with log.open("w") as file:
            worker = subprocess.Popen(
                command(corpus, tmp_path / "w"), cwd=ROOT, stdout=file, stderr=file
            )
        deadline = time.monotonic() + 600
        while "held-out" not in log.read_text() and worker.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(pause)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    done = run(corpus, tmp_path / "w")
    assert done.returncode == 0, done.stdout + done.stderr
    assert numbers(tmp_path / "w") == numbers(finished)
    whole, resumed = results.load(finished), results.load(tmp_path / "w")
    for key, run_ in whole.runs.items():
        for curve in ("train", "heldout"):
            before, after = getattr(run_, curve), getattr(resumed.runs[key], curve)
            np.testing.assert_array_equal(before.steps, after.steps)
            np.testing.assert_array_equal(before.losses, after.losses)


def test_a_polite_stop_leaves_a_report_of_what_there_is(corpus, tmp_path):
    log = tmp_path / "log"
    with log.open("w") as file:
        worker = subprocess.Popen(
            command(corpus, tmp_path / "w"), cwd=ROOT, stdout=file, stderr=file
        )
    deadline = time.monotonic() + 600
    while "held-out" not in log.read_text() and worker.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    worker.send_signal(signal.SIGTERM)
    # A preemption is no failure.
    assert worker.wait(120) == 0
    assert "Incomplete" in (tmp_path / "w" / "report.md").read_text()


def test_a_budget_of_seconds_measures_its_rate_once(corpus, tmp_path):
    changes = (
        "--config.budget.axis=device_seconds",
        "--config.budget.amount=2",
        "--config.evaluations.acceptability.sampling.num_train=40",
    )
    done = run(corpus, tmp_path, *changes)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results.load(tmp_path)
    rates = {p.parent.name: p.read_text() for p in tmp_path.glob("rates/*/done.json")}
    assert set(rates) == {arm.name for arm in found.config.arms}
    again = run(corpus, tmp_path, *changes)
    assert again.returncode == 0
    assert rates == {
        p.parent.name: p.read_text() for p in tmp_path.glob("rates/*/done.json")
    }


def test_mistakes_are_one_message(corpus, tmp_path):
    wrong = run(corpus, tmp_path / "x", "--config.budget.amont=3")
    assert wrong.returncode == 2
    assert "amount" in wrong.stderr and "Traceback" not in wrong.stderr
    small = run(corpus, tmp_path / "x", "--config.budget.amount=1000")
    assert small.returncode == 2
    assert "cannot share a budget" in small.stderr
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    report = subprocess.run(
        [sys.executable, "-m", "research.report", f"--workdir={tmp_path}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.returncode == 2 and "holds no comparison" in report.stderr
