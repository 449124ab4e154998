"""What belongs to walls: doors, windows, blinds, pictures, mirrors, boards, radiators, and what hangs from ceilings.

The frame of a wall: x runs to the right as seen from inside, the wall's surface is y = 0, the room is at y < 0, the
wall's inside at y > 0; z is the height above the floor, or above the lower edge of a picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from training.rooms import textures
from training.rooms.palette import Palette
from training.rooms.scene import Finish, Floats, Part
from training.rooms.shapes import (
    MATT,
    MIRROR,
    SATIN,
    Color,
    Material,
    Rng,
    bar,
    box,
    boxes,
    cylinder,
    hsv,
    lathe,
    merge,
    paint,
    part,
    quad,
    rounded,
    shifted,
    slabs,
    surface,
    textured,
    tilted,
    tube,
    turns,
)
from training.rooms.soft_shapes import curtain, curtain_rod


@dataclass(frozen=True)
class Opening:
    """A hole in a wall from u0 to u1 and z0 to z1, `depth` deep."""

    u0: float
    u1: float
    z0: float
    z1: float
    depth: float
    kind: str = "window"

    @property
    def size(self) -> tuple[float, float]:
        return self.u1 - self.u0, self.z1 - self.z0


def _front(u0: float, u1: float, z0: float, z1: float, y: float = 0.0) -> Floats:
    """Corners of an upright rectangle that faces the room."""
    return np.array([[u0, y, z0], [u1, y, z0], [u1, y, z1], [u0, y, z1]])


def wall_surface(
    length: float, height: float, openings: list[Opening], material: Material, z0: float = 0.0
) -> list[Part]:
    """A wall from z0 to `height` with its holes and their reveals (class wall)."""
    us = sorted({0.0, length, *(u for o in openings for u in (o.u0, o.u1))})
    zs = sorted({z0, height, *(z for o in openings for z in (o.z0, o.z1) if z0 < z < height)})
    corners, uv = [], []

    def add(p: Floats, u: Floats) -> None:
        corners.append(p)
        uv.append(u)

    for a, b in pairwise(us):
        for c, d in pairwise(zs):
            if not any(o.u0 <= a and b <= o.u1 and o.z0 <= c and d <= o.z1 for o in openings):
                p = _front(a, b, c, d)
                add(p, p[:, [0, 2]])
    for o in openings:
        low, high = max(o.z0, z0), min(o.z1, height)
        if high <= low:
            continue
        y, (a, b) = o.depth, (o.u0, o.u1)
        sides = [
            [[a, 0, low], [a, y, low], [a, y, high], [a, 0, high]],
            [[b, y, low], [b, 0, low], [b, 0, high], [b, y, high]],
        ]
        if o.z1 <= height:
            sides.append([[a, y, high], [b, y, high], [b, 0, high], [a, 0, high]])
        if o.z0 >= z0 and o.z0 > 0:
            sides.append([[a, 0, low], [b, 0, low], [b, y, low], [a, y, low]])
        for side in sides:
            p = np.array(side, np.float64)
            add(p, np.column_stack([p[:, 0] + p[:, 1], p[:, 2] + (p[:, 1] if p[0, 2] == p[2, 2] else 0)]))
    if not corners:
        return []
    n = len(corners)
    faces = (np.array([[0, 1, 2], [0, 2, 3]])[None] + 4 * np.arange(n)[:, None, None]).reshape(-1, 3)
    return [part(np.concatenate(corners), faces, "wall", material, np.concatenate(uv))]


def skirting(
    length: float, openings: list[Opening], material: Material, height: float, thick: float = 0.015, z: float = 0.0
) -> list[Part]:
    """Boards along the wall's foot (class wall), not before doors."""
    gaps = sorted((o.u0 - 0.07, o.u1 + 0.07) for o in openings if o.z0 <= 0.05)
    low, high, at = [], [], 0.0
    for a, b in [*gaps, (length, length)]:
        if a - at > 0.02:
            low.append((at, -thick, z))
            high.append((a, 0.0, z + height))
        at = max(at, b)
    return [boxes(np.array(low), np.array(high), "wall", material)] if low else []


# --------------------------------------------------------------------------------------------------------------- doors


