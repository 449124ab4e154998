"""Rooms as planned: nothing overlaps, floats or blocks a door, and the same seed gives the same room."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pytest

from model.classes import NYU40
from training.folder import Split
from training.rooms import (
    case_shapes,
    kinds_home,
    kinds_wet,
    plan,
    shapes,
    small_shapes,
    soft_shapes,
    table_shapes,
    wall_shapes,
    wet_shapes,
)
from training.rooms.builder import Builder
from training.rooms.layout import Placed, Plan, corners, find_on, height_map, level_top, overlaps
from training.rooms.palette import Palette
from training.rooms.scene import CLASS_ID, Model, Part, Room
from training.rooms.shapes import MATT, Material, Piece

SIZES: dict[str, tuple[str, tuple[float, float, float]]] = {
    "bed.double": ("bed", (1.8, 2.1, 0.6)),
    "bed.single": ("bed", (1.0, 2.0, 0.5)),
    "sofa.sofa": ("sofa", (2.1, 0.9, 0.8)),
    "chair.dining": ("chair", (0.45, 0.5, 0.9)),
    "chair.arm": ("chair", (0.8, 0.85, 0.9)),
    "chair.office": ("chair", (0.6, 0.6, 1.0)),
    "table.dining": ("table", (1.6, 0.9, 0.75)),
    "table.coffee": ("table", (1.0, 0.6, 0.4)),
    "desk.desk": ("desk", (1.4, 0.7, 0.74)),
    "refrigerator": ("refrigerator", (0.6, 0.65, 1.7)),
    "toilet": ("toilet", (0.4, 0.7, 0.8)),
    "sink.bath": ("sink", (0.6, 0.5, 0.85)),
    "person.standing": ("person", (0.5, 0.3, 1.75)),
    "wardrobe": ("cabinet", (1.2, 0.6, 2.0)),
    "clutter.cup": ("otherprop", (0.08, 0.08, 0.1)),
    "lamp.table": ("lamp", (0.3, 0.3, 0.5)),
    "trash_bin": ("otherfurniture", (0.3, 0.3, 0.4)),
}


class Boxes:
    """A catalogue of plain boxes: one model per use for training, another that is held out."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def of(self, use: str, split: Split) -> tuple[Model, ...]:
        self.asked.add(split)
        held = split != "train"
        return tuple(
            Model(f"{name}/{held}", name, name, label, size, 0.0, held, "nobody", "CC0")
            for name, (label, size) in SIZES.items()
            if name == use or name.startswith(f"{use}.")
        )

    def parts(self, model: Model) -> tuple[Part, ...]:
        w, d, h = model.size
        return (shapes.box((-w / 2, -d / 2, 0), (w / 2, d / 2, h), model.class_name, Material()),)


class Nothing(Boxes):
    """A catalogue without furniture."""

    def of(self, use: str, split: Split) -> tuple[Model, ...]:
        return ()


@lru_cache(maxsize=64)
def room_of(kind: str, seed: int) -> Room:
    return plan.make_room(np.random.default_rng([seed, 5]), Boxes(), "train", kind)


ROOMS = [(kind, seed) for kind in plan.KINDS for seed in (1, 2)]


def parts_of(room: Room) -> Iterator[Part]:
    for thing in room.objects:
        yield from thing.parts


def digest(room: Room) -> str:
    total = hashlib.sha256()
    for p in parts_of(room):
        for array in (p.vertices, p.faces, p.label, p.color):
            total.update(np.ascontiguousarray(array).tobytes())
        if p.finish.texture is not None:
            total.update(p.finish.texture.tobytes())
    total.update(repr((room.kind, room.height, room.lights, room.lighting, room.free.tolist())).encode())
    return total.hexdigest()


def footprints(room: Room) -> list[tuple[str, np.ndarray, float, float]]:
    return [
        (p["name"], corners(p["x"], p["y"], p["size"][0], p["size"][1], p["yaw"]), p["z"], p["z"] + p["size"][2])
        for p in room.notes["pieces"]
    ]


# ----------------------------------------------------------------------------------------------------------- the rooms


