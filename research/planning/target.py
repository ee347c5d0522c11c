"""The device of a plan: one by its data sheet, or this machine as measured."""

from __future__ import annotations

import os
import time

import jax
import numpy as np

from research.errors import UserError, nearest
from research.machine import devices, timing
from research.machine.devices import Device
from research.training import memory

CPU = "cpu"
# What JAX takes of a GPU's memory unless told otherwise.
_GPU_FRACTION = 0.75
_FRACTION_VARIABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
_COPIED_BYTES = 2**28


def find(name: str | None, *, dtype: str, count: int) -> Device:
    """The device of a name; None = what this machine has.

    Args:
      name: a key of `devices.DEVICES`, or 'cpu' for this machine's processor.
      dtype: of the computation, for what is measured.
      count: devices that share this machine's processor.

    Raises:
      UserError: for a name that is not known.
    """
    if name is None:
        kind = jax.devices()[0]
        found = devices.known(kind.device_kind)
        if found is None and kind.platform != CPU:
            raise UserError(
                f"there is no data sheet for {kind.device_kind!r}: choose a device by "
                f"--device={'|'.join(valid_names())}."
            )
        return found or measured_cpu(dtype, count)
    if name == CPU:
        return measured_cpu(dtype, count)
    if name not in devices.DEVICES:
        valid = valid_names()
        raise UserError(
            f"--device={name}: there is no data sheet for it.{nearest(name, valid)} "
            f"Valid: {', '.join(valid)}."
        )
    return devices.DEVICES[name]


def valid_names() -> list[str]:
    """What --device takes."""
    return [*devices.DEVICES, CPU]


def measured_cpu(dtype: str, count: int) -> Device:
    """This machine's processor, shared by `count` devices."""
    with jax.default_device(jax.devices(CPU)[0]):
        rate = timing.matmul_rate(dtype)
    source = np.ones(_COPIED_BYTES, np.uint8)
    target = np.zeros_like(source)
    begin = time.perf_counter()
    np.copyto(target, source)
    seconds = time.perf_counter() - begin
    return Device(
        name=CPU,
        platform=CPU,
        kinds=(CPU,),
        flops=rate / count,
        memory=memory.host_bytes() / count,
        bandwidth=2 * _COPIED_BYTES / seconds / count,
    )


def usable_bytes(device: Device) -> float:
    """What JAX lets programs have of a device's memory."""
    if device.platform != "gpu":
        return device.memory
    given = os.environ.get(_FRACTION_VARIABLE)
    try:
        fraction = float(given) if given else _GPU_FRACTION
    except ValueError:
        raise UserError(f"{_FRACTION_VARIABLE}={given}: a share of 1.") from None
    return device.memory * fraction