def _leaf(rng: Rng, palette: Palette, w: float, h: float, material: Material, kind: str, glow: Color) -> list[Part]:
    """A door leaf from x = 0 (hinge) to w, its front at y = 0, 4 cm thick (towards +y); with a handle at w."""
    t = 0.04
    parts: list[Part] = []
    if kind == "glazed":
        e, low = 0.11, rng.choice([0.2, 0.8])
        parts = [
            box((0, 0, 0), (e, t, h), "door", material, upright=True),
            box((w - e, 0, 0), (w, t, h), "door", material, upright=True),
            box((e, 0, 0), (w - e, t, low), "door", material),
            box((e, 0, h - e), (w - e, t, h), "door", material),
        ]
        pane = Material((0.6, 0.65, 0.65), Finish(roughness=0.3, specular=0.5, emission=glow))
        parts.append(quad(_front(e, w - e, low, h - e, t * 0.5), "door", pane))
        rows = int(rng.integers(1, 5))
        for i in range(1, rows):
            z = low + (h - e - low) * i / rows
            parts.append(box((e, t * 0.2, z - 0.015), (w - e, t * 0.8, z + 0.015), "door", material))
        if rows > 2:
            parts.append(box((w / 2 - 0.015, t * 0.2, low), (w / 2 + 0.015, t * 0.8, h - e), "door", material))
    else:
        parts.append(box((0, 0, 0), (w, t, h), "door", material, upright=True))
        if kind == "panelled":
            columns = 2 if rng.random() < 0.6 else 1
            rows = int(rng.integers(2, 4))
            cuts = np.cumsum([0, *rng.permutation([1.0, 1.6, 0.6][:rows])])
            cuts = cuts / cuts[-1]
            e = 0.1
            for i in range(columns):
                for j in range(rows):
                    x0, x1 = e + (w - e) * i / columns, (w - e) * (i + 1) / columns + (e - e * (i + 1) / columns) - 0.0
                    x0, x1 = (
                        w * i / columns + (e if i == 0 else e / 2),
                        w * (i + 1) / columns - (e if i == columns - 1 else e / 2),
                    )
                    z0, z1 = 0.2 + (h - 0.3) * cuts[j] + 0.04, 0.2 + (h - 0.3) * cuts[j + 1] - 0.04
                    for y in (0.0, t):
                        parts += _moulding(x0, x1, z0, z1, y, material)
    x, z = w - 0.07, 1.0
    metal = palette.handle
    for y, sign in ((0.0, -1), (t, 1)):
        parts.append(
            box(
                (x - 0.02, min(y, y + sign * 0.006), z - 0.1),
                (x + 0.02, max(y, y + sign * 0.006), z + 0.05),
                "door",
                metal,
            )
        )
        if rng.random() < 0.6:
            path = np.array(
                [[x, y, z], [x, y + sign * 0.05, z], [x - 0.02, y + sign * 0.055, z], [x - 0.12, y + sign * 0.055, z]]
            )
            parts.append(tube(path, 0.009, "door", metal, 6))
        else:
            knob = lathe([(0.01, 0), (0.01, 0.02), (0.028, 0.04), (0.02, 0.06), (0, 0.065)], "door", metal, sides=10)
            parts += shifted(tilted([knob], "x", math.pi / 2 if sign < 0 else -math.pi / 2), x, y, z)
    return parts


def _moulding(x0: float, x1: float, z0: float, z1: float, y: float, material: Material) -> list[Part]:
    """A frame of thin ledges, proud of both sides of a door."""
    e, a, b = 0.016, y - 0.006, y + 0.006
    low = [(x0, a, z0), (x0, a, z1 - e), (x0, a, z0), (x1 - e, a, z0)]
    high = [(x1, b, z0 + e), (x1, b, z1), (x0 + e, b, z1), (x1, b, z1)]
    return [boxes(np.array(low), np.array(high), "door", material)]


def casing(o: Opening, material: Material, label: str, width: float, thick: float = 0.018) -> list[Part]:
    """Trim around a hole, on the wall; and a lining inside it."""
    low = [(o.u0 - width, -thick, o.z0), (o.u1, -thick, o.z0), (o.u0 - width, -thick, o.z1)]
    high = [(o.u0, 0.0, o.z1), (o.u1 + width, 0.0, o.z1), (o.u1 + width, 0.0, o.z1 + width)]
    t = 0.012
    low += [(o.u0, 0.0, o.z0), (o.u1 - t, 0.0, o.z0), (o.u0, 0.0, o.z1 - t)]
    high += [(o.u0 + t, o.depth, o.z1), (o.u1, o.depth, o.z1), (o.u1, o.depth, o.z1)]
    return [boxes(np.array(low), np.array(high), label, material)]


def door(rng: Rng, palette: Palette, o: Opening, wall: Material, angle: float, glow: Color = (0, 0, 0)) -> list[Part]:
    """A door in its opening; `angle` > 0 opens it into the room, < 0 outwards, radians.

    Flush doors may have the wall's paint and hardly a frame.
    """
    w, h = o.size
    draw = rng.random()
    if draw < 0.45:
        material = palette.white
    elif draw < 0.85:
        material = palette.wood()
    else:
        material = wall if wall.finish.texture is None else palette.board()
    kind = palette.pick(["flush", "panelled", "glazed"], [4, 4, 1])
    trim = palette.trim_or_wood() if rng.random() < 0.75 else material
    parts = casing(o, trim, "door", rng.uniform(0.05, 0.09) if rng.random() < 0.85 else 0.02)
    double = w > 1.2
    width = w / (2 if double else 1) - 0.015
    leaf = _leaf(rng, palette, width, h - 0.02, material, kind, glow)
    hinge_left = rng.random() < 0.5
    y = 0.0 if angle >= 0 else max(0.0, o.depth - 0.045)
    leaves = [(o.u0 + 0.008, False)] if not double and hinge_left else [(o.u1 - 0.008, True)]
    if double:
        leaves = [(o.u0 + 0.008, False), (o.u1 - 0.008, True)]
    for u, mirrored in leaves:
        own = leaf
        if mirrored:
            flip = np.array([-1, 1, 1], np.float32)
            own = [replace(p, vertices=p.vertices * flip, faces=p.faces[:, ::-1]) for p in leaf]
        turn = -angle if not mirrored else angle
        parts += shifted(own, u, y + 0.004, 0.005, turn)
    return parts


