"""Jobs are done once each, whatever fails, stops, or works beside them."""

import contextlib
import copy
import json
import multiprocessing
import os
import shutil
import signal
import time

import pytest

from research.comparison import (
    claims,
    jobs,
    outcomes,
    pretraining,
    results,
    runner,
    tuning,
)
from research.comparison.pretraining import Stopped
from research.comparison.report.figures import style
from research.config import saved
from research.errors import UserError
from research.evaluation.acceptability import Acceptability
from research.training import loop
from research.training import workdir as workdir_lib
from tests.research.comparison import fixtures


class Fakes:
    """Stands for the work of jobs: notes what was begun and makes results up."""

    def __init__(self, fails=(), stops_at=None):
        self.begun = []
        self.fails = fails
        self.stops_at = stops_at

    def __call__(self, config, job, workdir, say):
        self.begun.append(job.folder)
        with (workdir / "begun.txt").open("a") as file:
            file.write(f"{job.folder} {os.getpid()}\n")
        say(f"step 1 held-out loss of {job.folder}")
        if job.folder == self.stops_at:
            raise Stopped("SIGTERM", 143)
        if job.folder in self.fails:
            raise RuntimeError(f"broken {job.folder}")
        return fixtures.made_up(workdir / job.folder, config, job, {}, 0.01)


def install(monkeypatch, fakes):
    monkeypatch.setattr(runner, "EXECUTE", dict.fromkeys(jobs.KINDS, fakes))
    monkeypatch.setattr(runner.pretraining, "check_budget", lambda config: None)
    # Collecting the garbage of a whole test session takes a second a job.
    monkeypatch.setattr(runner.host_memory, "give_back", lambda: None)
    # There is no corpus to make sentences of.
    monkeypatch.setattr(Acceptability, "check_data", lambda self, run: None)
    # Figures take seconds.
    monkeypatch.setattr(style, "draw", lambda plot, folder, name: "<svg></svg>")
    return fakes


def test_everything_is_done_once_in_order(tmp_path, monkeypatch):
    fakes = install(monkeypatch, Fakes())
    config = fixtures.comparison()
    assert runner.run(config, tmp_path) == 0
    plan = [job.folder for job in jobs.plan(fixtures.config_lib.parse(config))]
    assert fakes.begun == plan
    assert not results.load(tmp_path).problems
    fakes.begun.clear()
    assert runner.run(config, tmp_path) == 0
    assert fakes.begun == []


def test_a_failed_job_is_tried_twice_and_its_successors_wait(tmp_path, monkeypatch):
    broken = "runs/masked_lm/seed-1"
    fakes = install(monkeypatch, Fakes(fails=[broken]))
    assert runner.run(fixtures.comparison(), tmp_path) == 1
    assert fakes.begun.count(broken) == outcomes.MAX_ATTEMPTS
    assert not any("masked_lm/seed-1/" in folder for folder in fakes.begun)
    found = results.load(tmp_path)
    states = {problem.job.folder: problem for problem in found.problems}
    assert states[broken].state == "failed"
    assert "broken runs/masked_lm/seed-1 (2 attempts)" in states[broken].detail
    assert "masked_lm, seed 1" in (tmp_path / "report.md").read_text()
    # The others are complete.
    assert len(found.finished_runs("masked_lm")) == 2
    assert len(found.finished_runs("causal_lm")) == 3


def test_nothing_waits_for_a_job_that_failed_two_steps_before(tmp_path, monkeypatch):
    fakes = install(monkeypatch, Fakes(fails=["rates/masked_lm"]))
    monkeypatch.setattr(runner.View, "waiting", lambda view: pytest.fail("waits"))
    config = fixtures.comparison(**{"budget.axis": "device_seconds"})
    config.tuning.update(learning_rates=(1e-4, 1e-3), seeds=(7,))
    assert runner.run(config, tmp_path) == 1
    begun = [folder for folder in fakes.begun if "masked_lm" in folder]
    assert begun == ["rates/masked_lm"] * outcomes.MAX_ATTEMPTS
    assert len(results.load(tmp_path).finished_runs("causal_lm")) == 3


