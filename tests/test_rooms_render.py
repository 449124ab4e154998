"""Textures, cameras, the path tracer and the photographs made of its pictures, on small rooms made by hand."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model.classes import IGNORE
from training.rooms import camera as cameras
from training.rooms import develop, packing, render, textures
from training.rooms.camera import Camera, View, look, refusal, views
from training.rooms.scene import CLASS_ID, MATT, Finish, Light, Object, Part, Room

SIZE = (48, 36)
WIDTH, LENGTH, HEIGHT = 5.0, 6.0, 2.6

needs_renderer = pytest.mark.skipif(
    render.missing() is not None, reason=f"{render.missing()}" if render.missing() else "nothing is missing"
)


# ----------------------------------------------------------------------------------------------------- rooms by hand


def quad(corner: Any, u: Any, v: Any, label: str, color: Any = (0.7, 0.7, 0.7), finish: Finish = MATT) -> Part:
    """A parallelogram; a texture fills it once."""
    p, a, b = (np.asarray(x, np.float64) for x in (corner, u, v))
    vertices = np.array([p, p + a, p + a + b, p + b], np.float32)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32) if finish.texture is not None else None
    label_ids = np.full(2, CLASS_ID[label], np.uint8)
    return Part(
        vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32), label_ids, np.tile(np.float32(color), (2, 1)), uv, finish
    )


def box(low: Any, high: Any, label: str, color: Any = (0.5, 0.4, 0.3), finish: Finish = MATT) -> Part:
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    vertices = np.asarray(low) + corners * (np.asarray(high) - np.asarray(low))
    sides = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    faces = np.concatenate([sides[:, [0, 1, 2]], sides[:, [0, 2, 3]]]).astype(np.int32)
    return Part(
        vertices.astype(np.float32),
        faces,
        np.full(12, CLASS_ID[label], np.uint8),
        np.tile(np.float32(color), (12, 1)),
        None,
        finish,
    )


def small_room(seed: int = 0, brightness: float = 1.0) -> Room:
    """5 m × 6 m: a textured floor, a table, a cabinet, a mirror at x = 0.01, a window's pane at y = 6, a lamp."""
    floor = textures.parquet(np.random.default_rng(seed)).picture
    outdoor = textures.outdoor(np.random.default_rng(seed)).picture
    walls = (
        quad((0, 0, 0), (0, LENGTH, 0), (0, 0, HEIGHT), "wall"),
        quad((WIDTH, 0, 0), (0, LENGTH, 0), (0, 0, HEIGHT), "wall"),
        quad((0, 0, 0), (WIDTH, 0, 0), (0, 0, HEIGHT), "wall"),
        quad((0, LENGTH + 0.1, 0), (WIDTH, 0, 0), (0, 0, 0.9), "wall"),
        quad((0, LENGTH, 0), (WIDTH, 0, 0), (0, 0, 0.9), "wall"),
        quad((0, LENGTH, 2.0), (WIDTH, 0, 0), (0, 0, HEIGHT - 2), "wall"),
    )
    pane = quad(
        (0, LENGTH, 0.9), (WIDTH, 0, 0), (0, 0, 1.1), "window", finish=Finish(outdoor, emission=(3.0, 3.0, 3.0))
    )
    objects = (
        Object(
            "floor", (quad((0, 0, 0), (WIDTH, 0, 0), (0, LENGTH, 0), "floor", finish=Finish(floor)),), furniture=False
        ),
        Object("ceiling", (quad((0, 0, HEIGHT), (WIDTH, 0, 0), (0, LENGTH, 0), "ceiling"),), furniture=False),
        Object("walls", walls, furniture=False),
        Object("window", (pane,), furniture=False),
        Object("table", (box((2, 2.5, 0.7), (3.2, 3.3, 0.75), "table"), box((2.5, 2.8, 0), (2.7, 3, 0.7), "table"))),
        Object("cabinet", (box((4.2, 1, 0), (4.9, 3, 2.0), "cabinet"),)),
        Object("sofa", (box((0.4, 4.2, 0), (2.4, 5.2, 0.5), "sofa"),)),
        Object("mirror", (quad((0.01, 2, 0.8), (0, 1.5, 0), (0, 0, 1.2), "mirror", finish=Finish(mirror=True)),)),
    )
    lights = (
        Light((2.5, 3.0, 2.5), (0, 0, -1), (0.3, 0.3), (8 * brightness, 7 * brightness, 6 * brightness)),
        Light(
            (2.5, LENGTH + 0.05, 1.45),
            (0, -1, 0),
            (2.4, 0.5),
            (3 * brightness, 3 * brightness, 4 * brightness),
        ),
    )
    x, y = np.meshgrid(np.arange(0.5, WIDTH, 0.4), np.arange(0.5, LENGTH, 0.4))
    free = np.stack([x.ravel(), y.ravel()], 1)
    free = free[~((free[:, 0] > 1.6) & (free[:, 0] < 3.6) & (free[:, 1] > 2.1) & (free[:, 1] < 3.7))]
    outline = np.array([[0, 0], [WIDTH, 0], [WIDTH, LENGTH], [0, LENGTH]])
    return Room("living room", outline, HEIGHT, objects, lights, "day", free)


