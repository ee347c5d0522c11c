"""How one training step scales over the devices there are, by every kind of mesh.

Rows a device stay the same ('weak scaling') where rows are split; over a tensor axis,
which splits the model, the batch does. Devices made up of one CPU share its cores: there
the ideal is the same tokens/s on any number of them, and what is lost is the price of
splitting itself.
"""

from __future__ import annotations

from typing import Any

import jax

from research.benchmarks import ours
from research.benchmarks.table import Options, Table
from research.machine import timing
from research.planning import compiled
from research.training import memory
from research.training.memory import gib

# Devices to make up on a machine that has one CPU.
MADE_UP = 8
ROWS_PER_DEVICE = {"cpu": 8, "gpu": 64, "tpu": 64}
AXES = ("data", "fsdp", "tensor")
# Sizes that a tensor axis of 8 divides; base size on accelerators.
_LARGE = {
    **ours.sizes(12, 1024, 16, 4096),
    **ours.vocabulary_of(32768),
    "model.dtype": "bfloat16",
    "data.row_length": 510,
}
MODEL: dict[str, dict[str, Any]] = {
    "cpu": {
        **ours.sizes(4, 256, 8, 1024),
        **ours.vocabulary_of(8192),
        "data.row_length": 126,
    },
    "gpu": _LARGE,
    "tpu": _LARGE,
}


def measure(options: Options) -> Table:
    """Every axis over 1, 2, 4, ... devices."""
    # This process has not looked at any device yet.
    compiled.make_up_devices(MADE_UP)
    devices = jax.devices()
    platform = devices[0].platform
    rows: list[dict[str, Any]] = []
    for axis, count in meshes(len(devices), MODEL[platform]["model.num_heads"]):
        print(f"measuring {axis} = {count} ...", flush=True)
        changes = settings(platform, axis, count)
        mine = ours.Ours("masked_lm", changes, devices=devices[:count])
        times = timing.alternate({"": mine.steps}, rounds=options.rounds, repeats=1)
        rate = mine.tokens / times[""].median
        alone = rows[0]["tokens/s"] if rows else rate
        allocated = memory.allocated_bytes(mine.compiled)
        rows.append(
            {
                "mesh": "one device" if count == 1 else f"{axis} = {count}",
                "rows": f"{mine.run.train.batch_size}",
                "tokens/s": rate,
                "efficiency": efficiency(rate, alone, count, platform),
                "state per device": gib(memory.shard_bytes(mine.program.state)),
                "allocated per device": "-" if allocated is None else gib(allocated),
            }
        )
    ideal = (
        "devices are made up of one CPU and share its cores: efficiency is tokens/s "
        "against one device, the price of splitting and no promise of speed"
        if platform == "cpu"
        else "efficiency: tokens/s a device against one device"
    )
    return Table(
        title=f"scaling of masked LM over {len(devices)} x {devices[0].device_kind}",
        rows=rows,
        notes=(
            ideal,
            "rows a device stay the same over data and fsdp; over tensor the batch does",
            (
                "state: parameters and optimizer; allocated: with temporaries, by XLA's "
                "account"
            ),
        ),
    )


def meshes(num_devices: int, num_heads: int) -> list[tuple[str, int]]:
    """(axis, devices): one device first, then every axis over powers of two.

    A tensor axis divides the heads, so it takes no more devices than there are heads.
    """
    counts = [2**i for i in range(1, num_devices.bit_length()) if 2**i <= num_devices]
    return [
        ("data", 1),
        *(
            (axis, count)
            for axis in AXES
            for count in counts
            if axis != "tensor" or num_heads % count == 0
        ),
    ]


def settings(platform: str, axis: str, count: int) -> dict[str, Any]:
    """Changes of the config for one mesh."""
    batch = ROWS_PER_DEVICE[platform] * (1 if axis == "tensor" else count)
    return {
        **MODEL[platform],
        "model.scan_layers": True,
        "model.remat": "full",
        f"parallel.{axis}": count,
        "train.batch_size": batch,
        "eval.batch_size": batch,
        "train.num_microbatches": 1,
    }


def efficiency(rate: float, alone: float, count: int, platform: str) -> float:
    """Share of the ideal; made-up devices share one CPU, whose ideal is no gain."""
    return rate / alone if platform == "cpu" else rate / (count * alone)
