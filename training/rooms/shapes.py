"""Simple shapes: triangle meshes made of numbers, with labels, colours and texture coordinates.

Everything here returns parts in the frame of a piece (see `training/rooms/scene.py`). A `Material` is a colour or a
texture with its size in metres; boxes, lathes, tubes, sheets and cushions are what furniture is made of elsewhere.
Surfaces point outwards; sheets are meant to be seen from both sides.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.rooms.scene import CLASS_ID, Finish, Floats, Part
from training.rooms.textures import Texture

Rng = np.random.Generator
Color = tuple[float, float, float]
Vector = Sequence[float]

MATT = Finish(roughness=0.8, specular=0.2)
SATIN = Finish(roughness=0.45, specular=0.4)
GLOSS = Finish(roughness=0.15, specular=0.5)
STEEL = Finish(roughness=0.3, metallic=1.0)
MIRROR = Finish(mirror=True)


@dataclass(frozen=True)
class Material:
    """How a shape looks.

    Attributes:
        color: Linear reflectance, where there is no texture.
        finish: Its texture, if any, and its gloss.
        metres: Width and height of one repeat of the texture.
    """

    color: Color = (0.8, 0.8, 0.8)
    finish: Finish = MATT
    metres: tuple[float, float] = (1.0, 1.0)


# ---------------------------------------------------------------------------------------------------------- colours


def linear(color: Vector) -> Color:
    """Linear reflectance of an sRGB colour, 0 to 1."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color)
    return r, g, b


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Linear reflectance of a colour given by hue (0 to 1), saturation and value of sRGB."""
    return linear(colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1)))


def times(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor


def tint(rng: Rng, saturation: float = 0.7, low: float = 0.15, high: float = 0.9) -> Color:
    """Any colour; the saturation's draw is squared, since saturated rooms look absurd."""
    return hsv(rng.random(), saturation * rng.random() ** 2, rng.uniform(low, high))


def tints(rng: Rng, count: int, saturation: float = 0.9, low: float = 0.1, high: float = 0.9) -> Floats:
    """`count` colours [count, 3]."""
    return np.array([tint(rng, saturation, low, high) for _ in range(count)], np.float32)


def paint(color: Color, finish: Finish = SATIN) -> Material:
    return Material(color, finish)


def textured(texture: Texture, finish: Finish = SATIN, scale: float = 1.0) -> Material:
    """A material from a texture; `scale` enlarges it."""
    h, w = texture.picture.shape[:2]
    width = texture.metres * scale
    return Material(finish=replace(finish, texture=texture.picture), metres=(width, width * h / w))


# ------------------------------------------------------------------------------------------------------------ parts


def part(
    vertices: Floats,
    faces: NDArray[Any],
    label: str,
    material: Material,
    uv: Floats | None = None,
    color: Floats | None = None,
) -> Part:
    """A part of one label.

    Args:
        uv: [V, 2] in metres; divided by the size of the texture here.
        color: [F, 3] instead of the material's.
    """
    n = len(faces)
    if color is None:
        color = np.broadcast_to(np.asarray(material.color, np.float32), (n, 3))
    textured_uv = None
    if material.finish.texture is not None:
        flat = np.zeros((len(vertices), 2)) if uv is None else uv
        textured_uv = np.asarray(flat / np.asarray(material.metres), np.float32)
    return Part(
        np.asarray(vertices, np.float32),
        np.asarray(faces, np.int32),
        np.full(n, CLASS_ID[label], np.uint8),
        np.asarray(color, np.float32),
        textured_uv,
        material.finish,
    )


def _key(finish: Finish) -> tuple[Any, ...]:
    return (
        id(finish.texture),
        finish.roughness,
        finish.metallic,
        finish.specular,
        finish.emission,
        finish.mirror,
    )


