"""Whole runs: they learn, stop, go on bit for bit, and refuse what they must."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from research.errors import UserError
from research.training import checkpoints, loop, pretraining, trained_run, workdir
from research.training import steps as steps_lib
from research.training.memory import TooLittleMemory
from research.training.monitor import Monitor, NonFinite
from research.training.saving import Checkpoints
from research.training.steps import Steps
from tests.research.training import tiny


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A corpus, a cache of its tokens, and one of compiled programs."""
    folder = tmp_path_factory.mktemp("shared")
    tiny.write_corpus(folder / "corpus")
    with tiny.shared_steps():
        yield folder


def config(shared: pathlib.Path, **overrides):
    values = {
        "data__source": str(shared / "corpus"),
        "data__cache_dir": str(shared / "cache"),
        "data__heldout_fraction": 0.1,
        "train__num_train_steps": 6,
        "train__log_every_steps": 1,
        "eval__every_steps": 3,
        "checkpoint__every_steps": 4,
    }
    return tiny.config(**(values | overrides))


def run(settings, folder, say=None, **options):
    said: list[str] = []

    def collect(line):
        said.append(line)
        if say is not None:
            say(line)

    return pretraining.pretrain(settings, folder, say=collect, **options), said


def numbers(folder: pathlib.Path) -> list[dict]:
    """What metrics.jsonl tells, without clocks."""
    clocks = ("tokens_per_second", "step_seconds", "teraflops", "input_wait", "seconds")
    return [
        {name: value for name, value in line.items() if name not in clocks}
        for line in workdir.read_metrics(folder)
    ]


@pytest.fixture(scope="module")
def whole(shared):
    """One undisturbed run."""
    folder = shared / "whole"
    result, said = run(config(shared), folder)
    return folder, result, said


def assert_same_params(first, second):
    first, second = (
        checkpoints.load_params(f / "checkpoints")[0] for f in (first, second)
    )
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_leaves_what_the_design_lists(whole, shared):
    folder, result, said = whole
    assert (result.step, result.stopped_by, result.exit_code) == (6, None, 0)
    lines = numbers(folder)
    train = [line for line in lines if line["split"] == "train"]
    evaluations = [line for line in lines if line["split"] == "eval"]
    assert [line["step"] for line in train] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in evaluations] == [3, 6]
    for line in train:
        assert {"loss", "mlm", "tokens", "learning_rate", "grad_norm"} <= line.keys()
        assert line["loss"] == pytest.approx(line["mlm"])
        assert line["tokens"] == line["step"] * tiny.BATCH_SIZE * tiny.ROW_LENGTH
    assert {"mlm", "mlm_unigram", "mlm_accuracy"} <= evaluations[0].keys()
    assert evaluations[1]["loss"] < evaluations[0]["loss"]
    assert (folder / "tokenizer/tokenizer.json").is_file()
    assert list(folder.glob("events.out.tfevents.*"))
    assert workdir.differing_fields(workdir.load_config(folder), config(shared)) == {}
    assert checkpoints.steps_in(folder / "checkpoints") == [4, 6]
    assert "mlm: held-out loss" in said[-1]
    assert "unigram" in said[-1]


def test_a_finished_run_is_not_run_again(whole, shared):
    folder, _, _ = whole
    before = (folder / "metrics.jsonl").read_text()
    result, _ = run(config(shared), folder)
    assert result.step == 6
    assert (folder / "metrics.jsonl").read_text() == before
    assert checkpoints.steps_in(folder / "checkpoints") == [4, 6]


def test_stopped_and_resumed_is_bit_for_bit_the_undisturbed_run(whole, shared):
    """SIGTERM between checkpoints, then the same command."""
    folder = shared / "stopped"

    def stop(line):
        if line.startswith("step 1/6"):
            os.kill(os.getpid(), signal.SIGTERM)

    result, said = run(config(shared), folder, stop)
    assert (result.stopped_by, result.exit_code) == ("SIGTERM", 0)
    assert result.step == 2
    assert checkpoints.steps_in(folder / "checkpoints")[-1] == result.step
    assert "the same command goes on from there" in said[-1]
    run(config(shared), folder)
    assert numbers(folder) == numbers(whole[0])
    assert_same_params(folder, whole[0])
    sessions = json.loads((folder / "run.json").read_text())["sessions"]
    assert [session["step"] for session in sessions] == [0, result.step]


