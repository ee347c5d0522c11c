"""One run at a time, one config, and metrics without gaps or repeats."""

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from experiments import glue, squad
from research.config import kinds
from research.errors import UserError
from research.evaluation.finetuning import fits
from research.machine import checksums
from research.training import workdir
from tests.research.training import tiny


def test_two_runs_in_one_workdir_are_refused(tmp_path):
    with workdir.locked(tmp_path):
        code = (
            "import sys, pathlib\n"
            "from research.training import workdir\n"
            "with workdir.locked(pathlib.Path(sys.argv[1])): pass\n"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            check=False,
            capture_output=True,
            text=True,
        )
    assert other.returncode != 0
    assert "is in use by process" in other.stderr
    with workdir.locked(tmp_path):
        pass  # Released with the context.


def test_without_locks_a_run_goes_on_and_says_so(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with workdir.locked(tmp_path):
        assert "process" in (tmp_path / workdir.LOCK).read_text()
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no locks (No locks available)" in line


def test_a_workdir_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot be written"),
        workdir.locked(tmp_path / "file" / "run"),
    ):
        pass


def test_config_comes_back_as_it_was(tmp_path):
    config = tiny.config()
    workdir.save_config(tmp_path, config)
    loaded = workdir.load_config(tmp_path)
    assert workdir.differing_fields(config, loaded) == {}
    workdir.check_config(tmp_path, config)


@pytest.mark.parametrize(
    "changes",
    [
        {"train__seed": 1},
        {"optimizer__learning_rate": 0.5},
        {"train__num_train_steps": 9},
        {"objective__masked_lm__noise_density": 0.3},
        {"model__vocab_size": 600},
    ],
)
def test_another_config_is_refused_naming_the_fields(tmp_path, changes):
    workdir.save_config(tmp_path, tiny.config())
    with pytest.raises(UserError) as error:
        workdir.check_config(tmp_path, tiny.config(**changes))
    (name,) = changes
    assert f"config.{name.replace('__', '.')}: " in str(error.value)
    assert str(error.value).count("  config.") == 1


def test_what_changes_no_result_may_change(tmp_path):
    workdir.save_config(tmp_path, tiny.config())
    workdir.check_config(
        tmp_path,
        tiny.config(
            parallel__mode="pmap",
            checkpoint__every_steps=3,
            checkpoint__keep_last=7,
            train__num_microbatches=2,
            train__log_every_steps=1,
            eval__batch_size=4,
        ),
    )


def test_another_kind_of_work_is_refused(tmp_path):
    workdir.save_config(tmp_path, tiny.config())
    before = (tmp_path / workdir.CONFIG).read_text()
    workdir.check_kind(tmp_path, kinds.RUN)
    for module, kind in ((glue, kinds.GLUE), (squad, kinds.SQUAD)):
        with pytest.raises(
            UserError, match=f"holds a pretraining run, and {kind.name}"
        ):
            fits.open_workdir(module.get_config(), kind, str(tmp_path), tmp_path)
    assert (tmp_path / workdir.CONFIG).read_text() == before
    other = tmp_path / "glue"
    other.mkdir()
    workdir.save_config(other, glue.get_config())
    workdir.check_kind(other, kinds.GLUE)
    with pytest.raises(UserError, match="holds an evaluation on GLUE"):
        workdir.check_config(other, tiny.config())
    (tmp_path / workdir.COMPARISON).write_text("{}")
    with pytest.raises(UserError, match="holds a comparison"):
        workdir.check_config(tmp_path, tiny.config())


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="is not the workdir of a run"):
        workdir.load_config(tmp_path)


