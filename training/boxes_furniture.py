"""The things in the rooms of `training/boxes.py`: materials, furniture, and which room holds what.

    python -m training.boxes --out data/rooms --count 24 --variety full --sheet sheet.png   # shows them

A piece is built in its own frame, in metres: x across, y out of the wall behind it, z up, the origin on the floor in
the middle of its back edge. In simple rooms, parts whose class does not occur there take the class of their piece (a
pillow is bed).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, auto
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
RGB = tuple[float, float, float]
Maker = Callable[["Draw"], "Piece"]

SIMPLE_CLASSES = (
    *("wall", "floor", "ceiling", "cabinet", "bed", "sofa", "table", "door"),
    *("window", "bookshelf", "picture", "refrigerator"),
)
ROOMS_SIMPLE = ("bedroom", "living", "kitchen")
ROOMS_FULL = (*("bedroom", "living") * 3, *("kitchen", "office", "bathroom") * 2)

# -------------------------------------------------------------------------------------------------------- materials


class Texture(IntEnum):
    """How a surface varies along its two coordinates; `boxes.paint` draws them."""

    PLAIN = auto()
    WOOD = auto()
    PLANKS = auto()
    TILES = auto()
    BRICKS = auto()
    CARPET = auto()
    FABRIC = auto()
    STRIPES = auto()
    CHECKS = auto()
    FOLDS = auto()
    SLATS = auto()
    BOOKS = auto()
    PICTURE = auto()
    SKY = auto()
    SCREEN = auto()
    TEXT = auto()
    MIRROR = auto()


@dataclass(frozen=True)
class Material:
    """A surface: texture, two linear colours, period and rounding of edges in metres, and light of its own."""

    texture: Texture
    a: RGB
    b: RGB
    scale: float = 0.1
    soft: float = 0.006
    glow: float = 0.0


TX = Texture
PALETTES: dict[str, tuple[str, tuple[Texture, ...], float]] = {  # sRGB colours, textures, rounding of edges
    "wood": ("8a5a33 a9713f 6b4226 c49a6c d8b98a 4a2f1d b58350", (TX.WOOD,), 0.006),
    "lacquer": ("9fb29a 6f8aa3 e6d3a3 c49a6c f0ede4 dcd8cc b8c4c8 a9713f", (TX.PLAIN, TX.PLAIN, TX.WOOD), 0.006),
    "steel": ("c8cacc a8abad e8e8e8 f4f4f2 4a4c4f", (TX.PLAIN,), 0.012),
    "black": ("17181a 222326 2c2a28 101012", (TX.PLAIN,), 0.006),
    "white": ("f4f4f2 eeece6 faf9f5", (TX.PLAIN,), 0.01),
    "ceramic": ("f6f6f4 f1efe9 ecebe6", (TX.PLAIN,), 0.05),
    "brass": ("b9a26a 9d9d9d 3a3a3c d5d5d5", (TX.PLAIN,), 0.004),
    "sheet": ("f4f2ec e9ebee f0e9dd dfe6ec", (TX.FABRIC,), 0.06),
    "linen": (
        "f2efe8 c9d3dd e8dcc8 8fa2b8 7d8f6a b06a5f 39506b 5a4a60 d8a7a0",
        (TX.FABRIC, TX.FABRIC, TX.STRIPES, TX.CHECKS),
        0.06,
    ),
    "upholstery": ("7a7f86 4a4f57 8c7358 5b3a2e 2f4858 6d7b5a b59b7c 9c3f36 d0c4b0", (TX.FABRIC,), 0.05),
    "cloth": (
        "c0392b 2e4a6b 3f6b4c d9b650 7b5a86 e9e4d8 3b3b40 b5754f",
        (TX.FABRIC, TX.STRIPES, TX.CHECKS, TX.FOLDS),
        0.04,
    ),
    "curtain": ("e9e2d3 cfc6b4 9aa7b0 7d5f52 b7a184 586b7a e4d9d9 8d9c7d", (TX.FOLDS,), 0.02),
    "wall": (
        "f1ede3 e6dfd0 d9d5cd cfd8dc c8d0c0 e0c9b0 b9c7d6 dcc0b5 9fb0a8 efe6c8",
        (TX.PLAIN, TX.PLAIN, TX.PLAIN, TX.PLAIN, TX.STRIPES),
        0.006,
    ),
    "wall tile": ("eceae4 d5dee2 dfe5dc e8dccb", (TX.TILES, TX.BRICKS), 0.006),
    "brick": ("9a5a45 b0785c c9b8a6", (TX.BRICKS,), 0.006),
    "ceiling": ("f6f5f1 efede8 f2efe6", (TX.PLAIN,), 0.006),
    "parquet": ("9c6b40 b98550 7a4d2c c9a473 5b3a24 a89480", (TX.PLANKS,), 0.006),
    "tile": ("cfc8ba b7aea0 8f8a84 dcd6c8 a08a74", (TX.TILES,), 0.006),
    "carpet": ("a39a8c 8a8478 6f7780 b7a98f 7b6a5c 96a0a3", (TX.CARPET,), 0.006),
    "rug": ("8c3b32 2f4a63 b59a6a 5f6b53 cbbfae 43404a", (TX.CARPET, TX.STRIPES, TX.CHECKS), 0.004),
    "stone": ("3c3a38 6b665f a9a196 d6d0c4 7d6a58", (TX.PLAIN,), 0.01),
    "cardboard": ("b08a5b a27c4e c19c6f", (TX.PLAIN,), 0.004),
    "paper": ("f7f6f2 f2efe4", (TX.TEXT,), 0.002),
    "skin": ("e0ac86 c68a63 8d5a3b 5c3a26 f0c8a8", (TX.PLAIN,), 0.05),
    "plant": ("3f6b35 55803f 2f5530", (TX.CARPET,), 0.08),
}


def linear(color: str) -> NDArray[np.float64]:
    """Linear RGB [3] of an sRGB colour such as "8a5a33"."""
    return np.array([int(color[i : i + 2], 16) / 255 for i in (0, 2, 4)]) ** 2.2


class Draw:
    """Random choices of one picture."""

    def __init__(self, rng: np.random.Generator, full: bool) -> None:
        self.rng, self.full = rng, full

    def u(self, low: float, high: float) -> float:
        """A number between the two."""
        return float(self.rng.uniform(low, high))

    def n(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.rng.integers(len(choices)))]

    def mat(self, name: str, scale: float = 0.1, glow: float = 0.0) -> Material:
        """A material of a palette, a little off its colour; simple rooms keep to the first half of each palette."""
        text, textures, soft = PALETTES[name]
        colors = text.split() if self.full else text.split()[: -(-len(text.split()) // 2)]
        spread = 0.12 if self.full else 0.05
        a = linear(self.pick(colors)) * np.exp(self.rng.normal(0, spread) + self.rng.normal(0, spread / 3, 3))
        texture = self.pick(textures if self.full else textures[:1])
        if texture in (TX.STRIPES, TX.CHECKS) and name != "wall":
            b = linear(self.pick(colors))
        else:
            b = a * {TX.WOOD: 0.55, TX.PLANKS: 0.7, TX.TILES: 0.5, TX.BRICKS: 0.6, TX.TEXT: 0.05}.get(texture, 0.85)
        return Material(texture, rgb(np.minimum(a, 0.93)), rgb(np.minimum(b, 0.93)), scale, soft, glow)

    def special(self, texture: Texture, a: str, b: str, scale: float = 0.1, glow: float = 0.0) -> Material:
        """A material of given sRGB colours."""
        return Material(texture, rgb(linear(a)), rgb(linear(b)), scale, 0.004, glow)


def rgb(color: NDArray[np.float64]) -> RGB:
    return float(color[0]), float(color[1]), float(color[2])


# ----------------------------------------------------------------------------------------------------------- pieces


@dataclass(frozen=True)
class Part:
    """One box of a piece, its corners in the piece's frame."""

    lo: tuple[float, float, float]
    hi: tuple[float, float, float]
    label: str
    material: Material