def closet_doors(rng: Rng, palette: Palette, o: Opening) -> list[Part]:
    """Sliding or folding doors of a built-in closet (class door): panels, louvres or mirrors, in an opening."""
    w, h = o.size
    n = 2 if w < 1.5 else int(rng.integers(2, 5))
    material = palette.white if rng.random() < 0.6 else palette.wood()
    parts = casing(o, palette.trim_or_wood(), "door", 0.06)
    style = palette.pick(["flat", "louvre", "mirror", "panel"], [4, 2, 1.5, 3])
    step = w / n
    for i in range(n):
        x0, x1 = o.u0 + i * step + 0.003, o.u0 + (i + 1) * step - 0.003
        y = 0.02 + 0.03 * (i % 2) * (style != "louvre")
        parts.append(box((x0, y, 0.01), (x1, y + 0.03, h - 0.01), "door", material, upright=True))
        if style == "louvre":
            z = np.arange(0.15, h - 0.15, 0.035)
            low = np.column_stack([np.full(len(z), x0 + 0.06), np.full(len(z), y - 0.008), z])
            parts.append(boxes(low, low + np.array([step - 0.13, 0.01, 0.02]), "door", material))
        elif style == "mirror":
            parts.append(
                quad(_front(x0 + 0.03, x1 - 0.03, 0.06, h - 0.06, y - 0.002), "mirror", Material(finish=MIRROR))
            )
        elif style == "panel":
            for z0, z1 in ((0.15, h * 0.45), (h * 0.5, h - 0.15)):
                parts += _moulding(x0 + 0.08, x1 - 0.08, z0, z1, y, material)
        knob = cylinder((0, 0, 0), 0.018, 0.025, "door", palette.handle, 8)
        parts += shifted(tilted([knob], "x", math.pi / 2), x1 - 0.05 if i % 2 == 0 else x0 + 0.05, y, 1.0)
    return parts


def niche(rng: Rng, o: Opening, wall: Material, floor: Material, height: float) -> list[Part]:
    """The beginning of the next room behind an open door: floor, walls, ceiling."""
    side, depth = rng.uniform(0.2, 1.2), rng.uniform(1.3, 3.0)
    a, b, y0, y1 = o.u0 - side, o.u1 + rng.uniform(0.2, 1.2), o.depth, o.depth + depth
    back = quad(_front(a, b, 0, height, y1), "wall", wall)
    left = quad(np.array([[a, y0, 0], [a, y1, 0], [a, y1, height], [a, y0, height]]), "wall", wall)
    right = quad(np.array([[b, y1, 0], [b, y0, 0], [b, y0, height], [b, y1, height]]), "wall", wall)
    behind = [
        quad(np.array([[o.u0, y0, 0], [a, y0, 0], [a, y0, height], [o.u0, y0, height]]), "wall", wall),
        quad(np.array([[b, y0, 0], [o.u1, y0, 0], [o.u1, y0, height], [b, y0, height]]), "wall", wall),
        quad(np.array([[o.u1, y0, o.z1], [o.u0, y0, o.z1], [o.u0, y0, height], [o.u1, y0, height]]), "wall", wall),
    ]
    ground = quad(np.array([[a, y0, 0], [b, y0, 0], [b, y1, 0], [a, y1, 0]]), "floor", floor)
    sill = quad(np.array([[o.u0, 0, 0], [o.u1, 0, 0], [o.u1, y0, 0], [o.u0, y0, 0]]), "floor", floor)
    cover = quad(
        np.array([[a, y1, height], [b, y1, height], [b, y0, height], [a, y0, height]]),
        "ceiling",
        paint((0.75, 0.74, 0.72), MATT),
    )
    return [back, left, right, *behind, ground, sill, cover]


# ------------------------------------------------------------------------------------------------------------- windows


