"""What a person sees: arm, seed, evaluation, progress, time left."""

import io

import pytest
import rich.console

from research.comparison import jobs, outcomes, view
from tests.research.comparison import fixtures


@pytest.fixture
def config():
    settings = {"tuning.learning_rates": (1e-3, 3e-3), "tuning.seeds": (7,)}
    return fixtures.parsed(seeds=(0, 1), **settings)


def finish(workdir, config, count, seconds=60.0):
    """The first jobs of the plan, as another session would have left them."""
    for job in jobs.plan(config)[:count]:
        fixtures.finish(workdir, config, job)
        path = workdir / job.folder / outcomes.DONE
        outcomes.write(path, {**outcomes.read(path), "task_seconds": seconds})


def shown(view_, width=100):
    console = rich.console.Console(file=io.StringIO(), width=width)
    console.print(view_)
    return console.file.getvalue()


def test_the_opening_says_how_many_seeds_and_which():
    # As --config.seeds=3 leaves them: one seed, though three may have been meant.
    words = view.opening(fixtures.parsed(seeds=(3,)))
    assert "3 arms (causal_lm, masked_lm, span_corruption), 1 seed (3)" in words
    assert "3 seeds (0, 1, 2)" in view.opening(fixtures.parsed(seeds=(2, 0, 1)))


def test_the_table_shows_every_job_and_the_one_at_work(tmp_path, config):
    finish(tmp_path, config, 7)  # six trials and the first run
    live = view.View(config, tmp_path)
    job = jobs.plan(config)[7]
    (tmp_path / job.folder).mkdir(parents=True)
    live.begin(job)
    live.say("step  120/1000  loss 6.412  3m12s left")
    text = shown(live)
    assert "pretraining masked_lm, seed 0" in text
    assert "step  120/1000  loss 6.412" in text
    lines = {
        label: line
        for label, _ in fixtures.ARMS.values()
        for line in text.splitlines()
        if line.startswith(label)
    }
    assert lines["Causal LM"].split()[2:] == ["●●", "●○", "○○○○"]
    assert lines["Masked LM"].split()[2:] == ["●●", "◐○", "○○○○"]
    assert "7 of 24 jobs done" in text
    assert (tmp_path / job.folder / "log.txt").read_text().startswith("step  120")


def test_brackets_in_labels_are_text(tmp_path):
    config = fixtures.comparison()
    config.arms.causal_lm.label = "[/x] [red]"
    text = shown(view.View(fixtures.config_lib.parse(config), tmp_path))
    assert "[/x] [red]" in text


def test_time_left_counts_what_is_known_and_says_when_that_is_not_all(tmp_path, config):
    plan = jobs.plan(config)
    finish(tmp_path, config, 8)
    # Four of the six runs are left; no evaluation has been seen.
    assert view.View(config, tmp_path).seconds_left() == (4 * 60.0, 0.0, 12)
    text = shown(view.View(config, tmp_path))
    assert "about 4m00s left, and 12 jobs of kinds not yet seen" in text
    finish(tmp_path, config, 10)
    left = view.View(config, tmp_path).seconds_left()
    assert left == ((len(plan) - 10) * 60.0, 0.0, 0)
    # One of three finished runs took half as long, and three are left.
    finish(tmp_path, config, 7, seconds=30.0)
    _, spread, _ = view.View(config, tmp_path).seconds_left()
    assert spread == pytest.approx((3 * 300) ** 0.5)
    assert "(± 30s)" in shown(view.View(config, tmp_path))


def test_without_a_terminal_there_is_a_line_a_job(tmp_path, config, capsys):
    job = jobs.plan(config)[0]
    with view.View(config, tmp_path) as lines:
        lines.begin(job)
        fixtures.finish(tmp_path, config, job)
        lines.end(job, "")
        lines.begin(jobs.plan(config)[1])
        lines.end(jobs.plan(config)[1], "failed: RuntimeError: disk full")
        lines.waiting()
    first, *out = capsys.readouterr().out.splitlines()
    assert first == view.opening(config)
    assert out[0] == "0 of 24 jobs done"
    assert out[1] == "tuning causal_lm, seed 7, learning rate 0.001 ..."
    assert "1 of 24 jobs done" in out[2]
    assert "disk full" in out[4] and out[5].startswith("waiting")