@pytest.mark.parametrize("kind", ["bedroom", "kitchen", "classroom"])
def test_the_same_generator_gives_the_same_room(kind: str) -> None:
    one, two = (plan.make_room(np.random.default_rng([3, 4]), Boxes(), "train", kind) for _ in range(2))
    assert digest(one) == digest(two)
    assert digest(one) != digest(plan.make_room(np.random.default_rng([3, 5]), Boxes(), "train", kind))


@pytest.mark.parametrize(("kind", "seed"), ROOMS)
def test_furniture_does_not_overlap_and_stays_inside(kind: str, seed: int) -> None:
    room = room_of(kind, seed)
    pieces = footprints(room)
    assert len(pieces) >= 3
    for i, (name, rectangle, low, high) in enumerate(pieces):
        for x, y in rectangle + (room.outline.mean(0) - rectangle) * 1e-3:
            assert inside(x, y, room.outline), name
        for other, there, a, b in pieces[i + 1 :]:
            if a < high - 1e-6 and b > low + 1e-6:
                assert not overlaps(rectangle, there[None])[0], (name, other)


def inside(x: float, y: float, outline: np.ndarray) -> bool:
    """Whether a point is in the polygon or within a centimetre of it."""
    crossings = 0
    for (ax, ay), (bx, by) in zip(outline, np.roll(outline, -1, 0), strict=True):
        length = math.hypot(bx - ax, by - ay)
        t = min(max(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length**2, 0), 1)
        if math.hypot(ax + t * (bx - ax) - x, ay + t * (by - ay) - y) < 0.01:
            return True
        crossings += (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay)
    return crossings % 2 == 1


@pytest.mark.parametrize(("kind", "seed"), ROOMS)
def test_doors_are_not_blocked(kind: str, seed: int) -> None:
    room = room_of(kind, seed)
    doors = [np.array(r) for name, r in room.notes["zones"] if name == "door"]
    assert doors
    for name, rectangle, low, _ in footprints(room):
        if low < 1.9:
            assert not overlaps(rectangle, np.array(doors)).any(), name


@pytest.mark.parametrize(("kind", "seed"), ROOMS)
def test_meshes_are_sound(kind: str, seed: int) -> None:
    for p in parts_of(room_of(kind, seed)):
        assert np.isfinite(p.vertices).all()
        assert p.faces.min() >= 0 and p.faces.max() < len(p.vertices)
        assert len(p.label) == len(p.color) == len(p.faces)
        assert p.label.max() < 40 and p.label.dtype == np.uint8
        assert p.color.min() >= 0 and p.color.max() <= 1.001
        assert (p.uv is None) == (p.finish.texture is None)
        assert p.uv is None or (p.uv.shape == (len(p.vertices), 2) and np.isfinite(p.uv).all())


@pytest.mark.parametrize(("kind", "seed"), ROOMS)
def test_nothing_floats_below_or_above_the_room(kind: str, seed: int) -> None:
    room = room_of(kind, seed)
    names = {p["name"] for p in room.notes["pieces"]}
    for thing in room.objects:
        if thing.name in names and thing.parts:
            low, high = shapes.bounds(thing.parts)
            assert low[2] > -0.03, thing.name
            assert high[2] < room.height + 0.02, thing.name
    for p in room.notes["pieces"]:
        assert p["z"] == 0.0


@pytest.mark.parametrize(("kind", "seed"), ROOMS)
def test_a_camera_finds_places(kind: str, seed: int) -> None:
    room = room_of(kind, seed)
    assert len(room.free) >= 5
    tall = [r for _, r, low, high in footprints(room) if high > 0.3 and low < 1.9]
    for x, y in room.free:
        assert inside(x, y, room.outline)
        spot = corners(float(x), float(y), 0.02, 0.02, 0.0)
        assert not overlaps(spot, np.array(tall)).any()


@pytest.mark.parametrize(("kind", "seed"), ROOMS)
def test_every_room_has_light(kind: str, seed: int) -> None:
    room = room_of(kind, seed)
    power = 0.0
    for light in room.lights:
        half = light.half_extent
        area = 4 * math.pi * half[0] ** 2 if len(half) == 1 else 4 * half[0] * half[1]
        power += area * float(np.mean(light.radiance))
    assert power > 0.3
    for light in room.lights:
        assert abs(np.linalg.norm(light.normal) - 1) < 1e-5


