"""Plants as simple shapes: tufts, palms, trees with a crown, broad leaves on stalks.

Each function returns a `Piece` that stands on z = 0, or a list of parts. Leaves are strips bent under their weight.
"""

from __future__ import annotations

import math

import numpy as np

from training.rooms.palette import Palette
from training.rooms.scene import Floats, Part
from training.rooms.shapes import (
    MATT,
    SATIN,
    Color,
    Piece,
    Rng,
    ball,
    cylinder,
    hsv,
    lathe,
    linear,
    paint,
    shifted,
    tint,
    tube,
)
from training.rooms.shapes import part as make_part

LABEL = "otherprop"
STEPS = np.linspace(0, 1, 5)
"""Where along a leaf its edges have points."""
TALL = 0.6
"""From this height on, in metres, plants stand on the floor and have forms of their own."""


def blades(rng: Rng, base: Floats, way: Floats, length: Floats, width: Floats, sag: Floats, green: Color) -> Part:
    """N leaves as strips, pointed at both ends.

    Args:
        base: [N, 3], where they begin, metres.
        way: [N, 3], where they grow to, of length 1.
        length, width: [N], metres.
        sag: [N], how far the tip hangs below a straight leaf's, in lengths.
        green: Their colour; each is a little lighter or darker.
    """
    n = len(base)
    side = np.cross(way, rng.normal(0, 0.35, (n, 3)) + np.array([0, 0, 1.0]))
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-9
    middle = base[:, None] + way[:, None] * (length[:, None] * STEPS)[..., None]
    middle[..., 2] -= (sag * length)[:, None] * STEPS**2
    half = 0.5 * width[:, None] * np.sin(np.clip(STEPS * 0.92 + 0.08, 0, 1) * math.pi) + 0.0005
    across = side[:, None] * half[..., None]
    vertices = np.stack([middle - across, middle + across], 1).reshape(-1, 3)  # [N · 2 · 5, 3]
    k = np.arange(4)
    faces = np.concatenate([np.stack([k, k + 5, k + 6], -1), np.stack([k, k + 6, k + 1], -1)])
    shade = np.clip(np.array(green) * rng.uniform(0.55, 1.45, (n, 1)), 0, 1).astype(np.float32)
    return make_part(
        vertices,
        (10 * np.arange(n)[:, None, None] + faces).reshape(-1, 3),
        LABEL,
        paint(green, MATT if rng.random() < 0.5 else SATIN),
        color=np.repeat(shade, 8, axis=0),
    )


def _ways(yaw: Floats, rise: Floats) -> Floats:
    """Directions [N, 3] by angles about z and above the floor, radians."""
    return np.stack([np.cos(rise) * np.cos(yaw), np.cos(rise) * np.sin(yaw), np.sin(rise)], -1)


def _green(rng: Rng) -> Color:
    return hsv(rng.uniform(0.2, 0.4), rng.uniform(0.3, 0.8), rng.uniform(0.12, 0.6))


def _bark(rng: Rng) -> Color:
    return hsv(rng.uniform(0.05, 0.11), rng.uniform(0.2, 0.6), rng.uniform(0.12, 0.4))


def leaves(rng: Rng, spread: float, height: float, flowers: bool = False) -> list[Part]:
    """A tuft of long bent leaves, from the origin upwards; flowers at the ends of some."""
    n = int(rng.integers(9, 22))
    yaw, rise = rng.uniform(0, 2 * math.pi, n), rng.uniform(0.6, 1.0, n) * height
    reach = rng.uniform(0.25, 1.0, n) * spread
    length = np.hypot(rise, reach)
    wide = spread * rng.uniform(0.16, 0.44, n) * (0.35 if flowers else 1.0)
    base, way = np.zeros((n, 3)), _ways(yaw, np.arctan2(rise, reach))
    sag = rng.uniform(0, 0.45, n)
    parts = [blades(rng, base, way, length, wide, sag, _green(rng))]
    if flowers:
        bloom = paint(tint(rng, 1.2, 0.5, 0.95), MATT)
        tips = way * length[:, None] - np.array([0, 0, 1.0]) * (sag * length + 0.01)[:, None]
        for tip in tips[rng.random(n) < 0.7]:
            parts.append(ball((tip[0], tip[1], tip[2]), spread * rng.uniform(0.09, 0.17), bloom, LABEL))
    return parts


def _tufts(rng: Rng, height: float, spread: float) -> list[Part]:
    """Bare stems with swords of leaves at their ends: yucca, dragon tree."""
    parts, bark, green = [], paint(_bark(rng), MATT), _green(rng)
    for _ in range(int(rng.integers(1, 5))):
        top = np.array([*rng.normal(0, 0.05, 2), height * rng.uniform(0.3, 0.75)])
        foot = np.array([*rng.normal(0, 0.04, 2), -0.03])
        parts.append(tube(np.array([foot, top]), rng.uniform(0.012, 0.035), LABEL, bark, 6))
        n = int(rng.integers(22, 50))
        yaw, rise = rng.uniform(0, 2 * math.pi, n), rng.uniform(-0.3, 1.45, n)
        length = np.minimum(height - top[2], 1.6 * spread) * rng.uniform(0.6, 1.0, n)
        wide = np.full(n, rng.uniform(0.02, 0.06))
        parts.append(blades(rng, np.tile(top, (n, 1)), _ways(yaw, rise), length, wide, rng.uniform(0, 0.6, n), green))
    return parts


