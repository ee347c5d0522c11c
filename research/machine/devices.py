"""Speed and memory of accelerators, from their vendors' data sheets."""

from __future__ import annotations

import dataclasses

import jax

GB = 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """One device.

    Attributes:
      name: its name on a command line.
      platform: 'gpu', 'tpu' or 'cpu'.
      kinds: prefixes of `jax.Device.device_kind`.
      flops: peak rate of dense bfloat16 matrix products, FLOP/s.
      memory: bytes.
      bandwidth: of its memory, bytes/s.
    """

    name: str
    platform: str
    kinds: tuple[str, ...]
    flops: float
    memory: float
    bandwidth: float


def _gpu(name: str, kind: str, flops: float, memory: float, bandwidth: float) -> Device:
    return Device(
        name=name,
        platform="gpu",
        kinds=(kind,),
        flops=flops * 1e12,
        memory=memory * GB,
        bandwidth=bandwidth * 1e12,
    )


def _tpu(
    name: str, kinds: tuple[str, ...], flops: float, memory: float, bandwidth: float
) -> Device:
    return Device(
        name=name,
        platform="tpu",
        kinds=kinds,
        flops=flops * 1e12,
        memory=memory * 2**30,
        bandwidth=bandwidth * 1e12,
    )


# Data sheets of NVIDIA (without sparsity) and Google Cloud: TFLOP/s, GB (TPU: GiB), TB/s.
DEVICES = {
    device.name: device
    for device in (
        _gpu("a100", "NVIDIA A100", 312, 80, 2.039),
        _gpu("a100-40gb", "NVIDIA A100-SXM4-40GB", 312, 40, 1.555),
        _gpu("h100", "NVIDIA H100", 989, 80, 3.35),
        _gpu("h100-pcie", "NVIDIA H100 PCIe", 756, 80, 2.0),
        _gpu("h200", "NVIDIA H200", 989, 141, 4.8),
        _gpu("b200", "NVIDIA B200", 2250, 180, 7.7),
        _tpu("tpu-v4", ("TPU v4",), 275, 32, 1.228),
        _tpu("tpu-v5e", ("TPU v5 lite", "TPU v5e"), 197, 16, 0.819),
        _tpu("tpu-v5p", ("TPU v5",), 459, 95, 2.765),
        _tpu("tpu-v6e", ("TPU v6 lite", "TPU v6e"), 918, 32, 1.64),
    )
}


def known(kind: str) -> Device | None:
    """The device whose prefix of the `device_kind` is longest; None if none fits."""
    found = [
        (len(beginning), device)
        for device in DEVICES.values()
        for beginning in device.kinds
        if kind.startswith(beginning)
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def peak_flops() -> float | None:
    """Peak FLOP/s of all devices together; None for devices without a data sheet."""
    devices = jax.devices()
    device = known(devices[0].device_kind)
    return None if device is None else device.flops * len(devices)