def window(rng: Rng, palette: Palette, o: Opening, outside: Material) -> list[Part]:
    """Frame, bars, sill and the view outside (class window); the pane shows a part of the picture `outside`."""
    w, h = o.size
    material = palette.white if rng.random() < 0.65 else palette.trim_or_wood()
    e, y0, y1 = rng.uniform(0.04, 0.075), max(0.0, o.depth - 0.09), o.depth - 0.03
    low = [(o.u0, y0, o.z0), (o.u1 - e, y0, o.z0), (o.u0, y0, o.z0), (o.u0, y0, o.z1 - e)]
    high = [(o.u0 + e, y1, o.z1), (o.u1, y1, o.z1), (o.u1, y1, o.z0 + e), (o.u1, y1, o.z1)]
    sashes = max(1, round(w / rng.uniform(0.6, 1.1)))
    for i in range(1, sashes):
        x = o.u0 + w * i / sashes
        low.append((x - e * 0.7, y0, o.z0))
        high.append((x + e * 0.7, y1, o.z1))
    style = palette.pick(["plain", "hung", "bars", "top"], [4, 2, 1.5, 1])
    if style == "hung" and h < 2:
        z = o.z0 + h * 0.5
        low.append((o.u0, y0, z - e / 2))
        high.append((o.u1, y1, z + e / 2))
    elif style == "top":
        z = o.z1 - h * 0.28
        low.append((o.u0, y0, z - e / 2))
        high.append((o.u1, y1, z + e / 2))
    elif style == "bars":
        for k in range(1, int(rng.integers(2, 5))):
            z = o.z0 + h * k / 4
            low.append((o.u0, y0 + 0.02, z - 0.012))
            high.append((o.u1, y1, z + 0.012))
        for i in range(sashes):
            x = o.u0 + w * (i + 0.5) / sashes
            low.append((x - 0.012, y0 + 0.02, o.z0))
            high.append((x + 0.012, y1, o.z1))
    parts = [boxes(np.array(low), np.array(high), "window", material)]
    # The picture is 6 m wide at 2 m beyond the pane; the pane itself shows what is seen from the middle of a room.
    metres = outside.metres
    span = (min(0.9, w / 2.6), min(0.9, h / 1.9))
    a, b = rng.uniform(0, 1 - span[0]), rng.uniform(0, 1 - span[1]) if h < 1.6 else (1 - span[1]) / 2
    uv = np.array([[a, b], [a + span[0], b], [a + span[0], b + span[1]], [a, b + span[1]]]) * np.array(metres)
    pane = _front(o.u0, o.u1, o.z0, o.z1, o.depth - 0.04)
    parts.append(part(pane, np.array([[0, 1, 2], [0, 2, 3]]), "window", outside, uv))
    if o.z0 > 0.25 and rng.random() < 0.8:
        reach = rng.uniform(0.02, 0.12)
        parts.append(box((o.u0 - 0.05, -reach, o.z0 - 0.03), (o.u1 + 0.05, o.depth - 0.05, o.z0), "window", material))
    if rng.random() < 0.45:
        trim = casing(o, material, "window", rng.uniform(0.05, 0.1))
        parts += trim
        if o.z0 > 0.05:
            parts.append(box((o.u0 - 0.08, -0.015, o.z0 - 0.1), (o.u1 + 0.08, 0, o.z0 - 0.03), "window", material))
    if rng.random() < 0.6:
        x = o.u0 + w / sashes - e * 0.5 if sashes > 1 else o.u1 - e * 0.5
        parts.append(
            bar(
                (x, y0 - 0.02, o.z0 + h * 0.4),
                (x, y0 - 0.02, o.z0 + h * 0.4 + 0.11),
                0.008,
                "window",
                palette.handle,
                6,
            )
        )
    return parts


