"""Figures of every class: percentiles of its depth, its nearest point, its area.

They are taken where the network gave them, at the size of its canvas: on a photo of 12 megapixels that is 40 times
less to count than after resizing, which adds no knowledge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.images import INVALID_DEPTH, UInt8, UInt16
from service.maps import Maps

MAX_BINS = 1 << 20
"""Classes times depths in mm that are counted in one table."""


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
    rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
    labels, depth = maps.canvas.labels[rows, columns], maps.canvas.depth[rows, columns]

    # What one pixel of the canvas covers at a distance of 1 mm, in square metres.
    across, down = box.width / box.size[1], box.height / box.size[0]
    pixel_m2 = 1e-6 / (camera.fx * across * camera.fy * down)
    seen: dict[int, tuple[NDArray[np.intp], NDArray[np.intp]]] = {}  # Depths, and the pixels of each.
    nearest_mm = np.full(256, INVALID_DEPTH + 1, np.uint16)  # No pixel of a class without valid depth has that.
    for id_, counts in _histograms(labels, depth):
        counts[INVALID_DEPTH] = 0
        depths = np.flatnonzero(counts > 0)  # Of truth values three times as fast as of numbers.
        if len(depths):
            seen[id_] = depths, counts[depths]
            nearest_mm[id_] = depths[0]

    found = {}
    # Of every class, the first pixel that is as near as its nearest.
    places = np.flatnonzero(nearest_mm.take(labels) == depth)
    for id_, first in zip(*np.unique(labels.ravel()[places], return_index=True), strict=True):
        depths, pixels = seen[int(id_)]
        y, x = divmod(int(places[first]), box.width)
        nearest = Nearest(int((x + 0.5) / across), int((y + 0.5) / down), int(depths[0]) / 1000)
        area = int(np.dot(pixels, depths * depths)) * pixel_m2
        p5, median, p95 = _percentiles(depths, pixels, (5, 50, 95))
        found[int(id_)] = Measure(p5, median, p95, nearest, area)
    min_m = min((m.nearest.depth_m for m in found.values()), default=None)
    max_m = max((int(depths[-1]) / 1000 for depths, _ in seen.values()), default=None)
    return Measures(found, min_m, max_m)


def _histograms(labels: UInt8, depth: UInt16) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Of every class that is there: its id, and how many of its pixels have each depth from 0 to the greatest of all.

    Counting is several times as fast as sorting, and depths in whole millimetres lose nothing by it.
    """
    depths, classes = int(depth.max()) + 1, int(labels.max()) + 1
    if classes * depths <= MAX_BINS:
        both = np.multiply(labels, depths, dtype=np.intp)
        both += depth
        table = np.bincount(both.ravel(), minlength=classes * depths).reshape(classes, depths)
        yield from enumerate(table)
    else:  # Far things and many classes: a table of all would not fit into a core's cache, or be very large.
        for id_ in np.flatnonzero(np.bincount(labels.ravel())):
            yield int(id_), np.bincount(depth[labels == id_], minlength=1)


def _percentiles(depths: NDArray[np.intp], pixels: NDArray[np.intp], percents: Sequence[float]) -> list[float]:
    """Of increasing millimetres, each with its number of pixels, in metres; between two pixels, a linear mean of
    them."""
    upto = pixels.cumsum()
    last = int(upto[-1]) - 1
    positions = [last * percent / 100 for percent in percents]
    places = [place for position in positions for place in (int(position), min(int(position) + 1, last))]
    found = iter(depths[upto.searchsorted(places, side="right")].tolist())
    # Two at a time: of the pixels before and behind each position.
    return [(low + (high - low) * (at % 1)) / 1000 for at, low, high in zip(positions, found, found, strict=True)]
