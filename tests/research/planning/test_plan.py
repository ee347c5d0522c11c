"""What research.plan says before a run."""

import functools
import io

import pytest
from rich.console import Console

from research.errors import UserError
from research.machine import devices
from research.planning import compiled, estimate, plan, target
from research.planning.show import show
from research.training import state as state_lib
from tests.research.training import tiny


@functools.cache
def default():
    return plan.create(tiny.run_config(), "h200", None)


def shown(made, found=None):
    console = Console(file=io.StringIO(), width=100)
    show(made, found, console)
    return console.file.getvalue()


def test_parts_are_all_parameters():
    for made in (default(), plan.create(tiny.run_config("span_corruption"), "h200", 1)):
        assert made.num_params == state_lib.count_params(made.program.state.params)
        assert {"token embedding", "attention", "mlp"} <= set(made.parameters)


def test_the_largest_batch_fits_and_one_more_row_does_not():
    made = plan.create(tiny.run_config(parallel__fsdp=4), "a100", None)
    assert made.num_devices == 4
    rows = made.largest_rows
    assert made.largest_batch == 4 * rows > 0

    def total(rows):
        return estimate.estimate(made.program, made.activations, rows=rows).total

    assert total(rows) <= made.usable < total(rows + 1)


def test_a_batch_too_large_is_told_its_microbatches(monkeypatch):
    needed = plan.create(tiny.run_config(), "h100", None).memory.total
    monkeypatch.setattr(target, "usable_bytes", lambda _: 0.9 * needed)
    made = plan.create(tiny.run_config(), "h100", None)
    assert made.memory.total > made.usable
    parts = made.fewest_microbatches
    assert parts is not None and parts > 1
    assert f"num_microbatches={parts}" in shown(made)
    monkeypatch.setattr(target, "usable_bytes", lambda _: 1e5)
    assert "does not fit: Change one of" in shown(
        plan.create(tiny.run_config(), "h100", None)
    )


def test_twice_the_devices_take_half_of_the_matrix_time():
    one = plan.create(tiny.run_config(), "tpu-v5e", 1)
    two = plan.create(tiny.run_config(), "tpu-v5e", 2)
    assert one.flops_per_step == two.flops_per_step
    products = [p.step_seconds - 2 * p.memory.exact / 0.819e12 for p in (one, two)]
    assert products[1] == pytest.approx(products[0] / 2, rel=1e-6)


def test_it_says_what_a_person_wants_to_know():
    text = shown(default())
    for words in (
        "masked_lm on encoder",
        "token embedding",
        "optimizer (adamw)",
        "8.00 B",
        "20 tokens a parameter",
        "largest batch that fits",
        "not measured",
        "dtype=bfloat16",
    ):
        assert words in text


def test_devices_of_jax_are_found_by_their_longest_name():
    assert devices.known("TPU v5 lite").name == "tpu-v5e"
    assert devices.known("TPU v5").name == "tpu-v5p"
    assert devices.known("NVIDIA H100 80GB HBM3").name == "h100"
    assert devices.known("NVIDIA H100 PCIe").name == "h100-pcie"
    assert devices.known("cpu") is None


def test_an_unknown_device_lists_those_that_are_known():
    with pytest.raises(UserError) as caught:
        plan.create(tiny.run_config(), "h2000", None)
    assert "Did you mean h200" in str(caught.value)
    assert "tpu-v5p, tpu-v6e, cpu" in str(caught.value)


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="does not divide the 6 devices"):
        plan.create(tiny.run_config(parallel__fsdp=4), "h200", 6)


@pytest.mark.slow
def test_compiled_stands_beside_the_estimate():
    run = tiny.run_config()
    found = compiled.compile_step(run, 1)
    assert found.allocated == pytest.approx(found.estimated.total, rel=0.3)
    assert "XLA allocates" in shown(default(), found)


def test_compiling_for_more_devices_than_there_are_is_refused():
    with pytest.raises(UserError, match="JAX_PLATFORMS=cpu"):
        compiled.compile_step(tiny.run_config(), 4096)


def test_attention_dropout_is_named_where_it_costs_the_fused_kernel():
    half = {"model__dtype": "bfloat16", "model__head_dim": 8}
    dropped = tiny.run_config(model__attention_dropout_rate=0.1, **half)
    assert "attention_dropout_rate=0" in shown(plan.create(dropped, "h200", None))
    assert "attention_dropout_rate" not in shown(
        plan.create(tiny.run_config(**half), "h200", None)
    )