def test_a_run_is_left_to_a_holder_that_lives_after_all(tmp_path, monkeypatch):
    busy = "runs/masked_lm/seed-1"
    fakes = install(monkeypatch, Fakes())

    def train(config, job, workdir, say):
        with workdir_lib.locked(workdir / job.folder):
            return fakes(config, job, workdir, say)

    monkeypatch.setitem(runner.EXECUTE, "run", train)
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(claims, "LEFT_ALONE_SECONDS", 1.0, raising=False)
    with contextlib.ExitStack() as holder:
        holder.enter_context(workdir_lib.locked(tmp_path / busy))
        monkeypatch.setattr(runner.View, "waiting", lambda view: holder.close())
        assert runner.run(fixtures.comparison(), tmp_path) == 0
    assert not outcomes.failures(tmp_path / busy)
    # Everything else was done in the meantime.
    last = fakes.begun[fakes.begun.index(busy) + 1 :]
    assert last and all("masked_lm/seed-1/" in folder for folder in last)


def test_a_stopped_comparison_goes_on_to_the_same_report(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = fixtures.comparison()
    install(monkeypatch, Fakes())
    assert runner.run(config, whole) == 0
    for folder in ("runs/causal_lm/seed-0", "runs/span_corruption/seed-2"):
        install(monkeypatch, Fakes(stops_at=folder))
        assert runner.run(config, parts) == 143
        assert not outcomes.is_done(parts / folder)
        assert "Incomplete" in (parts / "report.md").read_text()
    install(monkeypatch, Fakes())
    assert runner.run(config, parts) == 0
    for name in ("report.md", "report.html", "results.csv"):
        assert (whole / name).read_text() == (parts / name).read_text()


def test_learning_rates_are_chosen_from_trials_that_did_not_fail(tmp_path, monkeypatch):
    config = fixtures.comparison(seeds=(0,))
    config.tuning.update(learning_rates=(1e-4, 1e-3, 1e-2), seeds=(7,))
    broken = "tuning/masked_lm/lr-0.001/seed-7"
    fakes = install(monkeypatch, Fakes(fails=[broken]))
    assert runner.run(config, tmp_path) == 1
    found = results.load(tmp_path)
    assert tuning.best(found, "causal_lm") == 1e-3
    assert tuning.best(found, "masked_lm") in (1e-4, 1e-2)
    assert "runs/masked_lm/seed-0" in fakes.begun
    first_run = fakes.begun.index("runs/causal_lm/seed-0")
    assert all("causal_lm" not in f for f in fakes.begun[first_run:] if "tuning" in f)


def test_an_arm_whose_trials_all_failed_has_no_learning_rate(tmp_path, monkeypatch):
    config = fixtures.comparison(seeds=(0,))
    config.tuning.update(learning_rates=(1e-4, 1e-3), seeds=(7,))
    rates = ("0.0001", "0.001")
    broken = [f"tuning/masked_lm/lr-{rate}/seed-7" for rate in rates]
    install(monkeypatch, Fakes(fails=broken))
    runner.run(config, tmp_path)
    found = results.load(tmp_path)
    assert set(broken) <= {problem.job.folder for problem in found.problems}
    assert tuning.best(found, "masked_lm") is None
    assert tuning.best(found, "causal_lm") is not None


def test_a_run_that_diverged_or_never_learnt_has_failed(tmp_path, monkeypatch):
    config = fixtures.comparison(seeds=(0, 1))
    config.tuning.update(learning_rates=(1e-4, 1e-3), seeds=(7,))
    settings = fixtures.base.get_config()
    diverged, idle = "tuning/masked_lm/lr-0.001/seed-7", "runs/causal_lm/seed-1"
    said = {
        diverged: "not finite after its last step, 100",
        idle: "logged no step that learnt",
    }

    def pretrain(settings, folder, say):
        with (folder / results.METRICS).open("w") as file:
            last = 5.0 if folder == tmp_path / idle else None
            for step, loss in ((50, 5.0), (100, last)):
                line = {"step": step, "split": "eval", "loss": loss}
                file.write(json.dumps(line) + "\n")
        return loop.Result(
            state=None,
            step=100,
            heldout=None,
            stopped_by=None,
            exit_code=0,
            peak_bytes=None,
        )

    def train(config, job, workdir, say):
        if job.folder in said:
            return pretraining.run(config, job, workdir, say)
        return fakes(config, job, workdir, say)

    fakes = install(monkeypatch, Fakes())
    monkeypatch.setattr(pretraining, "run_settings", lambda *_: settings)
    monkeypatch.setattr(pretraining, "workload", lambda arm: None)
    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    for kind in ("trial", "run"):
        monkeypatch.setitem(runner.EXECUTE, kind, train)
    assert runner.run(config, tmp_path) == 1
    found = results.load(tmp_path)
    problems = {p.job.folder: p for p in found.problems}
    for folder, reason in said.items():
        assert problems[folder].state == "failed"
        assert reason in problems[folder].detail
    assert tuning.best(found, "masked_lm") == 1e-4
    assert len(found.finished_runs("causal_lm")) == 1


def _work(workdir, fakes):
    """In a process of its own."""
    install(pytest.MonkeyPatch(), fakes)
    runner.run(fixtures.comparison(), workdir)


class Together(Fakes):
    """Work of two processes: the one that is not killed kills the other on the way."""

    def __init__(self, workdir, victim=None):
        super().__init__()
        self.begun_by = workdir / "begun.txt"
        self.victim = victim

    def __call__(self, config, job, workdir, say):
        found = super().__call__(config, job, workdir, say)
        deadline = time.monotonic() + 60
        while len({line.split()[1] for line in self.lines()}) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.05)
        if self.victim is not None and len(self.lines()) > 6:
            self.victim.kill()
        return found

    def lines(self):
        return self.begun_by.read_text().splitlines()