def merge(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The same surfaces in as few parts as there are finishes; the order is that of the finishes' first use."""
    groups: dict[tuple[Any, ...], list[Part]] = {}
    for p in parts:
        if len(p.faces):
            groups.setdefault(_key(p.finish), []).append(p)
    merged = []
    for group in groups.values():
        if len(group) == 1:
            merged.append(group[0])
            continue
        offsets = np.cumsum([0] + [len(p.vertices) for p in group[:-1]])
        uv = None
        if group[0].uv is not None:
            uv = np.concatenate([p.uv for p in group if p.uv is not None])
        merged.append(
            Part(
                np.concatenate([p.vertices for p in group]),
                np.concatenate([p.faces + o for p, o in zip(group, offsets, strict=True)]).astype(np.int32),
                np.concatenate([p.label for p in group]),
                np.concatenate([p.color for p in group]),
                uv,
                group[0].finish,
            )
        )
    return tuple(merged)


def shifted(parts: Iterable[Part], x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> list[Part]:
    """The parts turned about z by `yaw` (radians), then moved."""
    return [p.moved((x, y, z), yaw) for p in parts]


def tilted(parts: Iterable[Part], axis: str, angle: float, pivot: Vector = (0, 0, 0)) -> list[Part]:
    """The parts turned about the x or y axis through `pivot`, radians, right-handed."""
    c, s = math.cos(angle), math.sin(angle)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]] if axis == "x" else [[c, 0, s], [0, 1, 0], [-s, 0, c]])
    center = np.asarray(pivot, np.float64)
    return [replace(p, vertices=((p.vertices - center) @ turn.T + center).astype(np.float32)) for p in parts]


def bounds(parts: Iterable[Part]) -> tuple[Floats, Floats]:
    """Lowest and highest x, y, z of all parts."""
    all_parts = [p.vertices for p in parts if len(p.vertices)]
    return np.min([v.min(0) for v in all_parts], 0), np.max([v.max(0) for v in all_parts], 0)


# ------------------------------------------------------------------------------------------------------------ boxes

# Corners of a box as 0/1 for x, y, z; six sides of four corners, counter-clockwise from outside.
_SIDES = np.array(
    [
        [[0, 1, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]],  # -x
        [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1]],  # +x
        [[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]],  # -y
        [[1, 1, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1]],  # +y
        [[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]],  # -z
        [[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]],  # +z
    ],
    np.float32,
).reshape(24, 3)
_SIDE_FACES = np.concatenate([[[4 * i, 4 * i + 1, 4 * i + 2], [4 * i, 4 * i + 2, 4 * i + 3]] for i in range(6)])
_SIDE_AXES = np.repeat(np.array([[1, 2], [1, 2], [0, 2], [0, 2], [0, 1], [0, 1]]), 4, axis=0)  # what u and v are


def boxes(
    low: Floats, high: Floats, label: str, material: Material, color: Floats | None = None, upright: bool = False
) -> Part:
    """N axis-aligned boxes as one part, 24 vertices and 12 faces each.

    Args:
        low, high: [N, 3] corners.
        color: [N, 3] instead of the material's colour.
        upright: The texture's x runs along z on upright sides (grain); otherwise along each side's longer edge.
    """
    low, high = np.atleast_2d(np.asarray(low, np.float32)), np.atleast_2d(np.asarray(high, np.float32))
    n = len(low)
    size = high - low
    vertices = (low[:, None] + _SIDES * size[:, None]).reshape(-1, 3)
    faces = (_SIDE_FACES + 24 * np.arange(n)[:, None, None]).reshape(-1, 3)
    uv = None
    if material.finish.texture is not None:
        local = _SIDES * size[:, None]  # [N, 24, 3]
        u = np.take_along_axis(local, np.broadcast_to(_SIDE_AXES[None, :, :1], (n, 24, 1)), 2)[..., 0]
        v = np.take_along_axis(local, np.broadcast_to(_SIDE_AXES[None, :, 1:], (n, 24, 1)), 2)[..., 0]
        across = size[:, _SIDE_AXES[:, 1]] > size[:, _SIDE_AXES[:, 0]]
        if upright:
            across = across | (_SIDE_AXES[:, 1] == 2)
        # Every box shows another place of the texture.
        offset = (low.sum(1) * 7.31 % 1)[:, None] + np.repeat(np.arange(6), 4) * 0.37
        uv = np.stack([np.where(across, v, u) + offset, np.where(across, u, v) + offset], -1).reshape(-1, 2)
    return part(vertices, faces, label, material, uv, None if color is None else np.repeat(color, 12, axis=0))


