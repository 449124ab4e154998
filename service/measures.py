"""Figures of every class: how many pixels it has, percentiles of its depth, its nearest point, its area.

They are taken where the network gave them, at the size of its canvas: on a photo of 12 megapixels that is 130 times
less to count than after resizing, which adds no knowledge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.images import INVALID_DEPTH, Letterbox, UInt8, inside, nearest_of
from service.maps import Maps

IDS = np.arange(256, dtype=np.uint32)


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

    # By class, and then by depth. NumPy sorts 32 bits with vector instructions, as fast as anything counts them.
    ordered = np.sort(np.left_shift(labels, 16, dtype=np.uint32) | depth, axis=None)
    first, end = ordered.searchsorted(IDS << 16 | INVALID_DEPTH + 1), ordered.searchsorted(IDS + 1 << 16)
    depths = (ordered & 0xFFFF).astype(np.intp)
    ids = np.flatnonzero(first < end)
    nearest_mm = np.full(len(IDS), INVALID_DEPTH + 1, np.uint16)  # No pixel of a class without valid depth has that.
    nearest_mm[ids] = depths[first[ids]]
    # Of every class, the first pixel that is as near as its nearest.
    places = np.flatnonzero(nearest_mm.take(labels) == depth)
    _, firsts = np.unique(labels.ravel()[places], return_index=True)

    found = {}
    for id_, place in zip(ids.tolist(), places[firsts].tolist(), strict=True):
        own = depths[first[id_] : end[id_]]
        y, x = divmod(place, box.width)
        nearest = Nearest(int((x + 0.5) / across), int((y + 0.5) / down), int(own[0]) / 1000)
        p5, median, p95 = _percentiles(own, (5, 50, 95))
        found[id_] = Measure(p5, median, p95, nearest, int(np.dot(own, own)) * pixel_m2)
    min_m = min((m.nearest.depth_m for m in found.values()), default=None)
    max_m = max((int(depths[last]) / 1000 for last in end[ids] - 1), default=None)
    return Measures(found, min_m, max_m)


def _percentiles(depths: NDArray[np.intp], percents: Sequence[float]) -> list[float]:
    """Of increasing millimetres, in metres; between two of them, a linear mean."""
    last = len(depths) - 1
    positions = [last * percent / 100 for percent in percents]
    pairs = depths[[(int(at), min(int(at) + 1, last)) for at in positions]].tolist()
    return [(low + (high - low) * (at % 1)) / 1000 for at, (low, high) in zip(positions, pairs, strict=True)]


def pixels_of(plane: UInt8, box: Letterbox) -> list[int]:
    """How many pixels of the uploaded picture have each of 256 values, by a plane [h, w] of the canvas: the counts of
    what `unfit_nearest` gives, which need not be made for them."""
    values = inside(plane, box)
    # How often each row and column of the canvas occurs, and of the columns, how often all before it do.
    rows = np.bincount(nearest_of(box.size[0], box.height), minlength=box.height)
    before = np.zeros(box.width + 1, np.intp)
    np.cumsum(np.bincount(nearest_of(box.size[1], box.width), minlength=box.width), out=before[1:])

    # Runs of one value within a row are many times fewer than pixels.
    begins = np.ones(values.shape, bool)
    np.not_equal(values[:, 1:], values[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    y, x = np.divmod(starts, box.width)
    ends = np.append(x[1:], box.width)
    ends[ends == 0] = box.width
    counts = np.bincount(values.ravel()[starts], weights=(before[ends] - before[x]) * rows[y], minlength=256)
    return [int(count) for count in counts]
