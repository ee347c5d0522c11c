"""A whole run by two processes, and going on with it in one."""

from __future__ import annotations

import shutil
import socket

import pytest

from research.errors import USAGE_ERROR
from research.training import checkpoints, workdir
from tests.faults.harness import EXPERIMENT
from tests.multi_device import runner
from tests.research.training import tiny

pytestmark = pytest.mark.slow


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(
        EXPERIMENT.format(
            corpus=tiny.write_corpus(tmp_path / "corpus"),
            cache=str(tmp_path / "cache"),
            steps=8,
            interval=4,
        )
    )
    return path


def start(experiment, folder, *arguments: str, num_devices: int):
    return runner.start(
        "research.pretrain",
        f"--config={experiment}",
        f"--workdir={folder}",
        *arguments,
        num_devices=num_devices,
        JAX_COMPILATION_CACHE_DIR="",
    )


def finish_two(experiment, folder, *arguments: str) -> list[str]:
    """Two processes of two devices that share parameters; what they print."""
    port = runner.free_port()
    processes = [
        start(
            experiment,
            folder,
            f"--coordinator=localhost:{port}",
            "--num_processes=2",
            f"--process_id={number}",
            "--config.parallel.fsdp=2",
            *arguments,
            num_devices=2,
        )
        for number in range(2)
    ]
    return [runner.finish(process) for process in processes]


def losses(folder) -> list[float]:
    return [line["loss"] for line in workdir.read_metrics(folder)]


def test_two_hosts_train_like_one_and_one_goes_on(experiment, tmp_path):
    alone = tmp_path / "alone"
    runner.finish(start(experiment, alone, num_devices=1))
    together = tmp_path / "together"
    outputs = finish_two(experiment, together)
    assert "finished 8 steps" in outputs[0]
    # One host speaks for all; Gloo itself writes to the other's output.
    assert "finished" not in outputs[1]
    assert "step " not in outputs[1]
    assert losses(together) == pytest.approx(losses(alone), abs=1e-4)
    # The newest checkpoint is damaged; one process on one device takes the one before.
    (together / "checkpoints/8/params/manifest.ocdbt").write_bytes(b"")
    out = runner.finish(start(experiment, together, num_devices=1))
    assert "checkpoint of step 8 is damaged" in out
    assert "going on from the checkpoint of step 4" in out
    assert losses(together) == pytest.approx(losses(alone), abs=1e-4)
    assert checkpoints.steps_in(together / "checkpoints")[-1] == 8


def test_two_hosts_begin_from_another_run_and_go_on_without_it(experiment, tmp_path):
    """Parameters of another run and rows of new tokens give the losses of one host;
    without that run, and with a corpus that has changed, the recorded tokens do."""
    text = experiment.read_text()
    old = 'tiny.config("causal_lm", data__tokenizer__num_sentinels=0,'
    new = 'tiny.config("span_corruption", model__architecture="decoder",'
    before = tmp_path / "before.py"
    before.write_text(text.replace("tiny.config(", old))
    experiment.write_text(text.replace("tiny.config(", new))
    source = tmp_path / "source"
    length = "--config.model.max_seq_len=64"
    runner.finish(start(before, source, length, num_devices=1))
    settings = [length, f"--config.train.init_from={source}"]
    settings += ["--config.train.extend_vocabulary=True", "--config.train.seed=1"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    runner.finish(start(experiment, alone, *settings, num_devices=1))
    outputs = finish_two(experiment, together, *settings)
    assert f"parameters of {source} at step 8" in outputs[0]
    for folder, appended in ((source, False), (together, True)):
        definition = (folder / "tokenizer/tokenizer.json").read_text()
        assert ("<extra_id_0>" in definition) == appended
    assert losses(together) == pytest.approx(losses(alone), abs=1e-4)
    begun = losses(together)
    for path in (source, together / "checkpoints/8"):
        shutil.rmtree(path)
    (tmp_path / "corpus" / "more.txt").write_text("ka lo mi ne.\n" * 50)
    outputs = finish_two(experiment, together, *settings)
    assert "going on from the checkpoint of step 4" in outputs[0]
    assert losses(together) == pytest.approx(begun, abs=1e-6)


def wait(what: str) -> list:
    """Two processes of tests.multi_device.waiting, ended: (code, output, errors)."""
    port = runner.free_port()
    processes = [
        runner.start(
            "tests.multi_device.waiting",
            f"--first={what}",
            f"--coordinator=localhost:{port}",
            "--num_processes=2",
            f"--process_id={number}",
            num_devices=1,
        )
        for number in range(2)
    ]
    ended = []
    for process in processes:
        out, errors = process.communicate(timeout=300)
        ended.append((process.returncode, out, errors))
    return ended


def test_a_host_waits_longer_than_devices_would():
    for code, out, errors in wait("late"):
        assert (code, "went on" in out) == (0, True), errors


def test_what_fails_on_one_host_is_told_by_all():
    first, second = wait("fails")
    assert (first[0], second[0]) == (2, 2)
    assert "error: there is no such corpus." in first[2]
    assert "error: process 0 stopped: there is no such corpus." in second[2]
    assert "Traceback" not in first[2] + second[2]


def test_a_host_whose_first_host_dies_ends():
    _, (code, out, errors) = wait("dies")
    assert code != 0
    assert "went on" not in out
    assert "error: process 0 on" in errors or "another task died" in errors


def test_a_host_that_is_killed_ends_the_others_with_one_line(experiment, tmp_path):
    port = runner.free_port()
    first, second = (
        start(
            experiment,
            tmp_path / "run",
            f"--coordinator=localhost:{port}",
            "--num_processes=2",
            f"--process_id={number}",
            "--config.train.num_train_steps=100000",
            num_devices=1,
        )
        for number in range(2)
    )
    while not first.stdout.readline().startswith("step "):
        assert first.poll() is None, first.stderr.read()
    second.kill()
    second.communicate()
    _, errors = first.communicate(timeout=20)
    assert first.returncode == USAGE_ERROR
    (line,) = errors.strip().splitlines()
    assert line.startswith(f"error: process 1 on {socket.gethostname()} has ended")


def test_a_host_that_does_not_come_is_an_error(experiment, tmp_path):
    process = runner.start(
        "research.pretrain",
        f"--config={experiment}",
        f"--workdir={tmp_path / 'run'}",
        f"--coordinator=localhost:{runner.free_port()}",
        "--num_processes=2",
        "--process_id=0",
        num_devices=1,
        PALIMPSEST_JOIN_SECONDS="5",
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "did not find each other within 5 s" in errors