def blinds(rng: Rng, palette: Palette, o: Opening, day: float) -> tuple[list[Part], float]:
    """Blinds in or before a window (class blinds); and the part of the window that they leave open.

    Args:
        day: Radiance of daylight outside; thin blinds glow with it.
    """
    w, h = o.size
    inside = rng.random() < 0.5 and o.depth > 0.12
    a, b, y = (o.u0 + 0.01, o.u1 - 0.01, 0.02) if inside else (o.u0 - 0.08, o.u1 + 0.08, -0.06)
    z1 = o.z1 - 0.005 if inside else o.z1 + 0.07
    down = float(rng.choice([1.0, 1.0, 0.9, 0.6, 0.4]))
    z0 = z1 - (z1 - o.z0 + (0.0 if inside else 0.03)) * down
    kind = palette.pick(["slats", "vertical", "roller", "pleats"], [6, 2 if h > 1.2 else 0.5, 2, 1])
    draw = rng.random()
    color = palette.white if draw < 0.6 else palette.wood() if draw < 0.75 else paint(palette.plain_cloth(), SATIN)
    head = [box((a, y - 0.03, z1 - 0.045), (b, y + 0.03, z1), "blinds", color)]
    label = "blinds"
    if kind == "slats":
        pitch = float(rng.choice([0.022, 0.03, 0.045]))
        z = np.arange(z0 + 0.02, z1 - 0.05, pitch * 0.88)
        tilt = rng.uniform(0.1, 1.3) * rng.choice([-1, 1])
        n = len(z)
        if n == 0:
            return head, 1.0
        dy, dz = math.cos(tilt) * pitch / 2, math.sin(tilt) * pitch / 2
        x0, x1 = np.full(n, a), np.full(n, b)
        points = np.stack(
            [
                np.column_stack([x0, np.full(n, y - dy), z - dz]), np.column_stack([x1, np.full(n, y - dy), z - dz]),
                np.column_stack([x1, np.full(n, y + dy), z + dz]), np.column_stack([x0, np.full(n, y + dy), z + dz]),
            ], 1,
        )  # fmt: skip
        faces = (np.array([[0, 1, 2], [0, 2, 3]])[None] + 4 * np.arange(n)[:, None, None]).reshape(-1, 3)
        uv = np.stack([points[..., 0], points[..., 2]], -1).reshape(-1, 2)
        head.append(part(points.reshape(-1, 3), faces, label, color, uv))
        head.append(box((a, y - 0.015, z0), (b, y + 0.015, z0 + 0.02), label, color))
        for x in np.linspace(a + 0.1, b - 0.1, max(2, round(w / 0.6))):
            head.append(bar((x, y - pitch / 2, z0), (x, y - pitch / 2, z1), 0.0015, label, color, 4))
        return head, 1 - down * min(1.0, 0.15 + 0.85 * abs(math.sin(tilt)))
    if kind == "vertical":
        width = rng.uniform(0.08, 0.12)
        z0 = o.z0 - 0.03
        x = np.arange(a + width / 2, b, width * 0.9)
        if rng.random() < 0.3:  # drawn aside
            x = a + width / 2 + (x - x[0]) * 0.35
        turn = turns(np.full(len(x), rng.uniform(0.1, 1.2)))
        low = np.column_stack([x - width / 2, np.full(len(x), y), np.full(len(x), z0)])
        high = np.column_stack([x + width / 2, np.full(len(x), y + 0.002), np.full(len(x), z1 - 0.04)])
        return [*head, slabs(low, high, turn, label, color)], 0.4
    shine = 0.12 * day * rng.uniform(0.3, 1.0)
    base = hsv(rng.uniform(0.05, 0.17), rng.uniform(0, 0.25), rng.uniform(0.7, 0.97))
    cloth = Material(
        base, Finish(roughness=0.9, specular=0.1, emission=(shine * base[0], shine * base[1], shine * base[2]))
    )
    if rng.random() < 0.3 or day <= 0:
        cloth = paint(palette.plain_cloth(), MATT)
    if kind == "roller":
        head.append(quad(_front(a, b, z0, z1 - 0.02, y), label, cloth))
        head.append(box((a, y - 0.012, z0 - 0.02), (b, y + 0.004, z0), label, color))
    else:
        n = max(3, int((z1 - z0) / 0.04)) * 2 + 1
        z = np.linspace(z0, z1 - 0.03, n)
        zig = y + 0.012 * (np.arange(n) % 2)
        points = np.stack([np.column_stack([np.full(n, x), zig, z]) for x in (a, b)], 1)
        head.append(surface(points, label, cloth))
    return head, 1 - down * 0.6


def curtains(rng: Rng, palette: Palette, o: Opening, length: float, height: float) -> list[Part]:
    """Curtains at both sides of a window, or drawn; they stay between u = 0 and `length`."""
    material = palette.curtain()
    a, b = max(0.03, o.u0 - rng.uniform(0.1, 0.35)), min(length - 0.03, o.u1 + rng.uniform(0.1, 0.35))
    z1 = min(height - 0.06, o.z1 + rng.uniform(0.06, 0.3))
    z0 = rng.uniform(0.02, 0.08) if rng.random() < 0.65 or o.z0 < 0.4 else max(0.05, o.z0 - rng.uniform(0.05, 0.25))
    off = rng.uniform(0.08, 0.12)
    parts = shifted(
        curtain_rod(b - a + 0.08, z1 + 0.015, "curtain", palette.handle if rng.random() < 0.6 else palette.wood()),
        (a + b) / 2,
        -off,
    )
    draw = rng.random()
    share = rng.uniform(0.12, 0.26) if draw < 0.75 else rng.uniform(0.3, 0.5)
    widths = [(b - a) * share, (b - a) * (share if rng.random() < 0.75 else rng.uniform(0.12, 0.4))]
    if draw > 0.9:
        widths[1] = (b - a) - widths[0]
    for side, w in zip((0, 1), widths, strict=True):
        if w < 0.12:
            continue
        x = a + w / 2 if side == 0 else b - w / 2
        sheet = curtain(rng, material, w, z0, z1, full=0.045)
        if rng.random() < 0.2 and share < 0.3:  # tied back
            sheet = [_tied(p, w, z0, z1, 1 if side == 0 else -1) for p in sheet]
        parts += shifted(sheet, x, -off)
    if rng.random() < 0.2:  # a pelmet
        parts.append(
            box((a - 0.06, -0.2, z1 - 0.02), (b + 0.06, 0, z1 + min(0.14, height - z1 - 0.01)), "curtain", material)
        )
    return parts