def camera_at(x: float, y: float, z: float, yaw: float, pitch: float = 0.0, size: tuple[int, int] = SIZE) -> Camera:
    focal = size[0] * 0.9
    axes = look(math.radians(yaw), math.radians(pitch), 0.0)
    return Camera(np.array([x, y, z]), axes, (focal, focal, (size[0] - 1) / 2, (size[1] - 1) / 2), size)


class SlowSight:
    """What `RenderScene` says of rays, by trying every triangle (Möller and Trumbore, 1997), in numpy."""

    def __init__(self, room: Room) -> None:
        self.packed = packing.pack(room)
        self.label, self.owner, self.furniture = self.packed.label, self.packed.owner, self.packed.furniture
        self.centres = np.array([[2.6, 2.9, 0.5], [4.5, 2, 1], [1.4, 4.7, 0.3]])
        self.brightness = 1.0

    def first_hits(self, origin: Any, direction: Any) -> tuple[Any, Any]:
        o, d = origin.T.astype(np.float64), direction.T.astype(np.float64)
        nearest, hit = np.full(len(o), np.inf), np.full(len(o), -1)
        for index, (a, b, c) in enumerate(self.packed.vertices[self.packed.faces].astype(np.float64)):
            e1, e2 = b - a, c - a
            p = np.cross(d, e2)
            determinant = p @ e1
            inverse = 1 / np.where(np.abs(determinant) < 1e-12, 1e-12, determinant)
            s = o - a
            u = (s * p).sum(1) * inverse
            q = np.cross(s, e1)
            v = (d * q).sum(1) * inverse
            t = (q @ e2) * inverse
            closer = (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9) & (t > 1e-6) & (t < nearest)
            nearest[closer], hit[closer] = t[closer], index
        return nearest.astype(np.float32), hit

    def glance(self, camera: Camera) -> Any:
        return np.full((camera.size[1], camera.size[0]), self.brightness, np.float32)


# ---------------------------------------------------------------------------------------------------------- textures

MATERIALS = (
    textures.wood, textures.parquet, textures.tiles, textures.carpet, textures.wallpaper, textures.plaster,
    textures.fabric, textures.stone, textures.metal, textures.bedding,
)  # fmt: skip
PICTURES = (
    textures.rug, textures.painting, textures.poster, textures.paper_with_text, textures.whiteboard, textures.screen,
    textures.book_spines, textures.cardboard, textures.outdoor,
)  # fmt: skip