def box(low: Vector, high: Vector, label: str, material: Material, upright: bool = False) -> Part:
    """An axis-aligned box."""
    return boxes(np.array([low]), np.array([high]), label, material, upright=upright)


def block(center: Vector, size: Vector, label: str, material: Material, upright: bool = False) -> Part:
    """A box by the centre of its bottom and its size."""
    x, y, z = center
    w, d, h = size
    return box((x - w / 2, y - d / 2, z), (x + w / 2, y + d / 2, z + h), label, material, upright)


def rounded(center: Vector, size: Vector, radius: float, label: str, material: Material, bulge: float = 0.0) -> Part:
    """A box with rounded edges, by the centre of its bottom; `bulge` lifts the middle of its top, metres."""
    w, d, h = size
    radius = min(radius, w / 2, d / 2, h / 2) * 0.999
    steps = 4
    angle = np.linspace(0, math.pi / 2, steps)
    ring: list[tuple[float, float, float, float]] = []  # outward x, y of the corner's arc and the corner's x, y
    for sx, sy, turn in ((1, 1, 0), (-1, 1, 1), (-1, -1, 2), (1, -1, 3)):
        for a in angle:
            t = a + turn * math.pi / 2
            ring.append((math.cos(t), math.sin(t), sx * (w / 2 - radius), sy * (d / 2 - radius)))
    around = np.array(ring)
    rows, lengths = [], []
    for a in np.linspace(-math.pi / 2, math.pi / 2, 2 * steps):
        r, z = radius * math.cos(a), (radius if a < 0 else h - radius) + radius * math.sin(a)
        rows.append(np.column_stack([around[:, 2:] + r * around[:, :2], np.full(len(around), z)]))
        lengths.append(z)
    flat = rows[-1][:, :2]
    for shrink in (0.75, 0.4, 0.0):
        rows.append(np.column_stack([flat * shrink, np.full(len(flat), h + bulge * (1 - shrink**2))]))
    grid = np.array(rows)  # [levels, around, 3]
    levels, m = grid.shape[:2]
    index = np.arange(levels * m).reshape(levels, m)
    a, b = index[:-1], index[1:]
    faces = np.concatenate(
        [
            np.stack([a, np.roll(a, -1, 1), np.roll(b, -1, 1)], -1).reshape(-1, 3),
            np.stack([a, np.roll(b, -1, 1), b], -1).reshape(-1, 3),
            np.stack([np.full(m - 2, 0), np.arange(2, m), np.arange(1, m - 1)], -1),
        ]
    )
    vertices = grid.reshape(-1, 3)
    # A rough unfolding: from the top downwards, stretched at the corners, which cloth forgives.
    uv = vertices[:, :2] + vertices[:, 2:] * np.array([0.7, 0.7])
    return part(vertices + np.asarray(center), faces, label, material, uv)


def quad(corners: Floats, label: str, material: Material, whole: bool = False) -> Part:
    """A flat four-cornered surface, counter-clockwise from its front, first corner lower left.

    Args:
        whole: The texture is a picture that fills the surface once; otherwise it repeats by its size in metres.
    """
    p = np.asarray(corners, np.float64)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
    lengths = np.asarray(material.metres) if whole else (np.linalg.norm(p[1] - p[0]), np.linalg.norm(p[3] - p[0]))
    return part(p, np.array([[0, 1, 2], [0, 2, 3]]), label, material, uv * lengths)


def slabs(low: Floats, high: Floats, turn: Floats, label: str, material: Material, color: Floats | None = None) -> Part:
    """Boxes as `boxes`, each turned by its matrix `turn` [N, 3, 3] about the middle of its bottom."""
    p = boxes(low, high, label, material, color)
    low, high = np.atleast_2d(low), np.atleast_2d(high)
    pivot = np.column_stack([(low[:, :2] + high[:, :2]) / 2, low[:, 2]])[:, None]
    turned = np.einsum("nij,nkj->nki", turn, p.vertices.reshape(-1, 24, 3) - pivot) + pivot
    return replace(p, vertices=turned.reshape(-1, 3).astype(np.float32))


