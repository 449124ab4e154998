"""Auxiliary labels, made from the two that a data set has: surface normals from depth, edges from labels.

Camera frame: x to the right, y down, z forward; pixel centres have whole coordinates, so the ray of pixel (u, v) is
r = ((u - cx) / fx, (v - cy) / fy, 1) and its point is Z r.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.classes import IGNORE

Intrinsics = tuple[float, float, float, float]
"""fx, fy, cx, cy in pixels."""


def normals_radius(width: int) -> int:
    """The `radius` of `surface_normals` by a picture's width: 10 at 640, as a Kinect's depth needs."""
    return max(1, round(width / 64))


def edges_bridge(width: int) -> int:
    """The `bridge` of `boundary_edges` by a picture's width: 5 at 640."""
    return max(1, round(width / 128))


def surface_normals(
    depth: NDArray[Any], intrinsics: Intrinsics, radius: int = 1, max_slant: float = 85.0
) -> NDArray[np.float32]:
    """Unit normals in the camera frame, turned towards the camera (z is negative where the surface faces it).

    Along the row of a pixel a chord joins the points at us <= u <= ue, along its column those at vs <= v <= ve. In
    terms of the ray r through the pixel the chords are (Ze - Zs) r + a e_x and (Ze - Zs) r + b e_y, where
    a = (Ze (ue - u) + Zs (u - us)) / fx and b likewise; with p = (Ze - Zs) / a and q = (Ze - Zs) / b their cross
    product gives

        n = (p, q, -(1 + p r_x + q r_y)) / norm

    which is exact for a plane. It faces the camera without a test: n . r = -1 / norm.

    A chord ends where the depth does, and before a discontinuity: a step between two neighbours that only a surface
    slanted by more than `max_slant` against the line of sight would make. At a border it is one-sided.

    Args:
        depth: [H, W], any unit; 0 or not finite = invalid.
        intrinsics: Of this picture at this size.
        radius: Longest half of a chord in pixels. 1 suits exact depth; depth in whole millimetres needs about 3, and
            a Kinect's at 640x480 about 10, because a step of its rounding over one pixel looks like a slope.
        max_slant: Degrees.

    Returns:
        [H, W, 3]; (0, 0, 0) = invalid: no depth, or no valid neighbour in the row or in the column.
    """
    fx, fy, cx, cy = intrinsics
    z = np.asarray(depth, np.float32)
    valid = np.isfinite(z) & (z > 0)
    z = np.where(valid, z, np.float32(0))
    height, width = z.shape
    limit = math.tan(math.radians(max_slant))
    p, p_valid = _slope(z, valid, fx, limit, radius)
    q, q_valid = _slope(z.T, valid.T, fy, limit, radius)
    ray_x = ((np.arange(width) - cx) / fx).astype(np.float32)
    ray_y = ((np.arange(height) - cy) / fy).astype(np.float32)
    normals = np.empty((height, width, 3), np.float32)
    normals[..., 0] = p
    normals[..., 1] = q.T
    normals[..., 2] = -(1 + p * ray_x[None, :] + q.T * ray_y[:, None])
    norm = np.sqrt(np.einsum("hwc,hwc->hw", normals, normals))
    normals *= np.where(p_valid & q_valid.T, 1 / norm, np.float32(0))[..., None]  # norm >= the ray's z part, never 0
    return normals


def _slope(
    z: NDArray[np.float32], valid: NDArray[np.bool_], focal: float, limit: float, radius: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """p of `surface_normals` along the second axis, 0 where a pixel has no chord, and where it has one."""
    near, far = np.minimum(z[:, :-1], z[:, 1:]), np.maximum(z[:, :-1], z[:, 1:])
    joined = valid[:, :-1] & valid[:, 1:] & ((far - near) * np.float32(focal) <= np.float32(limit) * near)
    rows, width = z.shape
    # How many pixels the chord reaches to either side: steps are taken as long as they are joined.
    ahead, behind = np.zeros(z.shape, np.int32), np.zeros(z.shape, np.int32)
    on, back = joined, joined
    for step in range(1, min(radius, width - 1) + 1):
        ahead[:, : width - step] += on
        behind[:, step:] += back
        on = back = on[:, :-1] & joined[:, step:]  # all steps from u to u + step + 1
    index = np.arange(z.size, dtype=np.int32).reshape(rows, width)
    flat = np.ascontiguousarray(z).reshape(-1)
    z_end, z_start = flat[index + ahead], flat[index - behind]
    length = (z_end * ahead + z_start * behind) * np.float32(1 / focal)
    has_chord = (ahead + behind) > 0
    slope = np.divide(z_end - z_start, length, out=np.zeros_like(z), where=has_chord)
    return slope, has_chord


def boundary_edges(label: NDArray[np.integer[Any]], bridge: int = 5) -> NDArray[np.uint8]:
    """Semantic boundaries: 1 where one of the four neighbours has another class, so that a boundary is 2 pixels wide
    and lies on both sides alike; 0 elsewhere; 255 = ignore.

    Hand-drawn labels (NYUD-v2, SUN RGB-D) leave a band of void between most objects, and that is where the boundary
    runs. So labels first grow into void by `bridge` pixels (city-block distance), and only void that is farther
    from any label is ignored, without a boundary around it: what it hides is not known.

    Args:
        bridge: Half the width of the bands to be closed, in pixels: 5 suits 640x480, 0 ignores all void.
    """
    grown = label.copy()
    for _ in range(bridge):
        before = grown.copy()
        void = before == IGNORE
        if not void.any():
            break
        for to, source in (
            (np.s_[:, 1:], np.s_[:, :-1]),
            (np.s_[:, :-1], np.s_[:, 1:]),
            (np.s_[1:], np.s_[:-1]),
            (np.s_[:-1], np.s_[1:]),
        ):
            np.copyto(grown[to], before[source], where=void[to] & ~void[source])
    known = grown != IGNORE
    edges = np.zeros(label.shape, bool)
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differs = (grown[a] != grown[b]) & known[a] & known[b]
        edges[a] |= differs
        edges[b] |= differs
    return np.where(known, edges.astype(np.uint8), np.uint8(IGNORE))
