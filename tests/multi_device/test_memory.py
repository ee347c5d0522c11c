"""What fully sharded data parallelism saves, by XLA's own account."""

from __future__ import annotations

import json
import math

import pytest

from tests.multi_device import runner

pytestmark = pytest.mark.slow

VOCAB_SIZE = 30522


# The estimate of research.plan against XLA's account.
TOLERANCE = 0.25


def compiled(
    size: str,
    *,
    fsdp: int,
    tensor: int = 1,
    batch_size: int,
    architecture: str = "encoder",
    remat: str = "full",
) -> dict:
    numbers = (str(number) for number in (fsdp, tensor, batch_size))
    arguments = (size, *numbers, architecture, remat)
    process = runner.start("tests.multi_device.memory", *arguments, num_devices=8)
    return json.loads(runner.finish(process).strip().splitlines()[-1])


def total(found: dict) -> int:
    return found["arguments"] + found["temporaries"]


def test_base_size_over_eight_devices():
    replicated = compiled("base", fsdp=1, batch_size=64)
    sharded = compiled("base", fsdp=8, batch_size=64)
    assert sharded["arguments"] <= replicated["arguments"] / 7
    assert total(sharded) <= total(replicated) / 4
    for found in (replicated, sharded):
        assert found["estimated"] == pytest.approx(total(found), rel=TOLERANCE)


@pytest.mark.parametrize(("fsdp", "tensor"), [(8, 1), (1, 2)])
@pytest.mark.parametrize("remat", ["none", "dots"])
@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder_decoder"])
def test_the_estimate_on_a_mesh_is_what_xla_allocates(
    architecture, remat, fsdp, tensor
):
    found = compiled(
        "mini",
        fsdp=fsdp,
        tensor=tensor,
        batch_size=64,
        architecture=architecture,
        remat=remat,
    )
    assert found["estimated"] == pytest.approx(total(found), rel=TOLERANCE)


@pytest.mark.parametrize(("fsdp", "tensor"), [(8, 1), (2, 2)])
def test_logits_are_never_gathered(fsdp, tensor):
    found = compiled("mini", fsdp=fsdp, tensor=tensor, batch_size=64)
    assert found["gathers"]
    for shape in found["gathers"]:
        # The table has 256 features; logits have hundreds of positions.
        if VOCAB_SIZE in shape:
            assert math.prod(shape) <= VOCAB_SIZE * 256, shape


def test_a_billion_parameters_compile_without_being_allocated():
    found = compiled("billion", fsdp=8, batch_size=8)
    assert found["params"] > 1e9
    # Weights and two moments, a bit more for what is not split.
    assert found["arguments"] < 12 * found["params"] / 8 * 1.05
    # The weights alone would be 4 bytes each.
    assert found["process"] < 4 * found["params"] / 2
    assert found["live"] < 1e6
    assert found["estimated"] == pytest.approx(total(found), rel=0.3)
