"""Steps that do not fit into a device are refused, with what to change."""

import threading

import jax
import numpy as np
import pytest

from research.errors import UserError
from research.training import memory
from research.training import steps as steps_lib
from tests.research.training import tiny


def test_what_cannot_fit_is_refused_before_compiling():
    program = tiny.program()
    advice = memory.advice(program.config)
    memory.check(program.weights, program.state, 2**30, advice)
    with pytest.raises(UserError) as caught:
        memory.check(program.weights, program.state, 2**17, advice)
    for words in (
        "on each device, which has 0 MiB",
        "parameters",
        "config.train.num_microbatches = 1",
        "config.model.remat = 'none'",
        "config.parallel.fsdp = 1",
    ):
        assert words in str(caught.value)


def test_what_xla_needs_too_much_of_is_refused_before_running(monkeypatch):
    compiled = jax.jit(lambda x: x + 1).lower(np.zeros(2**17, np.float32)).compile()
    what = ("the compiled step", "Change it.")
    memory.check_compiled(compiled, *what)
    monkeypatch.setattr(memory, "device_bytes", lambda _: 2**20)
    with pytest.raises(
        UserError, match=r"the compiled step needs 1 MiB on each .* Change it\."
    ):
        memory.check_compiled(compiled, *what, beside=1)


def test_an_evaluation_that_will_not_fit_is_known_at_the_first_steps(monkeypatch):
    """As soon as it is compiled, and not at the first evaluation."""
    checked = threading.Event()

    def too_much(self):
        checked.wait(60)
        raise memory.TooLittleMemory("an evaluation needs more")

    monkeypatch.setattr(steps_lib, "compile_train_step", lambda *_: "step")
    monkeypatch.setattr(steps_lib, "compile_eval_step", too_much)
    steps = steps_lib.Steps(tiny.program(), 0)
    assert steps.train(0) == "step"  # A start does not wait for it.
    checked.set()
    steps._pool.shutdown(wait=True)
    with pytest.raises(memory.TooLittleMemory, match="an evaluation needs more"):
        steps.train(1)


def test_a_cpu_has_what_its_container_allows(monkeypatch):
    device, total = jax.local_devices()[0], memory.psutil.virtual_memory().total
    for limit, there_is in ((None, total), (2**20, 2**20), (2**62, total)):
        monkeypatch.setattr(memory.cgroup, "memory_limit", lambda limit=limit: limit)
        assert memory.device_bytes(device) == there_is // jax.local_device_count()


def test_an_evaluation_is_refused_beside_the_optimizer_it_stands_with(monkeypatch):
    program = tiny.program(eval__batch_size=32)
    needed = memory.allocated_bytes(steps_lib.compile_eval_step(program))
    moments = memory.shard_bytes(program.state.opt_state)
    monkeypatch.setattr(memory, "device_bytes", lambda _: needed + moments)
    steps_lib.compile_eval_step(program)
    monkeypatch.setattr(memory, "device_bytes", lambda _: needed + moments - 1)
    with pytest.raises(memory.TooLittleMemory) as caught:
        steps_lib.compile_eval_step(program)
    assert str(caught.value).startswith("an evaluation needs")
    assert "config.eval.batch_size = 32" in str(caught.value)
    assert "num_microbatches" not in str(caught.value)