@pytest.mark.parametrize("draw", MATERIALS + PICTURES, ids=lambda f: f.__name__)
def test_textures_are_reproducible_and_of_a_believable_size(draw: Callable[..., textures.Texture]) -> None:
    for seed in range(4):
        first, again = draw(np.random.default_rng(seed)), draw(np.random.default_rng(seed))
        assert np.array_equal(first.picture, again.picture) and first.metres == again.metres
        assert first.picture.dtype == np.uint8 and first.picture.ndim == 3 and first.picture.shape[2] == 3
        assert max(first.picture.shape[:2]) <= 512
        assert 0.1 < first.metres < 10
    assert not np.array_equal(first.picture, draw(np.random.default_rng(99)).picture)


@pytest.mark.parametrize("draw", MATERIALS, ids=lambda f: f.__name__)
def test_materials_repeat_without_a_seam(draw: Callable[..., textures.Texture]) -> None:
    for seed in range(12):
        picture = draw(np.random.default_rng(seed)).picture.astype(np.float64)
        for axis in (0, 1):
            steps = np.abs(np.diff(picture, axis=axis)).mean((1 - axis, 2))
            seam = np.abs(np.take(picture, 0, axis) - np.take(picture, -1, axis)).mean()
            assert seam <= 1.25 * steps.max() + 1, (seed, axis)


def test_books_have_the_number_that_was_asked_for() -> None:
    narrow, wide = (textures.book_spines(np.random.default_rng(0), n) for n in (5, 40))
    assert wide.metres == pytest.approx(8 * narrow.metres)


# ----------------------------------------------------------------------------------------------------------- cameras


def test_a_camera_looks_where_it_is_turned() -> None:
    axes = look(math.radians(90), math.radians(-30), 0)
    assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-12)
    assert axes[2] == pytest.approx([0, math.cos(math.pi / 6), -0.5])
    assert axes[0] == pytest.approx([1, 0, 0])  # looking along y, right is x
    assert axes[1][2] < 0  # down
    rolled = look(math.radians(90), 0, math.radians(10))
    assert rolled[0][2] < 0  # clockwise: the right side sinks


def test_depth_along_the_axis_is_the_length_of_a_ray() -> None:
    camera = camera_at(1, 1, 1.5, 35, -12)
    assert camera.axes[2] @ camera.rays() == pytest.approx(np.ones(SIZE[0] * SIZE[1]), abs=1e-6)


def test_another_number_of_pixels_sees_the_same() -> None:
    camera = camera_at(1, 1, 1.5, 35)
    large = camera.resized((96, 72))
    # Four pixels of the larger picture share the area of one; their middle looks where the one looks.
    fine = large.rays().reshape(3, 36, 2, 48, 2).mean((2, 4)).reshape(3, -1)
    assert fine == pytest.approx(camera.rays(), abs=1e-6)


def test_inside_an_l_shaped_room() -> None:
    outline = np.array([[0, 0], [4, 0], [4, 2], [2, 2], [2, 4], [0, 4.0]])
    points = np.array([[1, 1], [3, 1], [1, 3], [3, 3], [-1, 1], [5, 1.0]])
    assert cameras.inside(points, outline).tolist() == [True, True, True, False, False, False]


def test_candidates_are_what_people_and_robots_hold() -> None:
    room, rng = small_room(), np.random.default_rng(0)
    drawn = [cameras.candidate(rng, room, np.array([[2.6, 2.9, 0.5]]), (320, 240)) for _ in range(400)]
    heights = np.array([c.position[2] for c in drawn])
    views_across = np.array([2 * math.degrees(math.atan(160 / c.intrinsics[0])) for c in drawn])
    pitches = np.degrees(np.arcsin([c.axes[2][2] for c in drawn]))
    assert heights.min() >= 0.5 and heights.max() <= 1.9
    assert 0.5 < ((heights > 1.35) & (heights < 1.75)).mean() < 0.75
    assert 0.1 < (heights < 1.0).mean() < 0.25
    assert views_across.min() > 44.9 and views_across.max() < 90.1 and 56 < np.median(views_across) < 68
    assert ((pitches > -26) & (pitches < 8.1)).mean() > 0.9
    assert np.all(cameras.inside(np.array([c.position[:2] for c in drawn]), room.outline))


