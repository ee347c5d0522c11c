"""Places devices in a mesh so that neighbours in it are close in the network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils


def arrange(devices: Sequence[jax.Device], shape: tuple[int, ...]) -> np.ndarray:
    """The devices in the shape of a mesh, the last axes over the fastest links.

    JAX cannot lay out every shape on the network of a TPU. If it fails, an axis of the
    network may be split; if that fails too, devices keep their own order, which is
    slower but correct.

    Args:
      devices: as many as the mesh has; several slices (TPU slices, NVLink domains) are
        spread over the first axes, whose communication is the least.
      shape: of the mesh.

    Returns:
      Devices, [*shape].
    """
    slices = [getattr(device, "slice_index", 0) for device in devices]
    num_slices = len(set(slices))
    within, across = _over_slices(shape, num_slices)
    for split in (False, True):
        try:
            if num_slices == 1:
                return mesh_utils.create_device_mesh(
                    shape, devices, allow_split_physical_axes=split
                )
            return mesh_utils.create_hybrid_device_mesh(
                within, across, devices, allow_split_physical_axes=split
            )
        except (NotImplementedError, ValueError, AssertionError):
            continue  # The shape does not fit, or the devices are only a part of a network.
    order = sorted(range(len(devices)), key=lambda i: slices[i])
    return np.array([devices[i] for i in order], dtype=object).reshape(shape)


def _over_slices(
    shape: tuple[int, ...], num_slices: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the mesh within a slice and across slices; the first axes are split first.

    (4, 2, 1) over 2 slices: (2, 2, 1) within and (2, 1, 1) across. (1, 1, 1) across if
    the axes do not divide that way.
    """
    across, left = [], num_slices
    for size in shape:
        across.append(math.gcd(size, left))
        left //= across[-1]
    if left > 1:
        return shape, (1,) * len(shape)
    within = (size // count for size, count in zip(shape, across, strict=True))
    return tuple(within), tuple(across)