def test_rooms_contain_every_class() -> None:
    seen: set[int] = set()
    for kind in plan.KINDS:
        for seed in (1, 2, 3, 4):
            seen |= {int(v) for p in parts_of(room_of(kind, seed)) for v in np.unique(p.label)}
    assert {c.name for c in NYU40 if c.id not in seen} == set()


@pytest.mark.parametrize("kind", list(plan.KINDS))
def test_rooms_need_no_catalogue(kind: str) -> None:
    room = plan.make_room(np.random.default_rng([8, 1]), Nothing(), "train", kind)
    assert len(room.notes["pieces"]) >= 3
    assert all(thing.model is None for thing in room.objects)


def test_the_split_reaches_the_catalogue() -> None:
    furniture = Boxes()
    room = plan.make_room(np.random.default_rng(4), furniture, "val", "bedroom")
    assert furniture.asked == {"val"}
    assert all(thing.model is None or thing.model.endswith("True") for thing in room.objects)


def test_sizes_of_rooms() -> None:
    for kind, traits in plan.KINDS.items():
        for seed in range(30):
            outline, notch = plan.draw_outline(np.random.default_rng(seed), kind, traits)
            room = Plan(outline, 2.5, notch)
            assert room.area > 0.8 * traits.area[0]
            assert room.area < 1.2 * max(traits.area[1], 35 if kind == "corridor" else 0)
            assert np.allclose(outline.min(0), 0)
            x, y = outline.T
            assert np.dot(x, np.roll(y, -1)) > np.dot(y, np.roll(x, -1)), "counter-clockwise"
            rectangles = plan.rectangles(room)
            assert math.isclose(sum((c - a) * (d - b) for a, b, c, d in rectangles), room.area, rel_tol=1e-6)
            for wall in room.walls:
                middle = wall.point(wall.length / 2, 0.05)
                assert inside(*middle, outline)
            assert len(room.walls) == len(outline)


# ----------------------------------------------------------------------------------------------------------- furnishing


def builder(w: float = 6.0, d: float = 5.0, seed: int = 0) -> Builder:
    rng = np.random.default_rng(seed)
    outline = np.array([[0, 0], [w, 0], [w, d], [0, d]], float)
    return Builder(rng, Boxes(), "train", Plan(outline, 2.6), Palette(rng))


@pytest.mark.parametrize("seed", range(6))
def test_chairs_face_their_table(seed: int) -> None:
    b = builder(seed=seed)
    table = kinds_home.dining_group(b)
    assert table is not None
    chairs = [p for p in b.placed if p.piece.name.startswith("chair")]
    assert chairs
    for chair in chairs:
        front = np.array([math.sin(chair.yaw), -math.cos(chair.yaw)])
        rectangle = corners(table.x, table.y, *table.piece.size[:2], table.yaw)
        ahead = np.array([chair.x, chair.y]) + front * (chair.piece.size[1] / 2 + 0.3)
        assert overlaps(corners(*ahead, 0.1, 0.1, 0.0), rectangle[None])[0]


def test_beds_stand_with_their_head_to_a_wall() -> None:
    b = builder()
    kinds_home.bedroom(b)
    bed = next(p for p in b.placed if p.piece.name.startswith("bed"))
    x, y = bed.world(0, bed.piece.size[1] / 2)
    assert min(x, y, 6.0 - x, 5.0 - y) < 0.05


def test_kitchens_have_a_sink_and_a_worktop() -> None:
    b = builder(4.0, 3.5)
    kinds_wet.kitchen(b, Material())
    labels = {int(v) for p in b.placed for part in p.parts for v in np.unique(part.label)}
    assert {CLASS_ID["counter"], CLASS_ID["sink"], CLASS_ID["cabinet"]} <= labels