class Piece:
    """A thing made of boxes, and where it stands.

    Attributes:
        hangs: it is fixed to a wall, flush. back: it stands with its back to a wall. flat: others may stand on it.
        keep: free space in front of it, in metres, for other pieces to respect. off: metres from the wall behind it.
        kind: what it is to `companions`.
    """

    def __init__(self, d: Draw, label: str, kind: str = "", back: bool = False, hangs: bool = False) -> None:
        self.label, self.kind, self.back, self.hangs = label, kind or label, back, hangs
        self.flat, self.keep, self.off = False, 0.0, 0.0
        self.simple = not d.full
        self.parts: list[Part] = []
        self.x = self.y = self.yaw = 0.0
        self.lo, self.hi = np.full(3, np.inf), np.full(3, -np.inf)

    def box(
        self, m: Material, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], label: str = ""
    ) -> None:
        """Adds a box from its spans along x, y and z."""
        name = label or self.label
        if self.simple and name not in SIMPLE_CLASSES:
            name = self.label
        self.parts.append(Part((x[0], y[0], z[0]), (x[1], y[1], z[1]), name, m))
        self.lo = np.minimum(self.lo, self.parts[-1].lo)
        self.hi = np.maximum(self.hi, self.parts[-1].hi)

    def legs(self, m: Material, w: float, y: tuple[float, float], top: float, thick: float = 0.05) -> None:
        """Four legs at the corners of a rectangle."""
        for x in (-w / 2, w / 2 - thick):
            for at in (y[0], y[1] - thick):
                self.box(m, (x, x + thick), (at, at + thick), (0, top))

    def move(self, x: float, y: float, yaw: float) -> None:
        self.x, self.y, self.yaw = x, y, yaw

    def footprint(self, keep: bool = True) -> NDArray[np.float64]:
        """The corners [4, 2] of its bounds in the world."""
        far = self.hi[1] + (self.keep if keep else 0)
        (x0, y0), x1 = self.lo[:2], self.hi[0]
        corners = np.array([(x0, y0), (x1, y0), (x1, far), (x0, far)])
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return np.asarray(corners @ np.array([[c, s], [-s, c]]) + (self.x, self.y))

    def distance(self, point: NDArray[np.float32]) -> float:
        """Metres from a point [3] in the world to its bounds."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        x, y = float(point[0]) - self.x, float(point[1]) - self.y
        local = np.array([c * x + s * y, c * y - s * x, float(point[2])])
        return float(np.linalg.norm(np.maximum(np.maximum(self.lo - local, local - self.hi), 0)))


def shell(d: Draw, kind: str, size: tuple[float, float, float]) -> Piece:
    """Floor, ceiling, walls and skirting, as boxes of 0.1 m around the room."""
    p = Piece(d, "wall")
    w, far, h = size
    floors = {"bathroom": ("tile",), "kitchen": ("tile", "parquet"), "office": ("carpet", "parquet")}
    floor = d.pick(floors.get(kind, ("parquet", "carpet", "parquet")) if d.full else ("parquet",))
    p.box(
        d.mat(floor, d.u(0.07, 0.16) if floor == "parquet" else d.u(0.25, 0.6)),
        (-0.1, w + 0.1),
        (-0.1, far + 0.1),
        (-0.1, 0),
        "floor",
    )
    p.box(d.mat("ceiling"), (-0.1, w + 0.1), (-0.1, far + 0.1), (h, h + 0.1), "ceiling")
    wall = d.mat("wall tile", d.u(0.1, 0.3)) if kind == "bathroom" and d.chance(0.6) else d.mat("wall", d.u(0.08, 0.3))
    accent = d.mat(d.pick(("wall", "wall", "brick")), 0.08) if d.full and d.chance(0.2) else wall
    p.box(wall, (-0.1, w + 0.1), (-0.1, 0), (0, h))
    p.box(wall, (-0.1, w + 0.1), (far, far + 0.1), (0, h))
    p.box(wall, (-0.1, 0), (-0.1, far + 0.1), (0, h))
    p.box(accent, (w, w + 0.1), (-0.1, far + 0.1), (0, h))
    if wall.texture not in (TX.TILES, TX.BRICKS):
        m, z = d.mat(d.pick(("white", "wood"))), (0.0, d.u(0.05, 0.1))
        p.box(m, (0, w), (0, 0.012), z)
        p.box(m, (0, w), (far - 0.012, far), z)
        p.box(m, (0, 0.012), (0, far), z)
        p.box(m, (w - 0.012, w), (0, far), z)
    return p


def fronts(
    p: Piece,
    d: Draw,
    m: Material,
    x: tuple[float, float],
    y: float,
    z: tuple[float, float],
    grid: tuple[int, int],
    label: str = "",
) -> None:
    """Doors or drawers (columns x rows) on a front, with seams between them and a knob or handle on each."""
    columns, rows = grid
    knob, long, gap = d.mat("brass"), d.chance(0.5), 0.008
    w, h = (x[1] - x[0]) / columns, (z[1] - z[0]) / rows
    for i in range(columns):
        for j in range(rows):
            x0, z0 = x[0] + i * w, z[0] + j * h
            p.box(m, (x0 + gap, x0 + w - gap), (y, y + 0.018), (z0 + gap, z0 + h - gap), label)
            if h > w * 1.2:  # a door: the knob near the middle seam
                at, half = (x0 + w - 0.06 if i % 2 == 0 else x0 + 0.06), (0.008, 0.07 if long else 0.012)
                middle = z0 + h * (0.5 if h > 1.2 else 0.7)
            else:
                at, half, middle = x0 + w / 2, (0.07 if long else 0.015, 0.008), z0 + h / 2
            p.box(
                knob, (at - half[0], at + half[0]), (y + 0.018, y + 0.04), (middle - half[1], middle + half[1]), label
            )


def clutter(
    p: Piece, d: Draw, x: tuple[float, float], y: tuple[float, float], z: float, names: str, most: int = 4
) -> None:
    """Puts some of the named things on a top, side by side; nothing in simple rooms."""
    if not d.full:
        return
    slots = d.n(1, max(1, min(most, int((x[1] - x[0]) / 0.3))))
    step = (x[1] - x[0]) / slots
    for i in range(slots):
        if d.chance(0.25):
            continue
        name, c = d.pick(names.split()), x[0] + (i + 0.5) * step
        depth, r = y[1] - y[0], min(step / 2, 0.3) * 0.8
        b = y[0] + depth * d.u(0.2, 0.35)
        if name == "books":
            h = z
            for _ in range(d.n(1, 4)):
                t, w = d.u(0.02, 0.05), min(r, d.u(0.1, 0.14))
                p.box(d.mat("cloth"), (c - w, c + w), (b, min(b + 0.2, y[1])), (h, h + t), "books")
                h += t
        elif name == "paper":
            for _ in range(d.n(1, 3)):
                s, t = d.u(-0.05, 0.05), d.u(0.002, 0.012)
                p.box(
                    d.mat("paper", 0.03),
                    (c + s - 0.1, c + s + 0.1),
                    (b + s, min(b + s + 0.28, y[1])),
                    (z, z + t),
                    "paper",
                )
        elif name == "lamp":
            lamp_parts(p, d, c, b + 0.1, z, d.u(0.35, 0.5), min(0.14, r))
        elif name == "monitor":
            w = min(r, 0.27)
            p.box(d.mat("black"), (c - 0.1, c + 0.1), (b, b + 0.16), (z, z + 0.015), "otherprop")
            p.box(d.mat("black"), (c - 0.02, c + 0.02), (b + 0.05, b + 0.07), (z, z + 0.15), "otherprop")
            p.box(d.mat("black"), (c - w, c + w), (b + 0.07, b + 0.1), (z + 0.1, z + 0.1 + w * 1.2), "otherprop")
            p.box(
                screen(d),
                (c - w + 0.01, c + w - 0.01),
                (b + 0.1, b + 0.102),
                (z + 0.11, z + 0.09 + w * 1.2),
                "otherprop",
            )
            p.box(
                d.mat("black"),
                (c - 0.2, c + 0.2),
                (min(b + 0.25, y[1] - 0.13), min(b + 0.37, y[1])),
                (z, z + 0.02),
                "otherprop",
            )
        elif name == "tv":
            w = min(step / 2, d.u(0.4, 0.6))
            p.box(d.mat("black"), (c - 0.2, c + 0.2), (b - 0.05, b + 0.13), (z, z + 0.05), "television")
            p.box(d.mat("black"), (c - w, c + w), (b, b + 0.06), (z + 0.05, z + 0.05 + w * 1.15), "television")
            p.box(
                screen(d),
                (c - w + 0.02, c + w - 0.02),
                (b + 0.06, b + 0.062),
                (z + 0.07, z + 0.03 + w * 1.15),
                "television",
            )
        elif name == "box":
            w, t = min(r, d.u(0.1, 0.2)), d.u(0.08, 0.25)
            p.box(d.mat(d.pick(("cardboard", "cloth"))), (c - w, c + w), (b, min(b + 1.6 * w, y[1])), (z, z + t), "box")
        elif name == "plant":
            p.box(d.mat("cloth"), (c - 0.06, c + 0.06), (b, b + 0.12), (z, z + 0.12), "otherprop")
            p.box(
                d.mat("plant"), (c - 0.12, c + 0.12), (b - 0.02, b + 0.2), (z + 0.12, z + d.u(0.25, 0.45)), "otherprop"
            )
        else:  # cups, vases, bottles, appliances
            w, t = min(r, d.u(0.03, 0.13)), d.u(0.08, 0.28)
            m = d.mat(d.pick(("steel", "cloth", "ceramic", "black")))
            p.box(m, (c - w, c + w), (b, min(b + 2 * w, y[1])), (z, z + t), "otherprop")


def screen(d: Draw) -> Material:
    """A screen, off or showing something."""
    if d.chance(0.3):
        return replace(d.special(TX.PICTURE, d.pick(("3a6ea5", "4a7d4a", "a55a3a")), "20242c"), glow=d.u(0.5, 0.9))
    return d.special(TX.SCREEN, "0c0d10", "3a3f48")


def lamp_parts(p: Piece, d: Draw, x: float, y: float, z: float, h: float, r: float) -> None:
    """A foot, a pole and a shade that glows or not."""
    m = d.mat(d.pick(("brass", "black", "wood")))
    shade = h * 0.45 if h < 0.8 else 0.28
    p.box(m, (x - 0.5 * r, x + 0.5 * r), (y - 0.5 * r, y + 0.5 * r), (z, z + 0.02), "lamp")
    p.box(m, (x - 0.012, x + 0.012), (y - 0.012, y + 0.012), (z + 0.02, z + h - shade), "lamp")
    glow = d.u(1.2, 2.5) if d.chance(0.5) else 0.0
    p.box(d.mat("sheet", glow=glow), (x - r, x + r), (y - r, y + r), (z + h - shade, z + h), "lamp")


# -------------------------------------------------------------------------------------------------------- furniture


def bed(d: Draw) -> Piece:
    p = Piece(d, "bed", back=True)
    w, far, h = d.u(0.95, 1.9), d.u(1.95, 2.1), d.u(0.42, 0.62)
    frame, cover = d.mat(d.pick(("wood", "upholstery", "lacquer"))), d.mat("linen", d.u(0.08, 0.3))
    p.box(frame, (-w / 2 - 0.03, w / 2 + 0.03), (0, 0.07), (0, h + d.u(0.25, 0.7)))
    p.box(frame, (-w / 2, w / 2), (0.07, far), (0.06, h - 0.2))
    p.box(d.mat("sheet"), (-w / 2, w / 2), (0.07, far), (h - 0.2, h))
    start, low = d.u(0.55, 1.2), d.u(0.1, h - 0.15)
    p.box(cover, (-w / 2 - 0.03, w / 2 + 0.03), (start, far + 0.03), (low, h + 0.04))
    if d.chance(0.4):
        p.box(
            d.mat("linen", 0.15),
            (-w / 2 - 0.035, w / 2 + 0.035),
            (far - d.u(0.4, 0.7), far + 0.035),
            (low - 0.05, h + 0.06),
        )
    count = 1 if w < 1.2 else 2
    for i in range(count):
        x = (i - (count - 1) / 2) * w / 2
        p.box(
            d.mat(d.pick(("sheet", "linen")), 0.08), (x - 0.31, x + 0.31), (0.1, 0.5), (h, h + d.u(0.1, 0.18)), "pillow"
        )
    if d.full and d.chance(0.25):
        x, y = d.u(-w / 4, w / 4), d.u(1.2, 1.6)
        p.box(d.mat("cloth", 0.06), (x - 0.2, x + 0.2), (y, y + 0.35), (h + 0.04, h + d.u(0.1, 0.2)), "clothes")
    return p


def sofa(d: Draw, seats: int = 0, label: str = "sofa") -> Piece:
    seats = seats or d.n(2, 3)
    p = Piece(d, label, back=True)
    m, arm, seat, back = d.mat("upholstery"), d.u(0.12, 0.24), d.u(0.38, 0.46), d.u(0.7, 0.95)
    w, depth, side = seats * d.u(0.58, 0.75) + 2 * arm, d.u(0.8, 1.0), d.u(0.52, 0.66)
    cushion = d.mat("upholstery") if d.full and d.chance(0.2) else replace(m, a=rgb(np.array(m.a) * 1.12))
    p.legs(d.mat("wood"), w, (0, depth), 0.08)
    p.box(m, (-w / 2, w / 2), (0, depth - 0.03), (0.08, seat - 0.14))
    p.box(m, (-w / 2, w / 2), (0, 0.2), (seat - 0.14, back))
    for x in (-w / 2, w / 2 - arm):
        p.box(m, (x, x + arm), (0, depth), (0.06, side))
    each = (w - 2 * arm) / seats
    for i in range(seats):
        x = -w / 2 + arm + i * each
        p.box(cushion, (x + 0.006, x + each - 0.006), (0.2, depth), (seat - 0.14, seat))
        p.box(cushion, (x + 0.006, x + each - 0.006), (0.2, 0.33), (seat, back - 0.02))
    for _ in range(d.n(0, 2) if d.full else 0):
        x = d.u(-w / 2 + arm, w / 2 - arm - 0.4)
        p.box(d.mat("linen", 0.06), (x, x + 0.4), (0.33, 0.46), (seat, seat + 0.36), "pillow")
    return p


def armchair(d: Draw) -> Piece:
    return sofa(d, 1, "chair")


def chair(d: Draw) -> Piece:
    p = Piece(d, "chair")
    w, depth, seat, top = d.u(0.42, 0.52), d.u(0.42, 0.52), d.u(0.43, 0.49), d.u(0.8, 1.05)
    if d.chance(0.35):  # an office chair
        m, metal = d.mat("upholstery"), d.mat("black")
        p.box(metal, (-w / 2, w / 2), (depth / 2 - 0.03, depth / 2 + 0.03), (0.04, 0.1))
        p.box(metal, (-0.03, 0.03), (0, depth), (0.04, 0.1))
        p.box(metal, (-0.03, 0.03), (depth / 2 - 0.03, depth / 2 + 0.03), (0.1, seat - 0.08))
        p.box(m, (-w / 2, w / 2), (0.02, depth), (seat - 0.08, seat))
        p.box(m, (-w / 2 + 0.03, w / 2 - 0.03), (0, 0.07), (seat + 0.08, top))
        p.box(metal, (-0.04, 0.04), (0.0, 0.03), (seat - 0.05, seat + 0.1))
        for x in (-w / 2 - 0.03, w / 2 - 0.02) if d.chance(0.5) else ():
            p.box(metal, (x, x + 0.05), (0.08, depth - 0.1), (seat + 0.18, seat + 0.22))
            p.box(metal, (x, x + 0.05), (0.15, 0.2), (seat - 0.05, seat + 0.18))
        return p
    m = d.mat(d.pick(("wood", "wood", "black", "lacquer")))
    p.legs(m, w, (0, depth), seat - 0.03, 0.035)
    p.box(d.mat("upholstery") if d.chance(0.4) else m, (-w / 2, w / 2), (0, depth), (seat - 0.03, seat + 0.02))
    for x in (-w / 2, w / 2 - 0.035):
        p.box(m, (x, x + 0.035), (0, 0.035), (seat, top))
    if d.chance(0.5):
        p.box(m, (-w / 2, w / 2), (0.005, 0.03), (seat + d.u(0.08, 0.2), top))
    else:
        for i in range(3):
            z = seat + 0.12 + i * (top - seat - 0.15) / 3
            p.box(m, (-w / 2, w / 2), (0.005, 0.03), (z, z + 0.06))
    return p


def table(d: Draw, size: tuple[float, float, float] | None = None, kind: str = "table") -> Piece:
    p = Piece(d, "table", kind)
    w, far, h = size or (d.u(1.0, 1.9), d.u(0.75, 1.0), d.u(0.7, 0.78))
    m = d.mat("wood") if not d.full or d.chance(0.7) else d.mat(d.pick(("lacquer", "black", "stone")))
    p.box(m, (-w / 2, w / 2), (0, far), (h - d.u(0.03, 0.06), h))
    if d.chance(0.75):
        p.legs(m, w - 0.06, (0.03, far - 0.03), h - 0.03, d.u(0.05, 0.09) if d.full else 0.1)
        p.box(m, (-w / 2 + 0.06, w / 2 - 0.06), (0.06, far - 0.06), (h - 0.1, h - 0.03))
    else:
        p.box(m, (-w * 0.3, w * 0.3), (far * 0.2, far * 0.8), (0, 0.05))
        p.box(m, (-w * 0.15, w * 0.15), (far * 0.4, far * 0.6), (0.05, h - 0.03))
    clutter(p, d, (-w / 2 + 0.1, w / 2 - 0.1), (0.05, far - 0.05), h, "books paper prop prop plant box")
    return p


def coffee_table(d: Draw) -> Piece:
    return table(d, (d.u(0.8, 1.2), d.u(0.5, 0.7), d.u(0.36, 0.48)), "coffee table")


def desk(d: Draw) -> Piece:
    p = Piece(d, "desk", back=True)
    w, far, h, m = d.u(1.1, 1.7), d.u(0.6, 0.8), d.u(0.71, 0.77), d.mat(d.pick(("wood", "lacquer")))
    p.box(m, (-w / 2, w / 2), (0, far), (h - 0.035, h))
    p.box(m, (-w / 2, -w / 2 + 0.04), (0.02, far - 0.02), (0, h - 0.035))
    p.box(m, (-w / 2, w / 2), (0.02, 0.04), (0.3, h - 0.035))
    if d.chance(0.6):
        p.box(m, (w / 2 - 0.42, w / 2 - 0.02), (0.03, far - 0.05), (0.05, h - 0.035))
        fronts(p, d, m, (w / 2 - 0.42, w / 2 - 0.02), far - 0.05, (0.05, h - 0.04), (1, 3))
    else:
        p.box(m, (w / 2 - 0.04, w / 2), (0.02, far - 0.02), (0, h - 0.035))
    clutter(p, d, (-w / 2 + 0.05, w / 2 - 0.05), (0.02, far), h, "monitor monitor books paper lamp box prop", 3)
    return p


def cabinet(d: Draw) -> Piece:
    p = Piece(d, "cabinet", back=True)
    tall = d.chance(0.5)
    w, far, h = (
        (d.u(1.0, 2.0), d.u(0.5, 0.62), d.u(1.85, 2.2)) if tall else (d.u(0.9, 1.6), d.u(0.4, 0.5), d.u(0.75, 1.2))
    )
    m = d.mat("lacquer")
    p.box(replace(m, a=rgb(np.array(m.a) * 0.8)), (-w / 2, w / 2), (0, far), (0.05, h))
    fronts(p, d, m, (-w / 2, w / 2), far, (0.08, h), (max(2, round(w / 0.5)), 1 if tall or d.chance(0.6) else 2))
    if not tall:
        clutter(p, d, (-w / 2 + 0.05, w / 2 - 0.05), (0.02, far), h, "books lamp prop plant box tv")
    return p


def dresser(d: Draw) -> Piece:
    p = Piece(d, "dresser", back=True)
    w, far, h, m = d.u(0.8, 1.5), d.u(0.42, 0.52), d.u(0.75, 1.2), d.mat(d.pick(("wood", "lacquer")))
    p.box(replace(m, a=rgb(np.array(m.a) * 0.75)), (-w / 2, w / 2), (0, far), (0.06, h))
    fronts(p, d, m, (-w / 2, w / 2), far, (0.08, h - 0.02), (d.n(1, 2), d.n(3, 5)))
    clutter(p, d, (-w / 2 + 0.05, w / 2 - 0.05), (0.02, far), h, "tv lamp books prop box")
    return p


def night_stand(d: Draw) -> Piece:
    p = Piece(d, "night stand", back=True)
    w, far, h, m = d.u(0.4, 0.55), d.u(0.35, 0.45), d.u(0.45, 0.65), d.mat(d.pick(("wood", "lacquer")))
    p.box(replace(m, a=rgb(np.array(m.a) * 0.8)), (-w / 2, w / 2), (0, far), (0.05, h))
    fronts(p, d, m, (-w / 2, w / 2), far, (0.07, h - 0.01), (1, d.n(1, 3)))
    clutter(p, d, (-w / 2, w / 2), (0, far), h, "lamp lamp lamp books prop", 1)
    return p


def bookshelf(d: Draw) -> Piece:
    p = Piece(d, "bookshelf", back=True)
    w, far, h, m = d.u(0.8, 1.6), d.u(0.26, 0.36), d.u(1.5, 2.2), d.mat("wood" if d.chance(0.65) else "lacquer")
    p.box(replace(m, a=rgb(np.array(m.a) * 0.6)), (-w / 2, w / 2), (0, 0.02), (0, h))
    for x in (-w / 2, w / 2 - 0.025):
        p.box(m, (x, x + 0.025), (0.02, far), (0, h))
    levels = d.n(4, 6)
    for i in range(levels + 1):
        z = 0.03 + i * (h - 0.055) / levels
        p.box(m, (-w / 2, w / 2), (0.02, far), (z, z + 0.025))
        if i < levels:
            book_row(p, d, (-w / 2 + 0.025, w / 2 - 0.025), far, z + 0.025, (h - 0.055) / levels - 0.04)
    return p


def book_row(p: Piece, d: Draw, x: tuple[float, float], depth: float, z: float, space: float) -> None:
    """Books on a shelf, sometimes with a thing beside them."""
    books = replace(d.special(TX.BOOKS, "000000", "000000", d.u(0.025, 0.045)), soft=0.003)
    w = x[1] - x[0]
    left = x[0] + w * (d.u(0, 0.3) if d.chance(0.3) else 0)
    right = x[1] - w * (d.u(0, 0.5) if d.chance(0.4) else 0)
    p.box(books, (left, right), (0.03, depth - d.u(0.02, 0.08)), (z, z + space * d.u(0.75, 0.95)), "books")
    if x[1] - right > 0.2:
        clutter(p, d, (right + 0.02, x[1]), (0.03, depth), z, "prop plant box" if space > 0.45 else "prop", 1)


def refrigerator(d: Draw) -> Piece:
    p = Piece(d, "refrigerator", back=True)
    w, far, h, m = d.u(0.6, 0.92), d.u(0.6, 0.72), d.u(1.55, 1.95), d.mat("steel")
    split, grip = h * d.pick((0.35, 0.65, 0.7)), d.mat("black" if d.chance(0.3) else "brass")
    p.box(replace(m, a=rgb(np.array(m.a) * 0.85)), (-w / 2, w / 2), (0, far), (0.04, h))
    for z in ((0.06, split - 0.01), (split + 0.01, h)):
        p.box(m, (-w / 2, w / 2), (far + 0.005, far + 0.06), z)
        p.box(
            grip,
            (-w / 2 + 0.06, -w / 2 + 0.09),
            (far + 0.06, far + 0.1),
            (z[0] + (z[1] - z[0]) * 0.3, z[0] + (z[1] - z[0]) * 0.7),
        )
    return p


def counter(d: Draw) -> Piece:
    p = Piece(d, "counter", back=True)
    w, far, h, m, top = (
        d.u(1.4, 2.6),
        0.6,
        d.u(0.86, 0.94),
        d.mat("lacquer"),
        d.mat("stone" if d.chance(0.6) else "wood"),
    )
    p.box(replace(m, a=rgb(np.array(m.a) * 0.8)), (-w / 2, w / 2), (0, far - 0.04), (0.1, h - 0.04), "cabinet")
    fronts(p, d, m, (-w / 2, w / 2), far - 0.04, (0.1, h - 0.05), (max(2, round(w / 0.5)), 1), "cabinet")
    p.box(top, (-w / 2, w / 2), (0, far + 0.02), (h - 0.04, h))
    p.box(top, (-w / 2, w / 2), (0, 0.015), (h, h + d.u(0.06, 0.5)))
    x = d.u(-w / 2 + 0.4, w / 2 - 0.4)
    basin(p, d, x, (0.12, 0.5), h, d.mat("steel"), 0.3)
    names = "prop prop box prop plant paper"
    for span in ((-w / 2, x - 0.35), (x + 0.35, w / 2)):
        if span[1] - span[0] > 0.3:
            clutter(p, d, span, (0.03, 0.5), h, names)
    return p


def basin(p: Piece, d: Draw, x: float, y: tuple[float, float], z: float, m: Material, r: float) -> None:
    """A sink set on a top at height z: a dark bottom, a rim and a tap."""
    p.box(replace(m, a=rgb(np.array(m.a) * 0.5)), (x - r, x + r), y, (z, z + 0.006), "sink")
    for span in ((x - r, x - r + 0.03), (x + r - 0.03, x + r)):
        p.box(m, span, y, (z, z + 0.03), "sink")
    for depth in ((y[0], y[0] + 0.05), (y[1] - 0.03, y[1])):
        p.box(m, (x - r, x + r), depth, (z, z + 0.03), "sink")
    tap = d.mat("steel")
    p.box(tap, (x - 0.015, x + 0.015), (y[0] + 0.01, y[0] + 0.04), (z, z + 0.25), "sink")
    p.box(tap, (x - 0.015, x + 0.015), (y[0] + 0.01, y[0] + 0.2), (z + 0.23, z + 0.26), "sink")


def wall_cabinet(d: Draw) -> Piece:
    p = Piece(d, "cabinet", "wall cabinet", hangs=True)
    w, z, m = d.u(0.9, 2.0), (1.45, d.u(2.0, 2.25)), d.mat("lacquer")
    p.box(replace(m, a=rgb(np.array(m.a) * 0.8)), (-w / 2, w / 2), (0, 0.33), z)
    fronts(p, d, m, (-w / 2, w / 2), 0.33, z, (max(2, round(w / 0.45)), 1))
    return p


def stove(d: Draw) -> Piece:
    p = Piece(d, "otherfurniture", back=True)
    m = d.mat("steel")
    p.box(m, (-0.3, 0.3), (0, 0.6), (0, 0.9))
    p.box(d.mat("black"), (-0.25, 0.25), (0.6, 0.62), (0.2, 0.65))
    p.box(d.mat("brass"), (-0.25, 0.25), (0.63, 0.66), (0.68, 0.7))
    p.box(d.mat("black"), (-0.3, 0.3), (0, 0.6), (0.9, 0.91))
    return p


def ottoman(d: Draw) -> Piece:
    p = Piece(d, "otherfurniture")
    w, far = d.u(0.45, 0.8), d.u(0.45, 0.6)
    p.box(d.mat("upholstery"), (-w / 2, w / 2), (0, far), (0, d.u(0.35, 0.45)))
    return p


def tv_stand(d: Draw) -> Piece:
    p = Piece(d, "otherfurniture", back=True)
    w, h, m = d.u(1.2, 1.8), d.u(0.4, 0.6), d.mat(d.pick(("wood", "lacquer", "black")))
    p.box(m, (-w / 2, w / 2), (0, 0.42), (0.05, h))
    fronts(p, d, m, (-w / 2, w / 2), 0.42, (0.07, h - 0.02), (d.n(2, 3), 1))
    clutter(p, d, (-w / 2 + 0.2, w / 2 - 0.2), (0.02, 0.42), h, "tv", 1)
    return p


def toilet(d: Draw) -> Piece:
    p = Piece(d, "toilet", back=True)
    m = d.mat("ceramic")
    p.box(m, (-0.11, 0.11), (0.1, 0.55), (0, 0.3))
    p.box(m, (-0.18, 0.18), (0.16, 0.68), (0.24, 0.4))
    p.box(m, (-0.19, 0.19), (0.16, 0.69), (0.405, 0.44))
    p.box(m, (-0.2, 0.2), (0, 0.18), (0.38, d.u(0.72, 0.85)))
    return p


def bathtub(d: Draw) -> Piece:
    p = Piece(d, "bathtub", back=True)
    w, far, h, m = d.u(1.5, 1.75), d.u(0.7, 0.8), d.u(0.5, 0.6), d.mat("ceramic")
    p.box(m, (-w / 2, w / 2), (0, far), (0, 0.15))
    for x in (-w / 2, w / 2 - 0.07):
        p.box(m, (x, x + 0.07), (0, far), (0.1, h))
    for y in (0, far - 0.07):
        p.box(m, (-w / 2, w / 2), (y, y + 0.07), (0.1, h))
    if d.chance(0.7):
        p.box(d.mat("brass"), (-w / 2, w / 2), (far + 0.02, far + 0.04), (2.0, 2.02), "shower curtain")
        x = w * d.u(-0.2, 0.4)
        p.box(
            d.mat(d.pick(("curtain", "cloth")), 0.15),
            (-w / 2, x),
            (far + 0.01, far + 0.05),
            (0.15, 2.0),
            "shower curtain",
        )
    return p


def vanity(d: Draw) -> Piece:
    p = Piece(d, "cabinet", "vanity", back=True)
    w, m = d.u(0.6, 1.2), d.mat("lacquer")
    p.box(replace(m, a=rgb(np.array(m.a) * 0.8)), (-w / 2, w / 2), (0, 0.46), (0.08, 0.8))
    fronts(p, d, m, (-w / 2, w / 2), 0.46, (0.1, 0.8), (2, 1))
    p.box(d.mat("stone"), (-w / 2, w / 2), (0, 0.5), (0.8, 0.84), "counter")
    basin(p, d, 0, (0.08, 0.44), 0.84, d.mat("ceramic"), 0.22)
    return p


def carton(d: Draw) -> Piece:
    p = Piece(d, "box")
    w, far, h, m = d.u(0.3, 0.6), d.u(0.3, 0.5), d.u(0.2, 0.5), d.mat("cardboard")
    p.box(m, (-w / 2, w / 2), (0, far), (0, h))
    p.box(d.mat("sheet"), (-0.025, 0.025), (-0.002, far + 0.002), (h * 0.7, h + 0.003))
    return p


def bag(d: Draw) -> Piece:
    p = Piece(d, "bag")
    w, h, m = d.u(0.25, 0.45), d.u(0.25, 0.45), replace(d.mat("cloth", 0.06), soft=0.08)
    p.box(m, (-w / 2, w / 2), (0, 0.22), (0, h))
    for x in (-w / 4, w / 4):
        p.box(m, (x - 0.012, x + 0.012), (0.1, 0.13), (h, h + 0.15))
    p.box(m, (-w / 4, w / 4), (0.1, 0.13), (h + 0.13, h + 0.16))
    return p


def bin_(d: Draw) -> Piece:
    p = Piece(d, "otherfurniture")
    w, h = d.u(0.2, 0.35), d.u(0.3, 0.6)
    p.box(d.mat(d.pick(("black", "steel", "cloth"))), (-w / 2, w / 2), (0, w), (0, h))
    return p


def laundry(d: Draw) -> Piece:
    p = Piece(d, "clothes")
    for i in range(3):
        w = d.u(0.2, 0.4) - 0.05 * i
        p.box(d.mat("cloth", 0.06), (-w, w), (0.06 * i, 0.5 - 0.06 * i), (0.09 * i, 0.09 * i + 0.1))
    return p


def person(d: Draw) -> Piece:
    p = Piece(d, "person")
    h, shirt, skin = d.u(1.5, 1.85), d.mat("cloth"), d.mat("skin")
    trousers, hair = d.mat(d.pick(("upholstery", "black", "cloth"))), d.mat(d.pick(("black", "wood")))
    for x in (-0.17, 0.01):
        p.box(trousers, (x, x + 0.16), (0.02, 0.22), (0.05, h * 0.5))
        p.box(d.mat("black"), (x, x + 0.14), (0.0, 0.28), (0, 0.08))
    p.box(shirt, (-0.2, 0.2), (0, 0.24), (h * 0.48, h * 0.82))
    for x in (-0.29, 0.21):
        p.box(shirt, (x, x + 0.08), (0.06, 0.18), (h * 0.6, h * 0.82))
        p.box(skin, (x, x + 0.08), (0.06, 0.18), (h * 0.42, h * 0.6))
    p.box(skin, (-0.05, 0.05), (0.07, 0.17), (h * 0.82, h * 0.87))
    p.box(skin, (-0.09, 0.09), (0.02, 0.22), (h * 0.86, h * 0.97))
    p.box(hair, (-0.1, 0.1), (0, 0.2), (h * 0.92, h))
    return p


def floor_lamp(d: Draw) -> Piece:
    p = Piece(d, "lamp", back=True)
    lamp_parts(p, d, 0, 0.22, 0, d.u(1.4, 1.75), d.u(0.14, 0.2))
    return p


def plant(d: Draw) -> Piece:
    p = Piece(d, "otherprop", back=True)
    p.box(d.mat("cloth"), (-0.15, 0.15), (0.1, 0.4), (0, 0.3))
    for _ in range(4):
        x, y, z, r = d.u(-0.2, 0.2), d.u(0.15, 0.35), d.u(0.4, 1.1), d.u(0.1, 0.2)
        p.box(d.mat("plant"), (x - r, x + r), (y - 0.14, y + 0.14), (z - r, z + r))
    p.box(d.mat("wood"), (-0.02, 0.02), (0.23, 0.27), (0.3, 0.6))
    return p


def rug(d: Draw) -> Piece:
    p = Piece(d, "floor mat")
    w, far = (d.u(1.4, 2.6), d.u(1.0, 1.8)) if d.chance(0.7) else (d.u(0.6, 0.9), d.u(0.4, 0.6))
    p.box(d.mat("rug", d.u(0.1, 0.5)), (-w / 2, w / 2), (0, far), (0, 0.012))
    p.flat = True
    return p


def column(d: Draw) -> Piece:
    p = Piece(d, "otherstructure", back=True)
    w, m = d.u(0.3, 1.3), d.mat(d.pick(("wall", "brick", "white")), 0.08)
    if w < 0.6:
        p.box(m, (-w / 2, w / 2), (0, d.u(0.25, 0.4)), (0, 2.29))
    else:  # a fireplace
        p.box(m, (-w / 2, w / 2), (0, 0.3), (0.7, 1.1))
        for x in (-w / 2, w / 2 - 0.2):
            p.box(m, (x, x + 0.2), (0, 0.3), (0, 0.7))
        p.box(d.mat("black"), (-w / 2 + 0.2, w / 2 - 0.2), (0, 0.05), (0, 0.7))
        p.box(d.mat("wood"), (-w / 2 - 0.05, w / 2 + 0.05), (0, 0.34), (1.1, 1.16))
    return p


# -------------------------------------------------------------------------------------------------- on the walls


def framed(
    p: Piece, frame: Material, inner: Material, w: float, z: tuple[float, float], edge: float, label: str = ""
) -> None:
    """Four laths around a pane."""
    for span in ((-w / 2, -w / 2 + edge), (w / 2 - edge, w / 2)):
        p.box(frame, span, (0, 0.03), z, label)
    for height in ((z[0], z[0] + edge), (z[1] - edge, z[1])):
        p.box(frame, (-w / 2, w / 2), (0, 0.03), height, label)
    p.box(inner, (-w / 2 + edge, w / 2 - edge), (0, 0.012), (z[0] + edge, z[1] - edge), label)


def door(d: Draw) -> Piece:
    p = Piece(d, "door", hangs=True)
    p.keep = 0.8
    w, h = d.u(0.8, 1.0), d.u(2.0, 2.15)
    m, frame = (d.mat("wood"), d.mat("wood")) if d.chance(0.5) else (d.mat("white"), d.mat("white"))
    for x in (-w / 2 - 0.08, w / 2):
        p.box(frame, (x, x + 0.08), (0, 0.035), (0, h + 0.08))
    p.box(frame, (-w / 2, w / 2), (0, 0.035), (h, h + 0.08))
    p.box(m, (-w / 2, w / 2), (0, 0.018), (0.005, h))
    panel = replace(m, a=rgb(np.array(m.a) * 0.85))
    for z in ((0.2, h * 0.42), (h * 0.5, h - 0.15)) if d.chance(0.7) else ():
        p.box(panel, (-w / 2 + 0.13, w / 2 - 0.13), (0, 0.026), z)
    x = (w / 2 - 0.08) * d.pick((-1, 1))
    p.box(d.mat("brass"), (x - 0.02, x + 0.02), (0.018, 0.05), (0.95, 1.1))
    p.box(d.mat("brass"), (min(x, x * 0.7), max(x, x * 0.7)), (0.05, 0.07), (1.03, 1.06))
    return p


def window(d: Draw, day: bool) -> Piece:
    p = Piece(d, "window", hangs=True)
    w, z0 = d.u(0.9, 2.2), d.u(0.75, 1.0)
    z, m = (z0, min(2.2, z0 + d.u(1.0, 1.4))), d.mat("white" if not d.full or d.chance(0.8) else "wood")
    sky = d.special(
        TX.SKY, d.pick(("dfe9f2", "b9d3ec", "f4f4f0")), d.pick(("5f7f4f", "8f8a80", "6f7f8f")), glow=d.u(0.9, 2.2)
    )
    framed(p, m, sky if day else d.special(TX.SCREEN, "0b0e14", "2a3340"), w, z, 0.06)
    for i in range(1, bars := d.n(1, 3) if w > 1.2 else d.n(1, 2)):
        x = -w / 2 + i * w / bars
        p.box(m, (x - 0.025, x + 0.025), (0, 0.03), z)
    p.box(m, (-w / 2 - 0.05, w / 2 + 0.05), (0, 0.1), (z[0] - 0.04, z[0]))
    if d.full and (dressed := d.rng.random()) < 0.45:
        cloth, low, top = d.mat("curtain", d.u(0.08, 0.18)), d.pick((0.03, z[0] - 0.1)), z[1] + 0.12
        p.box(d.mat("brass"), (-w / 2 - 0.35, w / 2 + 0.35), (0.08, 0.1), (top, top + 0.025), "curtain")
        reach = d.u(0.3, 0.45) + w * d.u(0, 0.25)
        for span in ((-w / 2 - 0.3, -w / 2 - 0.3 + reach), (w / 2 + 0.3 - reach, w / 2 + 0.3)):
            p.box(cloth, span, (0.04, 0.12), (low, top), "curtain")
    elif d.full and dressed < 0.7:
        slats = Material(
            TX.SLATS, rgb(linear("ece9e0") * d.u(0.6, 1)), (0, 0, 0), d.u(0.03, 0.06), 0.004, d.u(0.2, 0.8) * day
        )
        drop = d.u(0.4, 1.0) * (z[1] - z[0])
        p.box(slats, (-w / 2 + 0.03, w / 2 - 0.03), (0.03, 0.05), (z[1] - drop, z[1]), "blinds")
    return p


def picture(d: Draw) -> Piece:
    p = Piece(d, "picture", hangs=True)
    low = 0.4 if d.full else 0.7
    w, h, middle = d.u(low, 1.3), d.u(low, 0.95), d.u(1.5, 1.7)
    colors = ("3a6ea5", "c9a24a", "8c3b32", "4a7d4a", "d8cdb8", "22303f")
    inner = d.special(TX.PICTURE, d.pick(colors), d.pick(colors))
    framed(p, d.mat(d.pick(("wood", "black", "white"))), inner, w, (middle - h / 2, middle + h / 2), d.u(0.03, 0.07))
    if d.chance(0.4):  # a mount around the picture
        p.parts[-1] = replace(p.parts[-1], material=d.mat("white"))
        p.box(inner, (-w * 0.35, w * 0.35), (0, 0.014), (middle - h * 0.32, middle + h * 0.32))
    return p


def mirror(d: Draw) -> Piece:
    p = Piece(d, "mirror", hangs=True)
    w, z = (d.u(0.5, 1.2), (1.1, d.u(1.7, 2.0))) if d.chance(0.7) else (d.u(0.4, 0.6), (0.3, 1.8))
    framed(p, d.mat(d.pick(("wood", "black", "white", "brass"))), d.special(TX.MIRROR, "8f9698", "8f9698"), w, z, 0.04)
    return p


def whiteboard(d: Draw) -> Piece:
    p = Piece(d, "whiteboard", hangs=True)
    framed(p, d.mat("brass"), d.special(TX.TEXT, "f4f6f6", "3a4a7a", 0.25), d.u(1.0, 2.0), (0.95, d.u(1.8, 2.1)), 0.03)
    return p


def wall_tv(d: Draw) -> Piece:
    p = Piece(d, "television", hangs=True)
    w = d.u(0.8, 1.4)
    framed(p, d.mat("black"), screen(d), w, (1.0, 1.0 + w * 0.58), 0.025)
    return p


def towel(d: Draw) -> Piece:
    p = Piece(d, "towel", hangs=True)
    w, z = d.u(0.3, 0.55), d.u(1.2, 1.5)
    p.box(d.mat("brass"), (-w / 2 - 0.08, w / 2 + 0.08), (0.03, 0.05), (z, z + 0.02))
    p.box(replace(d.mat("linen", 0.1), soft=0.02), (-w / 2, w / 2), (0.02, 0.07), (z - d.u(0.45, 0.8), z + 0.025))
    return p


def shelves(d: Draw) -> Piece:
    p = Piece(d, "shelves", hangs=True)
    w, m, z = d.u(0.7, 1.4), d.mat(d.pick(("wood", "lacquer"))), d.u(1.1, 1.4)
    for _ in range(d.n(1, 3)):
        p.box(m, (-w / 2, w / 2), (0, 0.26), (z, z + 0.03))
        if d.chance(0.5):
            book_row(p, d, (-w / 2, w / 2), 0.25, z + 0.03, 0.26)
        else:
            clutter(p, d, (-w / 2, w / 2), (0, 0.25), z + 0.03, "prop prop box books")
        z += 0.36
    return p


def poster(d: Draw) -> Piece:
    p = Piece(d, "paper", hangs=True)
    for i in range(d.n(1, 3)):
        x, z = -0.35 + 0.35 * i, d.u(1.3, 1.6)
        p.box(d.mat("paper", 0.04), (x, x + 0.3), (0, 0.004), (z, z + 0.4))
    return p


def coats(d: Draw) -> Piece:
    p = Piece(d, "clothes", hangs=True)
    for i in range(n := d.n(2, 4)):
        x, z = (i - n / 2) * 0.22, d.u(0.7, 1.0)
        p.box(d.mat("cloth", 0.05), (x, x + 0.21), (0.02, d.u(0.1, 0.2)), (z, 1.65))
    return p


def ceiling_lamp(d: Draw, height: float) -> Piece:
    p = Piece(d, "lamp", "ceiling lamp")
    r, glow = d.u(0.14, 0.28), d.u(1.2, 3.0)
    if d.chance(0.5):
        p.box(d.mat("sheet", glow=glow), (-r, r), (-r, r), (height - 0.09, height - 0.005))
    else:
        drop = d.u(0.15, 0.35)
        p.box(d.mat("black"), (-0.01, 0.01), (-0.01, 0.01), (height - drop, height - 0.001))
        p.box(d.mat("sheet", glow=glow), (-r, r), (-r, r), (height - drop - 0.18, height - drop))
    return p


# ------------------------------------------------------------------------------------------------ what goes together


def recipe(kind: str, full: bool) -> list[tuple[Maker, float]]:
    """What a kind of room may hold, large things first, each with its probability."""
    if not full:
        simple: dict[str, list[tuple[Maker, float]]] = {
            "bedroom": [(bed, 1), (cabinet, 0.7), (bookshelf, 0.5), (table, 0.4), (picture, 1), (picture, 0.5)],
            "living": [(sofa, 1), (bookshelf, 0.8), (cabinet, 0.4), (picture, 1), (picture, 0.5)],
            "kitchen": [(refrigerator, 1), (refrigerator, 0.5), (table, 1), (cabinet, 0.6), (picture, 0.8)],
        }
        return simple[kind]
    often: list[tuple[Maker, float]] = [(picture, 0.6), (picture, 0.4), (column, 0.12), (floor_lamp, 0.25)]
    often += [(carton, 0.15), (bag, 0.2), (plant, 0.15), (bin_, 0.15), (person, 0.12), (poster, 0.1), (mirror, 0.1)]
    rooms: dict[str, list[tuple[Maker, float]]] = {
        "bedroom": [(bed, 1), (cabinet, 0.6), (dresser, 0.6), (desk, 0.35), (bookshelf, 0.3), (armchair, 0.2)],
        "living": [(sofa, 1), (sofa, 0.35), (tv_stand, 0.5), (bookshelf, 0.5), (cabinet, 0.4), (armchair, 0.4)],
        "kitchen": [(counter, 1), (refrigerator, 0.9), (stove, 0.6), (wall_cabinet, 0.6), (table, 0.8), (cabinet, 0.5)],
        "office": [(desk, 1), (desk, 0.6), (bookshelf, 0.7), (cabinet, 0.5), (table, 0.35), (whiteboard, 0.6)],
        "bathroom": [(bathtub, 0.85), (toilet, 1), (vanity, 0.9), (cabinet, 0.3), (towel, 0.8), (rug, 0.5)],
    }
    more: dict[str, list[tuple[Maker, float]]] = {
        "bedroom": [(mirror, 0.4), (shelves, 0.2), (coats, 0.25), (laundry, 0.3), (rug, 0.4), (wall_tv, 0.15)],
        "living": [(wall_tv, 0.3), (shelves, 0.3), (table, 0.35), (rug, 0.3), (ottoman, 0.3)],
        "kitchen": [(shelves, 0.3), (towel, 0.3), (wall_cabinet, 0.4)],
        "office": [(poster, 0.4), (shelves, 0.4), (chair, 0.4), (carton, 0.3), (coats, 0.1)],
        "bathroom": [(towel, 0.4), (mirror, 0.3), (laundry, 0.2), (shelves, 0.2)],
    }
    return rooms[kind] + more[kind] + often


def companions(d: Draw, p: Piece) -> list[tuple[Piece, float, float, float]]:
    """What stands with a piece: (piece, x, y, turn) in its frame, to be tried one after the other."""
    left, right, front = float(p.lo[0]), float(p.hi[0]), float(p.hi[1])
    found: list[tuple[Piece, float, float, float]] = []
    if p.kind == "sofa" and d.chance(0.7):
        found.append((coffee_table(d), 0, front + d.u(0.3, 0.5), 0))
    if not d.full:
        return found
    if p.kind == "bed":
        for x in (left - 0.36, right + 0.36):
            if d.chance(0.65):
                found.append((night_stand(d), x, 0.02, 0))
    if p.kind in ("sofa", "bed") and d.chance(0.4):
        found.append((rug(d), 0, front - 0.2 if p.kind == "sofa" else front - 1.0, 0))
    if p.kind == "desk":
        found.append((chair(d), (left + right) / 2 - 0.1, front + d.u(0.5, 0.75), math.pi + d.u(-0.5, 0.5)))
    if p.kind == "table":
        seed, gap, wide = d.n(0, 2**31), d.u(0.03, 0.2), right - left
        deep = float(chair(Draw(np.random.default_rng(seed), d.full)).hi[1]) + gap
        places = [(left - deep, front / 2, -math.pi / 2), (right + deep, front / 2, math.pi / 2)]
        for x in (-0.25 * wide, 0.25 * wide) if wide > 1.3 else (0.0,):
            places += [(x, -deep, 0.0), (x, front + deep, math.pi)]
        for x, y, turn in places:
            if d.chance(0.7):  # one seed for all: a set of equal chairs
                found.append((chair(Draw(np.random.default_rng(seed), d.full)), x, y, turn + d.u(-0.15, 0.15)))
    if p.kind == "counter":
        for x in (left / 2, right / 2):
            found.append((wall_cabinet(d), x, -0.02, 0))
    if p.kind in ("vanity", "dresser") and p.hi[2] < 1.1:
        found.append((mirror(d), 0, -0.02, 0))
    return found