def test_metrics_after_the_checkpoint_and_half_lines_are_dropped(tmp_path):
    path = tmp_path / workdir.METRICS
    lines = [
        {"step": 2, "loss": 3.0, "seconds": 1.5},
        {"step": 4, "loss": 2.0, "seconds": 3.0},
        {"step": 4, "split": "eval"},
        {"step": 6, "loss": 1.0, "seconds": 4.5},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"step": 8, "lo'
    path.write_text(text)
    assert workdir.trim_metrics(tmp_path, 4) == (3.0, {})
    assert workdir.read_metrics(tmp_path) == lines[:3]
    assert path.read_text().endswith("\n")


def test_a_line_that_changed_is_refused_by_name(tmp_path):
    path = tmp_path / workdir.METRICS
    path.write_text('{"step": 2, "loss": 3.0}\n[]\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 holds no JSON object"):
        workdir.read_metrics(tmp_path)
    path.write_text('{"step": 2, "loss": 3.0}\n')
    checksums.record(tmp_path, workdir.METRICS)
    with path.open("a") as file:
        file.write('{"step": 4, "loss": 2.0}\n')
    assert len(workdir.read_metrics(tmp_path)) == 2
    path.write_text(path.read_text().replace("3.0", "3.1"))
    with pytest.raises(UserError, match=r"metrics\.jsonl has changed"):
        workdir.trim_metrics(tmp_path, 4)


def test_bytes_that_are_no_text_are_dropped_like_half_lines(tmp_path):
    lines = [{"step": 2, "loss": 3.0, "seconds": 1.5}, {"step": 4, "split": "eval"}]
    whole = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (tmp_path / workdir.METRICS).write_bytes(whole + b'{"step": 5, "l\x80\xff\xfe\0\0')
    unlogged = json.dumps({"step": 4, "seconds": 2.0, "sums": {"loss": [1, 1]}})
    (tmp_path / workdir.UNLOGGED).write_bytes(unlogged.encode() + b"\n\xff{\0")
    assert workdir.trim_metrics(tmp_path, 4) == (2.0, {"loss": [1, 1]})
    assert (tmp_path / workdir.METRICS).read_bytes() == whole


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"sessions": 3}', "\0\0"])
def test_damaged_sessions_are_an_error_that_says_what_to_do(tmp_path, content):
    path = tmp_path / workdir.RUN
    path.write_text(content)
    with pytest.raises(UserError, match=r"run\.json .* delete it to go on"):
        workdir.add_session(tmp_path, 4)
    path.unlink()
    workdir.add_session(tmp_path, 4)


def test_a_full_disk_is_an_error_with_its_file(tmp_path, monkeypatch):
    workdir.save_config(tmp_path, tiny.config())

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError) as caught:
        workdir.save_config(tmp_path, tiny.config(train__seed=1))
    text = str(caught.value)
    assert f"{tmp_path / workdir.CONFIG} could not be written: No space left" in text
    assert "run the same command again" in text
    assert workdir.load_config(tmp_path).train.seed == 0
    assert {p.name for p in tmp_path.iterdir()} == {workdir.CONFIG, "checksums.json"}


def test_sums_that_no_line_has_told_are_found_at_their_step(tmp_path):
    logged = {"step": 4, "split": "train", "loss": 2.0, "seconds": 3.0}
    (tmp_path / workdir.METRICS).write_text(json.dumps(logged) + "\n")
    unlogged = [
        {"step": 3, "seconds": 2.0, "sums": {"loss": [1, 1]}},
        {"step": 5, "seconds": 3.5, "sums": {"loss": [5, 2]}},
        {"step": 5, "seconds": 4.0, "sums": {"loss": [6, 2]}},
    ]
    lines = [json.dumps(line) for line in unlogged]
    (tmp_path / workdir.UNLOGGED).write_text("\n".join(lines))
    assert workdir.trim_metrics(tmp_path, 5) == (4.0, {"loss": [6, 2]})
    assert workdir.trim_metrics(tmp_path, 4) == (3.0, {})


def test_sessions_are_added_up(tmp_path):
    workdir.add_session(tmp_path, 0)
    workdir.add_session(tmp_path, 4)
    sessions = json.loads((tmp_path / workdir.RUN).read_text())["sessions"]
    assert [session["step"] for session in sessions] == [0, 4]
    assert sessions[0]["versions"]["jax"]


def without_trainable(workdir_of_run, commit="af48e5f"):
    """A workdir as commit af48e5f left it: no train.trainable."""
    path = workdir_of_run / workdir.CONFIG
    values = json.loads(path.read_text())
    del values["train"]["trainable"]
    path.write_text(json.dumps(values))
    (workdir_of_run / "checksums.json").unlink()
    sessions = [{"step": 0, "commit": commit}]
    (workdir_of_run / workdir.RUN).write_text(json.dumps({"sessions": sessions}))


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    workdir.save_config(tmp_path, tiny.config())
    without_trainable(tmp_path)
    workdir.check_config(tmp_path, tiny.config())
    assert workdir.load_run(tmp_path) == tiny.run_config()
    with pytest.raises(UserError) as error:
        workdir.check_config(tmp_path, tiny.config(train__trainable="heads/.*"))
    assert "config.train.trainable: '.*' there, 'heads/.*' now" in str(error.value)


def test_a_config_that_this_version_cannot_read_names_the_one_that_wrote_it(tmp_path):
    config = tiny.config()
    with config.model.unlocked():
        config.model.width = 3
    workdir.save_config(tmp_path, config)
    without_trainable(tmp_path)
    words = r"written by commit af48e5f, not by this version\).* no field 'width'"
    with pytest.raises(UserError, match=words):
        workdir.load_run(tmp_path)
    with pytest.raises(UserError) as error:
        workdir.check_config(tmp_path, tiny.config())
    assert "another config (written by commit af48e5f" in str(error.value)
    assert "config.model.width: 3 there, None now" in str(error.value)


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"'])
def test_a_config_that_is_no_object_is_an_error(tmp_path, content):
    (tmp_path / workdir.CONFIG).write_text(content)
    with pytest.raises(UserError, match="holds no JSON object but"):
        workdir.load_config(tmp_path)