def test_two_processes_divide_the_work_even_when_one_is_killed(tmp_path, monkeypatch):
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=_work, args=(tmp_path, Together(tmp_path)))
    other.start()
    together = install(monkeypatch, Together(tmp_path, victim=other))
    assert runner.run(fixtures.comparison(), tmp_path) == 0
    other.join(60)
    assert other.exitcode == -signal.SIGKILL
    assert not results.load(tmp_path).problems
    lines = [line.split() for line in together.lines()]
    assert {int(pid) for _, pid in lines} == {os.getpid(), other.pid}
    folders = [folder for folder, _ in lines]
    twice = {folder for folder in folders if folders.count(folder) > 1}
    # Only what the killed process was doing may have been begun again.
    assert len(twice) <= 1
    for folder in twice:
        pids = [int(pid) for name, pid in lines if name == folder]
        assert pids == [other.pid, os.getpid()]


def test_a_workdir_of_another_comparison_is_refused(tmp_path, monkeypatch):
    install(monkeypatch, Fakes())
    runner.run(fixtures.comparison(), tmp_path)
    with pytest.raises(
        UserError, match="config.budget.amount: 1000000.0 there, 2000000"
    ):
        runner.run(fixtures.comparison(**{"budget.amount": 2e6}), tmp_path)
    with pytest.raises(
        UserError, match=r"config\.seeds: \(0, 1, 2\) there, \(0, 1\) now"
    ):
        runner.run(fixtures.comparison(seeds=(0, 1)), tmp_path)


def test_a_comparison_of_an_earlier_version_goes_on(tmp_path, monkeypatch):
    config = fixtures.comparison()
    earlier = copy.deepcopy(fixtures.config_lib.parse(config).raw)
    runs = [v for arm in earlier["arms"].values() for v in (arm["base"], arm["config"])]
    for section, fields in saved.ADDED.items():
        for run in (earlier["shared"], *runs):
            for field in fields:
                del run[section][field]
    outcomes.write(tmp_path / results.COMPARISON_FILE, {"config": earlier})
    install(monkeypatch, Fakes())
    assert runner.run(config, tmp_path) == 0