def test_a_signal_in_the_last_evaluation_finds_the_run_finished(
    whole, shared, monkeypatch
):
    def stop(line):
        if line.startswith("step 6  held-out"):
            os.kill(os.getpid(), signal.SIGINT)

    result, said = run(config(shared), shared / "finished", stop)
    # Whoever has more runs to do still has to know.
    assert (result.stopped_by, result.exit_code, result.step) == ("SIGINT", 0, 6)
    assert result.heldout is not None
    assert said[-1].startswith("finished 6 steps\n  mlm: held-out loss")
    assert numbers(shared / "finished") == numbers(whole[0])


def test_a_stop_between_log_lines_changes_none(shared, monkeypatch):
    """The line after it means all its steps, those of the session before included."""
    given = config(shared, train__log_every_steps=3)
    run(given, shared / "undisturbed")

    def add_and_stop(self, step, step_metrics):
        add(self, step, step_metrics)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    add = Monitor.add
    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "add", add_and_stop)
        result, _ = run(given, shared / "between")
    assert result.step == 2
    run(given, shared / "between")
    assert numbers(shared / "between") == numbers(shared / "undisturbed")


def test_a_hang_between_steps_is_called_what_it_is(shared, monkeypatch):
    def hanging(function):
        def slowly(*args, **kwargs):
            time.sleep(1.0)
            return function(*args, **kwargs)

        return slowly

    for owner, name in ((loop.Evaluation, "__call__"), (Checkpoints, "save")):
        monkeypatch.setattr(owner, name, hanging(getattr(owner, name)))
    given = config(shared, train__hang_seconds=0.5, checkpoint__every_steps=3)
    _, said = run(given, shared / "hanging")
    reports = [line for line in said if "hang_seconds" in line]
    for step in (3, 6):
        for what in (f"the evaluation after step {step}", f"saving .* of step {step}"):
            assert any(re.match(f"{what} has taken", line) for line in reports)


def test_an_evaluation_without_memory_loses_no_step(shared, monkeypatch):
    """The run goes on with fewer rows an evaluation; training is as if undisturbed."""

    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    folder, given = shared / "exhausted", config(shared, checkpoint__every_steps=3)
    with monkeypatch.context() as patch:
        patch.setattr(Steps, "evaluation", lambda self: exhausted)
        with pytest.raises(TooLittleMemory, match=r"config.eval.batch_size = 8"):
            run(given, folder)
    assert checkpoints.steps_in(folder / "checkpoints") == [3]
    given.eval.batch_size = 4
    result, _ = run(given, folder)
    assert result.heldout is not None
    train = [line for line in numbers(folder) if line["split"] == "train"]
    assert [line["step"] for line in train] == [1, 2, 3, 4, 5, 6]


def test_another_config_is_refused(whole, shared):
    with pytest.raises(UserError, match="config.train.seed: 0 there, 1 now"):
        run(config(shared, train__seed=1), whole[0])


def test_another_corpus_is_refused(whole, shared, tmp_path):
    settings = config(shared)
    tiny.write_corpus(tmp_path / "corpus", num_documents=30)
    settings.data.source = str(tmp_path / "corpus")
    with pytest.raises(UserError, match="data.source"):
        run(settings, whole[0])


def test_a_run_that_diverges_stops_and_says_what_to_try(shared):
    folder = shared / "diverged"
    settings = config(
        shared,
        optimizer__learning_rate=1e30,
        optimizer__clip_norm=0.0,
        optimizer__warmup_steps=0,
        checkpoint__every_steps=1,
    )
    with pytest.raises(NonFinite) as error:
        run(settings, folder)
    text = str(error.value)
    assert "is not finite" in text
    assert "the last good checkpoint is of step" in text
    assert "config.optimizer.learning_rate (it was 1e+30)" in text
    step = checkpoints.steps_in(folder / "checkpoints")[-1]
    checkpoints.verify(folder / "checkpoints" / str(step))


def test_a_trace_ends_with_its_session(shared, monkeypatch):
    """Of a range that is stopped half-way; none is begun where it cannot be."""
    traces = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda _: traces.append("begun"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: traces.append("written"))

    def stop(line):
        if line.startswith("step 4/6"):
            os.kill(os.getpid(), signal.SIGTERM)

    folder = shared / "traced"
    result, _ = run(config(shared), folder, stop, profile_steps=(3, 5))
    assert (result.stopped_by, result.step) == ("SIGTERM", 4)
    assert traces == ["begun", "written"]
    _, said = run(config(shared), folder, profile_steps=(3, 5))
    assert any("begins with 3, this session with 4" in line for line in said)
    assert traces == ["begun", "written"]


