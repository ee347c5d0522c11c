"""Memory by kind: exact where it can be, and beside what XLA allocates."""

import threading

import jax
import numpy as np
import pytest

from experiments import base, presets
from research.config import checks
from research.config import parse as config_lib
from research.errors import UserError
from research.training import activations, memory, parallelism
from research.training import program as program_lib
from research.training import state as state_lib
from tests.research.training import tiny

# XLA's buffers against the estimate, on CPUs: fusion and reuse are its own affair.
TOLERANCE = 0.25


def make(size, architecture, objective, *, devices=None, **overrides):
    config = base.get_config()
    config.model = presets.model(size, architecture=architecture)
    config.objective = presets.objective(objective)
    flat = {name.replace("__", "."): value for name, value in overrides.items()}
    config.update_from_flattened_dict(flat)
    run = config_lib.parse(config)
    vocabulary = checks.provisional_vocabulary(run.data.tokenizer)
    return program_lib.create(run, vocabulary, devices=devices or jax.devices()[:1])


def estimated(program, platform="cpu"):
    kept = activations.count(program, platform)
    rows = memory.rows_at_a_time(program)
    return memory.estimate(program, kept, rows=rows)


CASES = [
    pytest.param("tiny", "encoder", "masked_lm", {}, marks=pytest.mark.slow),
    pytest.param(
        *("tiny", "decoder", "causal_lm"),
        {"model__remat": "full", "model__scan_layers": True},
        marks=pytest.mark.slow,
    ),
    pytest.param("small", "encoder", "masked_lm", {}, marks=pytest.mark.slow),
    pytest.param(
        *("small", "encoder", "masked_lm"),
        {"model__remat": "dots", "model__scan_layers": True},
        marks=pytest.mark.slow,
    ),
    pytest.param(
        *("small", "encoder", "masked_lm"),
        {"model__remat": "full", "model__scan_layers": True, "train__batch_size": 64},
        marks=pytest.mark.slow,
    ),
    pytest.param(
        *("small", "decoder", "causal_lm"),
        {"train__num_microbatches": 4},
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "small", "encoder_decoder", "span_corruption", {}, marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("size", "architecture", "objective", "overrides"), CASES)
def test_the_estimate_is_what_xla_allocates(size, architecture, objective, overrides):
    program = make(size, architecture, objective, **overrides)
    needed = estimated(program)
    compiled = program.lower_train_step(program.objective).compile()
    arguments = compiled.memory_analysis().argument_size_in_bytes
    # The batch and some counters come on top of the state.
    assert arguments == pytest.approx(needed.weights + needed.optimizer, rel=0.01)
    allocated = memory.allocated_bytes(compiled)
    assert needed.total == pytest.approx(allocated, rel=TOLERANCE)


@pytest.mark.parametrize(("moments", "each"), [("float32", 8), ("bfloat16", 6)])
def test_bytes_a_parameter(moments, each):
    program = tiny.program(optimizer__moment_dtype=moments)
    count = state_lib.count_params(program.state.params)
    needed = estimated(program)
    assert needed.weights == 4 * count
    assert needed.gradients == 4 * count
    assert needed.optimizer == pytest.approx(each * count, rel=1e-3)


def test_fsdp_divides_everything_but_what_is_gathered():
    changes = {"model__scan_layers": True}
    config = tiny.run_config("causal_lm", parallel__fsdp=8, **changes)
    whole = estimated(tiny.program("causal_lm", **changes))
    parallel = parallelism.abstract(config.parallel, 8)
    vocabulary = checks.provisional_vocabulary(config.data.tokenizer)
    split = estimated(program_lib.create(config, vocabulary, parallel=parallel))
    # Norms and biases of so small a model, which stay whole, are a fifth of the rest.
    assert split.weights < whole.weights / 6
    assert split.optimizer < whole.optimizer / 6
    assert split.activations < whole.activations / 4
    assert whole.gathered == 0 < split.gathered
    assert whole.summed == 0 < split.summed == split.gradients


def test_tensor_splits_heads_and_features():
    def kept(tensor):
        config = tiny.run_config(parallel__tensor=tensor)
        parallel = parallelism.abstract(config.parallel, tensor)
        vocabulary = checks.provisional_vocabulary(config.data.tokenizer)
        program = program_lib.create(config, vocabulary, parallel=parallel)
        return activations.count(program, "cpu").saved_bytes(8)

    assert kept(1) / 2 < kept(2) < kept(1)


@pytest.mark.parametrize("scan", [False, True])
def test_the_last_layer_keeps_only_what_is_read(scan):
    def kept(num_layers):
        program = tiny.program(model__num_layers=num_layers, model__scan_layers=scan)
        return estimated(program).activations

    last, whole = kept(1), kept(3) - kept(2)
    assert last < 0.75 * whole


def test_what_a_scan_copies_for_a_shorter_last_layer():
    """Stacked parameters and their gradients, unless all layers are the same."""

    def sliced(objective="masked_lm", **changes):
        values = {"model__num_layers": 3, "model__scan_layers": True, **changes}
        program = tiny.program(objective, **values)
        weights = memory.shard_bytes(program.state.params)
        return estimated(program).sliced / weights

    assert 1 < sliced() < 2
    assert sliced("causal_lm") == 0
    assert sliced(model__scan_layers=False) == 0
    assert sliced(model__num_layers=1) == 0
    assert sliced(model__remat="full") == 0


def test_remat_keeps_less():
    """'full' keeps blocks' inputs, 'dots' the outputs of linear layers as well."""
    programs = {
        remat: tiny.program("causal_lm", model__remat=remat)
        for remat in ("none", "dots", "full")
    }
    kept = {remat: estimated(made).activations for remat, made in programs.items()}
    model = programs["full"].model_config
    positions = tiny.BATCH_SIZE * programs["full"].objective.lengths.inputs
    # Query, key and value, attention's output, and both layers of the MLP.
    linear = 4 * positions * (5 * model.emb_dim + model.mlp_dim)
    assert kept["full"] < kept["dots"] < kept["none"]
    assert kept["dots"] - kept["full"] == pytest.approx(linear, rel=0.25)


def test_fused_attention_keeps_no_weights():
    program = tiny.program(model__dtype="bfloat16", model__head_dim=8)
    assert estimated(program, "gpu").activations < estimated(program).activations
    dropped = tiny.program(
        model__dtype="bfloat16", model__head_dim=8, model__attention_dropout_rate=0.1
    )
    assert estimated(dropped, "gpu").activations == pytest.approx(
        estimated(dropped).activations
    )


def test_what_cannot_fit_is_refused_before_compiling():
    program = tiny.program()
    memory.check(program, 2**30)
    with pytest.raises(UserError) as caught:
        memory.check(program, 2**17)
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

    monkeypatch.setattr(program_lib.Program, "compile_train_step", lambda *_: "step")
    monkeypatch.setattr(program_lib.Program, "compile_eval_step", too_much)
    steps = program_lib.Steps(tiny.program(), 0)
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
    needed = memory.allocated_bytes(program.compile_eval_step())
    moments = memory.shard_bytes(program.state.opt_state)
    monkeypatch.setattr(memory, "device_bytes", lambda _: needed + moments)
    program.compile_eval_step()
    monkeypatch.setattr(memory, "device_bytes", lambda _: needed + moments - 1)
    with pytest.raises(memory.TooLittleMemory) as caught:
        program.compile_eval_step()
    assert str(caught.value).startswith("an evaluation needs")
    assert "config.eval.batch_size = 32" in str(caught.value)
    assert "num_microbatches" not in str(caught.value)
