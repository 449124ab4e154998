"""The room while it is being made: its shell, the furniture placed so far, and the ways to place more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from training.folder import Split
from training.rooms import device_shapes as devices
from training.rooms import wall_shapes as walls
from training.rooms.layout import Placed, Plan, Wall, corners, find_on, height_map, level_top
from training.rooms.palette import Palette
from training.rooms.scene import Light, Model, Object, Part
from training.rooms.shapes import Color, Material, Piece, Rng, Top, bounds, merge
from training.rooms.wall_shapes import Opening

Maker = Callable[[Rng, Palette], Piece]


class Furniture(Protocol):
    """What the planner needs of a catalogue; see `training/rooms/catalogue.py`."""

    def of(self, use: str, split: Split) -> tuple[Model, ...]: ...

    def parts(self, model: Model) -> tuple[Part, ...]: ...


MAX_FACES = 60_000
SMALL_FACES = 12_000

TOP_KIND = {
    "desk": "desk", "table.coffee": "coffee", "table.side": "stand", "table": "table", "night_stand": "stand",
    "dresser": "dresser", "cabinet.tv": "media", "cabinet.media": "media", "cabinet.low": "dresser",
    "cabinet.kitchen": "counter", "counter": "counter", "bed": "bed", "sofa": "seat", "chair": "seat",
    "piano.upright": "dresser", "sink": "sink", "refrigerator": "wardrobe", "cabinet": "dresser", "bookshelf": "shelf",
    "shelf": "shelf", "wardrobe": "wardrobe", "box": "shelf", "bench": "seat", "ottoman": "seat",
}  # fmt: skip
"""What the level top of a catalogue piece is used for, by the beginning of its use; the longest match holds."""


def top_kind(use: str) -> str | None:
    matches = [k for k in TOP_KIND if use == k or use.startswith(k + ".") or use.startswith(k + "_")]
    return TOP_KIND[max(matches, key=len)] if matches else None


_TOPS: dict[str, Top | None] = {}


def _top_of(model: Model, parts: Sequence[Part]) -> Top | None:
    """The level top of a model; found once per process."""
    kind = top_kind(model.use)
    if kind is None or max(model.size) > 4:
        return None
    if model.key not in _TOPS:
        _TOPS[model.key] = level_top(height_map(parts, model.size), model.size, kind)
    found = _TOPS[model.key]
    return None if found is None else replace(found, free=found.free.copy())


@dataclass
class Lamp:
    """A lamp that may be lit: where its light is, and how strong, in the unit of `Light.radiance` at 1 m."""

    position: tuple[float, float, float]
    power: float
    ceiling: bool
    half_extent: tuple[float, ...] = (0.07,)
    normal: tuple[float, float, float] = (0.0, 0.0, -1.0)


@dataclass
class Window:
    wall: Wall
    opening: Opening
    open: float


class Builder:
    """Places things, and remembers what was placed.

    Attributes:
        shell: Parts of walls, floor, ceiling; loose: what hangs or lies about, in the world.
        models: Objects from the catalogue.
        placed: All pieces of furniture that stand on the floor, for tests and drawings.
        lit: Whether lamps are on (they glow); glow: the radiance of a lit shade.
        day: Radiance of the sky behind windows.
        mess: How many small things there are, about 1. spots: where ceiling lamps belong, if a table decides it.
        habit: Which of `habits.HABITS` the room follows; that of its kind if empty.
    """

    def __init__(self, rng: Rng, furniture: Furniture, split: Split, plan: Plan, palette: Palette) -> None:
        self.rng, self.furniture, self.split, self.plan, self.palette = rng, furniture, split, plan, palette
        self.shell: list[Part] = []
        self.loose: list[Object] = []
        self.models: list[Object] = []
        self.placed: list[Placed] = []
        self.lamps: list[Lamp] = []
        self.lights: list[Light] = []
        self.windows: list[Window] = []
        self.openings: dict[int, list[Opening]] = {i: [] for i in range(len(plan.walls))}
        self.lit, self.glow, self.day = True, (3.0, 2.4, 1.7), 5.0
        self.props = 0
        self.mess = 1.0
        self.habit = ""
        self.spots: list[tuple[float, float]] = []

    # ---------------------------------------------------------------------------------------------------------- chance

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def count(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def some(self, *options: Maker) -> Maker:
        return options[int(self.rng.integers(len(options)))]

    # ------------------------------------------------------------------------------------------------------- catalogue

    def model(
        self,
        uses: str | Sequence[str],
        fits: Callable[[Model], bool] | None = None,
        faces: int = MAX_FACES,
        front: float = 0.0,
    ) -> Piece | None:
        """A piece of the catalogue with one of the uses, or None if there is none that fits."""
        found: list[Model] = []
        for use in [uses] if isinstance(uses, str) else uses:
            found += [m for m in self.furniture.of(use, self.split) if fits is None or fits(m)]
        if not found:
            return None
        model = found[int(self.rng.integers(len(found)))]
        parts = self.furniture.parts(model)
        if sum(len(p.faces) for p in parts) > faces:
            return None
        found_top = _top_of(model, parts)
        tops = [] if found_top is None else [found_top]
        return Piece(model.use, list(parts), model.size, tops, front, model.key)

    def take(
        self,
        uses: str | Sequence[str],
        make: Maker | None,
        share: float = 0.4,
        fits: Callable[[Model], bool] | None = None,
        front: float = 0.0,
    ) -> Piece | None:
        """A piece of the catalogue, or a simple shape: with chance `share`, or where the catalogue has none."""
        if make is not None and self.chance(share):
            return make(self.rng, self.palette)
        piece = self.model(uses, fits, front=front)
        if piece is None and make is not None:
            return make(self.rng, self.palette)
        return piece

    # --------------------------------------------------------------------------------------------------------- placing

    def scatter(self, name: str, parts: Sequence[Part], furniture: bool = True) -> None:
        """Takes simple shapes that are already in the world as an object of their own."""
        self.loose.append(Object(name, merge(parts), None, furniture))

    def add(self, piece: Piece, parts: list[Part], base: Placed | None = None) -> None:
        """Takes the parts of a piece, already in the world; simple shapes are counted as a part of their base."""
        if piece.model is not None:
            self.models.append(Object(piece.name, tuple(parts), piece.model))
        elif base is not None:
            base.parts.extend(parts)
        else:
            self.scatter(piece.name, parts)

    def put(self, piece: Piece, x: float, y: float, yaw: float, z: float = 0.0) -> Placed:
        """Places a piece without looking; see `Plan.fits_piece`."""
        placed = self.plan.place(piece, x, y, yaw, z)
        self.add(piece, placed.move(piece.parts), placed)
        self.placed.append(placed)
        return placed

    def try_put(
        self, piece: Piece | None, x: float, y: float, yaw: float, z: float = 0.0, zones: bool = True
    ) -> Placed | None:
        if piece is None or not self.plan.fits_piece(piece, x, y, yaw, z, zones):
            return None
        return self.put(piece, x, y, yaw, z)

    def against(
        self,
        piece: Piece | None,
        where: str = "any",
        walls: Sequence[Wall] | None = None,
        z: float = 0.0,
        tries: int = 16,
    ) -> tuple[Placed, Wall] | None:
        """Places a piece with its back to a wall."""
        if piece is None:
            return None
        spot = self.plan.against(self.rng, piece, walls, where, z, tries=tries)
        if spot is None:
            return None
        x, y, yaw, wall = spot
        return self.put(piece, x, y, yaw, z), wall

    def stand(
        self, piece: Piece | None, near_walls: bool = True, tries: int = 10, yaw: float | None = None
    ) -> Placed | None:
        """Places a piece anywhere on the floor."""
        if piece is None:
            return None
        spot = self.plan.anywhere(self.rng, piece, tries, yaw, near_walls)
        return None if spot is None else self.put(piece, *spot)

    def beside(
        self, base: Placed, piece: Piece | None, side: int, gap: float = 0.04, back: bool = True
    ) -> Placed | None:
        """Places a piece at the left (-1) or right (1) of another, backs in line."""
        if piece is None:
            return None
        x = side * (base.piece.size[0] / 2 + piece.size[0] / 2 + gap)
        y = base.piece.size[1] / 2 - piece.size[1] / 2 if back else 0.0
        return self.try_put(piece, *base.world(x, y), base.yaw)

    def before(
        self, base: Placed, piece: Piece | None, distance: float, shift: float = 0.0, turn: float = math.pi
    ) -> Placed | None:
        """Places a piece in front of another, facing it (turn = pi) or turned otherwise."""
        if piece is None:
            return None
        y = -(base.piece.size[1] / 2 + piece.size[1] / 2 + distance)
        return self.try_put(piece, *base.world(shift, y), base.yaw + turn, zones=False)

    def on(
        self, base: Placed, piece: Piece | None, surface: Top | None = None, yaw: float | None = None, edge: str = "any"
    ) -> bool:
        """Puts a thing on a level surface of a placed piece."""
        if piece is None:
            return False
        tops = base.piece.tops if surface is None else [surface]
        if not tops:
            return False
        chosen = tops[int(self.rng.integers(len(tops)))]
        w, d, h = piece.size
        if h > chosen.clearance - 0.005 or base.z + chosen.z + h > self.plan.height - 0.05:
            return False
        angle = self.rng.normal(0, 0.12) if yaw is None else yaw
        c, s = abs(math.cos(angle)), abs(math.sin(angle))
        spot = find_on(self.rng, chosen, w * c + d * s, w * s + d * c, edge)
        if spot is None:
            return False
        self.add(piece, base.move([p.moved((*spot, chosen.z), angle) for p in piece.parts]), base)
        return True

    def hang(
        self,
        wall: Wall,
        parts: Sequence[Part],
        u: float,
        z: float,
        name: str = "on the wall",
        model: str | None = None,
        furniture: bool = True,
    ) -> None:
        """Adds things in a wall's frame: x = 0 goes to u, z = 0 to z."""
        x, y = wall.point(u)
        moved = [p.moved((x, y, z), wall.yaw) for p in parts]
        if model is None:
            self.scatter(name, moved, furniture)
        else:
            self.models.append(Object(name, tuple(moved), model, furniture))

    def wall_spot(
        self,
        w: float,
        h: float,
        z: float,
        depth: float = 0.05,
        walls: Sequence[Wall] | None = None,
        where: str = "any",
        tries: int = 12,
    ) -> tuple[Wall, float] | None:
        """A free place on a wall, w × h with its lower edge at z; it is marked as filled."""
        if z + h > self.plan.height - 0.03:
            return None
        candidates = [x for x in (walls or self.plan.walls) if x.length > w + 0.06]
        if not candidates:
            return None
        weight = np.array([x.length for x in candidates])
        for _ in range(tries):
            wall = candidates[int(self.rng.choice(len(candidates), p=weight / weight.sum()))]
            u = self.uniform(w / 2 + 0.03, wall.length - w / 2 - 0.03)
            if where == "middle":
                u = float(
                    np.clip(
                        wall.length / 2 + self.rng.normal(0, 0.08) * wall.length,
                        w / 2 + 0.03,
                        wall.length - w / 2 - 0.03,
                    )
                )
            if self.mark(wall, u, w, h, z, depth):
                return wall, u
        return None

    def mark(self, wall: Wall, u: float, w: float, h: float, z: float, depth: float) -> bool:
        """Marks a place on a wall as filled, if it is free."""
        rectangle = corners(*wall.point(u, depth / 2 + 0.001), w, depth, wall.yaw)
        if not self.plan.fits(rectangle, z, z + h):
            return False
        self.plan.solids.add(rectangle, z, z + h, "wall")
        return True

    def tops(self, *kinds: str) -> list[tuple[Placed, Top]]:
        """All surfaces of these kinds."""
        return [(p, t) for p in self.placed for t in p.piece.tops if t.kind in kinds]

    # ---------------------------------------------------------------------------------------------------------- lamps

    def lamp_on(self, base: Placed, kind: str, surface: Top | None = None) -> bool:
        """A table or desk lamp on a piece; lit ones give light."""
        catalogue = self.chance(0.35)
        piece = self.model("lamp.table", faces=SMALL_FACES, fits=lambda m: m.size[2] < 0.7) if catalogue else None
        if piece is None:
            make = devices.desk_lamp if kind == "desk" else devices.table_lamp
            piece = make(self.rng, self.palette, self.lit, self.glow)
        before = len(base.parts)
        if not self.on(base, piece, surface, yaw=0.0 if kind == "desk" else None, edge="back"):
            return False
        low, high = bounds(base.parts[before:] or self.models[-1].parts)
        x, y = (low[:2] + high[:2]) / 2
        inside = piece.model is None and kind != "desk"
        z = high[2] - 0.12 if inside else high[2] + 0.06
        if kind == "desk" and piece.model is None:
            z = high[2] - 0.14
        self.lamps.append(Lamp((float(x), float(y), float(z)), self.uniform(0.25, 0.6), False, (0.045,)))
        return True

    def floor_lamp(self) -> None:
        piece = devices.floor_lamp(self.rng, self.palette, self.lit, self.glow)
        if self.chance(0.25):
            piece = self.model("lamp.floor") or piece
        placed = self.stand(piece, near_walls=True)
        if placed is not None:
            height = piece.size[2] + (0.06 if piece.model else -0.12)
            self.lamps.append(Lamp((placed.x, placed.y, height), self.uniform(0.5, 1.0), False, (0.06,)))

    # ------------------------------------------------------------------------------------------------------ doors etc.

    def _spot_for_opening(
        self, w: float, low: float, high: float, walls_: Sequence[int], room_for: float, where: str = "any"
    ) -> tuple[int, float] | None:
        """Wall index and middle of an opening that is apart from all others and from what stands there."""
        plan = self.plan
        for _ in range(14):
            i = int(self.rng.choice(list(walls_)))
            wall = plan.walls[i]
            if wall.length < w + 0.3:
                continue
            u = self.uniform(w / 2 + 0.15, wall.length - w / 2 - 0.15)
            if where == "corner":
                u = w / 2 + self.uniform(0.15, 0.4)
                u = u if self.chance(0.5) else wall.length - u
            elif where == "middle":
                u = float(
                    np.clip(
                        wall.length / 2 + self.rng.normal(0, 0.15) * wall.length,
                        w / 2 + 0.15,
                        wall.length - w / 2 - 0.15,
                    )
                )
            rectangle = corners(*wall.point(u, room_for / 2), w + 0.24, room_for, wall.yaw)
            if any(occupied.hit(rectangle, low, high) for occupied in (plan.doors, plan.zones, plan.solids)):
                continue
            return i, u
        return None

    def add_door(
        self, wall_material: Material, floor: Material, where: str = "corner", width: float | None = None
    ) -> bool:
        """A door somewhere, closed or open, with a zone before it that stays clear."""
        plan, rng = self.plan, self.rng
        w = width or self.uniform(0.76, 0.95)
        h = min(self.uniform(1.98, 2.12), plan.height - 0.15)
        outer = [i for i, x in enumerate(plan.walls) if x.outer]
        spot = self._spot_for_opening(w, 0.0, h, outer, 0.9, where)
        if spot is None:
            return False
        i, u = spot
        wall = plan.walls[i]
        draw = rng.random()
        angle = 0.0 if draw < 0.6 else self.uniform(0.5, 1.75) * (1 if draw < 0.8 else -1)
        o = Opening(u - w / 2, u + w / 2, 0.0, h, self.uniform(0.09, 0.2) if angle else 0.045, "door")
        self.openings[i].append(o)
        glow = (0.25 * self.day,) * 3
        parts = walls.door(rng, self.palette, o, wall_material, angle, glow)
        self.hang(wall, parts, 0.0, 0.0, "door", furniture=False)
        if angle:
            self.shell_on(wall, walls.niche(rng, o, wall_material, floor, plan.height))
            x, y = wall.point(u, -o.depth - self.uniform(0.5, 1.0))
            strength = 0.3 * self.uniform(0.1, 1.0)
            self.lamps.append(Lamp((x, y, plan.height - 0.25), strength, True, (0.08,)))
        depth = w + 0.05 if angle > 0 else 0.65
        plan.doors.add(corners(*wall.point(u, depth / 2), w + 0.1, depth, wall.yaw), 0.0, h, "door")
        # Nothing hangs on the wall over the casing.
        plan.doors.add(corners(*wall.point(u, 0.05), w + 0.22, 0.1, wall.yaw), 0.0, h + 0.12, "door frame")
        return True

    def shell_on(self, wall: Wall, parts: Sequence[Part]) -> None:
        """Adds parts in a wall's frame to the shell."""
        x, y = wall.point(0.0)
        self.shell += [p.moved((x, y, 0.0), wall.yaw) for p in parts]

    def add_closet(self) -> bool:
        """Built-in closet doors."""
        w, h = self.uniform(1.2, 2.4), min(2.05, self.plan.height - 0.2)
        outer = [i for i, x in enumerate(self.plan.walls) if x.outer]
        spot = self._spot_for_opening(w, 0.0, h, outer, 0.6)
        if spot is None:
            return False
        i, u = spot
        wall = self.plan.walls[i]
        o = Opening(u - w / 2, u + w / 2, 0.0, h, 0.1, "closet")
        self.openings[i].append(o)
        self.hang(wall, walls.closet_doors(self.rng, self.palette, o), 0.0, 0.0, "closet", furniture=False)
        self.plan.doors.add(corners(*wall.point(u, 0.3), w + 0.15, 0.6, wall.yaw), 0.0, h, "closet")
        return True

    def add_window(
        self,
        outside: Material,
        z0: float,
        z1: float,
        w: float,
        dressing: Sequence[float],
        where: str = "middle",
        walls_: Sequence[int] | None = None,
    ) -> bool:
        """A window with what hangs before it; `dressing` are the weights of nothing, curtains, blinds, both."""
        plan, rng = self.plan, self.rng
        outer = list(walls_) if walls_ is not None else [i for i, x in enumerate(plan.walls) if x.outer]
        z1 = min(z1, plan.height - 0.12)
        spot = self._spot_for_opening(w, z0, z1, outer, 0.2, where)
        if spot is None:
            return False
        i, u = spot
        wall = plan.walls[i]
        o = Opening(u - w / 2, u + w / 2, z0, z1, self.uniform(0.12, 0.32), "window")
        self.openings[i].append(o)
        parts = walls.window(rng, self.palette, o, outside)
        choice = int(rng.choice(4, p=np.asarray(dressing) / np.sum(dressing)))
        open_share = 1.0
        if choice in (2, 3):
            blind, open_share = walls.blinds(rng, self.palette, o, self.day)
            parts += blind
        if choice in (1, 3):
            drawn = walls.curtains(rng, self.palette, o, wall.length, plan.height)
            parts += drawn
            # The lowest point of the cloth decides whether furniture may stand under it.
            low, high = bounds(drawn)
            rectangle = corners(*wall.point(float(low[0] + high[0]) / 2, 0.09), float(high[0] - low[0]), 0.18, wall.yaw)
            plan.solids.add(rectangle, float(low[2]), float(high[2]), "curtain")
        self.hang(wall, parts, 0.0, 0.0, "window", furniture=choice > 0)
        plan.zones.add(corners(*wall.point(u, 0.1), w + 0.16, 0.2, wall.yaw), max(0.0, z0 - 0.02), z1 + 0.1, "window")
        self.windows.append(Window(wall, o, max(0.12, open_share)))
        return True

    # ---------------------------------------------------------------------------------------------------------- result

    def objects(self) -> tuple[Object, ...]:
        """The shell, furniture of simple shapes with what is on it, what is loose, and the models."""
        standing = [Object(p.piece.name, merge(p.parts)) for p in self.placed if p.parts]
        return (Object("shell", merge(self.shell), furniture=False), *standing, *self.loose, *self.models)


def light_color(kelvin: float) -> Color:
    """Linear RGB of a black body between 1,800 and 12,000 K, of mean 1; a fit that is good enough for lamps."""
    t = float(np.clip(kelvin, 1800, 12000)) / 100
    red = 1.0 if t <= 66 else 1.292936 * (t - 60) ** -0.1332047592
    green = (0.390081578 * math.log(t) - 0.631841443) if t <= 66 else 1.129890861 * (t - 60) ** -0.0755148492
    blue = 1.0 if t >= 66 else 0.0 if t <= 19 else 0.543206789 * math.log(t - 10) - 1.196254089
    rgb = np.clip([red, green, blue], 0.02, 1) ** 2.2
    rgb = rgb / rgb.mean()
    return float(rgb[0]), float(rgb[1]), float(rgb[2])
