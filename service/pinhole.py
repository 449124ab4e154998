"""Pixels with depth as points in space, the same for the service and its client.

A pixel (u, v) with depth z, seen by a pinhole camera, lies at x = (u - cx) z / fx, y = (v - cy) z / fy.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.arrays import Size


class Pinhole(Protocol):
    """Intrinsics in pixels; the middle of the first pixel is (0, 0)."""

    @property
    def fx(self) -> float: ...
    @property
    def fy(self) -> float: ...
    @property
    def cx(self) -> float: ...
    @property
    def cy(self) -> float: ...


def grid_step(size: Size, max_points: int) -> int:
    """The least distance, in pixels, at which a grid over `size` (height, width) has no more than `max_points`."""
    height, width = size

    def few_enough(step: int) -> bool:
        return -(-height // step) * -(-width // step) <= max_points  # rounded up

    steps = range(1, max(size) + 1)
    return steps[bisect_left(steps, True, key=few_enough)]


def positions(depth: NDArray[np.float32], at: NDArray[np.intp], camera: Pinhole, step: int = 1) -> NDArray[np.float32]:
    """Points in camera coordinates (x to the right, y down, z forward), float32 [N, 3], in the unit of the depth.

    Args:
        depth: along the optical axis, [h, w], of every `step`-th pixel of both directions.
        at: which of its elements, row by row.
        camera: of all pixels.
    """
    rows, columns = depth.shape
    across = ((np.arange(columns) * step - camera.cx) / camera.fx).astype(np.float32)
    down = ((np.arange(rows) * step - camera.cy) / camera.fy).astype(np.float32)
    xyz = np.empty((len(at), 3), np.float32)
    # By their numbers, elements are picked several times as fast as by a mask.
    for axis, plane in enumerate((depth * across, depth * down[:, None], depth)):
        xyz[:, axis] = plane.ravel().take(at)
    return xyz