def view(**changes: Any) -> View:
    """A view that is accepted: 40 % wall, 35 % floor, three pieces of furniture; 3 m away."""
    n = 1000
    counts = [400, 350, 150, 60, 40]
    label = np.repeat([CLASS_ID[name] for name in ("wall", "floor", "table", "chair", "chair")], counts)
    owner = np.repeat([0, 1, 2, 3, 4], counts)
    fields = {
        "depth": np.full(n, 3.0),
        "label": label.astype(np.uint8),
        "owner": owner.astype(np.int32),
        "furniture": owner > 1,
    } | changes
    return View(**fields)


def test_views_are_refused() -> None:
    n = 1000
    part = np.arange(n) / n
    assert refusal(view()) is None
    assert refusal(view(depth=np.where(part < 0.1, 0.4, 3.0))) == "near"
    assert refusal(view(depth=np.full(n, 1.0))) == "close"
    assert refusal(view(depth=np.where(part < 0.02, np.inf, 3.0))) == "void"
    assert (
        refusal(view(label=np.where(part < 0.65, CLASS_ID["wall"], CLASS_ID["table"]).astype(np.uint8))) == "one class"
    )
    assert refusal(view(label=np.where(part < 0.2, CLASS_ID["mirror"], view().label).astype(np.uint8))) == "one class"
    assert refusal(view(furniture=part > 0.95)) == "empty"
    assert refusal(view(owner=np.where(part < 0.5, 0, 2).astype(np.int32), furniture=part >= 0.5)) == "empty"
    three = np.select([part < 0.05, part < 0.1], [3, 4], 2).astype(np.int32)
    assert refusal(view(owner=three, furniture=part < 0.7)) == "one object"


def test_views_stand_free_and_differ() -> None:
    room = small_room()
    # Most of the free places are, by mistake, inside the cabinet.
    wrong = replace(room, free=np.concatenate([room.free, np.tile([[4.55, 2.0]], (len(room.free), 1))]))
    reasons: dict[str, int] = {}
    chosen = views(np.random.default_rng(1), wrong, SlowSight(room), 2, SIZE, reasons)
    assert len(chosen) == 2 and reasons["inside"] > 0
    for camera in chosen:
        x, y, _ = camera.position
        assert not (4.1 < x < 5 and 0.9 < y < 3.1)
    assert not cameras._alike(*chosen)
    again = views(np.random.default_rng(1), wrong, SlowSight(room), 2, SIZE)
    assert all(np.array_equal(a.axes, b.axes) for a, b in zip(chosen, again, strict=True))


def test_dark_views_are_refused() -> None:
    sight = SlowSight(small_room())
    sight.brightness = 1e-4
    reasons: dict[str, int] = {}
    assert views(np.random.default_rng(1), small_room(), sight, 1, SIZE, reasons) == []
    assert reasons["dark"] > 0


# ------------------------------------------------------------------------------------------------------------ tables


def test_packing_puts_what_is_thin_behind_and_shares_textures() -> None:
    room = small_room()
    packed = packing.pack(room)
    assert len(packed.faces) - packed.solid_count == 2
    assert set(packed.label[packed.solid_count :]) == {CLASS_ID["window"]}
    assert packed.furniture.sum() == 4 * 12 + 2
    curtain = Object("curtain", (box((1, 5.8, 0.5), (2, 5.85, 2.2), "curtain"),))
    packed = packing.pack(replace(room, objects=(curtain, *room.objects)))
    assert len(packed.faces) - packed.solid_count == 2 + 12
    assert set(packed.owner[packed.solid_count :]) == {0, 4}
    assert len(packed.texels) == 1 + 512 * 512 + 64 * 96
    doubled = packing.pack(replace(room, objects=(*room.objects, *room.objects[:4])))
    assert len(doubled.texels) == len(packed.texels)


