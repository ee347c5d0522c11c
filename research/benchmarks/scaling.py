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
from research.benchmarks.table import Table
from research.machine import timing
from research.planning import compiled
from research.training import memory
from research.training.memory import gib

# Devices to make up on a machine that has one CPU.
MADE_UP = 8
ROWS_PER_DEVICE = {"cpu": 8, "gpu": 64, "tpu": 64}
AXES = ("data", "fsdp", "tensor")
# Sizes that a tensor axis of 8 divides; base size on accelerators.
MODEL: dict[str, dict[str, Any]] = {
    "cpu": {
        "model.num_layers": 4,
        "model.emb_dim": 256,
        "model.num_heads": 8,
        "model.mlp_dim": 1024,
        "model.vocab_size": 8192,
        "data.tokenizer.vocab_size": 8192,
        "data.row_length": 126,
    },
    "gpu": {
        "model.dtype": "bfloat16",
        "model.num_layers": 12,
        "model.emb_dim": 1024,
        "model.num_heads": 16,
        "model.mlp_dim": 4096,
        "model.vocab_size": 32768,
        "data.tokenizer.vocab_size": 32768,
        "data.row_length": 510,
    },
}
MODEL["tpu"] = MODEL["gpu"]
SHARED = {"model.scan_layers": True, "model.remat": "full"}


def prepare() -> None:
    """Makes up devices, for a process that has not looked at any yet."""
    compiled.make_up_devices(MADE_UP)


def measure(*, rounds: int) -> Table:
    """Every axis over 1, 2, 4, ... devices."""
    devices = jax.devices()
    platform = devices[0].platform
    rows: list[dict[str, Any]] = []
    alone = None
    for axis, count in meshes(len(devices), MODEL[platform]["model.num_heads"]):
        print(f"measuring {axis} = {count} ...", flush=True)
        mine = ours.make(
            "masked_lm", settings(platform, axis, count), devices=devices[:count]
        )
        times = timing.alternate({"step": mine.step}, rounds=rounds, repeats=1)
        rate = mine.tokens / times["step"].median
        alone = rate if alone is None else alone
        rows.append(_row(axis, count, mine, rate, alone, platform))
    return Table(
        title=f"scaling of masked LM over {len(devices)} x {devices[0].device_kind}",
        rows=tuple(rows),
        notes=notes(platform),
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
        **SHARED,
        f"parallel.{axis}": count,
        "train.batch_size": batch,
        "eval.batch_size": batch,
        "train.num_microbatches": 1,
    }


def efficiency(rate: float, alone: float, count: int, platform: str) -> float:
    """Share of the ideal; made-up devices share one CPU, whose ideal is no gain."""
    return rate / alone if platform == "cpu" else rate / (count * alone)


def _row(
    axis: str, count: int, mine: ours.Ours, rate: float, alone: float, platform: str
) -> dict[str, Any]:
    program = mine.program
    allocated = memory.allocated_bytes(mine.compiled)
    return {
        "mesh": "one device" if count == 1 else f"{axis} = {count}",
        "rows": f"{program.config.train.batch_size}",
        "tokens/s": rate,
        "efficiency": efficiency(rate, alone, count, platform),
        "state per device": gib(memory.shard_bytes(program.state)),
        "allocated per device": "-" if allocated is None else gib(allocated),
    }


def notes(platform: str) -> tuple[str, ...]:
    """What the columns mean."""
    ideal = (
        "devices are made up of one CPU and share its cores: efficiency is tokens/s "
        "against one device, the price of splitting and no promise of speed"
        if platform == "cpu"
        else "efficiency: tokens/s a device against one device"
    )
    return (
        ideal,
        "rows a device stay the same over data and fsdp; over tensor the batch does",
        "state: parameters and optimizer; allocated: with temporaries, by XLA's account",
    )
