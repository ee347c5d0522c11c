"""The same losses on every mesh, in either mode, for any number of microbatches.

20 steps with dropout in float32, against one device: what differs is the order of
sums. `--full-matrix` runs every objective on every mesh.
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

import objectives
from tests.multi_device import runner

pytestmark = pytest.mark.slow

STEPS = 20
TOLERANCE = 1e-5
# data, fsdp, tensor: every way to write 8 as an ordered product of three powers of 2.
MESHES = [
    (data, fsdp, 8 // (data * fsdp))
    for data, fsdp in itertools.product((1, 2, 4, 8), repeat=2)
    if data * fsdp <= 8
]
PMAP = {"parallel.mode": "pmap"}


def mesh(data: int, fsdp: int, tensor: int) -> dict[str, int]:
    return {"parallel.data": data, "parallel.fsdp": fsdp, "parallel.tensor": tensor}


def microbatches(count: int) -> dict[str, int]:
    return {"train.num_microbatches": count}


def every_mesh() -> list[dict]:
    """Each mesh and pmap once, the numbers of microbatches taking turns."""
    ways = [mesh(*shape) for shape in MESHES] + [PMAP]
    counts = itertools.cycle((1, 2, 4))
    return [way | microbatches(next(counts)) for way in ways]


def full_matrix() -> list[dict]:
    ways = [mesh(*shape) for shape in MESHES] + [PMAP]
    return [way | microbatches(count) for way in ways for count in (1, 2, 4)]


FEW = [mesh(2, 2, 2) | microbatches(2), PMAP | microbatches(4)]


def check(objective: str, ways: list[dict]) -> None:
    case = {"objective": objective, "steps": STEPS}
    alone = {**case, "devices": 1}
    reference, *found = runner.losses([alone, *({**case, **way} for way in ways)])
    assert len(reference) > STEPS
    assert len(set(reference)) > STEPS // 2  # The losses do change.
    for way, losses in zip(ways, found, strict=True):
        np.testing.assert_allclose(
            losses, reference, rtol=0, atol=TOLERANCE, err_msg=str(way)
        )


def test_masked_lm_on_every_mesh():
    check("masked_lm", every_mesh())


@pytest.mark.parametrize("objective", sorted(objectives.OBJECTIVES))
def test_every_objective(objective, request):
    whole = request.config.getoption("--full-matrix", default=False)
    check(objective, full_matrix() if whole else FEW)


@pytest.mark.parametrize("objective", ["mixture", "phases"])
def test_every_combination(objective):
    check(objective, [mesh(2, 2, 2) | microbatches(2), PMAP | microbatches(2)])


def test_the_kernel_of_tpus_on_meshes():
    """Interpreted: causal and packed documents, then an encoder's all but last layer."""
    for objective, row_length in (("causal_lm", 128), ("masked_lm", 126)):
        case = {
            "objective": objective,
            "steps": 3,
            "data.row_length": row_length,
            f"objective.{objective}.isolate_documents": True,
            "model.num_layers": 2,
        }
        ways = [mesh(2, 2, 2), mesh(1, 8, 1), PMAP, {"devices": 1}]
        reference, *found = runner.losses(
            [
                {**case, "devices": 1, "model.attention": "xla"},
                *({**case, **way, "model.attention": "splash"} for way in ways),
            ]
        )
        for way, losses in zip(ways, found, strict=True):
            np.testing.assert_allclose(
                losses, reference, rtol=0, atol=TOLERANCE, err_msg=str(way)
            )


def check_processes(case: dict, ways: list[dict], *, count: int, devices: int) -> None:
    """Processes find the same losses as one device."""
    cases = json.dumps([{**case, **way} for way in ways])
    port = runner.free_port()
    processes = [
        runner.start(
            "tests.multi_device.losses",
            cases,
            f"localhost:{port}",
            str(count),
            str(number),
            num_devices=devices,
        )
        for number in range(count)
    ]
    outputs = [runner.finish(process) for process in processes]
    first, *others = (json.loads(out.strip().splitlines()[-1]) for out in outputs)
    assert all(other == first for other in others)
    (reference,) = runner.losses([{**case, "devices": 1}], num_devices=1)
    for way, losses in zip(ways, first, strict=True):
        np.testing.assert_allclose(
            losses, reference, rtol=0, atol=TOLERANCE, err_msg=str(way)
        )


def test_two_processes_of_four_devices():
    ways = [mesh(8, 1, 1), mesh(2, 2, 2), mesh(1, 1, 8), PMAP]
    case = {"objective": "masked_lm", "steps": STEPS}
    check_processes(case, ways, count=2, devices=4)


def interleaved(period: int) -> dict[str, int]:
    return {"interleaved": period}


def test_processes_whose_devices_are_not_side_by_side():
    """Parts 0, 2, 4, 6 and 1, 3, 5, 7; 0, 2 and 1, 3; all of them on both."""
    ways = [
        mesh(8, 1, 1) | interleaved(4),
        mesh(2, 2, 2) | interleaved(2) | microbatches(2),
        mesh(2, 2, 2) | interleaved(4),
        PMAP | interleaved(4),
    ]
    # Its pairs look at other rows of the batch, and so at where rows are.
    case = {"objective": "next_sentence", "steps": 3}
    check_processes(case, ways, count=2, devices=4)


def test_a_process_between_two_parts_reads_both():
    """Tensor groups of three over processes of two devices: 0, then 0 and 1, then 1."""
    case = {"objective": "next_sentence", "steps": 3}
    case |= {"model.emb_dim": 48, "model.num_heads": 3, "model.mlp_dim": 48}
    check_processes(case, [mesh(2, 1, 3)], count=3, devices=2)