def seen_from_above(parts: list[Part], x: float, y: float) -> str:
    """Class of the highest surface over a point."""
    best, label = -1.0, ""
    for p in parts:
        a, b, c = (p.vertices[p.faces[:, k]].astype(float) for k in range(3))
        area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            v = ((x - a[:, 0]) * (c - a)[:, 1] - (y - a[:, 1]) * (c - a)[:, 0]) / area
            w = ((b - a)[:, 0] * (y - a[:, 1]) - (b - a)[:, 1] * (x - a[:, 0])) / area
            z = a[:, 2] + v * (b - a)[:, 2] + w * (c - a)[:, 2]
            hit = (v >= 0) & (w >= 0) & (v + w <= 1) & (np.abs(area) > 1e-12)
        for i in np.flatnonzero(hit):
            if z[i] > best:
                best, label = float(z[i]), NYU40[int(p.label[i])].name
    return label


@pytest.mark.parametrize("seed", range(4))
def test_nothing_fills_the_bowl_of_a_sink(seed: int) -> None:
    b = builder(seed=seed)
    run = kinds_wet.base_run(b, kinds_wet.KitchenStyle(b, Material()), 2.4, 0.3, None, False)
    assert seen_from_above(run.parts, 0.17, 0.05) == "sink"
    assert seen_from_above(run.parts, -0.8, 0.0) == "counter"
    stand = wet_shapes.wash_basin(b.rng, b.palette)
    assert seen_from_above(stand.parts, 0.02, -0.03) == "sink"


def test_things_stand_on_the_surface() -> None:
    b = builder()
    desk = b.put(table_shapes.desk(b.rng, b.palette, 1.4), 3.0, 2.0, 0.7)
    before = len(desk.parts)
    for _ in range(12):
        b.on(desk, Piece("thing", [shapes.block((0, 0, 0), (0.2, 0.1, 0.1), "box", Material())], (0.2, 0.1, 0.1)))
    things = [p for p in desk.parts[before:] if (p.label == CLASS_ID["box"]).all()]
    assert len(things) >= 4
    height = desk.piece.tops[0].z
    plate = corners(desk.x, desk.y, *desk.piece.size[:2], desk.yaw)
    for i, thing in enumerate(things):
        assert math.isclose(float(thing.vertices[:, 2].min()), height, abs_tol=1e-5)
        low = corners(*thing.vertices[:, :2].mean(0), 0.01, 0.01, 0.0)
        assert overlaps(low, plate[None])[0]
        for other in things[i + 1 :]:
            assert np.linalg.norm(thing.vertices[:, :2].mean(0) - other.vertices[:, :2].mean(0)) > 0.09


def test_nothing_is_put_where_there_is_no_room() -> None:
    surface = shapes.top(0, 0, 0.5, 0.3, 0.7)
    rng = np.random.default_rng(0)
    assert find_on(rng, surface, 0.6, 0.1) is None
    assert find_on(rng, surface, 0.48, 0.28, tries=50) is not None
    assert find_on(rng, surface, 0.1, 0.1, tries=50) is None


def test_the_level_top_of_a_table_is_found() -> None:
    plate = shapes.box((-0.8, -0.4, 0.70), (0.8, 0.4, 0.74), "table", Material())
    screen = shapes.box((-0.3, 0.1, 0.74), (0.3, 0.2, 1.1), "otherprop", Material())
    size = (1.6, 0.8, 1.1)
    found = level_top(height_map([plate, screen], size), size, "desk")
    assert found is not None
    assert math.isclose(found.z, 0.74, abs_tol=1e-6)
    assert 0.75 < found.free.mean() < 0.97
    i, j = int((0.15 - found.y) / shapes.CELL), int((0.0 - found.x) / shapes.CELL)
    assert not found.free[i, j]
    cone = shapes.lathe([(0.3, 0.0), (0.0, 0.6)], "chair", Material())
    assert level_top(height_map([cone], (0.6, 0.6, 0.6)), (0.6, 0.6, 0.6), "seat") is None