def test_corners_are_smooth_below_the_crease_and_sharp_above() -> None:
    def folded(degrees: float) -> Any:
        a = math.radians(degrees)
        vertices = np.array([[-1, 0, 0], [0, 0, 0], [0, 1, 0], [math.cos(a), 0, math.sin(a)]], np.float32)
        return packing._corner_normals(vertices, np.array([[0, 1, 2], [1, 3, 2]], np.int32))

    corners, flat = folded(20)
    shared = corners.reshape(2, 3, 3)[0, 1]
    assert shared == pytest.approx([-math.sin(math.radians(10)), 0, math.cos(math.radians(10))], abs=1e-6)
    corners, flat = folded(100)
    assert corners.reshape(2, 3, 3)[:, 0] == pytest.approx(flat, abs=1e-6)


def test_every_light_is_drawn_by_its_chance() -> None:
    lights = (
        Light((0, 0, 2), (0, 0, -1), (0.5, 0.5), (10, 10, 10)),
        Light((1, 0, 2), (0, 0, -1), (0.05,), (10, 10, 10)),
        Light((2, 0, 2), (1, 0, 0), (0.01, 0.01), (0.01, 0.01, 0.01)),
    )
    rows, draw = packing._light_tables(lights, np.zeros(3))
    assert len(draw) == packing.DRAWS and rows[:, 15].sum() == pytest.approx(1)
    assert np.bincount(draw) / packing.DRAWS == pytest.approx(rows[:, 15])
    assert rows[1, 3:6] == pytest.approx([0, 0, 0])  # a ball has no normal
    for row in rows[[0, 2]]:
        normal, u, v = row[3:6], row[6:9], row[9:12]
        assert abs(normal @ u) + abs(normal @ v) + abs(u @ v) < 1e-6


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyoidn" else object())
    assert render.missing() == "rooms need pyoidn: pip install 'segdepth[rooms]'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(render, "find_llvm", lambda: None)
    line = render.missing()
    assert line is not None and "apt-get install libllvm19" in line and "\n" not in line
    with pytest.raises(render.RenderError, match="libllvm19"):
        render.load(small_room())


# --------------------------------------------------------------------------------------------------------- rendering


@needs_renderer
def test_labels_and_depth_are_those_of_the_geometry() -> None:
    room = small_room()
    scene, size = render.load(room), (49, 37)
    middle = (18, 24)
    # From the middle of the room, in turn: cabinet at x = 4.2, pane at y = 6, mirror at x = 0.01, wall at y = 0.
    for yaw, place, label, metres in (
        (0, (3.5, 2.0), "cabinet", 0.7), (90, (3.5, 2.0), "window", 4.0), (180, (3.0, 2.2), "mirror", 2.99),
        (270, (3.5, 2.0), "wall", 2.0),
    ):  # fmt: skip
        labels, depth = render.labels_and_depth(scene, camera_at(*place, 1.5, yaw, size=size), size)
        assert labels[middle] == CLASS_ID[label]
        assert abs(int(depth[middle]) - round(metres * 1000)) <= 1
    # A whole wall has one depth, since depth runs along the axis; the floor's follows from the camera's height.
    camera = camera_at(3.8, 1.9, 1.5, 90, size=size)
    labels, depth = render.labels_and_depth(scene, camera, size)
    assert np.all(np.abs(depth[labels == CLASS_ID["window"]].astype(int) - 4100) <= 1)
    fy, cy = camera.intrinsics[1], camera.intrinsics[3]
    row = 36
    assert labels[row, 24] == CLASS_ID["floor"]
    assert depth[row, 24] == pytest.approx(1500 * fy / (row - cy), abs=1)


@needs_renderer
def test_labels_and_depth_agree_with_every_triangle_tried() -> None:
    room = small_room()
    scene, slow = render.load(room), SlowSight(room)
    camera = camera_at(4.0, 0.6, 1.6, 120, -14)
    labels, depth = render.labels_and_depth(scene, camera, SIZE)
    direction = camera.rays()
    t, face = slow.first_hits(np.repeat(camera.position[:, None], direction.shape[1], 1), direction)
    # A ray that meets the edge of two faces may take either.
    assert (labels.ravel() == slow.label[face]).mean() > 0.995
    assert (np.abs(depth.ravel() - t * 1000) <= 1).mean() > 0.995
    assert {CLASS_ID[name] for name in ("wall", "floor", "table", "sofa", "window")} <= set(labels.ravel().tolist())