def _palm(rng: Rng, height: float, spread: float) -> list[Part]:
    """Fronds that bend outwards, leaflets along both of their sides: areca, kentia."""
    parts, green = [], _green(rng)
    stalk = paint((green[0] * 1.2, green[1], green[2] * 0.6), MATT)
    t = np.linspace(0, 1, 7)
    for _ in range(int(rng.integers(6, 15))):
        yaw, reach = rng.uniform(0, 2 * math.pi), spread * rng.uniform(0.5, 1.3)
        tall = height * rng.uniform(0.6, 1.0)
        out, up = reach * t**1.8, tall * (1.35 * t - 0.35 * t**3)
        path = np.stack([out * math.cos(yaw), out * math.sin(yaw), up], -1)
        parts.append(tube(path, 0.006, LABEL, stalk, 4))
        n = int(rng.integers(9, 18))
        at = np.linspace(rng.uniform(0.3, 0.5), 0.98, n)
        base = np.stack([np.interp(at, t, path[:, k]) for k in range(3)], -1)
        along = np.stack([np.interp(at, t, np.gradient(path[:, k], t)) for k in range(3)], -1)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        flank = np.array([-math.sin(yaw), math.cos(yaw), 0.0])
        open_ = rng.uniform(0.6, 1.4)
        way = np.concatenate([along + open_ * flank, along - open_ * flank])
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        length = np.tile(height * rng.uniform(0.14, 0.26) * np.sin(math.pi * (0.2 + 0.75 * (at - at[0]))), 2)
        wide = np.full(2 * n, rng.uniform(0.012, 0.035))
        parts.append(
            blades(rng, np.tile(base, (2, 1)), way, length, wide, np.full(2 * n, rng.uniform(0.1, 0.7)), green)
        )
    return parts


def _tree(rng: Rng, height: float, spread: float) -> list[Part]:
    """A trunk and a crown of many small leaves: ficus."""
    crown = height * rng.uniform(0.4, 0.8)
    middle, radii = height - crown / 2, np.array([spread, spread, crown / 2])
    parts = [
        tube(
            np.array([[*rng.normal(0, 0.03, 2), -0.03], [*rng.normal(0, 0.02, 2), middle]]),
            rng.uniform(0.01, 0.03),
            LABEL,
            paint(_bark(rng), MATT),
            6,
        )
        for _ in range(int(rng.integers(1, 4)))
    ]
    n = int(rng.integers(180, 420))
    from_middle = rng.normal(0, 1, (n, 3))
    from_middle /= np.linalg.norm(from_middle, axis=1, keepdims=True)
    base = from_middle * radii * rng.uniform(0.35, 1.0, (n, 1)) ** 0.6 + np.array([0, 0, middle])
    way = from_middle + rng.normal(0, 0.6, (n, 3)) - np.array([0, 0, 0.3])
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    length = rng.uniform(0.06, 0.14) * rng.uniform(0.7, 1.3, n)
    parts.append(blades(rng, base, way, length, length * rng.uniform(0.3, 0.6), np.full(n, 0.2), _green(rng)))
    return parts


def _broad(rng: Rng, height: float, spread: float) -> list[Part]:
    """Broad leaves, each on a stalk: monstera, rubber plant."""
    n, green = int(rng.integers(8, 22)), _green(rng)
    yaw, tall = rng.uniform(0, 2 * math.pi, n), height * rng.uniform(0.35, 0.95, n)
    out = spread * rng.uniform(0.1, 0.8, n)
    base = np.stack([out * np.cos(yaw), out * np.sin(yaw), tall], -1)
    stalk = paint((green[0] * 1.1, green[1], green[2] * 0.7), MATT)
    parts = [tube(np.array([[0, 0, 0], (0.25, 0.25, 0.7) * end, end]), 0.007, LABEL, stalk, 4) for end in base]
    length = np.minimum(height * rng.uniform(0.15, 0.3), 0.4) * rng.uniform(0.7, 1.2, n)
    way = _ways(yaw + rng.normal(0, 0.4, n), rng.uniform(-0.3, 0.7, n))
    parts.append(blades(rng, base, way, length, length * rng.uniform(0.45, 0.9), np.full(n, 0.35), green))
    return parts


FORMS = (_tufts, _palm, _tree, _broad)


def plant(rng: Rng, palette: Palette, height: float | None = None) -> Piece:
    """A pot plant; those of `TALL` metres and more stand on the floor."""
    h = height or rng.uniform(0.2, 0.5)
    pot_h, pot_r = min(h * rng.uniform(0.25, 0.4), 0.5), min(h * rng.uniform(0.13, 0.22), 0.26)
    material = palette.plastic(0.8) if rng.random() < 0.6 else paint(linear((0.66, 0.36, 0.24)), MATT)
    soil = paint((0.03, 0.02, 0.015), MATT)
    profile = [(0, 0), (pot_r * 0.75, 0), (pot_r, pot_h), (pot_r * 0.93, pot_h), (pot_r * 0.9, pot_h - 0.02)]
    parts = [lathe(profile, LABEL, material), cylinder((0, 0, pot_h * 0.5), pot_r * 0.9, pot_h * 0.4, LABEL, soil, 12)]
    spread = min(h * rng.uniform(0.3, 0.55), 0.7)
    if h >= TALL:
        form = FORMS[int(rng.integers(len(FORMS)))]
        parts += shifted(form(rng, h - pot_h * 0.9, spread), z=pot_h * 0.9)
    else:
        for _ in range(int(rng.integers(1, 4))):
            parts += shifted(leaves(rng, spread * rng.uniform(0.7, 1), h - pot_h * 0.85), z=pot_h * 0.85)
    side = 2 * max(pot_r, spread * 0.7)
    return Piece("plant", parts, (side, side, h))
