"""Plans a furnished room: its kind, outline, walls, light and furniture, from one random generator.

The order is that of a real house: outline, openings, surfaces, furniture against walls, furniture in the middle,
things on walls, things on the floor, things on surfaces, lamps. What kinds of rooms have is in `kinds_*.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from training.folder import Split
from training.rooms import decorate as deco
from training.rooms import textures
from training.rooms import wall_shapes as walls
from training.rooms.builder import Builder, Furniture, Lamp, light_color
from training.rooms.clutter import furnish_surfaces
from training.rooms.habits import live_in
from training.rooms.kinds_home import bedroom, dining_room, library, living_room, study
from training.rooms.kinds_wet import bathroom, kitchen
from training.rooms.kinds_work import classroom, corridor, office, playroom
from training.rooms.layout import Plan
from training.rooms.palette import CLOTH, Palette
from training.rooms.scene import Finish, Floats, Light, Room
from training.rooms.shapes import GLOSS, MATT, Material, Rng, box, hsv, paint, quad, textured, times


@dataclass(frozen=True)
class Kind:
    """What rooms of a kind are like.

    Attributes:
        weight: How often it is drawn; about the mixture of NYUD-v2, with more offices and corridors.
        area: Lowest and highest, m². long: highest ratio of the sides.
        windows: Expected number. dressing: weights of nothing, curtains, blinds, both.
        doors: Lowest and highest number.
        floors: Weights of parquet, tiles, carpet, plain.
        walls: Weights of paint, plaster, wallpaper, tiles.
        ceiling: Weights of plain, panels (a grid), beams.
        lamps: Kinds of ceiling lamps.
    """

    weight: float
    area: tuple[float, float]
    long: float
    windows: float
    dressing: tuple[float, float, float, float]
    doors: tuple[int, int]
    floors: tuple[float, float, float, float]
    walls: tuple[float, float, float, float]
    ceiling: tuple[float, float, float]
    lamps: tuple[str, ...]


HOME = (0.97, 0.0, 0.03)
KINDS: dict[str, Kind] = {
    "bedroom": Kind(
        0.25, (9, 22), 1.6, 1.5, (0.8, 4, 5.5, 2.5), (1, 2),
        (4, 0.3, 5, 0.3), (4, 3, 3, 0), HOME, ("pendant", "dome", "dome"),
    ),
    "living room": Kind(
        0.18, (15, 40), 1.7, 2.0, (1.5, 4, 4.5, 2.5), (1, 2),
        (6, 1, 4, 0.3), (4, 3, 3, 0), (0.9, 0.0, 0.1), ("pendant", "dome", "spots"),
    ),
    "kitchen": Kind(
        0.17, (8, 20), 1.8, 1.2, (3, 1.5, 4, 0.7), (1, 2),
        (3, 6, 0, 1.5), (4, 3, 1.5, 1), (0.95, 0.02, 0.03), ("dome", "pendant", "tube", "spots"),
    ),
    "bathroom": Kind(
        0.12, (4, 10), 1.9, 0.5, (5, 1, 3, 0.3), (1, 1),
        (0.7, 8, 0.1, 1), (2, 2, 1.2, 5), HOME, ("dome", "dome", "spots"),
    ),
    "dining room": Kind(
        0.08, (12, 26), 1.6, 1.8, (1.5, 4, 4, 2), (1, 2),
        (6, 1.5, 3, 0.2), (4, 3, 3, 0), (0.9, 0.0, 0.1), ("pendant",),
    ),
    "office": Kind(
        0.1, (10, 60), 2.0, 1.4, (3, 0.6, 6, 0.3), (1, 2),
        (1.5, 0.7, 6, 1.5), (7, 3, 0.2, 0), (0.35, 0.63, 0.02), ("panel", "panel", "tube"),
    ),
    "study": Kind(
        0.04, (9, 20), 1.6, 1.1, (2, 3, 4, 1), (1, 1),
        (5, 0.2, 5, 0.2), (5, 3, 1.5, 0), HOME, ("pendant", "dome"),
    ),
    "library": Kind(
        0.025, (14, 45), 1.8, 0.6, (4, 1, 3, 0), (1, 1),
        (4, 1, 5, 1), (5, 3, 0.5, 0), (0.5, 0.45, 0.05), ("panel", "tube", "pendant"),
    ),
    "playroom": Kind(
        0.02, (12, 24), 1.6, 1.2, (2, 3, 3, 1), (1, 1),
        (4, 0.5, 6, 0.3), (6, 2, 1, 0), (0.8, 0.2, 0), ("dome", "panel"),
    ),
    "classroom": Kind(
        0.03, (40, 80), 1.5, 2.6, (4, 0.5, 5, 0.2), (1, 2),
        (1, 1.5, 3, 4), (8, 3, 0, 0), (0.3, 0.7, 0), ("panel", "tube"),
    ),
    "corridor": Kind(
        0.045, (6, 30), 9.0, 0.4, (5, 1.5, 2, 0), (2, 6),
        (4, 2.5, 3, 1), (6, 3, 2, 0), (0.7, 0.3, 0), ("dome", "panel", "pendant"),
    ),
}  # fmt: skip

LIGHTING = {"day": 0.34, "evening": 0.26, "mixed": 0.24, "dim": 0.08, "backlit": 0.08}

FURNISH: dict[str, Callable[[Builder], None]] = {
    "bedroom": bedroom, "living room": living_room, "dining room": dining_room, "office": office, "study": study,
    "library": library, "playroom": playroom, "classroom": classroom, "corridor": corridor,
}  # fmt: skip


def draw_outline(rng: Rng, name: str, kind: Kind) -> tuple[Floats, Floats | None]:
    """Corners of the floor and of the notch of an L, if it is one. Metres."""
    if name == "corridor":
        wide, long = rng.uniform(1.3, 2.5), rng.uniform(4.0, 14.0)
        if rng.random() < 0.3:  # around a corner
            other, wide2 = rng.uniform(wide + 2.0, wide + 6.0), rng.uniform(1.3, 2.2)
            w, d = long, other
            a, c = w - wide2, d - wide
            return _ell(rng, w, d, a, c)
        w, d = (long, wide) if rng.random() < 0.5 else (wide, long)
        return np.array([[0, 0], [w, 0], [w, d], [0, d]]), None
    area = rng.uniform(*kind.area) if name != "bathroom" else rng.triangular(kind.area[0], 5.5, kind.area[1])
    if name == "office":
        area = float(np.exp(rng.uniform(math.log(kind.area[0]), math.log(kind.area[1]))))
    ratio = rng.uniform(1.0, kind.long)
    w, d = math.sqrt(area * ratio), math.sqrt(area / ratio)
    if rng.random() < 0.5 and name != "classroom":
        w, d = d, w
    if name not in ("classroom", "bathroom") and rng.random() < 0.2:
        grow = math.sqrt(1.15)
        w, d = w * grow, d * grow
        return _ell(rng, w, d, w * rng.uniform(0.25, 0.5), d * rng.uniform(0.25, 0.5))
    return np.array([[0, 0], [w, 0], [w, d], [0, d]]), None


def _ell(rng: Rng, w: float, d: float, a: float, c: float) -> tuple[Floats, Floats]:
    """A rectangle w × d that lacks a × c at one corner."""
    points = np.array([[0, 0], [w, 0], [w, d - c], [w - a, d - c], [w - a, d], [0, d]])
    notch = np.array([[w - a, d - c], [w, d - c], [w, d], [w - a, d]])
    if rng.random() < 0.5:  # mirrored: the order of the corners turns round with it
        points = (np.array([w, 0]) - points * np.array([1, -1]))[::-1]
        notch = (np.array([w, 0]) - notch * np.array([1, -1]))[::-1]
    if rng.random() < 0.5:
        points = (np.array([0, d]) - points * np.array([-1, 1]))[::-1]
        notch = (np.array([0, d]) - notch * np.array([-1, 1]))[::-1]
    return np.ascontiguousarray(points), np.ascontiguousarray(notch)


# --------------------------------------------------------------------------------------------------------------- shell


def _floor_material(rng: Rng, kind: Kind) -> Material:
    choice = int(rng.choice(4, p=np.asarray(kind.floors) / sum(kind.floors)))
    if choice == 0:
        return textured(textures.parquet(rng), Finish(roughness=float(rng.uniform(0.25, 0.6)), specular=0.4))
    if choice == 1:
        return textured(textures.tiles(rng), Finish(roughness=float(rng.uniform(0.1, 0.4)), specular=0.45))
    if choice == 2:
        return textured(textures.carpet(rng), CLOTH)
    return textured(textures.stone(rng), Finish(roughness=float(rng.uniform(0.2, 0.7)), specular=0.3))


def _wall_material(rng: Rng, kind: Kind, choice: int | None = None) -> tuple[Material, int]:
    choice = int(rng.choice(4, p=np.asarray(kind.walls) / sum(kind.walls))) if choice is None else choice
    if choice == 0:  # smooth paint
        draw = rng.random()
        if draw < 0.6:
            tone = hsv(rng.uniform(0.05, 0.17), 0.12 * rng.random(), rng.uniform(0.78, 0.97))
        elif draw < 0.8:
            tone = hsv(rng.uniform(0.05, 0.14), rng.uniform(0.1, 0.4), rng.uniform(0.6, 0.92))
        else:
            tone = hsv(rng.random(), rng.uniform(0.05, 0.45) * rng.uniform(0.4, 1), rng.uniform(0.45, 0.9))
        return paint(tone, MATT), choice
    if choice == 1:
        return textured(textures.plaster(rng), MATT), choice
    if choice == 2:
        return textured(textures.wallpaper(rng), MATT), choice
    return textured(textures.tiles(rng, wall=True), GLOSS), choice


def _ceiling(b: Builder, kind: Kind) -> None:
    """Flat, a grid of panels, or with beams."""
    rng, plan = b.rng, b.plan
    style = int(rng.choice(3, p=np.asarray(kind.ceiling) / sum(kind.ceiling)))
    if style == 1:
        picture = np.full((64, 64, 3), rng.integers(205, 240), np.uint8)
        specks = rng.random((64, 64)) < rng.uniform(0, 0.25)
        picture[specks] = picture[specks] - 25
        picture[:2], picture[:, :2] = 165, 165
        material = textured(textures.Texture(picture, 0.6), MATT)
    else:
        tone = hsv(rng.uniform(0.08, 0.16), 0.05 * rng.random(), rng.uniform(0.85, 0.97))
        material = paint(tone if rng.random() < 0.9 else hsv(0.1, 0.25, 0.8), MATT)
    h = plan.height
    for x0, y0, x1, y1 in rectangles(plan):
        corners = np.array([[x0, y1, h], [x1, y1, h], [x1, y0, h], [x0, y0, h]])
        b.shell.append(quad(corners, "ceiling", material))
    if style == 2 and plan.notch is None:
        wood, along = b.palette.wood(), int(rng.integers(2))
        size, deep = rng.uniform(0.1, 0.18), rng.uniform(0.08, 0.16)
        for t in np.arange(rng.uniform(0.3, 0.8), plan.extent[along] - 0.2, rng.uniform(0.7, 1.2)):
            low = [t - size / 2, 0.0, h - deep] if along == 0 else [0.0, t - size / 2, h - deep]
            high = [t + size / 2, plan.extent[1], h] if along == 0 else [plan.extent[0], t + size / 2, h]
            b.shell.append(box(low, high, "otherstructure", wood))


def rectangles(plan: Plan) -> list[tuple[float, float, float, float]]:
    """The floor as one or two rectangles x0, y0, x1, y1."""
    w, d = (float(v) for v in plan.extent)
    if plan.notch is None:
        return [(0.0, 0.0, w, d)]
    (nx0, ny0), (nx1, ny1) = plan.notch.min(0), plan.notch.max(0)
    lower = (0.0, float(ny1), w, d) if ny0 < 1e-6 else (0.0, 0.0, w, float(ny0))
    x0, x1 = (float(nx1), w) if nx0 < 1e-6 else (0.0, float(nx0))
    return [lower, (x0, float(ny0), x1, float(ny1))]


def _shell(b: Builder, kind: Kind, floor: Material, materials: list[Material], tiled: float | None) -> None:
    """Floor, walls with their holes, skirting, ceiling."""
    rng, plan = b.rng, b.plan
    for x0, y0, x1, y1 in rectangles(plan):
        b.shell.append(quad(np.array([[x0, y0, 0], [x1, y0, 0], [x1, y1, 0], [x0, y1, 0]]), "floor", floor))
    foot = b.palette.trim_or_wood()
    height = float(rng.choice([0.0, 0.06, 0.09, 0.13], p=[0.06, 0.3, 0.44, 0.2]))
    cornice = rng.random() < 0.2
    chair_rail = rng.random() < 0.08
    for i, wall in enumerate(plan.walls):
        parts = []
        openings = b.openings[i]
        if tiled is not None:
            upper = materials[i]
            parts += walls.wall_surface(wall.length, tiled, openings, materials[-1])
            parts += walls.wall_surface(wall.length, plan.height, openings, upper, tiled)
        else:
            parts += walls.wall_surface(wall.length, plan.height, openings, materials[i])
        if height and tiled is None:
            parts += walls.skirting(wall.length, openings, foot, height)
        if cornice:
            parts += walls.skirting(wall.length, [], b.palette.white, 0.07, 0.05, plan.height - 0.07)
        if chair_rail:
            parts += walls.skirting(wall.length, [replace(o, z0=0.0) for o in openings], foot, 0.06, 0.012, 0.9)
        b.shell_on(wall, parts)
    _ceiling(b, kind)


# -------------------------------------------------------------------------------------------------------------- lights


@dataclass(frozen=True)
class Mood:
    """How a room is lit.

    Attributes:
        name: day, evening, mixed, dim or backlit.
        sky: Radiance behind the windows; night: whether it is dark outside.
        sky_color, lamp_color: Of mean 1.
        ceiling, lamps: Whether ceiling lamps and other lamps are lit.
        strength: Of lamps.
    """

    name: str
    sky: float
    night: bool
    sky_color: tuple[float, float, float]
    lamp_color: tuple[float, float, float]
    ceiling: bool
    lamps: bool
    strength: float


def draw_mood(rng: Rng, kind: str) -> Mood:
    name = str(rng.choice(list(LIGHTING), p=np.array(list(LIGHTING.values())) / sum(LIGHTING.values())))
    sky_color = light_color(float(rng.uniform(5200, 9000)))
    kelvin = (
        rng.uniform(3300, 6500) if kind in ("office", "classroom", "library", "corridor") else rng.uniform(2500, 4500)
    )
    lamp_color = light_color(float(kelvin))
    if name == "day":
        return Mood(
            name,
            float(rng.uniform(5, 16)),
            False,
            sky_color,
            lamp_color,
            bool(rng.random() < 0.12),
            bool(rng.random() < 0.15),
            1.0,
        )
    if name == "evening":
        ceiling = bool(rng.random() < 0.75)
        return Mood(
            name,
            float(rng.uniform(0.02, 0.25)),
            True,
            sky_color,
            lamp_color,
            ceiling,
            not ceiling or bool(rng.random() < 0.5),
            float(rng.uniform(0.7, 1.5)),
        )
    if name == "mixed":
        return Mood(
            name,
            float(rng.uniform(2, 8)),
            False,
            sky_color,
            lamp_color,
            bool(rng.random() < 0.8),
            bool(rng.random() < 0.6),
            float(rng.uniform(0.8, 1.6)),
        )
    if name == "dim":
        return Mood(
            name,
            float(rng.uniform(0.05, 0.8)),
            bool(rng.random() < 0.5),
            sky_color,
            lamp_color,
            bool(rng.random() < 0.35),
            True,
            float(rng.uniform(0.15, 0.5)),
        )
    return Mood(name, float(rng.uniform(12, 30)), False, sky_color, lamp_color, False, False, 0.5)


def _lights(b: Builder, mood: Mood) -> list[Light]:
    """Windows and lamps as lights; a room never stays dark."""
    rng, plan = b.rng, b.plan
    out: list[Light] = []
    normal: tuple[float, float, float]
    for window in b.windows:
        o, wall = window.opening, window.wall
        x, y = wall.point((o.u0 + o.u1) / 2, -o.depth - 0.03)
        radiance = times(mood.sky_color, mood.sky * window.open)
        normal = (float(wall.normal[0]), float(wall.normal[1]), 0.0)
        half = ((o.u1 - o.u0) / 2, (o.z1 - o.z0) / 2)
        out.append(Light((x, y, (o.z0 + o.z1) / 2), normal, half, radiance))
    if b.windows and mood.name in ("day", "backlit", "mixed") and rng.random() < 0.2:
        out.append(_sun(b, mood))
    dark = not b.windows or sum(w.open * np.prod(w.opening.size) for w in b.windows) < 0.05 * plan.area
    lit = []
    for lamp in b.lamps:
        on = mood.ceiling if lamp.ceiling else mood.lamps
        if on or (dark and lamp.ceiling):
            lit.append(lamp)
    if not lit and (dark or mood.night or mood.sky < 1):
        lit = b.lamps or [_hidden_lamp(b)]
    if not any(x.ceiling for x in lit) and (dark or mood.night or mood.sky < 1):
        # A table lamp alone leaves most of the room black; real rooms have light from elsewhere.
        lit = [*lit, replace(_hidden_lamp(b), power=0.35)]
    lit = sorted(lit, key=lambda x: -x.power)[:10]
    for lamp in lit:
        share = lamp.power * mood.strength * rng.uniform(0.8, 1.2)
        area = (
            math.pi * lamp.half_extent[0] ** 2
            if len(lamp.half_extent) == 1
            else 4 * lamp.half_extent[0] * lamp.half_extent[1]
        )
        value = share * 4.0 / area
        out.append(Light(lamp.position, lamp.normal, lamp.half_extent, times(mood.lamp_color, value)))
    return out


def _hidden_lamp(b: Builder) -> Lamp:
    x0, y0, x1, y1 = max(rectangles(b.plan), key=lambda r: (r[2] - r[0]) * (r[3] - r[1]))
    return Lamp(((x0 + x1) / 2, (y0 + y1) / 2, b.plan.height - 0.12), 0.9, True, (0.2, 0.2))


def _sun(b: Builder, mood: Mood) -> Light:
    """The sun through one window: a small far light that only reaches the room through the hole."""
    window = b.windows[int(b.rng.integers(len(b.windows)))]
    o, wall = window.opening, window.wall
    height, side = b.uniform(0.35, 0.95), b.uniform(-0.7, 0.7)
    out = -wall.normal * math.cos(side) + wall.axis * math.sin(side)
    direction = np.array([out[0] * math.cos(height), out[1] * math.cos(height), math.sin(height)])
    distance = 4.0
    x, y = wall.point((o.u0 + o.u1) / 2, 0.0)
    position = np.array([x, y, (o.z0 + o.z1) / 2]) + direction * distance
    strength = mood.sky * b.uniform(1.0, 3.0) * window.open
    half = 0.12
    value = strength * distance**2 / (4 * half * half)
    return Light(
        (float(position[0]), float(position[1]), float(position[2])),
        (float(-direction[0]), float(-direction[1]), float(-direction[2])),
        (half, half),
        times(light_color(b.uniform(4200, 5600)), value),
    )


# ---------------------------------------------------------------------------------------------------------------- room


def _openings(b: Builder, name: str, kind: Kind, walls_: Material, floor: Material, outside: Material) -> None:
    for index in range(kind.doors[0] + int(b.rng.binomial(kind.doors[1] - kind.doors[0], 0.15))):
        wide = (
            b.uniform(1.4, 1.8)
            if name in ("living room", "dining room", "office", "classroom") and b.chance(0.08)
            else None
        )
        done = b.add_door(walls_, floor, "corner" if b.chance(0.7) and name != "corridor" else "any", wide)
        if not done and index == 0:
            b.add_door(walls_, floor, "any", 0.72)
    if name in ("bedroom", "corridor") and b.chance(0.25 if name == "bedroom" else 0.15):
        b.add_closet()
    count = (
        int(b.rng.poisson(kind.windows))
        if kind.windows < 1
        else max(1, int(b.rng.poisson(kind.windows - 0.3) + (b.chance(0.75))))
    )
    if b.chance(0.06):
        count = 0
    same = b.uniform(0.9, 2.2), b.uniform(0.75, 1.0), b.uniform(2.0, 2.3)
    outer = [i for i, w in enumerate(b.plan.walls) if w.outer]
    sides = [int(i) for i in b.rng.permutation(outer)[: (1 if name in ("classroom", "office") or b.chance(0.5) else 2)]]
    for _ in range(min(count, 5)):
        w, z0, z1 = same
        if name == "bathroom":
            w, z0, z1 = b.uniform(0.45, 0.9), b.uniform(1.1, 1.4), b.uniform(1.8, 2.1)
        elif name == "kitchen":
            z0 = b.uniform(1.02, 1.15)
        elif name in ("living room", "dining room", "bedroom") and b.chance(0.14):
            w, z0, z1 = b.uniform(1.2, 2.6), 0.02, 2.15
        elif name == "office" and b.chance(0.3):
            w = b.uniform(1.5, 3.0)
        where = "middle" if b.chance(0.6) else "any"
        if not b.add_window(outside, z0, z1, w, kind.dressing, where, sides) and not b.windows:
            b.add_window(outside, z0, z1, w * 0.75, kind.dressing, "any", outer)


def _ceiling_spots(b: Builder, name: str) -> list[tuple[float, float]]:
    """Where ceiling lamps are: the middle, over the table, or a grid in large rooms."""
    if b.spots:
        return b.spots
    spots = []
    pitch = 3.0 if name in ("office", "classroom", "library") else 4.5
    for x0, y0, x1, y1 in rectangles(b.plan):
        nx, ny = (max(1, min(3, round((v) / pitch))) for v in (x1 - x0, y1 - y0))
        for i in range(nx):
            for j in range(ny):
                spots.append((x0 + (x1 - x0) * (i + 0.5) / nx, y0 + (y1 - y0) * (j + 0.5) / ny))
    return spots[:6]


def make_room(rng: Rng, catalogue: Furniture, split: Split, kind: str | None = None) -> Room:
    """A furnished room.

    Args:
        rng: Decides everything; the same state gives the same room.
        catalogue: Where furniture comes from; what it lacks is made of simple shapes.
        split: Held-out models stand only in rooms for val and test.
        kind: One of `KINDS`; drawn by weight if None.
    """
    weights = np.array([k.weight for k in KINDS.values()])
    name = kind or str(rng.choice(list(KINDS), p=weights / weights.sum()))
    traits = KINDS[name]
    outline, notch = draw_outline(rng, name, traits)
    height = float(rng.uniform(2.35, 2.6) if rng.random() < 0.75 else rng.uniform(2.55, 3.1))
    if name in ("classroom", "office", "library"):
        height = float(rng.uniform(2.5, 3.1))
    plan = Plan(outline, height, notch)
    palette = Palette(rng)
    mood = draw_mood(rng, name)
    b = Builder(rng, catalogue, split, plan, palette)
    b.mess = float(rng.uniform(0.6, 2.2))
    b.day = 0.0 if mood.night else mood.sky
    b.lit = mood.lamps or mood.ceiling
    glow = float(rng.uniform(2.0, 5.0)) * min(1.0, mood.strength + 0.2)
    b.glow = times(mood.lamp_color, glow)

    floor = _floor_material(rng, traits)
    wall, choice = _wall_material(rng, traits)
    tiled = None
    materials = [wall] * len(plan.walls)
    if choice == 3:
        if rng.random() < 0.65:  # tiles up to some height
            tiled = float(rng.uniform(1.1, 2.1))
            upper, _ = _wall_material(rng, traits, int(rng.integers(2)))
            materials = [upper] * len(plan.walls) + [wall]
    elif rng.random() < 0.25:  # one wall differs
        materials[int(rng.integers(len(materials)))] = _wall_material(rng, traits)[0]
    seen = float(np.clip(mood.sky * rng.uniform(0.25, 0.6), 0.02, 9.0))
    outside = textured(textures.outdoor(rng, night=mood.night), MATT)
    outside = replace(outside, finish=replace(outside.finish, emission=times(mood.sky_color, seen)))
    _openings(b, name, traits, materials[0], floor, outside)
    _shell(b, traits, floor, materials, tiled)
    deco.structure(
        b, materials[0], *((0.45, 0.35) if name in ("office", "classroom", "corridor", "library") else (0.15, 0.2))
    )
    if name in ("kitchen", "bathroom"):
        tiles = wall if choice == 3 else _wall_material(rng, traits, 3 if rng.random() < 0.6 else 1)[0]
        kitchen(b, tiles) if name == "kitchen" else bathroom(b, tiles)
    else:
        FURNISH[name](b)
    live_in(b, b.habit or name)
    deco.radiators(b)
    deco.switches(b)
    furnish_surfaces(b)
    power = float(rng.uniform(0.7, 1.3))
    spots = _ceiling_spots(b, name)
    b.lit = mood.ceiling
    deco.ceiling_lamps(b, list(traits.lamps), spots, power / max(1.0, len(spots) * 0.5))
    lights = _lights(b, mood)
    free = plan.free_points(rng)
    notes = {
        "pieces": [
            {
                "name": p.piece.name,
                "model": p.piece.model,
                "x": p.x,
                "y": p.y,
                "yaw": p.yaw,
                "z": p.z,
                "size": p.piece.size,
                "front": p.piece.front,
            }
            for p in b.placed
        ],
        "zones": [
            (name, rectangle.tolist())
            for occupied in (plan.doors, plan.zones)
            for name, rectangle in zip(occupied.names, occupied.rectangles, strict=True)
        ],
    }
    return Room(name, outline, height, b.objects(), tuple(lights), mood.name, free, notes)