def turns(angle: Floats, axis: int = 2) -> Floats:
    """Rotation matrices [N, 3, 3] about an axis (0, 1, 2), radians."""
    c, s = np.cos(angle), np.sin(angle)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    out = np.tile(np.eye(3), (len(c), 1, 1))
    out[:, i, i], out[:, j, j], out[:, i, j], out[:, j, i] = c, c, -s, s
    return out


# ----------------------------------------------------------------------------------------------- lathes, tubes, sheets


def surface(
    points: Floats,
    label: str,
    material: Material,
    uv: Floats | None = None,
    closed: bool = False,
    color: Floats | None = None,
) -> Part:
    """A grid of points [H, W, 3] as a smooth sheet; its front is where rows upwards and columns rightwards show.

    Args:
        uv: [H, W, 2] in metres; by default the lengths along the first row and column.
        closed: The last column joins the first.
        color: [3] instead of the material's.
    """
    h, w = points.shape[:2]
    index = np.arange(h * w).reshape(h, w)
    right = np.roll(index, -1, 1) if closed else index[:, 1:]
    left = index if closed else index[:, :-1]
    a, b, c, d = left[:-1], right[:-1], right[1:], left[1:]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    if uv is None and material.finish.texture is not None:
        along = np.linalg.norm(np.diff(points, axis=1), axis=2).mean(0)
        up = np.linalg.norm(np.diff(points, axis=0), axis=2).mean(1)
        u, v = np.concatenate([[0], np.cumsum(along)]), np.concatenate([[0], np.cumsum(up)])
        uv = np.stack(np.broadcast_arrays(u[None], v[:, None]), -1)
    if color is not None:
        color = np.broadcast_to(np.asarray(color, np.float32), (len(faces), 3))
    return part(points.reshape(-1, 3), faces, label, material, None if uv is None else uv.reshape(-1, 2), color)


def lathe(
    profile: Sequence[tuple[float, float]],
    label: str,
    material: Material,
    center: Vector = (0, 0, 0),
    sides: int = 14,
    squash: tuple[float, float] = (1.0, 1.0),
) -> Part:
    """A body of revolution about z; `profile` is (radius, z) from the bottom up, ends at radius 0 are closed."""
    p = np.asarray(profile, np.float64)
    # The last column repeats the first, so that a texture has a seam.
    t = np.linspace(0, 2 * math.pi, sides + 1)
    ring = np.stack([np.cos(t) * squash[0], np.sin(t) * squash[1], np.zeros_like(t)], -1)
    points = p[:, 0, None, None] * ring + np.array([0, 0, 1.0]) * p[:, 1, None, None]
    return surface(points + np.asarray(center), label, material)


def cylinder(
    center: Vector, radius: float, height: float, label: str, material: Material, sides: int = 14, top: float = 1.0
) -> Part:
    """An upright cylinder by the centre of its bottom; the top's radius is `top` times that of the bottom."""
    r = radius * top
    return lathe(
        [(0, 0), (radius, 0), (radius, 0), (r, height), (r, height), (0, height)], label, material, center, sides
    )


def ball(center: Vector, r: float, material: Material, label: str = "otherprop") -> Part:
    """A ball by its lowest point."""
    a = np.linspace(-math.pi / 2, math.pi / 2, 8)
    return lathe([(r * math.cos(t), r + r * math.sin(t)) for t in a], label, material, center, 12)


