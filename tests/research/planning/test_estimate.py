"""Estimated memory by kind: exact where it can be, and beside what XLA allocates."""

import itertools

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

# The estimate over XLA's account, on CPUs: fusion and reuse are its own affair.
LOWEST, HIGHEST = 0.85, 1.2
OBJECTIVES = {
    "encoder": "masked_lm",
    "decoder": "causal_lm",
    "encoder_decoder": "span_corruption",
}


def make(size, architecture, **overrides):
    config = base.get_config()
    config.model = presets.model(size, architecture=architecture)
    config.objective = presets.objective(OBJECTIVES[architecture])
    flat = {name.replace("__", "."): value for name, value in overrides.items()}
    config.update_from_flattened_dict(flat)
    run = config_lib.parse(config)
    vocabulary = checks.provisional_vocabulary(run.data.tokenizer)
    return program_lib.create(run, vocabulary, devices=jax.devices()[:1])


def estimated(program, platform="cpu"):
    kept = activations.count(program, platform)
    return estimate.estimate(program, kept)


def layers(remat, scan, dropout=0.0):
    return {
        "model__remat": remat,
        "model__scan_layers": scan,
        "model__dropout_rate": dropout,
    }


CASES = [
    ("tiny", "encoder", layers("dots", False)),
    ("tiny", "decoder", layers("full", True)),
    *(
        pytest.param("mini", architecture, layers(*how), marks=pytest.mark.slow)
        for architecture, *how in (
            *itertools.product(OBJECTIVES, ("none", "dots", "full"), (False, True)),
            *itertools.product(["decoder"], ("none", "full"), (False, True), (0.1,)),
        )
    ),
    *(
        pytest.param("small", *case, marks=pytest.mark.slow)
        for case in (
            ("encoder", {"train__batch_size": 4} | layers("none", True)),
            ("encoder", {"train__batch_size": 64} | layers("full", True)),
            ("decoder", {"train__num_microbatches": 4}),
        )
    ),
]


@pytest.mark.parametrize(("size", "architecture", "overrides"), CASES)
def test_the_estimate_is_what_xla_allocates(size, architecture, overrides):
    program = make(size, architecture, **overrides)
    needed = estimated(program)
    compiled = program.lower_train_step(program.objective).compile()
    arguments = compiled.memory_analysis().argument_size_in_bytes
    # The batch and some counters come on top of the state.
    assert arguments == pytest.approx(needed.weights + needed.optimizer, rel=0.01)
    ratio = needed.total / memory.allocated_bytes(compiled)
    assert LOWEST < ratio < HIGHEST


def test_remat_of_a_loop_is_undone_on_cpus_and_nowhere_else():
    """XLA on CPUs merges what is computed again with what was computed before."""

    def kept(platform, **changes):
        program = tiny.program("causal_lm", model__num_layers=4, **changes)
        return activations.count(program, platform)

    loop, scan = layers("full", False), layers("full", True)
    nothing = kept("cpu", **layers("none", False))
    undone, works = kept("cpu", **loop), kept("gpu", **loop)
    assert undone.undone and undone.saved_bytes(8) == nothing.saved_bytes(8)
    for found in (works, kept("cpu", **scan)):
        assert not found.undone
        assert found.saved_bytes(8) < nothing.saved_bytes(8) / 2


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
        return estimated(program, "gpu").activations

    last, whole = kept(1), kept(3) - kept(2)
    assert last < 0.75 * whole


def test_remat_keeps_less():
    """'full' keeps blocks' inputs, 'dots' the outputs of linear layers as well."""
    programs = {
        remat: tiny.program("causal_lm", model__remat=remat)
        for remat in ("none", "dots", "full")
    }
    kept = {
        remat: estimated(made, "gpu").activations for remat, made in programs.items()
    }
    model = programs["full"].model_config
    positions = tiny.BATCH_SIZE * programs["full"].objective.lengths.inputs
    # Query, key and value, attention's output, and both layers of the MLP.
    linear = 4 * positions * (5 * model.emb_dim + model.mlp_dim)
    assert kept["full"] < kept["dots"] < kept["none"]
    assert kept["dots"] - kept["full"] == pytest.approx(linear, rel=0.25)


def test_fused_attention_keeps_no_weights():
    def kept(**changes):
        program = tiny.program(model__dtype="bfloat16", model__head_dim=8, **changes)
        return estimated(program, "gpu").activations

    explicit = kept(model__attention="explicit")
    assert kept() < explicit < kept(model__attention_dropout_rate=0.1)