def _tied(p: Part, w: float, z0: float, z1: float, sign: int) -> Part:
    """A curtain gathered to its outer side at a third of its height."""
    v = p.vertices.astype(np.float64)
    t = (v[:, 2] - z0) / (z1 - z0)
    squeeze = 1 - 0.55 * np.exp(-(((t - 0.35) / 0.25) ** 2))
    outer = -sign * w / 2
    x = outer + (v[:, 0] - outer) * squeeze
    return replace(p, vertices=np.column_stack([x, v[:, 1], v[:, 2]]).astype(np.float32))


# ---------------------------------------------------------------------------------------------------- things on walls


def picture(rng: Rng, palette: Palette, w: float | None = None) -> tuple[list[Part], tuple[float, float]]:
    """A framed picture; its lower edge at z = 0, its middle at x = 0; and its width and height."""
    material = palette.painting()
    wide, high = material.metres
    scale = (w or wide * rng.uniform(0.7, 1.4)) / wide
    wide, high = wide * scale, high * scale
    e, t = rng.uniform(0.012, 0.06), rng.uniform(0.012, 0.035)
    frame = palette.frame()
    canvas = rng.random() < 0.2
    parts = [box((-wide / 2, -t * 0.7, 0), (wide / 2, 0, high), "picture", palette.white if canvas else frame)]
    parts.append(quad(_front(-wide / 2, wide / 2, 0, high, -t * 0.7 - 0.001), "picture", material, whole=True))
    if canvas:
        return parts, (wide, high)
    low = [(-wide / 2 - e, -t, -e), (-wide / 2 - e, -t, high), (-wide / 2 - e, -t, 0), (wide / 2, -t, 0)]
    up = [(wide / 2 + e, 0, 0), (wide / 2 + e, 0, high + e), (-wide / 2, 0, high), (wide / 2 + e, 0, high)]
    parts.append(boxes(np.array(low), np.array(up), "picture", frame))
    return shifted(parts, z=e), (wide + 2 * e, high + 2 * e)


def poster(rng: Rng, palette: Palette) -> tuple[list[Part], tuple[float, float]]:
    """A poster, map or calendar without a frame (class picture)."""
    material = palette.poster()
    w, h = (m * s for m, s in zip(material.metres, [rng.uniform(0.8, 1.4)] * 2, strict=True))
    return [quad(_front(-w / 2, w / 2, 0, h, -0.004), "picture", material, whole=True)], (w, h)


def papers(rng: Rng, palette: Palette) -> tuple[list[Part], tuple[float, float]]:
    """Sheets of paper taped to a wall or pinned on a board, in rough rows (class paper)."""
    columns, rows = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    w, h = columns * 0.25 + 0.03, rows * 0.33 + 0.03
    parts: list[Part] = []
    if rng.random() < 0.35:
        w, h = w + 0.06, h + 0.06
        cork = paint(hsv(0.08, rng.uniform(0.2, 0.5), rng.uniform(0.4, 0.75)), MATT)
        parts.append(box((-w / 2, -0.014, 0), (w / 2, 0, h), "otherprop", cork))
    for i in range(columns):
        for j in range(rows):
            if rng.random() < 0.2:
                continue
            x = (i - (columns - 1) / 2) * 0.25 + rng.normal(0, 0.012)
            z = h / 2 + (j - (rows - 1) / 2) * 0.33 + rng.normal(0, 0.02)
            s = 1.0 if rng.random() < 0.8 else 0.7
            pw, ph = (0.21 * s, 0.297 * s) if rng.random() < 0.75 else (0.23 * s, 0.16 * s)
            sheet = quad(_front(-pw / 2, pw / 2, -ph / 2, ph / 2), "paper", palette.paper(), whole=True)
            parts += shifted(tilted([sheet], "y", rng.normal(0, 0.03)), x, -0.017, z)
    return parts, (w, h)


def mirror(rng: Rng, palette: Palette, w: float, h: float) -> list[Part]:
    """A mirror with or without a frame; its lower edge at z = 0."""
    parts: list[Part] = []
    glass = Material(finish=MIRROR)
    e = float(rng.choice([0.0, 0.02, 0.05, 0.08]))
    if rng.random() < 0.2 and e > 0:  # oval
        a = np.linspace(0, 2 * math.pi, 33)[:-1]
        rim = np.column_stack([w / 2 * np.cos(a), np.full(32, -0.02), h / 2 + h / 2 * np.sin(a)])
        faces = np.array([[0, i, i + 1] for i in range(1, 31)])
        parts.append(part(rim, faces, "mirror", glass))
        ring = np.concatenate([rim, rim[:1]])
        parts.append(tube(ring, max(0.012, e / 2), "mirror", palette.frame(), 8))
        return parts
    parts.append(box((-w / 2, -0.018, 0), (w / 2, 0, h), "mirror", palette.frame()))
    parts.append(quad(_front(-w / 2 + e, w / 2 - e, e, h - e, -0.0195), "mirror", glass))
    return parts


