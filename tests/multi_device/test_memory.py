"""What fully sharded data parallelism saves, by XLA's own account."""

from __future__ import annotations

import json

import pytest

from tests.multi_device import runner

pytestmark = pytest.mark.slow

VOCAB_SIZE = 30522


def compiled(size: str, fsdp: int, batch_size: int) -> dict:
    process = runner.start(
        "tests.multi_device.memory", size, str(fsdp), str(batch_size), num_devices=8
    )
    return json.loads(runner.finish(process).strip().splitlines()[-1])


def test_base_size_over_eight_devices():
    replicated, sharded = compiled("base", 1, 64), compiled("base", 8, 64)
    assert sharded["arguments"] <= replicated["arguments"] / 7

    def total(found):
        return found["arguments"] + found["temporaries"]

    assert total(sharded) <= total(replicated) / 4


def test_logits_are_never_gathered():
    for shape in compiled("mini", 8, 64)["gathers"]:
        # The table has two axes; logits would have the vocabulary last of three.
        assert not (len(shape) == 3 and shape[-1] == VOCAB_SIZE), shape


def test_a_billion_parameters_compile_without_being_allocated():
    found = compiled("billion", 8, 8)
    assert found["params"] > 1e9
    # Weights and two moments, a bit more for what is not split.
    assert found["arguments"] < 12 * found["params"] / 8 * 1.05
