"""Rules for every parameter, meshes that fit, and errors for those that do not."""

import dataclasses
import types

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from research.errors import UserError
from research.training import checkpoints, parallelism, partitioning
from tests.research.training import tiny

MESH = AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)

WANTED = {
    "model/token_embedding": PartitionSpec("tensor", "fsdp"),
    "model/embedder/position_embedding": PartitionSpec(None, "fsdp"),
    "model/stack/layers/0/attention/query/kernel": PartitionSpec("fsdp", "tensor"),
    "model/stack/layers/0/attention/query/bias": PartitionSpec("tensor"),
    "model/stack/layers/0/attention/out/kernel": PartitionSpec("tensor", "fsdp"),
    "model/stack/layers/0/attention/out/bias": PartitionSpec(),
    "model/stack/layers/0/mlp/up/kernel": PartitionSpec("fsdp", "tensor"),
    "model/stack/layers/0/mlp/up/bias": PartitionSpec("tensor"),
    "model/stack/layers/0/mlp/down/kernel": PartitionSpec("tensor", "fsdp"),
    "model/stack/layers/0/mlp_norm/scale": PartitionSpec(),
    "heads/masked_lm/output/bias": PartitionSpec("tensor"),
}


def specs(**overrides):
    shapes = checkpoints.flatten(tiny.program(**overrides).modules.params)
    return {
        name: partitioning.param_spec(name, leaf.shape, MESH)
        for name, leaf in shapes.items()
    }


def test_every_kind_of_parameter_is_split_as_intended():
    found = specs()
    for name, spec in WANTED.items():
        assert found[name] == spec, name


def test_stacked_layers_have_one_more_axis_that_stays_whole():
    found = specs(model__scan_layers=True)
    name = "model/stack/layers/attention/query/kernel"
    assert found[name] == PartitionSpec(None, "fsdp", "tensor")


@pytest.mark.parametrize("objective", ["masked_lm", "causal_lm", "span_corruption"])
def test_every_matrix_has_a_rule(objective):
    """A large parameter that no rule splits would be on every device."""
    program = tiny.program(objective, model__gated_mlp=True)
    for name, leaf in checkpoints.flatten(program.modules.params).items():
        if leaf.ndim >= 2:
            spec = partitioning.param_spec(name, leaf.shape, MESH)
            assert any(axis is not None for axis in spec), name


def test_moments_lie_beside_their_parameters():
    program = tiny.program()
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    parallel = parallelism.Parallel(mode="jit", mesh=mesh)
    shardings = parallel.shardings(program.state)
    assert shardings.opt_state["adam"].mean == shardings.params
    names = checkpoints.flatten(program.state)
    for name, leaf in names.items():
        if name.startswith("params/"):
            moment = name.replace("params/", "opt_state/adam/square/")
            spec = partitioning.param_spec(name, leaf.shape, MESH)
            assert partitioning.param_spec(moment, leaf.shape, MESH) == spec


def test_what_an_axis_does_not_divide_stays_whole():
    name = "model/token_embedding"
    assert partitioning.param_spec(name, (511, 32), MESH) == PartitionSpec(None, "fsdp")
    assert partitioning.param_spec(name, (511, 31), MESH) == PartitionSpec(None, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fsdp": 3}, "does not divide the 8 devices"),
        ({"data": 3}, "3 devices in all, and there are 8"),
        ({"mode": "pmap", "data": 4}, "pmap uses all of them"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(changes, words):
    config = dataclasses.replace(tiny.run_config().parallel, **changes)
    with pytest.raises(UserError, match=words):
        parallelism.create(config, jax.devices()[:1] * 8)


def test_a_batch_that_does_not_divide_is_refused():
    parallel = types.SimpleNamespace(num_row_shards=4)
    whole, thirds = (types.SimpleNamespace(denominator=n) for n in (1, 3))
    config = tiny.run_config(train__num_microbatches=4, eval__batch_size=6)
    problems = parallelism.batch_problems(config, whole, parallel)
    assert len(problems) == 2
    assert "multiple of 16" in problems[0]
    assert "eval.batch_size = 6" in problems[1]
    (problem,) = parallelism.batch_problems(tiny.run_config(), thirds, parallel)
    assert "shares over 3" in problem and "one of 2 fit" in problem


def test_one_host_has_all_rows():
    assert tiny.program().parallel.host_part == (1, (0,))
    assert tiny.program(parallel__mode="pmap").parallel.host_part == (1, (0,))


def test_global_shapes_are_those_of_placed_batches():
    for mode in ("jit", "pmap"):
        program = tiny.program(parallel__mode=mode)
        placed = program.parallel.place(tiny.batch(0))
        wanted = program.batch_shapes(tiny.BATCH_SIZE)
        for a, b in zip(jax.tree.leaves(placed), jax.tree.leaves(wanted), strict=True):
            assert (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)
