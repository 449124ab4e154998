"""Figures of every class: percentiles of its depth, its nearest point, its area.

They are taken where the network gave them, at the size of its canvas: on a photo of 12 megapixels that is 40 times
less to sort than after resizing, which adds no knowledge.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.images import INVALID_DEPTH
from service.maps import Maps


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
    # Pixels by class, then by position. NumPy's stable sort of 8 and of 16 bits is a radix sort.
    order = np.argsort(labels, axis=None, kind="stable")
    by_class = depth.ravel()[order]
    ends = np.bincount(labels.ravel(), minlength=len(maps.card.classes)).cumsum()

    # What one pixel of the canvas covers at a distance of 1 mm, in square metres.
    across, down = box.width / box.size[1], box.height / box.size[0]
    pixel_m2 = 1e-6 / (camera.fx * across * camera.fy * down)
    found, farthest = {}, []
    for id_, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        of_class = by_class[start:end]
        ordered = np.sort(of_class, kind="stable")
        ordered = ordered[np.searchsorted(ordered, INVALID_DEPTH, side="right") :]  # invalid is the least value
        if not len(ordered):
            continue
        farthest.append(int(ordered[-1]) / 1000)
        y, x = divmod(int(order[start + int(np.argmax(of_class == ordered[0]))]), box.width)
        nearest = Nearest(int((x + 0.5) / across), int((y + 0.5) / down), int(ordered[0]) / 1000)
        area = float(np.square(ordered, dtype=np.float64).sum()) * pixel_m2
        p5, median, p95 = (_percentile(ordered, percent) for percent in (5, 50, 95))
        found[id_] = Measure(p5, median, p95, nearest, area)
    return Measures(found, min((m.nearest.depth_m for m in found.values()), default=None), max(farthest, default=None))


def _percentile(ordered: NDArray[np.uint16], percent: float) -> float:
    """Of increasing millimetres, in metres; between two values, a linear mean of them."""
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    low, high = int(ordered[below]), int(ordered[min(below + 1, len(ordered) - 1)])
    return (low + (high - low) * (position - below)) / 1000