@needs_renderer
def test_a_picture_shows_what_its_labels_and_depth_say() -> None:
    """The rays of the picture are made in another place than those of labels and depth, but have to be the same."""
    colors = {
        "wall": (0.8, 0.8, 0.8),
        "floor": (0.05, 0.1, 0.6),
        "cabinet": (0.7, 0.1, 0.05),
        "picture": (0.1, 0.6, 0.1),
    }
    surfaces = (
        quad((-3, 5, 0), (11, 0, 0), (0, 0, 6), "wall", colors["wall"]),
        quad((-3, 0, 0), (11, 0, 0), (0, 5, 0), "floor", colors["floor"]),
        quad((1.5, 3, 0), (0.7, 0, 0), (0, 0, 1.9), "cabinet", colors["cabinet"]),
        quad((3.3, 4.99, 1.5), (0.9, 0, 0), (0, 0, 0.7), "picture", colors["picture"]),
    )
    lamp = Light((2.5, 1, 5), (0, 0, -1), (0.3, 0.3), (8, 8, 8))
    objects = tuple(Object("surface", (surface,)) for surface in surfaces)
    scene = render.load(Room("test", np.zeros((4, 2)), 6, objects, (lamp,), "day", np.zeros((1, 2))))
    # Rolled, so that an edge crosses several columns: the mean of whole pixels then tells its place to a part of one.
    camera = replace(camera_at(2.5, 1, 1.3, 90, size=(64, 48)), axes=look(math.radians(90), 0, math.radians(5)))
    labels, depth = render.labels_and_depth(scene, camera, camera.size)
    albedo = scene.radiance(camera, 64, 0, 1)[1]

    seen = np.array([CLASS_ID[name] for name in colors])
    distance = np.linalg.norm(albedo[:, :, None] - np.array(list(colors.values())), axis=-1)
    nearest = seen[distance.argmin(-1)]
    assert all((labels == number).mean() > 0.03 for number in seen)
    assert (nearest == labels).mean() > 0.98
    for name, metres in (("wall", 4), ("cabinet", 2)):  # both face the camera
        away = depth[nearest == CLASS_ID[name]].astype(int) - 1000 * metres
        assert (np.abs(away) <= 1).mean() > 0.98, name
    # The side of the cabinet before the wall, and where the wall meets the floor: two classes in each window.
    for name, window, axis in (("cabinet", np.s_[10:38, 14:34], 1), ("floor", np.s_[36:48, 30:62], 0)):
        here, wall = np.array(colors[name]), np.array(colors["wall"])
        assert set(labels[window].ravel()) == {CLASS_ID[name], CLASS_ID["wall"]}
        share = (albedo[window] - wall) @ (here - wall) / ((here - wall) @ (here - wall))
        pictured, labelled = share.sum(axis).mean(), (labels[window] == CLASS_ID[name]).sum(axis).mean()
        assert pictured == pytest.approx(labelled, abs=0.25), name


@needs_renderer
def test_nothing_is_void_and_has_no_depth() -> None:
    room = small_room()
    open_room = replace(room, objects=tuple(o for o in room.objects if o.name != "ceiling"))
    labels, depth = render.labels_and_depth(render.load(open_room), camera_at(2.5, 1, 1.5, 90, 60), SIZE)
    assert (labels == IGNORE).any()
    assert np.array_equal(labels == IGNORE, depth == 0)


