"""Normals from depth and edges from labels: exact cases, real pictures, and their cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.targets import boundary_edges, normals_radius, surface_normals

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
SIZE = (240, 320)
K = (260.0, 262.0, 160.3, 119.2)


def rays(size: tuple[int, int] = SIZE, k: tuple[float, float, float, float] = K) -> NDArray[np.float64]:
    u, v = np.meshgrid((np.arange(size[1]) - k[2]) / k[0], (np.arange(size[0]) - k[3]) / k[1])
    return np.stack([u, v, np.ones_like(u)], -1)


def plane(normal: tuple[float, float, float], distance: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Depth of the plane n . P = -distance, 0 where the camera does not see it, and its unit normal."""
    n = np.array(normal) / np.linalg.norm(normal)
    with np.errstate(divide="ignore"):
        z = -distance / (rays() @ n)
    return np.where((z > 0.3) & (z < 12), z, 0), n


# --------------------------------------------------------------------------------------------------------- normals


@pytest.mark.parametrize("radius", [1, 3, 10])
@pytest.mark.parametrize("normal", [(0, 0, -1), (0.3, -0.5, -0.8), (-0.7, 0.1, -0.4), (0, -1, 0), (0, -1, -0.1)])
def test_a_plane_gives_its_normal(normal: tuple[float, float, float], radius: int) -> None:
    depth, n = plane(normal, 1.3)
    found = surface_normals(depth, K, radius)
    valid = found.any(-1)
    # Nearly all of it: what lies flatter than 85 degrees to the line of sight counts as a discontinuity.
    assert valid.sum() > 0.95 * (depth > 0).sum()
    assert np.abs(found[valid] - n).max() < 1e-3


def test_normals_are_unit_vectors_that_face_the_camera() -> None:
    rng = np.random.default_rng(0)
    found = surface_normals(2 + 0.01 * rng.standard_normal(SIZE), K, 2)
    assert found.dtype == np.float32
    assert found.any(-1).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)
    assert ((found * rays()).sum(-1) < 0).all()


@pytest.mark.parametrize("radius", [1, 2])
def test_a_sphere_gives_its_radii(radius: int) -> None:
    centre, r = np.array([0.2, -0.1, 3.0]), 1.0
    d = rays()
    a, b, c = (d * d).sum(-1), -2 * d @ centre, centre @ centre - r * r
    seen = b * b - 4 * a * c > 0
    depth = np.where(seen, (-b - np.sqrt(np.where(seen, b * b - 4 * a * c, 0))) / (2 * a), 0)
    truth = (depth[..., None] * d - centre) / r
    found = surface_normals(depth, K, radius)
    # Away from the rim, where the surface turns away within a pixel.
    inside = seen & ((truth * d).sum(-1) / np.linalg.norm(d, axis=-1) < -0.4)
    assert found[inside].any(-1).all()
    cosine = (found[inside] * truth[inside]).sum(-1)
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 1.0
    assert not found[~seen].any()


def test_normals_do_not_mix_the_sides_of_a_discontinuity() -> None:
    depth, _ = plane((0, 0, -1), 2.0)
    depth[:, 100:] = 3.0
    found = surface_normals(depth, K, 5)
    np.testing.assert_allclose(found, np.broadcast_to([0, 0, -1], found.shape), atol=1e-6)  # one-sided at the step


def test_normals_are_invalid_without_depth_and_without_neighbours() -> None:
    depth = np.full((6, 8), 2.0)
    depth[2, 3] = 0
    depth[0, 0] = np.nan
    found = surface_normals(depth, K, 2)
    assert not found[2, 3].any()
    assert not found[0, 0].any()
    assert found.any(-1).sum() == 6 * 8 - 2
    alone = np.zeros((6, 8))
    alone[3, 3] = alone[3, 4] = 2.0  # has a row, but no column
    assert not surface_normals(alone, K).any()
    assert not surface_normals(np.zeros((6, 8)), K).any()
    assert surface_normals(np.ones((1, 1)), K).shape == (1, 1, 3)


