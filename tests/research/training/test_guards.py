"""Signals, spikes and hangs are noticed, and only they."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from research.training import guards


@pytest.mark.parametrize(
    ("number", "name", "exit_code"),
    [
        (signal.SIGTERM, "SIGTERM", 0),
        (signal.SIGHUP, "SIGHUP", 0),
        (signal.SIGINT, "SIGINT", 130),
    ],
)
def test_a_signal_is_a_request(number, name, exit_code):
    before = signal.getsignal(number)
    with guards.stop_signals() as stop:
        assert not stop.at(1)
        os.kill(os.getpid(), number)
        assert stop.at(2)
        assert (stop.name, stop.exit_code) == (name, exit_code)
    assert signal.getsignal(number) is before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with guards.stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.at(1)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_interrupts():
    with pytest.raises(KeyboardInterrupt), guards.stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.at(1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_other_threads_do_without_signals():
    seen = []

    def work():
        with guards.stop_signals() as stop:
            seen.append(stop.at(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_spike_is_noticed_and_noise_is_not():
    rng = np.random.default_rng(0)
    losses = 3 + 0.1 * rng.normal(size=300)
    detector = guards.SpikeDetector(10.0)
    assert all(detector.add(loss) is None for loss in losses)
    median = detector.add(6.0)
    assert median == pytest.approx(3.0, abs=0.1)
    # A spike does not raise what counts as usual.
    assert detector.add(6.0) is not None
    assert detector.add(3.05) is None


def test_a_falling_loss_is_no_spike_and_zero_switches_off():
    detector = guards.SpikeDetector(10.0)
    assert all(detector.add(9.0 / (1 + t)) is None for t in range(200))
    off = guards.SpikeDetector(0.0)
    assert all(off.add(x) is None for x in [1.0] * 50 + [100.0])


def test_a_hang_is_reported_once_with_its_place():
    said = []
    watchdog = guards.Watchdog(0.05, said.append)
    watchdog.beat("step 7")

    def hanging_here():
        time.sleep(0.4)

    hanging_here()
    watchdog.close()
    (report,) = said
    assert report.startswith("step 7 has taken")
    assert "hanging_here" in report


def test_steps_in_time_are_not_reported():
    said = []
    watchdog = guards.Watchdog(1.0, said.append)
    for _ in range(10):
        watchdog.beat("a step")
        time.sleep(0.01)
    watchdog.close()
    assert said == []