def tube(path: Floats, radius: float, label: str, material: Material, sides: int = 7) -> Part:
    """A round bar along a path [N, 3]."""
    p = np.asarray(path, np.float64)
    step = np.gradient(p, axis=0)
    step /= np.linalg.norm(step, axis=1, keepdims=True) + 1e-9
    other = np.where(np.abs(step[:, 2:]) > 0.9, np.array([[1.0, 0, 0]]), np.array([[0, 0, 1.0]]))
    a = np.cross(step, other)
    a /= np.linalg.norm(a, axis=1, keepdims=True) + 1e-9
    b = np.cross(step, a)
    t = np.linspace(0, 2 * math.pi, sides + 1)
    points = p[:, None] + radius * (np.cos(t)[None, :, None] * a[:, None] + np.sin(t)[None, :, None] * b[:, None])
    caps = [p[:1, None] + np.zeros((1, sides + 1, 3)), points, p[-1:, None] + np.zeros((1, sides + 1, 3))]
    return surface(np.concatenate(caps), label, material)


def bar(start: Vector, end: Vector, radius: float, label: str, material: Material, sides: int = 7) -> Part:
    return tube(np.array([start, end], np.float64), radius, label, material, sides)


def noise(rng: Rng, h: int, w: int, cells: float, stretch: float = 1.0) -> Floats:
    """Smooth bumps [h, w], about -1 to 1, `cells` of them along the grid; `stretch` lengthens them along rows."""
    n, m = max(2, round(cells)) + 3, max(2, round(cells / stretch)) + 3
    knots = rng.uniform(-1, 1, (n, m))
    y, x = np.linspace(0, n - 3.001, h) + 1, np.linspace(0, m - 3.001, w) + 1

    def weights(t: Floats) -> tuple[NDArray[np.int64], Floats]:
        i = np.floor(t).astype(np.int64)
        f = t - i
        # The cubic B-spline: no kinks, no overshoot.
        return i, np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3]) / 6

    iy, wy = weights(y)
    ix, wx = weights(x)
    rows = sum(wy[k][:, None] * knots[np.clip(iy + k - 1, 0, n - 1)] for k in range(4))
    return np.asarray(1.8 * sum(wx[k][None] * np.asarray(rows)[:, np.clip(ix + k - 1, 0, m - 1)] for k in range(4)))


def creases(rng: Rng, h: int, w: int, cells: float, stretch: float = 1.0) -> Floats:
    """Sharp folds [h, w], 0 to 1 along wandering ridges: cloth that was pushed."""
    return np.asarray(np.clip(1 - 2.2 * np.abs(noise(rng, h, w, cells, stretch)), 0, 1))


# -------------------------------------------------------------------------------------------------------------- pieces


@dataclass
class Top:
    """A level surface that things may stand on, in the frame of its piece.

    Attributes:
        x, y: Of the lower left corner.
        z: Height.
        free: bool [rows, columns], cells of `CELL` metres that are empty and level.
        clearance: Free height above, metres.
        kind: What belongs on it: `desk`, `table`, `counter`, `shelf`, `stand`, `sink`, `wardrobe`...
    """

    x: float
    y: float
    z: float
    free: NDArray[np.bool_]
    clearance: float = 3.0
    kind: str = "table"


CELL = 0.025


def top(x0: float, y0: float, x1: float, y1: float, z: float, clearance: float = 3.0, kind: str = "table") -> Top:
    """A rectangular surface."""
    shape = max(0, int((y1 - y0) / CELL + 1e-6)), max(0, int((x1 - x0) / CELL + 1e-6))
    return Top(x0, y0, z, np.ones(shape, bool), clearance, kind)


@dataclass
class Piece:
    """Something that can be placed: in its own frame, see `training/rooms/scene.py`.

    Attributes:
        size: Width, depth, height in metres of what it occupies.
        tops: Where things may be put.
        front: Depth to keep clear in front of it, metres.
        model: Key of the catalogue's model, None for simple shapes.
    """

    name: str
    parts: list[Part]
    size: tuple[float, float, float]
    tops: list[Top] = field(default_factory=list)
    front: float = 0.0
    model: str | None = None

    def scaled(self, factor: float) -> Piece:
        """The piece and its surfaces enlarged."""
        parts = [p.moved((0, 0, 0), 0.0, factor) for p in self.parts]
        w, d, h = self.size
        return replace(self, parts=parts, size=(w * factor, d * factor, h * factor), tops=[])