def test_a_trace_is_written_when_a_run_diverges(shared, monkeypatch):
    def diverge(self, step, step_metrics):
        if step == 2:
            raise NonFinite("step 2 is not finite")

    monkeypatch.setattr(Monitor, "add", diverge)
    with pytest.raises(NonFinite):
        run(config(shared), shared / "traced_nan", profile_steps=(1, 4))
    assert list((shared / "traced_nan/plugins/profile").glob("*/*.xplane.pb"))


def test_steps_to_trace_that_there_are_not_are_refused(shared, tmp_path):
    with pytest.raises(UserError, match="=4:6: the run has the steps 0 to 5"):
        run(config(shared), tmp_path / "run", profile_steps=(4, 6))
    assert not (tmp_path / "run").exists()


def test_missing_corpus_is_an_error_before_any_work(shared, tmp_path):
    settings = config(shared)
    settings.data.source = str(tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing"):
        run(settings, tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists()


def test_too_little_held_out_text_leaves_no_run_behind(shared, tmp_path, monkeypatch):
    """What the message says to do is then not refused as another config."""

    def compile_nothing(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr(steps_lib, "compile_train_step", compile_nothing)
    short = config(shared, data__heldout_fraction=0.001, model__max_seq_len=2002)
    short.data.row_length = 2000
    with pytest.raises(UserError, match="heldout split .* data.heldout_fraction"):
        run(short, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    short.data.heldout_fraction = 0.1
    with pytest.raises(AssertionError, match="compiled"):
        run(short, tmp_path / "run")


def test_backbone_is_the_run(whole):
    folder, result, _ = whole
    found = trained_run.load(folder)
    assert found.step == 6
    assert found.model_config.vocab_size == found.vocabulary.vocab_size == 512
    for a, b in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(result.state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert found.vocabulary.unigram_counts.sum() > 0
    floor = trained_run.random_init(found, seed=1)
    assert floor.step == 0
    assert jax.tree.structure(floor.params) == jax.tree.structure(found.params)
    kernel = "model/stack/layers/0/mlp/up/kernel"
    first, second = (checkpoints.flatten(b.params)[kernel] for b in (floor, found))
    assert not np.allclose(first, second)
    assert trained_run.load(folder, "4").step == 4
    with pytest.raises(UserError, match="is not the workdir of a run"):
        trained_run.load(folder / "tokenizer")


def test_init_from_takes_parameters_and_nothing_else(whole, shared):
    folder = shared / "continued"
    settings = config(shared, train__init_from=str(whole[0]), train__num_train_steps=2)
    settings.train.seed = 5
    _, said = run(settings, folder)
    assert any(line.startswith(f"parameters of {whole[0]} at step 6") for line in said)
    losses = [line["loss"] for line in numbers(folder) if line["split"] == "train"]
    start = [line["loss"] for line in numbers(whole[0]) if line["split"] == "train"]
    assert losses[0] < start[0] - 0.2
    assert (
        trained_run.load(folder).tokenizer.fingerprint
        == trained_run.load(whole[0]).tokenizer.fingerprint
    )


def test_a_run_goes_on_without_the_one_it_began_from(whole, shared, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(whole[0], source)
    settings = config(shared, train__init_from=str(source), train__num_train_steps=6)
    folder = tmp_path / "continued"
    run(settings, folder)
    losses = [line["loss"] for line in numbers(folder)]
    shutil.rmtree(folder / "checkpoints" / "6")
    shutil.rmtree(source)
    _, said = run(settings, folder)
    assert any("going on from the checkpoint of step 4" in line for line in said)
    assert [line["loss"] for line in numbers(folder)] == losses


def test_init_from_another_model_is_refused(whole, shared):
    settings = config(shared, train__init_from=str(whole[0]), model__mlp_dim=96)
    with pytest.raises(UserError, match=r"mlp/up/kernel: \(32, 64\) there, \(32, 96\)"):
        run(settings, shared / "refused")


def test_init_from_nothing_is_refused(shared, tmp_path):
    settings = config(shared, train__init_from=str(tmp_path))
    with pytest.raises(UserError, match="is not the workdir of a run"):
        run(settings, tmp_path / "run")
