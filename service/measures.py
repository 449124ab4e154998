"""Figures of every class: how many pixels it has, percentiles of its depth, its nearest point, its area.

They are taken where the network gave them, at the size of its canvas: on a photo of 12 megapixels that is 130 times
less to count than after resizing, which adds no knowledge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service import kernels
from service.arrays import UInt8, UInt16
from service.images import Letterbox, inside, nearest_of
from service.maps import Maps

PERCENTS = np.array([5, 50, 95])


class Nearest(NamedTuple):
    """The pixel of the uploaded picture, from its left and top edges, and the depth in metres."""

    u: int
    v: int
    depth_m: float


class Measure(NamedTuple):
    """Of the pixels of a class with valid depth; all depths are along the optical axis."""

    p5_m: float
    median_m: float
    p95_m: float
    nearest: Nearest
    area_m2: float
    """What is visible of it, as an area that faces the camera; a surface seen at a slant is larger."""


class Measures(NamedTuple):
    """Of every class with valid depth, by id; and the least and the greatest depth of all, None without any."""

    classes: dict[int, Measure]
    min_m: float | None
    max_m: float | None


def measure(maps: Maps) -> Measures:
    """Measure what is in a picture."""
    box, camera = maps.box, maps.camera
    labels, depth = inside(maps.canvas.labels, box), inside(maps.canvas.depth, box)

    # What one pixel of the canvas covers at a distance of 1 mm, in square metres.
    across, down = box.width / box.size[1], box.height / box.size[0]
    pixel_m2 = 1e-6 / (camera.fx * across * camera.fy * down)

    depths, first, end, nearest, squares = kernels.by_class(labels, depth)
    ids = np.flatnonzero(first < end)
    if not len(ids):
        return Measures({}, None, None)
    first, last = first[ids], end[ids] - 1
    percentiles = _percentiles(depths, first, last)
    y, x = np.divmod(nearest[ids], box.width)
    u, v = ((x + 0.5) / across).astype(np.intp), ((y + 0.5) / down).astype(np.intp)

    columns = (ids, u, v, depths[first] / 1000, squares[ids] * pixel_m2, *percentiles.T)
    found = {
        id_: Measure(p5, median, p95, Nearest(u, v, depth_m), area)
        for id_, u, v, depth_m, area, p5, median, p95 in zip(*(column.tolist() for column in columns), strict=True)
    }
    return Measures(found, int(depths[first].min()) / 1000, int(depths[last].max()) / 1000)


def _percentiles(depths: UInt16, first: NDArray[np.intp], last: NDArray[np.intp]) -> NDArray[np.float64]:
    """Of runs of increasing millimetres, from `first` to `last`, each [N]: their `PERCENTS` in metres, [N, 3]; between
    two depths, a linear mean."""
    position = (last - first)[:, None] * PERCENTS / 100
    before = first[:, None] + position.astype(np.intp)
    low, high = depths[before].astype(np.intp), depths[np.minimum(before + 1, last[:, None])].astype(np.intp)
    metres: NDArray[np.float64] = (low + (high - low) * (position % 1)) / 1000
    return metres


def pixels_of(plane: UInt8, box: Letterbox) -> list[int]:
    """How many pixels of the uploaded picture have each of 256 values, by a plane [h, w] of the canvas: the counts of
    what `unfit_nearest` gives, which need not be made for them."""
    # How often each row and column of the canvas occurs.
    rows = np.bincount(nearest_of(box.size[0], box.height), minlength=box.height)
    columns = np.bincount(nearest_of(box.size[1], box.width), minlength=box.width)
    found: list[int] = kernels.counts(inside(plane, box), rows, columns).tolist()
    return found