def whiteboard(rng: Rng, palette: Palette, w: float, h: float) -> list[Part]:
    """A whiteboard with frame, tray, pens and what was written on it; its lower edge at z = 0."""
    drawn = textured(textures.whiteboard(rng), Finish(roughness=0.2, specular=0.5))
    metal = paint((0.5, 0.51, 0.52), Finish(roughness=0.35, metallic=1.0)) if rng.random() < 0.7 else palette.white
    parts = [box((-w / 2, -0.02, 0), (w / 2, 0, h), "whiteboard", metal)]
    parts.append(quad(_front(-w / 2 + 0.02, w / 2 - 0.02, 0.02, h - 0.02, -0.021), "whiteboard", drawn, whole=True))
    parts.append(box((-w * 0.4, -0.08, -0.005), (w * 0.4, 0, 0.01), "whiteboard", metal))
    for _ in range(int(rng.integers(0, 5))):
        x = rng.uniform(-0.35, 0.35) * w
        parts.append(bar((x, -0.05, 0.02), (x + 0.12, -0.05, 0.02), 0.009, "otherprop", palette.plastic(1.3), 6))
    return parts


def radiator(rng: Rng, palette: Palette, w: float, h: float) -> list[Part]:
    """A panel or column radiator (class otherfurniture), standing on z = 0, 12 cm deep."""
    label, white = "otherfurniture", palette.white
    z = 0.1
    if rng.random() < 0.5:
        parts = [rounded((0, -0.07, z), (w, 0.07, h), 0.012, label, white)]
        x = np.arange(-w / 2 + 0.03, w / 2 - 0.03, 0.04)
        low = np.column_stack([x, np.full(len(x), -0.112), np.full(len(x), z + 0.05)])
        parts.append(boxes(low, low + np.array([0.016, 0.01, h - 0.1]), label, white))
    else:
        parts = []
        for k in range(int((w - 0.05) / 0.06)):
            parts.append(rounded((-w / 2 + 0.03 + 0.06 * k, -0.08, z), (0.045, 0.1, h), 0.02, label, white))
    for end in (-w / 2 + 0.06, w / 2 - 0.06):
        parts.append(bar((end, -0.07, 0), (end, -0.07, z + 0.02), 0.012, label, white, 6))
    return parts


def vent(rng: Rng, palette: Palette, w: float, h: float) -> list[Part]:
    """A grille of ventilation or an air conditioner's mouth (class otherprop); its lower edge at z = 0."""
    parts = [box((-w / 2, -0.012, 0), (w / 2, 0, h), "otherprop", palette.white)]
    z = np.arange(0.02, h - 0.02, 0.022)
    low = np.column_stack([np.full(len(z), -w / 2 + 0.02), np.full(len(z), -0.016), z])
    dark = paint((0.12, 0.12, 0.12), MATT)
    if len(z):
        parts.append(boxes(low, low + np.array([w - 0.04, 0.006, 0.01]), "otherprop", dark))
    return parts


def switch(rng: Rng, palette: Palette) -> list[Part]:
    """A light switch or socket, 8 cm."""
    plate = box((-0.04, -0.008, -0.04), (0.04, 0, 0.04), "otherprop", palette.white)
    return [plate, box((-0.015, -0.012, -0.025), (0.015, -0.007, 0.025), "otherprop", palette.ceramic)]


def column(rng: Rng, palette: Palette, wall: Material, height: float) -> tuple[list[Part], float]:
    """A column or pier (class otherstructure) standing on the origin; and its side."""
    side = rng.uniform(0.2, 0.45)
    if rng.random() < 0.3:
        return [cylinder((0, 0, 0), side / 2, height, "otherstructure", palette.white, 20)], side
    material = wall if rng.random() < 0.5 else palette.stone() if rng.random() < 0.5 else palette.white
    return [
        box((-side / 2, -side / 2, 0), (side / 2, side / 2, height), "otherstructure", material, upright=True)
    ], side


def pipes(rng: Rng, palette: Palette, height: float) -> list[Part]:
    """Upright pipes before a wall (class otherstructure)."""
    material = palette.white if rng.random() < 0.6 else palette.handle
    parts = []
    x = 0.0
    for _ in range(int(rng.integers(1, 4))):
        r = rng.uniform(0.012, 0.055)
        parts.append(cylinder((x, -r - 0.02, 0), r, height, "otherstructure", material, 12))
        x += r * 2 + rng.uniform(0.03, 0.08)
    return parts


