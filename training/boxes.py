"""Rooms of boxes: a procedural data set with exact labels and exact depth, made in numpy from a seed.

    python -m training.boxes --out data/boxes --count 2000 --workers 2 --sheet sheet.png
    python -m training.boxes --out data/rooms --count 8000 --size 320x240 --variety full

Every picture is a room of its own, drawn from (seed, index) alone, so that any number of workers writes the same
bytes. A run that was stopped goes on where it was. `simple` rooms hold twelve classes, few things and large ones, for
tests and first steps; `full` rooms hold nearly all of NYU-40, for a first model of real rooms. The furniture is in
`training/boxes_furniture.py`; here are the rays, the light, the rooms, the camera and the folder.

    world      x, y on the floor, z up, metres; the room is [0, width] x [0, length] x [0, height]
    piece      a solid made of axis-aligned boxes in its own frame, which is turned about z and moved on the floor
    camera     pinhole; a pixel's centre has whole coordinates, so cx = (W - 1) / 2; depth is measured along the axis
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from model.classes import NYU40
from training import boxes_furniture as furniture
from training.boxes_furniture import Draw, Piece, Texture
from training.folder import (
    atomic,
    clear_temporary,
    contact_sheet,
    dataset_head,
    files_of,
    in_processes,
    is_there,
    read_settings,
    split_of,
    write_json,
)

VERSION = 1
"""Raised whenever a change makes other pictures, so that no folder is continued with other rooms than it began with."""
VARIETIES = ("simple", "full")
CLASS_ID = {c.name: c.id for c in NYU40}
CAMERA_MARGIN = 0.45  # metres to anything: the corner of the widest view is then still 0.3 m away along the axis

Floats = NDArray[np.floating[Any]]
I64 = NDArray[np.int64]


# --------------------------------------------------------------------------------------------------- rays and boxes


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        position: [3] in metres.
        axes: [3, 3], the rows are the directions right, down and forward of the picture in the world.
        intrinsics: fx, fy, cx, cy in pixels.
        size: width and height in pixels.
    """

    position: Floats
    axes: Floats
    intrinsics: tuple[float, float, float, float]
    size: tuple[int, int]

    def rays(self, step: int = 1) -> Floats:
        """Directions [3, H/step * W/step] of the pixels' centres, of length 1 along the axis, so that t is depth."""
        fx, fy, cx, cy = self.intrinsics
        x = (np.arange(step // 2, self.size[0], step) - cx) / fx
        y = (np.arange(step // 2, self.size[1], step) - cy) / fy
        grid = np.stack([*(a.ravel() for a in np.meshgrid(x, y)), np.ones(len(x) * len(y))])
        return np.asarray(self.axes.T.astype(np.float64) @ grid, np.float32)


@dataclass
class Light:
    """A point light: position [3] in metres, linear RGB strength at one metre."""

    position: Floats
    color: Floats


@dataclass
class Scene:
    """Pieces and lights as flat arrays over boxes (B) and pieces (P). The first light throws shadows."""

    pieces: list[Piece]
    lights: list[Light] = field(default_factory=list)
    ambient: float = 0.35

    def __post_init__(self) -> None:
        parts = [part for piece in self.pieces for part in piece.parts]
        materials = [part.material for part in parts]
        self.lo = np.array([part.lo for part in parts], np.float32)
        self.hi = np.array([part.hi for part in parts], np.float32)
        self.label = np.array([CLASS_ID[part.label] for part in parts], np.uint8)
        self.owner = np.repeat(np.arange(len(self.pieces)), [len(p.parts) for p in self.pieces])
        self.first = np.cumsum([0] + [len(p.parts) for p in self.pieces])
        self.pose = np.array([(p.x, p.y, math.cos(p.yaw), math.sin(p.yaw)) for p in self.pieces], np.float32)
        self.color = np.array([(m.a, m.b) for m in materials], np.float32)  # [B, 2, 3]
        self.texture = np.array([m.texture for m in materials])
        self.scale = np.array([m.scale for m in materials], np.float32)
        self.soft = np.array([m.soft for m in materials], np.float32)
        self.glow = np.array([m.glow for m in materials], np.float32)


def to_local(pose: Floats, v: Floats, *, point: bool) -> Floats:
    """World vectors [3, N] (or points) in the frame of a piece; `pose` is x, y, cos, sin, each a number or [N]."""
    px, py, c, s = pose
    x, y = (v[0] - px, v[1] - py) if point else (v[0], v[1])
    return np.stack([c * x + s * y, c * y - s * x, v[2]])


def slab(lo: Floats, hi: Floats, origin: Floats, inverse: Floats) -> tuple[Floats, Floats]:
    """Where rays enter and leave boxes [..., 3]: along x, y and z at once. Components are apart, which numpy likes."""
    near, far = np.full(1, -np.inf, np.float32), np.full(1, np.inf, np.float32)
    for k in range(3):
        t0, t1 = (lo[..., k] - origin[k]) * inverse[k], (hi[..., k] - origin[k]) * inverse[k]
        near, far = np.maximum(near, np.minimum(t0, t1)), np.minimum(far, np.maximum(t0, t1))
    return near, far


def trace(scene: Scene, origin: Floats, direction: Floats, reach: float = np.inf, skip: int = 0) -> tuple[Floats, I64]:
    """The first box along each ray, by the slab test.

    Args:
        origin: [3, 1] or [3, N], outside all boxes.
        direction: [3, N] of any length.
        reach: hits further than this many lengths of the direction do not count.
        skip: leave out that many pieces from the front of the list (the walls, for shadows).

    Returns:
        t [N], in lengths of the direction, and the box [N], -1 where nothing is hit.
    """
    n = direction.shape[1]
    best = np.full(n, reach, np.float32)
    box = np.full(n, -1)
    direction = np.where(np.abs(direction) < 1e-7, np.float32(1e-7), direction)
    for index in range(skip, len(scene.pieces)):
        pose, boxes = scene.pose[index], slice(scene.first[index], scene.first[index + 1])
        lo, hi = scene.lo[boxes], scene.hi[boxes]
        o = to_local(pose, origin, point=True)
        inverse = 1 / to_local(pose, direction, point=False)
        # The piece's bounds first: most rays miss most pieces, and only the others are tried on its boxes.
        near, far = slab(lo.min(0), hi.max(0), o, inverse)
        rays = np.flatnonzero((near <= far) & (far > 0) & (near < best))
        if not len(rays):
            continue
        inverse = inverse[:, rays]
        o = o if o.shape[1] == 1 else o[:, rays]
        near, far = slab(lo[:, None], hi[:, None], o, inverse)  # [boxes, rays]
        near[(near > far) | (near <= 0)] = np.inf
        winner = near.argmin(0)
        t = near[winner, np.arange(len(rays))]
        closer = t < best[rays]
        best[rays[closer]] = t[closer]
        box[rays[closer]] = winner[closer] + boxes.start
    return best, box


def labels_and_depth(scene: Scene, camera: Camera, step: int = 1) -> tuple[NDArray[np.uint8], Floats]:
    """What the pixels' centres see: class ids and depth in metres along the axis, both [H, W] (every `step`-th)."""
    t, box = trace(scene, camera.position[:, None], camera.rays(step))
    shape = len(range(step // 2, camera.size[1], step)), len(range(step // 2, camera.size[0], step))
    return scene.label[box].reshape(shape), t.reshape(shape)


# --------------------------------------------------------------------------------------------------------- textures


@lru_cache
def tables() -> tuple[Floats, Floats]:
    """A tileable cloud [256, 256] of mean 0 and deviation 1, and [4096] uniform numbers; the same in every process."""
    rng = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None]) + 1 / 256
    cloud = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((256, 256))) / f**1.1, (256, 256))
    cloud = (cloud - cloud.mean()) / cloud.std()
    return cloud.astype(np.float32), rng.random(4096, np.float32)


def noise(u: Floats, v: Floats) -> Floats:
    """The cloud at (u, v) [N], in cells of its table."""
    return np.asarray(tables()[0][v.astype(np.int32) & 255, u.astype(np.int32) & 255])


def chance(*keys: Floats | I64) -> Floats:
    """A number in [0, 1) for every tuple of whole numbers [N]."""
    total = sum(k.astype(np.int64) * p for k, p in zip(keys, (73, 1597, 379, 3251), strict=False))
    return np.asarray(tables()[1][np.asarray(total) & 4095])


def paint(
    kind: int, u: Floats, v: Floats, extent: tuple[Floats, Floats], scale: Floats, key: I64, blur: Floats, ab: Floats
) -> Floats:
    """Colours [3, N] of one texture.

    Args:
        u, v: [N] metres on the face; for walls and fronts, v is up.
        extent: the face's lengths along u and v, [N] each.
        scale: the texture's period in metres.
        key: the box, so that two boxes of one material differ.
        blur: metres that one pixel covers: finer detail is faded out, or it would alias.
        ab: the material's two colours, [2, 3, N].
    """
    a: Floats = ab[0]
    b: Floats = ab[1]
    shift = (chance(key) * 251).astype(np.float32)
    fine = noise(u * 150 + shift * 7, v * 150 + shift) * np.minimum(1, 0.008 / blur)
    broad = noise(u * 12 + shift, v * 12 + shift * 3)
    tone: Floats = 1 + 0.03 * fine + 0.04 * broad
    mix: Floats = np.zeros_like(u)
    if kind in (Texture.WOOD, Texture.PLANKS):
        if kind == Texture.PLANKS:
            row = np.floor(v / scale)
            column = np.floor(u / (scale * 9) + chance(row))
            tone = tone * (0.82 + 0.36 * chance(row, column, key))
            edge = np.abs(v / scale - row - 0.5) * scale * 2 > scale - 0.004 - blur
            tone = tone * np.where(edge, 1 - 0.45 * np.minimum(1, 0.006 / blur), 1)
            shift = shift + row * 17
        mix = np.clip(
            0.4 + 0.3 * noise(u * 9 + shift, v * 90 + shift) * np.minimum(1, 0.02 / blur) + 0.15 * broad, 0, 1
        )
    elif kind in (Texture.TILES, Texture.BRICKS):
        j = np.floor(v / scale)
        x = u / scale / (2 if kind == Texture.BRICKS else 1) + (0.5 * (j % 2) if kind == Texture.BRICKS else 0)
        i = np.floor(x)
        edge = np.maximum(np.abs(x - i - 0.5), np.abs(v / scale - j - 0.5)) * 2 > 1 - (0.012 + blur) / scale
        tone = tone * (0.93 + 0.14 * chance(i, j, key))
        mix = np.where(edge, np.minimum(1, 0.02 / (blur + 0.012)), 0)
    elif kind in (Texture.CARPET, Texture.FABRIC):
        tone = 1 + (0.16 if kind == Texture.CARPET else 0.09) * fine + 0.07 * broad
    elif kind == Texture.STRIPES:
        mix = np.clip(0.5 + 2 * np.sin(u / scale * 6.283) * np.minimum(1, scale / blur / 4), 0, 1)
    elif kind == Texture.CHECKS:
        mix = (((u / scale) % 1 > 0.5).astype(np.float32) + ((v / scale) % 1 > 0.5)) / 2
        tone = tone + 0.05 * fine
    elif kind == Texture.FOLDS:
        tone = tone * (0.78 + 0.22 * np.sin(u / scale * 6.283 + shift + 1.2 * noise(u * 8 + shift, v * 3)))
    elif kind == Texture.SLATS:
        tone = tone * (0.65 + 0.35 * (0.5 + ((v / scale) % 1 - 0.5) * np.minimum(1, scale / blur / 3)))
    elif kind == Texture.BOOKS:
        x = u / scale + 0.45 * np.sin(u / scale * 2.1 + shift)
        i, rest = np.floor(x), x % 1
        ink = np.stack([chance(i, key, key * 0 + c) for c in range(3)]) ** 1.7
        grey = ink.mean(0)
        a = 0.04 + 0.75 * (grey + (ink - grey) * 0.8)
        height = 0.72 + 0.28 * chance(i, key * 3)
        band = (np.abs(v / extent[1] - 0.25 - 0.4 * chance(i, key * 5)) < 0.05) & (chance(i, key * 7) > 0.4)
        tone = np.where(v > height * extent[1], 0.06, 1 - 0.35 * np.abs(rest - 0.5) ** 2 * 4) * np.where(band, 1.8, 1)
    elif kind == Texture.PICTURE:
        patch, ground = noise(u * 40 + shift * 9, v * 40 + shift * 5), noise(u * 25 + shift * 3, v * 25 + shift)
        third = np.stack([chance(key, key * 0 + c) for c in range(3)])
        a = np.where(patch > 0.5, third, np.where(ground > 0.2 - (v / extent[1] - 0.5) * 2, a, b)) * (1 + 0.15 * fine)
    elif kind == Texture.SKY:
        horizon = v / extent[1] - 0.3 - 0.12 * noise(u * 20 + shift, u * 0)
        mix = np.clip(1.0 - horizon * 40, 0, 1)
        tone = np.where(horizon > 0, 1 - 0.2 * v / extent[1], 1 + 0.4 * noise(u * 60, v * 60))
    elif kind == Texture.SCREEN:
        mix = np.clip(0.3 * (u / extent[0] + v / extent[1]) + 0.1 * broad, 0, 1)
    elif kind == Texture.TEXT:
        line, place = (v / scale) % 1 < 0.4, noise(u * 90 + np.floor(v / scale) * 31, shift)
        mix = np.where(line & (place > -0.4), 0.6, 0)
    return np.asarray(np.maximum((a + (b - a) * mix) * tone, 0.005))


# ------------------------------------------------------------------------------------------------------------ light


def shade(
    scene: Scene,
    origin: Floats,
    direction: Floats,
    rng: np.random.Generator,
    blur_per_metre: float,
    mirrors: bool = True,
) -> Floats:
    """Linear colours [3, N] seen along rays from one origin [3, 1] or from N: Lambert, shadows, contact darkening."""
    t, box = trace(scene, origin, direction)
    box = np.maximum(box, 0)  # a ray can only leave a room through a rounding error
    point = origin + t * direction
    owner = scene.owner[box]
    pose = scene.pose[owner].T
    half = (scene.hi[box] - scene.lo[box]).T / 2
    local = to_local(pose, point, point=True) - (scene.lo[box].T + half)  # from the box's centre
    axis = (half - np.abs(local)).argmin(0)
    pixels = np.arange(len(box))

    # Soft things have rounded edges: near an edge the normal leans towards the next face.
    soft = scene.soft[box]
    normal: Floats = np.sign(local) * np.clip((np.abs(local) - half) / soft + 1, 0, 1)
    flat: Floats = np.zeros_like(local)
    flat[axis, pixels] = np.sign(local[axis, pixels])
    normal[axis, pixels] = flat[axis, pixels]
    normal /= np.linalg.norm(normal, axis=0)
    to_world = np.stack([0 * pose[2], 0 * pose[3], pose[2], -pose[3]])  # turning back: the sine with its sign changed
    normal, flat = to_local(to_world, normal, point=False), to_local(to_world, flat, point=False)

    # Colours, texture by texture, on the two coordinates of the face that was hit.
    size, place = 2 * half, local + half
    u, v = np.where(axis == 0, place[1], place[0]), np.where(axis == 2, place[1], place[2])
    eu, ev = np.where(axis == 0, size[1], size[0]), np.where(axis == 2, size[1], size[2])
    kinds = scene.texture[box]
    upright = (kinds == Texture.WOOD) & (ev > eu)  # the grain follows the longer side
    u, v, eu, ev = (
        np.where(upright, v, u),
        np.where(upright, u, v),
        np.where(upright, ev, eu),
        np.where(upright, eu, ev),
    )
    blur = np.maximum(t * blur_per_metre, 1e-4)
    color = np.empty_like(point)
    for kind in np.unique(kinds):
        at = np.flatnonzero(kinds == kind)
        ab = scene.color[box[at]].transpose(1, 2, 0)
        color[:, at] = paint(int(kind), u[at], v[at], (eu[at], ev[at]), scene.scale[box[at]], box[at], blur[at], ab)

    # Light: a sky of white walls from above, then the lamps, the first with shadows softened by its size.
    total = np.tile(scene.ambient * (0.8 + 0.2 * normal[2]), (3, 1)).astype(np.float32)
    for number, light in enumerate(scene.lights):
        where = np.asarray(light.position, np.float32)[:, None]
        reach = where - point
        square = (reach**2).sum(0)
        lambert = np.maximum((reach * normal).sum(0), 0) / np.sqrt(square + 1e-6) / (square + 0.6)
        if number == 0:
            lit = np.flatnonzero((lambert > 0) & (flat[2] > -0.5))  # a lamp's own body would speckle the ceiling
            start = point[:, lit] + 0.004 * flat[:, lit]
            aim = where + 0.05 * rng.standard_normal((3, len(lit)), np.float32) - start
            lambert[lit] *= np.where(trace(scene, start, aim, reach=0.93, skip=1)[1] >= 0, 0.12, 1)
        total += np.asarray(light.color, np.float32)[:, None] * lambert
    total *= contact(scene, point, owner, flat)
    color = color * np.where(scene.glow[box] > 0, scene.glow[box], total)

    if mirrors and (glass := np.flatnonzero((kinds == Texture.MIRROR) & (axis == 1))).size:
        facing = flat[:, glass]
        back = direction[:, glass] - 2 * (direction[:, glass] * facing).sum(0) * facing
        start = point[:, glass] + 0.004 * facing
        color[:, glass] = 0.03 + 0.85 * shade(scene, start, back, rng, blur_per_metre, mirrors=False)
    return color


def contact(scene: Scene, point: Floats, owner: I64, flat: Floats) -> Floats:
    """A cheap ambient occlusion [N]: darker where floor, walls and ceiling meet, and on the floor around things."""
    room = scene.hi[: scene.first[1]].max(0)
    dark = np.ones(point.shape[1], np.float32)
    for axis in range(3):
        gap = np.minimum(np.abs(point[axis]), np.abs(room[axis] - 0.1 - point[axis]))  # the shell is 0.1 m thick
        dark *= np.where(np.abs(flat[axis]) < 0.9, 1 - 0.3 * np.exp(-gap / 0.12), 1)
    shell = np.flatnonzero((owner == 0) & (point[2] < 1e-3))
    for index in range(1, len(scene.pieces)):
        boxes = slice(scene.first[index], scene.first[index + 1])
        lo, hi = scene.lo[boxes].min(0)[:2, None], scene.hi[boxes].max(0)[:2, None]
        if scene.lo[boxes, 2].min() > 0.3 or not len(shell):
            continue
        place = to_local(scene.pose[index], point[:, shell], point=True)[:2]
        gap = np.linalg.norm(np.maximum(np.maximum(lo - place, place - hi), 0), axis=0)
        dark[shell] *= 1 - 0.35 * np.exp(-gap / 0.15)
    return dark


def develop(linear: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A photograph [H, W, 3] of linear light [H, W, 3]: exposure, white balance, lens, sensor noise, tone curve."""
    height, width = linear.shape[:2]
    balance = np.exp(rng.normal(0, 0.06, 3) * (1, 0.4, 1))
    light = linear * (rng.uniform(0.16, 0.34) / np.median(linear.mean(2))) * balance
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = light * (1 - rng.uniform(0, 0.25) * (x * x + y * y) / 2)[..., None]
    for axis in (0, 1):  # the lens, and the steps along edges
        side = rng.uniform(0.06, 0.2)
        padded = np.pad(light, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = padded[:-2], padded[2:]
        if axis == 1:
            before, after = padded[:, :-2], padded[:, 2:]
        light = (1 - 2 * side) * light + side * (before + after)
    light = 1 - np.exp(-1.25 * light)
    picture = light ** (1 / 2.2) + rng.normal(0, rng.uniform(0.003, 0.016), light.shape)
    return np.asarray(np.clip(picture, 0, 1) * 255 + 0.5, np.uint8)


# ------------------------------------------------------------------------------------------------------------ rooms


def overlap(a: Piece, b: Piece, gap: float = 0.02) -> bool:
    """Whether two pieces share space: footprints by the separating axes, then heights."""
    if a.flat or b.flat or a.hi[2] <= b.lo[2] or b.hi[2] <= a.lo[2]:
        return False
    first, second = a.footprint(), b.footprint()
    for yaw in (a.yaw, b.yaw):
        for axis in (np.array([math.cos(yaw), math.sin(yaw)]), np.array([-math.sin(yaw), math.cos(yaw)])):
            p, q = first @ axis, second @ axis
            if p.max() + gap <= q.min() or q.max() + gap <= p.min():
                return False
    return True


class Room:
    """A room while it is furnished: pieces are taken if they are inside and touch nothing."""

    def __init__(self, draw: Draw, kind: str) -> None:
        d = self.draw = draw
        low, high = (2.2, 3.6) if kind == "bathroom" else (2.8, d.pick((4.5, 5.5, 7.0) if d.full else (4.5, 5.5)))
        self.size = d.u(low, high), d.u(low, high), d.u(2.3, 3.1)
        self.pieces = [furniture.shell(d, kind, self.size)]

    def fits(self, piece: Piece) -> bool:
        """Whether the piece is inside the room and clear of the others; taken if so."""
        corners = piece.footprint(keep=False)
        inside = (corners > -1e-3).all() and (corners < np.array(self.size[:2]) + 1e-3).all()
        if not inside or piece.hi[2] > self.size[2] or any(overlap(piece, other) for other in self.pieces[1:]):
            return False
        self.pieces.append(piece)
        return True

    def at_wall(self, piece: Piece, tries: int = 12) -> bool:
        """Puts the piece with its back to some wall, often into a corner."""
        d = self.draw
        for _ in range(tries):
            wall = d.n(0, 3)
            length = self.size[wall % 2]
            left, right = -piece.lo[0] + 0.01, length - piece.hi[0] - 0.01
            if left > right:
                continue
            along = d.pick((left, right)) if not piece.hangs and d.chance(0.35) else d.u(left, right)
            dx, dy = ((1, 0), (0, 1), (-1, 0), (0, -1))[wall]
            x, y = ((0, 0), (self.size[0], 0), self.size[:2], (0, self.size[1]))[wall]
            piece.off = 0.0 if piece.hangs else d.u(0.0, 0.04)
            piece.move(x + dx * along - dy * piece.off, y + dy * along + dx * piece.off, wall * math.pi / 2)
            if self.fits(piece):
                return True
        return False

    def anywhere(self, piece: Piece, tries: int = 12) -> bool:
        """Puts the piece somewhere on the floor, along the walls or turned as it may."""
        d = self.draw
        for _ in range(tries):
            yaw = d.n(0, 3) * math.pi / 2 + (d.u(-0.4, 0.4) if d.chance(0.3) else 0)
            piece.move(d.u(0.3, self.size[0] - 0.3), d.u(0.3, self.size[1] - 0.3), yaw)
            if self.fits(piece):
                return True
        return False

    def beside(self, parent: Piece, piece: Piece, x: float, y: float, turn: float = 0.0) -> bool:
        """Puts the piece at (x, y) of the parent's frame; what hangs goes to the wall behind the parent."""
        y = -parent.off if piece.hangs else y
        c, s = math.cos(parent.yaw), math.sin(parent.yaw)
        piece.move(parent.x + c * x - s * y, parent.y + s * x + c * y, parent.yaw + turn)
        return self.fits(piece)


def furnish(draw: Draw, kind: str) -> Scene:
    """A room with what rooms of this kind hold, and its lights."""
    d = draw
    room = Room(d, kind)
    day = d.chance(0.75)
    room.at_wall(furniture.door(d))
    for _ in range(d.n(1, 2)):
        room.at_wall(furniture.window(d, day))
    for make, probability in furniture.recipe(kind, d.full):
        if not d.chance(probability):
            continue
        piece = make(d)
        if room.at_wall(piece) if piece.hangs or piece.back else room.anywhere(piece):
            for companion, x, y, turn in furniture.companions(d, piece):
                room.beside(piece, companion, x, y, turn)
    width, length, height = room.size
    ceiling_lamp = furniture.ceiling_lamp(d, height)
    ceiling_lamp.move(width * d.u(0.4, 0.6), length * d.u(0.4, 0.6), 0.0)
    warm = np.array([1.0, d.u(0.75, 0.98), 0])
    warm[2] = warm[1] ** 2.2
    lights = [Light(np.array([ceiling_lamp.x, ceiling_lamp.y, ceiling_lamp.lo[2] - 0.2]), warm * d.u(1.5, 3.5))]
    if d.full and d.chance(0.7):
        room.fits(ceiling_lamp)
    for piece in room.pieces:
        if piece.label == "window" and day:
            c, s = math.cos(piece.yaw), math.sin(piece.yaw)
            out = np.array([piece.x - 0.6 * s, piece.y + 0.6 * c, (piece.lo[2] + piece.hi[2]) / 2])
            lights.append(Light(out, np.array([0.85, 0.95, 1.1]) * d.u(0.8, 4.0)))
    if day and len(lights) > 1 and d.chance(0.6):  # daylight leads: then it throws the shadows
        lights[0].color = lights[0].color * 0.4
        lights = [lights[1], lights[0], *lights[2:]]
    return Scene(room.pieces, lights[:3], ambient=d.u(0.2, 0.5))


def place_camera(draw: Draw, scene: Scene, intrinsics: tuple[float, ...], size: tuple[int, int]) -> Camera | None:
    """A camera that stands in the open and looks across the room at some piece; None where there is no such place."""
    d = draw
    width, length, _ = scene.hi[: scene.first[1]].max(0) - 0.1
    things = [p for p in scene.pieces[1:] if not p.flat]
    standing = [p for p in things if not p.hangs]
    if not standing:  # a room in which nothing found a place
        return None
    goal = d.pick(standing if d.chance(0.75) else things)
    target = goal.footprint(keep=False).mean(0) * 0.65 + np.array([width, length]) * 0.175
    spots: list[tuple[float, Floats]] = []
    for _ in range(12):
        x, y, z = d.u(CAMERA_MARGIN, width - CAMERA_MARGIN), d.u(CAMERA_MARGIN, length - CAMERA_MARGIN), d.u(0.9, 1.7)
        point = np.array([[x], [y], [z]], np.float32)
        if all(p.distance(point[:, 0]) > CAMERA_MARGIN for p in scene.pieces[1:]):
            spots.append((math.hypot(target[0] - x, target[1] - y), point[:, 0]))
    if not spots:
        return None
    position = max(spots[:5], key=lambda s: s[0])[1]
    yaw = math.atan2(target[1] - position[1], target[0] - position[0]) + d.u(-0.25, 0.25)
    drop = position[2] - (goal.lo[2] + goal.hi[2] + 1) / 3  # down to the thing, but not so far as to lose the room
    pitch = np.clip(-math.atan2(drop, math.dist(target, position[:2])) * 0.7 + d.rng.normal(0, 0.12), -0.5, 0.15)
    roll = d.rng.normal(0, 0.026)
    forward = np.array([math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch)])
    level = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    down = np.cross(forward, level)
    right = math.cos(roll) * level + math.sin(roll) * down
    axes = np.stack([right, np.cross(forward, right), forward]).astype(np.float32)
    fx, fy, cx, cy = intrinsics
    return Camera(position, axes, (fx, fy, cx, cy), size)


def good_view(scene: Scene, camera: Camera, full: bool) -> bool:
    """Whether a coarse look shows a room: no class alone, nothing at the nose, some depth, something to tell apart."""
    label, depth = labels_and_depth(scene, camera, step=max(1, min(camera.size) // 24))
    share = np.bincount(label.ravel(), minlength=len(NYU40)) / label.size
    near, middle = np.percentile(depth, [5, 50])
    nearest = 0.55 if full else 0.9
    things = 1 - share[[CLASS_ID["wall"], CLASS_ID["floor"], CLASS_ID["ceiling"]]].sum()
    enough = 0.22 if full else 0.3
    if share.max() >= 0.6 or (share > 0.01).sum() <= 4:
        return False
    return bool(near > nearest and 1.3 < middle < 5 and things > enough)


# --------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Sample:
    """One picture.

    Attributes:
        image: uint8 [H, W, 3], sRGB.
        label: uint8 [H, W], ids of NYU-40.
        depth: uint16 [H, W], millimetres along the optical axis.
        intrinsics: fx, fy, cx, cy in pixels; a pixel's centre has whole coordinates.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    intrinsics: tuple[float, float, float, float]


def intrinsics_of(
    seed: int, index: int, size: tuple[int, int], variety: str = "simple"
) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy of a picture in pixels, without drawing its room.

    `full` has lenses of 50 to 75 degrees along the longer side. `simple` has one of 60 degrees, as NYUD-v2 has one
    camera: with several, a network must guess the lens before it can tell metres.
    """
    degrees = np.random.default_rng([seed, index, 1]).uniform(50, 75) if variety == "full" else 60.0
    angle = math.radians(degrees)
    focal = round(max(size) / 2 / math.tan(angle / 2), 4)
    return focal, focal, (size[0] - 1) / 2, (size[1] - 1) / 2


def draw_view(seed: int, index: int, size: tuple[int, int], variety: str = "simple") -> tuple[Scene, Camera]:
    """The room and the camera of a picture: rooms and places are drawn until the view is a good one."""
    draw = Draw(np.random.default_rng([seed, index, 2]), full=variety == "full")
    intrinsics = intrinsics_of(seed, index, size, variety)
    kind = draw.pick(furniture.ROOMS_FULL if draw.full else furniture.ROOMS_SIMPLE)
    for _ in range(100):
        scene = furnish(draw, kind)
        for _ in range(6):
            camera = place_camera(draw, scene, intrinsics, size)
            if camera and good_view(scene, camera, draw.full):
                return scene, camera
    raise RuntimeError(f"no good view of any of 100 rooms (seed {seed}, index {index}, size {size})")


def render(seed: int, index: int, size: tuple[int, int], variety: str = "simple") -> Sample:
    """Picture `index` of the data set with this seed; the same arrays on every call.

    Args:
        size: width and height in pixels.
        variety: "simple" or "full".
    """
    if variety not in VARIETIES:
        raise ValueError(f"variety is one of {', '.join(VARIETIES)}, not {variety!r}")
    scene, camera = draw_view(seed, index, size, variety)
    label, depth = labels_and_depth(scene, camera)
    rng = np.random.default_rng([seed, index, 3])
    linear = shade(scene, camera.position[:, None], camera.rays(), rng, 1 / camera.intrinsics[0])
    image = develop(linear.T.reshape(size[1], size[0], 3), rng)
    return Sample(image, label, np.round(depth * 1000).astype(np.uint16), camera.intrinsics)


# ------------------------------------------------------------------------------------------------------- the folder


def write_picture(index: int, out: Path, seed: int, size: tuple[int, int], variety: str) -> None:
    """Renders one picture into the folder, file by file under a temporary name first."""
    sample = render(seed, index, size, variety)
    arrays: tuple[NDArray[Any], ...] = sample.image, sample.label, sample.depth
    for path, array in zip(files_of(out, index), arrays, strict=True):
        with atomic(path) as temporary:
            if path.suffix == ".jpg":
                Image.fromarray(array).save(temporary, "JPEG", quality=95, subsampling=0)
            else:
                Image.fromarray(array).save(temporary, "PNG")


def write_dataset(
    out: Path,
    count: int,
    seed: int = 0,
    size: tuple[int, int] = (160, 120),
    workers: int = 1,
    variety: str = "simple",
    progress: bool = False,
) -> None:
    """Writes the data set, or what is missing of it, and its `dataset.json` last.

    Args:
        size: width and height in pixels.

    Raises:
        FileExistsError: the folder holds something else, or rooms of other settings.
        BrokenProcessPool: a worker was killed.
    """
    settings = {"seed": seed, "size": list(size), "count": count, "variety": variety, "version": VERSION}
    marker = out / "boxes.json"  # there from the first picture on; dataset.json only once all are there
    if marker.exists():
        if (found := read_settings(marker)) != settings:
            raise FileExistsError(f"{out} was made with other settings: {found}, not {settings}")
    elif out.exists() and any(path.suffix != ".tmp" for path in out.iterdir()):
        raise FileExistsError(f"{out} is not empty and was not made by training.boxes")
    out.mkdir(parents=True, exist_ok=True)
    write_json(marker, settings)
    for folder in ("images", "labels", "depth"):
        (out / folder).mkdir(exist_ok=True)
    clear_temporary(out)

    missing = [i for i in range(count) if not all(is_there(path) for path in files_of(out, i))]
    task = partial(write_picture, out=out, seed=seed, size=size, variety=variety)
    chunksize = min(8, max(1, -(-len(missing) // max(1, workers))))
    for _ in tqdm(
        in_processes(task, missing, workers, chunksize), total=len(missing), unit="room", disable=not progress
    ):
        pass

    names = [f"{i:06d}" for i in range(count)]
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for i, name in enumerate(names):
        splits[split_of(i)].append(name)
    description = f"Procedural rooms of boxes, ray-cast, with exact labels and depth ({variety})."
    dataset = {
        **dataset_head("boxes", "CC0-1.0", description, NYU40),
        "depth": {"unit": "mm", "invalid": 0},
        "splits": splits,
        "intrinsics": {name: intrinsics_of(seed, i, size, variety) for i, name in enumerate(names)},
        "generator": settings,
    }
    write_json(out / "dataset.json", dataset)


def picture_size(text: str) -> tuple[int, int]:
    """Width and height of "160x120"."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 16):
        raise argparse.ArgumentTypeError(f"a size is WIDTHxHEIGHT, 16 pixels or more, such as 160x120; not {text!r}")
    return int(width), int(height)


def natural(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not a whole number from 0 on: {text!r}")
    return int(text)


def check_sheet(parser: argparse.ArgumentParser, sheet: Path | None, out: Path) -> None:
    """Ends the command now if the contact sheet cannot be written once all pictures are made, which may take hours."""
    if sheet is None:
        return
    if sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error(f"argument --sheet: not a .png or .jpg file: {sheet}")
    if sheet.is_dir():
        parser.error(f"argument --sheet: {sheet} is a folder")
    if not sheet.parent.is_dir() and sheet.parent.absolute() != out.absolute():  # OUT will be there by then
        parser.error(f"argument --sheet: there is no folder {sheet.parent}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.boxes", description="Make the data set `boxes`.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to complete")
    parser.add_argument("--count", type=natural, required=True, help="number of pictures")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--size", type=picture_size, default=(160, 120), help="WIDTHxHEIGHT (default 160x120)")
    parser.add_argument("--workers", type=natural, default=1, help="processes (default 1)")
    parser.add_argument("--variety", choices=VARIETIES, default="simple", help="default simple")
    parser.add_argument("--sheet", type=Path, help="also write a picture of the first 24, .png or .jpg")
    a = parser.parse_args(arguments)
    check_sheet(parser, a.sheet, a.out)
    try:
        write_dataset(a.out, a.count, a.seed, a.size, a.workers, a.variety, progress=True)
        if a.sheet and a.count:
            contact_sheet(a.out, min(a.count, 24)).save(a.sheet)
    except BrokenProcessPool:
        sys.exit("training.boxes: a worker process was killed (out of memory?); run again to go on where it stopped")
    except OSError as error:
        sys.exit(f"training.boxes: {error}")
    except KeyboardInterrupt:
        sys.exit("training.boxes: stopped; the same command goes on where it was")


if __name__ == "__main__":
    main()