def test_pieces_go_against_walls_and_keep_their_front_clear() -> None:
    b = builder(3.0, 3.0)
    first = b.against(case_shapes.dresser(b.rng, b.palette), tries=50)
    assert first is not None
    placed, wall = first
    x, y = placed.world(0, -placed.piece.size[1] / 2 - 0.2)
    assert not b.plan.fits(corners(x, y, 0.2, 0.2, 0.0), 0.0, 0.5)
    assert math.isclose(math.cos(placed.yaw - wall.yaw), 1.0)
    back = placed.world(0, placed.piece.size[1] / 2)
    assert abs(np.dot(np.array(back) - wall.origin, wall.normal)) < 0.05


# --------------------------------------------------------------------------------------------------------------- shapes


def test_overlap_of_turned_rectangles() -> None:
    one = corners(0, 0, 2, 1, 0.0)
    many = np.array([corners(0.9, 0.9, 1, 1, 0.0), corners(1.4, 0.9, 1, 1, math.pi / 4), corners(0, 0, 0.1, 0.1, 1.0)])
    assert overlaps(one, many).tolist() == [True, False, True]
    assert overlaps(one, corners(2.0, 0, 2, 1, 0.0)[None]).tolist() == [False], "touching is no overlap"


def test_merging_keeps_every_face() -> None:
    rng = np.random.default_rng(0)
    palette = Palette(rng)
    parts = soft_shapes.bed(rng, palette, True).parts + case_shapes.bookcase(rng, palette).parts
    merged = shapes.merge(parts)
    assert len(merged) < len(parts)
    assert sum(len(p.faces) for p in merged) == sum(len(p.faces) for p in parts)

    def area(p: Part) -> float:
        a, b, c = (p.vertices[p.faces[:, k]].astype(float) for k in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)

    assert math.isclose(sum(map(area, merged)), sum(map(area, parts)), rel_tol=1e-6)


def test_boxes_point_outwards() -> None:
    for p in (
        shapes.box((0, 0, 0), (1, 2, 3), "box", Material()),
        shapes.lathe([(0, 0), (1, 0), (1, 2), (0, 2)], "lamp", Material(), sides=16),
        shapes.rounded((0, 0, 0), (1, 1, 1), 0.2, "sofa", Material()),
        shapes.bar((0, 0, 0), (1, 0.5, 2), 0.1, "chair", Material()),
    ):
        a, b, c = (p.vertices[p.faces[:, k]].astype(float) for k in range(3))
        volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
        assert volume > 0


def test_walls_have_holes_and_reveals() -> None:
    hole = wall_shapes.Opening(1.0, 2.0, 0.8, 2.0, 0.2)
    parts = wall_shapes.wall_surface(4.0, 2.5, [hole], Material(finish=MATT))
    total = front = 0.0
    for p in parts:
        a, b, c = (p.vertices[p.faces[:, k]].astype(float) for k in range(3))
        cross = np.cross(b - a, c - a) / 2
        total += np.linalg.norm(cross, axis=1).sum()
        front += -cross[:, 1].sum()
    assert math.isclose(front, 4.0 * 2.5 - 1.0 * 1.2, rel_tol=1e-6)
    assert math.isclose(total - front, 0.2 * 2 * (1.0 + 1.2), rel_tol=1e-6)


def test_book_rows_stay_on_their_board() -> None:
    rng = np.random.default_rng(1)
    palette = Palette(rng)
    for _ in range(20):
        parts = small_shapes.book_row(rng, palette, -0.4, 0.4, -0.1, 0.2, 1.0, 0.3)
        low, high = shapes.bounds(parts)
        assert low[0] > -0.41 and high[0] < 0.42
        assert low[2] > 0.98 and high[2] < 1.31
        assert low[1] > -0.11 and high[1] < 0.105


def test_placed_pieces_know_the_way_to_the_world() -> None:
    placed = Placed(Piece("x", [], (1, 1, 1)), 2.0, 3.0, math.pi / 2)
    assert np.allclose(placed.world(1.0, 0.0), (2.0, 4.0))
    part = shapes.block((1.0, 0.0, 0.0), (0.1, 0.1, 0.1), "box", Material())
    assert np.allclose(placed.move([part])[0].vertices[:, :2].mean(0), (2.0, 4.0))
