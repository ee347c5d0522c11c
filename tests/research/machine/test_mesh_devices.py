"""Meshes over made-up TPUs: every device once, every row read where it is needed."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from research.data import loader
from research.machine import mesh_devices
from research.training import parallelism
from tests.research.training import tiny


@dataclasses.dataclass(frozen=True)
class Client:
    here: int

    def process_index(self) -> int:
        return self.here


@dataclasses.dataclass(frozen=True)
class Device:
    """A device as one of the hosts sees it; `client` tells which host that is."""

    id: int
    process_index: int
    coords: tuple[int, int, int]
    device_kind: str
    client: Client
    slice_index: int = 0
    core_on_chip: int = 0
    platform: str = "tpu"


def tpus(kind, shape, *, host=(2, 2, 1), slices=1, here=0):
    """Devices of slices of a torus, each host with a block of it."""
    devices = []
    blocks = tuple(size // own for size, own in zip(shape, host, strict=True))
    for number in range(slices):
        # By host and then x first, as jax.devices() has them.
        places = sorted(
            np.ndindex(*shape),
            key=lambda c: (_block(c, host, blocks), tuple(reversed(c))),
        )
        for coords in places:
            process = _block(coords, host, blocks) + number * int(np.prod(blocks))
            devices.append(
                Device(len(devices), process, coords, kind, Client(here), number)
            )
    return devices


def _block(coords, host, blocks):
    x, y, z = (c // own for c, own in zip(coords, host, strict=True))
    return x + blocks[0] * (y + blocks[1] * z)


TPUS = {
    "v4": dict(kind="TPU v4", shape=(2, 2, 2)),
    "v4-64": dict(kind="TPU v4", shape=(4, 4, 4)),
    "v5e": dict(kind="TPU v5 lite", shape=(4, 4, 1)),
    "v5p": dict(kind="TPU v5", shape=(2, 2, 4)),
    "v6e": dict(kind="TPU v6 lite", shape=(4, 4, 1)),
    "2 x v6e": dict(kind="TPU v6 lite", shape=(4, 4, 1), slices=2),
    "3 x v4": dict(kind="TPU v4", shape=(2, 2, 1), slices=3),
}
# Over fsdp and tensor, all others over data. JAX itself finds no place for 2 x 8 x 1 in a
# v6e of 4 x 4 nor for 8 x 4 x 2 in a v4 of 4 x 4 x 4, and refuses several slices.
SHAPES = [(1, 1), (2, 1), (8, 1), (1, 4), (4, 2), (2, 4)]


def create(devices, fsdp, tensor, mode="jit"):
    config = dataclasses.replace(
        tiny.run_config().parallel, mode=mode, fsdp=fsdp, tensor=tensor
    )
    return parallelism.create(config, devices)


def check_rows(name, **settings):
    """Each host reads what its devices need, in places of its own rows."""
    devices = tpus(**TPUS[name])
    num_hosts = len({device.process_index for device in devices})
    batch_size = 2 * len(devices)
    read = collections.Counter()
    for host in range(num_hosts):
        parallel = create(tpus(**TPUS[name], here=host), **settings)
        rows = loader.host_rows(batch_size, *parallel.host_part)
        read.update(rows.tolist())
        assert (np.diff(rows) > 0).all()  # None twice on one host.
        needed = set()
        shards = parallel.mesh.devices.reshape(parallel.num_row_shards, -1)
        size = batch_size // len(shards)
        for shard, group in enumerate(shards):
            if any(device.process_index == host for device in group):
                needed.update(range(shard * size, (shard + 1) * size))
        assert set(rows.tolist()) == needed
    assert set(read) == set(range(batch_size))
    return read


@pytest.mark.parametrize("name", TPUS)
@pytest.mark.parametrize(("fsdp", "tensor"), SHAPES)
def test_every_host_reads_the_rows_of_its_devices(name, fsdp, tensor):
    devices = tpus(**TPUS[name])
    if len(devices) % (fsdp * tensor):
        pytest.skip("does not divide the devices")
    mesh = create(devices, fsdp, tensor).mesh
    assert sorted(d.id for d in mesh.devices.flat) == [d.id for d in devices]
    read = check_rows(name, fsdp=fsdp, tensor=tensor)
    if tensor == 1:
        assert set(read.values()) == {1}


@pytest.mark.parametrize("name", TPUS)
def test_replicas_read_every_row_once(name):
    assert set(check_rows(name, fsdp=1, tensor=1, mode="pmap").values()) == {1}


def test_hosts_whose_devices_take_turns_read_every_other_part():
    for host in (0, 1):
        devices = [
            Device(i, i % 2, (0, 0, i), "TPU v4", Client(host)) for i in range(8)
        ]
        mesh = Mesh(
            np.array(devices, dtype=object).reshape(8, 1, 1),
            ("data", "fsdp", "tensor"),
            axis_types=(AxisType.Auto,) * 3,
        )
        parallel = parallelism.Parallel(mode="jit", mesh=mesh)
        assert parallel.host_part == (8, (host, host + 2, host + 4, host + 6))


def test_the_network_decides_where_it_can():
    """A ring over a v5e: neighbours along the first axis are one hop apart."""
    mesh = mesh_devices.arrange(tpus(**TPUS["v5e"]), (16, 1, 1))
    coords = [np.array(device.coords) for device in mesh.flat]
    hops = [abs(a - b).sum() for a, b in itertools.pairwise(coords)]
    assert set(hops) == {1}


@pytest.mark.parametrize("shape", [(2, 16, 1), (4, 2, 4), (1, 16, 2), (1, 1, 32)])
def test_slices_meet_along_the_first_axis_that_they_divide(shape):
    mesh = mesh_devices.arrange(tpus(**TPUS["2 x v6e"]), shape)
    axis = next(i for i, size in enumerate(shape) if size % 2 == 0)
    halves = np.split(mesh, 2, axis=axis)
    for number, half in enumerate(halves):
        assert {device.slice_index for device in half.flat} == {number}


def test_slices_of_unlike_sizes_follow_each_other():
    devices = [
        Device(i, i, (i, 0, 0), "TPU v4", Client(0), slice_index=int(i >= 5))
        for i in reversed(range(8))
    ]
    mesh = mesh_devices.arrange(devices, (2, 2, 2))
    assert [d.slice_index for d in mesh.flat] == [0] * 5 + [1] * 3