@needs_renderer
def test_direct_light_is_that_of_the_formula() -> None:
    """Under a small horizontal lamp: radiance = albedo / pi · L · A / d²."""
    floor = quad((-5, -5, 0), (10, 0, 0), (0, 10, 0), "floor", (0.5, 0.25, 0.1), Finish(specular=0.0))
    for light in (
        Light((0, 0, 2), (0, 0, -1), (0.1, 0.05), (30, 30, 30)),
        Light((0, 0, 2), (0, 0, -1), (0.08,), (30, 30, 30)),
    ):
        room = Room("test", np.zeros((4, 2)), 3, (Object("floor", (floor,)),), (light,), "day", np.zeros((1, 2)))
        area = 0.2 * 0.1 if len(light.half_extent) == 2 else math.pi * 0.08**2
        narrow = replace(camera_at(0, 0, 1.0, 0, -90), intrinsics=(2000.0, 2000.0, 15.5, 11.5), size=(32, 24))
        color, albedo, normal = render.load(room).radiance(narrow, samples=16, seed=1, bounces=1)
        expected = np.array([0.5, 0.25, 0.1]) / math.pi * 30 * area / 4
        assert color.mean((0, 1)) == pytest.approx(expected, rel=0.02)
        assert albedo.mean((0, 1)) == pytest.approx([0.5, 0.25, 0.1], rel=1e-3)
        assert normal.mean((0, 1)) == pytest.approx([0, 0, 1], abs=1e-5)


@needs_renderer
def test_light_between_surfaces_adds_up() -> None:
    """In a closed grey room with a lamp, each further bounce brings less; without furniture nothing is black."""
    room = small_room()
    scene, camera = render.load(room), camera_at(4.0, 0.6, 1.6, 120, -14)
    means = [float(scene.radiance(camera, 16, 0, bounces)[0].mean()) for bounces in (1, 2, 3, 4, 6)]
    gains = np.diff(means)
    assert np.all(gains > 0) and gains[1] < gains[0] and gains[2] < gains[1]
    color = render.render(scene, camera, SIZE, 16)
    assert np.isfinite(color).all() and (color.mean(-1) > 0.01).mean() > 0.99


@needs_renderer
def test_a_mirror_shows_the_room_and_a_pane_the_outdoors() -> None:
    room = small_room()
    red = replace(room.objects[4], parts=(box((2, 2, 0.2), (3, 3.5, 2.4), "table", (0.8, 0.02, 0.02)),))
    scene = render.load(replace(room, objects=(*room.objects[:4], red, *room.objects[5:])))
    albedo = scene.radiance(camera_at(1.2, 2.75, 1.4, 180), 8, 0, 3)[1]
    assert albedo[18, 24, 0] > 0.6 and albedo[18, 24, 1] < 0.1
    color = scene.radiance(camera_at(3.7, 3.0, 1.5, 90), 4, 0, 2)[0]
    assert color[18, 24].max() > 1.0  # the pane gives off 3 × its texture
    # The pane lets daylight through, a board does not.
    lamp_off = replace(room, lights=room.lights[1:])
    board = Object("board", (quad((0, LENGTH - 0.02, 0.8), (WIDTH, 0, 0), (0, 0, 1.4), "wall"),))
    open_, closed = (
        float(np.median(render.load(r).glance(camera_at(2.5, 5.0, 1.5, 270))))
        for r in (lamp_off, replace(lamp_off, objects=(*room.objects, board)))
    )
    assert open_ > 0.05 and closed < 0.1 * open_


