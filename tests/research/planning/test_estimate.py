"""Estimated memory by kind: exact where it can be, and beside what XLA allocates."""

import jax
import pytest

from experiments import base, presets
from research.config import checks
from research.config import parse as config_lib
from research.planning import activations, estimate
from research.training import memory, parallelism
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
    return estimate.estimate(program, kept)


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