def test_seeds_may_be_added(tmp_path, monkeypatch):
    fakes = install(monkeypatch, Fakes())
    runner.run(fixtures.comparison(seeds=(0, 1)), tmp_path)
    fakes.begun.clear()
    assert runner.run(fixtures.comparison(seeds=(0, 1, 2)), tmp_path) == 0
    assert fakes.begun and all("seed-2" in folder for folder in fakes.begun)


def test_a_workdir_of_a_single_run_is_refused(tmp_path, monkeypatch):
    install(monkeypatch, Fakes())
    (tmp_path / "config.json").write_text('{"train": {}}')
    with pytest.raises(UserError, match="holds a pretraining run, and a comparison"):
        runner.run(fixtures.comparison(), tmp_path)


def test_data_that_is_not_there_is_missed_before_anything_is_trained(
    tmp_path, monkeypatch
):
    fakes = install(monkeypatch, Fakes())
    config = fixtures.comparison()
    config.evaluations.blimp = fixtures.comparison_base.blimp(str(tmp_path / "blimp"))
    with pytest.raises(UserError, match="there is no folder .*blimp"):
        runner.run(config, tmp_path / "w")
    assert fakes.begun == []


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory. Choose"):
        runner.run(fixtures.comparison(), tmp_path / "file" / "runs")


def test_edited_and_cut_results_are_found_out(tmp_path):
    config = fixtures.parsed()
    fixtures.fill(tmp_path, config)
    score = tmp_path / jobs.evaluation_folder("acceptability", "masked_lm", 1, 1.0)
    values = json.loads((score / outcomes.DONE).read_text())
    values["result"]["scores"]["accuracy"] = [0.99]
    (score / outcomes.DONE).write_text(json.dumps(values))
    run = tmp_path / jobs.run_folder("causal_lm", 0)
    text = (run / outcomes.DONE).read_text()
    (run / outcomes.DONE).write_text(text[: len(text) // 2])
    metrics = tmp_path / jobs.run_folder("causal_lm", 2) / results.METRICS
    metrics.write_text(metrics.read_text().replace("4.", "3."))
    found = results.load(tmp_path)
    damaged = {p.job.folder: p.detail for p in found.problems}
    assert "was edited" in damaged["evaluations/acceptability/masked_lm/seed-1/point-1"]
    assert "was cut or edited" in damaged["runs/causal_lm/seed-0"]
    assert "metrics.jsonl was edited" in damaged["runs/causal_lm/seed-2"]
    assert len(damaged) == 3
    scores = found.scores_of("acceptability/accuracy", "masked_lm", 1.0)
    assert scores.seeds == (0, 2)


def test_damaged_results_are_refused_before_any_work(tmp_path, monkeypatch):
    config = fixtures.comparison(**{"budget.axis": "device_seconds"})
    config.tuning.update(learning_rates=(1e-4, 1e-3), seeds=(7,))
    fakes = install(monkeypatch, Fakes(stops_at="runs/causal_lm/seed-0"))
    assert runner.run(config, tmp_path) == 143
    folders = ("rates/masked_lm", "tuning/causal_lm/lr-0.001/seed-7")
    for folder in folders:
        done = tmp_path / folder / outcomes.DONE
        done.write_text(done.read_text()[:20])
    fakes.begun.clear()
    with pytest.raises(UserError, match="results that are damaged") as refused:
        runner.run(config, tmp_path)
    assert fakes.begun == []
    for folder in folders:
        assert f"{folder}/done.json was cut" in str(refused.value)
        assert f"Delete the folder {tmp_path / folder} and" in str(refused.value)
        shutil.rmtree(tmp_path / folder)
    install(monkeypatch, Fakes())
    assert runner.run(config, tmp_path) == 0


def test_an_edited_config_is_refused(tmp_path):
    fixtures.fill(tmp_path, fixtures.parsed())
    path = tmp_path / results.COMPARISON_FILE
    path.write_text(path.read_text().replace('"alpha": 0.05', '"alpha": 0.5'))
    with pytest.raises(UserError, match="was edited"):
        results.load(tmp_path)
    with pytest.raises(UserError, match="holds no comparison"):
        results.load(tmp_path / "runs")