def ceiling_lamp(
    rng: Rng, palette: Palette, kind: str, lit: bool, glow: Color, drop: float = 0.6
) -> tuple[list[Part], float]:
    """A lamp hanging from z = 0 downwards, and how far it reaches down.

    `kind`: pendant, dome, panel, tube, spots. What is fixed flat to the ceiling has class otherstructure.
    """
    on: Color = glow if lit else (0.0, 0.0, 0.0)
    shine = Material((0.9, 0.89, 0.85), Finish(roughness=0.5, emission=on))
    if kind == "pendant":
        r = rng.uniform(0.12, 0.28)
        h = r * rng.uniform(0.6, 1.4)
        parts = [
            bar((0, 0, -drop + h), (0, 0, 0), 0.004, "lamp", palette.black, 4),
            cylinder((0, 0, -0.03), 0.05, 0.03, "lamp", palette.white, 10),
        ]
        draw = rng.random()
        if draw < 0.35:
            a = np.linspace(-math.pi / 2, math.pi / 2, 9)
            parts.append(lathe([(r * math.cos(t), -drop + r + r * math.sin(t)) for t in a], "lamp", shine, sides=18))
        else:
            out = Material(palette.plastic(0.8).color, Finish(roughness=0.6)) if draw < 0.7 else shine
            parts.append(lathe([(r, -drop), (r * rng.uniform(0.15, 0.8), -drop + h)], "lamp", out, sides=18))
            bulb = [(0, -drop + h * 0.2), (0.05, -drop + h * 0.4), (0.02, -drop + h * 0.7), (0, -drop + h * 0.72)]
            parts.append(lathe(bulb, "lamp", shine, sides=10))
        return parts, drop
    label = "otherstructure"
    if kind == "dome":
        r = rng.uniform(0.14, 0.24)
        parts = [
            lathe([(0, -0.1), (r * 0.6, -0.09), (r, -0.03), (r, 0)], label, shine, sides=20),
            cylinder((0, 0, -0.02), r * 1.05, 0.02, label, palette.handle, 20),
        ]
        return parts, 0.11
    if kind == "panel":
        w, d = (0.6, 0.6) if rng.random() < 0.5 else (1.2, 0.3)
        parts = [box((-w / 2, -d / 2, -0.012), (w / 2, d / 2, 0), label, palette.white)]
        down = np.array(
            [[-w / 2, d / 2, -0.013], [w / 2, d / 2, -0.013], [w / 2, -d / 2, -0.013], [-w / 2, -d / 2, -0.013]]
        ) * np.array([0.94, 0.9, 1.0])
        parts.append(quad(down, label, shine))
        return parts, 0.02
    if kind == "tube":
        parts = [box((-0.62, -0.06, -0.05), (0.62, 0.06, 0), label, palette.white)]
        for y in (-0.035, 0.035):
            parts.append(bar((-0.6, y, -0.07), (0.6, y, -0.07), 0.014, label, shine, 8))
        return parts, 0.09
    parts = [bar((-0.5, 0, -0.03), (0.5, 0, -0.03), 0.015, label, palette.handle, 6)]
    for x in (-0.4, 0.0, 0.4):
        head = [
            lathe([(0.05, -0.1), (0.03, 0)], label, palette.handle, sides=12),
            lathe([(0.0, -0.085), (0.045, -0.085)], label, shine, sides=12),
        ]
        parts += shifted(tilted(head, "x", rng.uniform(-0.6, 0.6)), x, 0, -0.03, rng.uniform(0, 6))
    return parts, 0.15


def fireplace(rng: Rng, palette: Palette) -> list[Part]:
    """A chimney breast with a hearth (class otherstructure), 1.3 m wide and 0.4 m deep, its back at y = 0."""
    stone = palette.stone() if rng.random() < 0.6 else palette.white
    w, d, h, label = rng.uniform(1.1, 1.5), 0.36, rng.uniform(1.0, 1.25), "otherstructure"
    a, top_ = w * 0.3, h * 0.68
    shelf = palette.wood() if rng.random() < 0.5 else stone
    parts = [
        boxes(
            np.array([(-w / 2, -d, 0), (a, -d, 0), (-w / 2, -d, top_)]),
            np.array([(-a, 0, top_), (w / 2, 0, top_), (w / 2, 0, h)]), label, stone,
        ),
        box((-a, -0.05, 0), (a, 0, top_), label, paint((0.02, 0.02, 0.02), MATT)),
        box((-w / 2 - 0.06, -d - 0.06, h), (w / 2 + 0.06, 0, h + 0.05), label, shelf),
        box((-w / 2 - 0.1, -d - 0.3, 0), (w / 2 + 0.1, 0, 0.04), label, stone),
    ]  # fmt: skip
    for _ in range(3):
        x = rng.uniform(-a * 0.6, a * 0.6)
        parts.append(
            bar((x - 0.15, -0.18, 0.1), (x + 0.15, -0.15, 0.14), 0.04, "otherprop", paint((0.1, 0.06, 0.03), MATT), 7)
        )
    return list(merge(parts))