@needs_renderer
def test_the_same_bytes_again_and_in_another_process() -> None:
    code = (
        "import hashlib\nfrom tests.test_rooms_render import *\n"
        "scene = render.load(small_room())\n"
        "camera = camera_at(4.0, 0.6, 1.6, 120, -14)\n"
        "parts = [render.render(scene, camera, SIZE, 4, 7), *render.labels_and_depth(scene, camera, SIZE)]\n"
        "print(*(hashlib.sha256(p.tobytes()).hexdigest() for p in parts))"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert outputs[0] == outputs[1] and len(outputs[0].split()) == 3
    scene, camera = render.load(small_room()), camera_at(4.0, 0.6, 1.6, 120, -14)
    first, again = (render.render(scene, camera, SIZE, 4, 7) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, render.render(scene, camera, SIZE, 4, 8))


@needs_renderer
def test_views_of_a_real_scene() -> None:
    room = small_room()
    scene = render.load(room)
    chosen = views(np.random.default_rng(3), room, scene, 2, (64, 48))
    assert len(chosen) == 2
    for camera in chosen:
        _, depth = render.labels_and_depth(scene, camera, (64, 48))
        assert np.percentile(depth, 5) > 500 and np.median(depth) > 1200


# -------------------------------------------------------------------------------------------------------- developing

NEUTRAL = develop.Style(
    mean=0.45, exposure=0.0, spot=0.5, adaptation=0.0, cast=(1.0, 1.0, 1.0), shoulder=0.0, contrast=1.0, black=0.0,
    saturation=1.0, vignetting=0.0, glare=0.0, defocus=0.0, motion=0.0, direction=0.0, shot=0.0, read=0.0, chroma=0.0,
    sharpening=0.0,
)  # fmt: skip


def scene_light(seed: int = 0) -> Any:
    """A room's radiance by rule of thumb: smooth, with some contrast."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.uniform(0.05, 0.8, (9, 12, 3)), np.ones((8, 8, 1))).astype(np.float32)


def test_metering_brings_dark_and_bright_rooms_to_the_same_mean() -> None:
    light = scene_light()
    means = [develop.develop(light * k, np.random.default_rng(0), NEUTRAL).mean() / 255 for k in (0.01, 1, 100)]
    assert means == pytest.approx([0.45] * 3, abs=0.03)
    pictures = [develop.develop(light * k, np.random.default_rng(5)) for k in (0.01, 100)]
    assert abs(pictures[0].mean() - pictures[1].mean()) < 12


def test_a_window_does_not_make_the_room_black() -> None:
    light = scene_light()
    with_window = light.copy()
    with_window[10:40, 60:90] = 50
    room = np.ones(light.shape[:2], bool)
    room[5:45, 55:] = False
    dark = develop.develop(with_window, np.random.default_rng(0), NEUTRAL)[room].mean()
    assert 0.45 * 255 * 0.55 < dark < 0.45 * 255


def test_exposure_differs_from_picture_to_picture_but_not_without_limits() -> None:
    means = np.array([develop.develop(scene_light(), np.random.default_rng(k)).mean() for k in range(60)])
    assert means.std() > 8 and means.min() > 25 and means.max() < 225


def test_developing_is_reproducible_and_survives_anything() -> None:
    light = scene_light()
    first, again = (develop.develop(light, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again) and first.dtype == np.uint8 and first.shape == light.shape
    assert not np.array_equal(first, develop.develop(light, np.random.default_rng(4)))
    broken = light.copy()
    broken[0, 0], broken[1, 1], broken[2, 2] = np.nan, np.inf, -1
    assert develop.develop(broken, np.random.default_rng(3)).mean() == pytest.approx(first.mean(), abs=12)
    assert develop.develop(np.zeros_like(light), np.random.default_rng(3)).max() < 130


def test_the_tone_curve_rises_from_black_to_white() -> None:
    x = np.linspace(0, 8, 500, dtype=np.float32)
    for shoulder in (0.0, 0.5, 1.0):
        y = develop.tone(x, replace(NEUTRAL, shoulder=shoulder, contrast=1.1))
        assert np.all(np.diff(y) >= -1e-6) and y[0] == pytest.approx(0, abs=1e-6) and 0.95 < y[-1] <= 1.0


def test_noise_grows_with_the_gain() -> None:
    flat = np.full((64, 64, 3), 0.2, np.float32)
    noisy = replace(NEUTRAL, shot=0.02, read=0.005)
    bright, dim = (develop.develop(flat * k, np.random.default_rng(0), noisy).std() for k in (2.0, 0.05))
    assert dim > 1.3 * bright > 0


def test_jpeg_quality_is_between_60_and_95() -> None:
    values = [develop.jpeg_quality(np.random.default_rng(k)) for k in range(200)]
    assert min(values) >= 60 and max(values) <= 95 and np.median(values) > 78