def test_normals_do_not_depend_on_the_unit_and_follow_a_mirror_and_a_crop() -> None:
    depth, _ = plane((0.3, -0.5, -0.8), 1.3)
    depth[100:140, 50:90] = 1.0
    found = surface_normals(depth, K, 2)
    np.testing.assert_allclose(surface_normals(depth * 1000, K, 2), found, atol=1e-4)

    fx, fy, cx, cy = K
    mirrored = surface_normals(depth[:, ::-1], (fx, fy, SIZE[1] - 1 - cx, cy), 2)
    np.testing.assert_allclose(mirrored[:, ::-1] * [-1, 1, 1], found, atol=1e-4)

    crop = surface_normals(depth[40:, 30:], (fx, fy, cx - 30, cy - 40), 2)
    np.testing.assert_allclose(crop[5:, 5:], found[45:, 35:], atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- edges


def test_edges_lie_on_both_sides_of_a_boundary() -> None:
    label = np.zeros((5, 6), np.uint8)
    label[:, 3:] = 7
    edges = boundary_edges(label)
    assert edges.dtype == np.uint8
    assert (edges == np.array([0, 0, 1, 1, 0, 0])).all()
    assert (boundary_edges(label.T) == edges.T).all()
    corner = np.zeros((4, 4), np.uint8)
    corner[2:, 2:] = 1
    # [1, 1] touches the other class only by its corner, and the neighbours of [3, 3] are all of its own.
    assert boundary_edges(corner).tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 1, 0]]
    assert not boundary_edges(np.full((3, 3), 4, np.uint8)).any()


def test_edges_ignore_void() -> None:
    label = np.array([[1, 1, 255, 2, 2, 3]], np.uint8)
    assert boundary_edges(label, bridge=0).tolist() == [[0, 0, 255, 0, 1, 1]]
    assert (boundary_edges(np.full((3, 3), 255, np.uint8)) == 255).all()


def test_a_band_of_void_between_two_classes_is_bridged() -> None:
    label = np.array([[1, 1, 1, 255, 255, 255, 255, 2, 2, 2]], np.uint8)
    assert boundary_edges(label, bridge=2).tolist() == [[0, 0, 0, 0, 1, 1, 0, 0, 0, 0]]
    assert boundary_edges(label, bridge=1).tolist() == [[0, 0, 0, 0, 255, 255, 0, 0, 0, 0]]
    assert (boundary_edges(label[:, ::-1], bridge=2) == boundary_edges(label, bridge=2)[:, ::-1]).all()
    island = np.full((21, 21), 1, np.uint8)
    island[5:16, 5:16] = 255  # a thing without a label: no edge around it, and its middle is ignored
    edges = boundary_edges(island, bridge=3)
    assert (edges == 1).sum() == 0
    assert (edges == 255).sum() == 5 * 5
    assert (island == 255).sum() == 121  # the argument is left alone


# ------------------------------------------------------------------------------------------------- cost, real data


@pytest.mark.skipif(not (SHARED / "nyud").is_dir(), reason=f"no real pictures at {SHARED / 'nyud'}")
def test_a_real_room_has_walls_and_a_floor_where_they_are() -> None:
    with Image.open(SHARED / "nyud" / "pairs" / "0433_depth_mm.png") as picture:
        depth = np.asarray(picture)
    with Image.open(SHARED / "nyud" / "pairs" / "0433_label40.png") as picture:
        stored = np.asarray(picture)
    label = np.where(stored == 0, 255, stored - 1).astype(np.uint8)
    found = surface_normals(depth, (518.8579, 519.4696, 325.5824, 253.7362), normals_radius(640))
    floor = (label == 1) & found.any(-1)
    wall = (label == 0) & found.any(-1)
    assert np.median(found[floor][:, 1]) < -0.85  # up, where y is down; the camera looks down a little
    assert abs(np.median(found[wall][:, 1])) < 0.4
    edges = boundary_edges(label)
    assert 0.01 < (edges == 1).mean() < 0.1
    assert (boundary_edges(label, bridge=0) == 1).sum() < 0.5 * (edges == 1).sum()  # most boundaries run in void bands
