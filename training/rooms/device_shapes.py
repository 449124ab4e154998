"""Simple shapes with a plug: screens, computers, televisions, loudspeakers, printers, heaters, clocks, lamps.

Each function returns a `Piece` that stands on z = 0, or a list of parts.
"""

from __future__ import annotations

import math

import numpy as np

from training.rooms.palette import Palette
from training.rooms.scene import Finish, Part
from training.rooms.shapes import (
    GLOSS,
    MATT,
    SATIN,
    Color,
    Material,
    Piece,
    Rng,
    bar,
    block,
    box,
    boxes,
    cylinder,
    hsv,
    lathe,
    paint,
    quad,
    rounded,
    shifted,
    surface,
    tilted,
    times,
)
from training.rooms.small_shapes import PAPER


def monitor(rng: Rng, palette: Palette) -> Piece:
    """A computer monitor on its foot (class otherprop); its screen faces -y."""
    w = rng.uniform(0.42, 0.65)
    h, z = w * 0.58, rng.uniform(0.1, 0.18)
    case = palette.black if rng.random() < 0.8 else palette.white
    parts = [
        box((-w / 2, -0.02, z), (w / 2, 0.02, z + h), "otherprop", case),
        box((-0.03, 0.02, 0.01), (0.03, 0.05, z + h * 0.5), "otherprop", case),
        block((0, 0.02, 0), (w * 0.45, 0.2, 0.012), "otherprop", case),
    ]
    e = 0.012
    corners = [
        [-w / 2 + e, -0.021, z + e],
        [w / 2 - e, -0.021, z + e],
        [w / 2 - e, -0.021, z + h - e],
        [-w / 2 + e, -0.021, z + h - e],
    ]
    dark = paint((0.01, 0.01, 0.012), GLOSS)
    parts.append(quad(np.array(corners), "otherprop", palette.screen() if rng.random() < 0.6 else dark, whole=True))
    return Piece("monitor", parts, (w, 0.24, z + h))


def keyboard(rng: Rng, palette: Palette) -> Piece:
    """A keyboard with rows of keys, and a mouse beside it."""
    case = palette.black if rng.random() < 0.7 else palette.white
    keys = paint(times(case.color, 0.7) if case is palette.white else hsv(0.6, 0.05, 0.25))
    i, j = np.meshgrid(np.arange(14), np.arange(5))
    low = np.column_stack([-0.21 + 0.0285 * i.ravel(), -0.06 + 0.024 * j.ravel(), np.full(70, 0.015)])
    parts = [
        block((-0.01, 0, 0), (0.42, 0.14, 0.016), "otherprop", case),
        boxes(low, low + np.array([0.023, 0.019, 0.008]), "otherprop", keys),
        rounded((0.27, 0, 0), (0.06, 0.1, 0.03), 0.014, "otherprop", case),
    ]
    return Piece("keyboard", shifted(parts, x=-0.035), (0.53, 0.15, 0.03))


def laptop(rng: Rng, palette: Palette) -> Piece:
    """An open laptop facing -y."""
    w, d = rng.uniform(0.3, 0.38), rng.uniform(0.21, 0.26)
    case = palette.black if rng.random() < 0.5 else paint((0.45, 0.45, 0.46), Finish(roughness=0.3, metallic=1.0))
    lid = [box((-w / 2, -0.004, 0), (w / 2, 0.004, d), "otherprop", case)]
    corners = np.array(
        [
            [-w / 2 + 0.01, -0.005, 0.02],
            [w / 2 - 0.01, -0.005, 0.02],
            [w / 2 - 0.01, -0.005, d - 0.01],
            [-w / 2 + 0.01, -0.005, d - 0.01],
        ]
    )
    lid.append(quad(corners, "otherprop", palette.screen() if rng.random() < 0.75 else palette.black, whole=True))
    parts = [
        block((0, 0, 0), (w, d, 0.018), "otherprop", case),
        block((0, d * 0.15, 0.0175), (w * 0.85, d * 0.42, 0.002), "otherprop", paint((0.02, 0.02, 0.02))),
    ]
    parts += shifted(tilted(lid, "x", -rng.uniform(0.1, 0.45)), 0, d / 2 - 0.01, 0.012)
    return Piece("laptop", parts, (w, d + 0.1, d))


def television(rng: Rng, palette: Palette, w: float | None = None, wall: bool = False) -> Piece:
    """A flat television; on a foot, or for the wall (its back then at +y)."""
    w = w or rng.uniform(0.7, 1.5)
    h, t = w * 0.58, rng.uniform(0.03, 0.07)
    z = 0.0 if wall else rng.uniform(0.04, 0.08)
    case = paint(hsv(0.6, 0.05, rng.uniform(0.03, 0.14)), GLOSS)
    parts = [box((-w / 2, -t / 2, z), (w / 2, t / 2, z + h), "television", case)]
    e = rng.uniform(0.01, 0.035)
    y = -t / 2 - 0.001
    corners = np.array(
        [[-w / 2 + e, y, z + e], [w / 2 - e, y, z + e], [w / 2 - e, y, z + h - e], [-w / 2 + e, y, z + h - e]]
    )
    off = paint((0.008, 0.008, 0.01), Finish(roughness=0.08, specular=0.5))
    parts.append(quad(corners, "television", palette.screen() if rng.random() < 0.45 else off, whole=True))
    if not wall:
        parts.append(block((0, 0, 0), (w * 0.45, 0.2, 0.015), "television", case))
        parts.append(block((0, 0.01, 0.01), (w * 0.12, 0.04, z), "television", case))
    return Piece("television", parts, (w, t if wall else 0.22, z + h))


def tube_television(rng: Rng, palette: Palette) -> Piece:
    """An old television with a deep case."""
    w = rng.uniform(0.45, 0.75)
    h, d = w * 0.82, w * 0.75
    case = paint(hsv(0.6, 0.05, rng.uniform(0.06, 0.4)), SATIN)
    parts = [
        box((-w / 2, -d / 2, 0), (w / 2, -d / 2 + 0.16, h), "television", case),
        box((-w * 0.36, -d / 2 + 0.15, 0.02), (w * 0.36, d / 2, h * 0.8), "television", case),
    ]
    s = np.linspace(-1, 1, 7)
    x, z = np.meshgrid(s, s)
    y = -d / 2 - 0.002 - 0.018 * (1 - (x**2 + z**2) / 2)
    points = np.stack([x * w * 0.42, y, h * 0.53 + z * h * 0.38], -1)
    glass = paint((0.012, 0.013, 0.013), Finish(roughness=0.06, specular=0.5))
    screen = palette.screen() if rng.random() < 0.4 else glass
    uv = np.stack([(x + 1) / 2 * screen.metres[0], (z + 1) / 2 * screen.metres[1]], -1)
    parts.append(surface(points, "television", screen, uv))
    return Piece("television", parts, (w, d, h))


def device(rng: Rng, palette: Palette) -> Piece:
    """A radio, loudspeaker, console, toaster or router: a dark or light block with some detail on its front."""
    w, d, h = rng.uniform(0.12, 0.4), rng.uniform(0.1, 0.28), rng.uniform(0.06, 0.3)
    case = palette.black if rng.random() < 0.5 else palette.plastic(0.6)
    parts = [rounded((0, 0, 0), (w, d, h), 0.02, "otherprop", case)]
    for _ in range(int(rng.integers(1, 4))):
        r = rng.uniform(0.1, 0.35) * min(w, h)
        disc = cylinder((0, 0, 0), r, 0.01, "otherprop", palette.plastic(0.4), 12)
        x, z = rng.uniform(-1, 1) * (w / 2 - r), rng.uniform(r, max(r, h - r))
        parts += shifted(tilted([disc], "x", math.pi / 2), x, -d / 2 + 0.003, z)
    return Piece("device", parts, (w, d + 0.02, h))


def clock(rng: Rng, palette: Palette) -> list[Part]:
    """A round wall clock; its back is at y = 0, its centre at the origin."""
    r = rng.uniform(0.11, 0.2)
    rim = cylinder((0, 0, 0), r, 0.035, "otherprop", palette.frame(), 20)
    face = cylinder((0, 0, 0.034), r * 0.88, 0.003, "otherprop", palette.white, 20)
    parts = tilted([rim, face], "x", math.pi / 2)
    for length, angle in ((0.5, rng.uniform(0, 6.28)), (0.75, rng.uniform(0, 6.28))):
        end = (r * length * math.sin(angle), -0.04, r * length * math.cos(angle))
        parts.append(bar((0, -0.04, 0), end, 0.006, "otherprop", palette.black, 4))
    return parts


def shade(rng: Rng, palette: Palette, radius: float, height: float, lit: bool, glow: Color) -> Part:
    """A lampshade, open below and above; it glows when lit."""
    color = palette.plain_cloth() if rng.random() < 0.4 else hsv(0.11, rng.uniform(0, 0.3), 0.95)
    light: Color = (glow[0] * color[0], glow[1] * color[1], glow[2] * color[2]) if lit else (0.0, 0.0, 0.0)
    material = Material(color, Finish(roughness=0.9, specular=0.1, emission=light))
    return lathe([(radius, 0), (radius * rng.uniform(0.5, 1.0), height)], "lamp", material, sides=18)


def table_lamp(rng: Rng, palette: Palette, lit: bool, glow: Color) -> Piece:
    """A lamp with a shade on a foot of any form."""
    h, r = rng.uniform(0.32, 0.6), rng.uniform(0.11, 0.19)
    part_h = h * rng.uniform(0.35, 0.5)
    z = np.linspace(0, 1, 7)
    body = r * rng.uniform(0.2, 0.5) * (0.55 + 0.45 * np.cos(z * rng.uniform(2, 9) + rng.uniform(0, 3)))
    foot = palette.plastic(0.7) if rng.random() < 0.5 else palette.wood() if rng.random() < 0.4 else palette.handle
    profile = [
        (0.0, 0.0),
        (r * 0.5, 0.0),
        (r * 0.5, 0.015),
        *zip(body.tolist(), (0.015 + z * (h - part_h)).tolist(), strict=True),
    ]
    parts = [lathe(profile, "lamp", foot), *shifted([shade(rng, palette, r, part_h, lit, glow)], z=h - part_h)]
    return Piece("lamp.table", parts, (2 * r, 2 * r, h))


def floor_lamp(rng: Rng, palette: Palette, lit: bool, glow: Color) -> Piece:
    h, r = rng.uniform(1.35, 1.8), rng.uniform(0.15, 0.25)
    metal = palette.black if rng.random() < 0.5 else palette.handle
    parts = [cylinder((0, 0, 0), 0.14, 0.025, "lamp", metal, 16), bar((0, 0, 0), (0, 0, h - 0.1), 0.012, "lamp", metal)]
    if rng.random() < 0.25:  # an uplight
        glow_part = shade(rng, palette, r * 0.4, 0.12, lit, glow)
        parts += shifted(tilted([glow_part], "x", math.pi), z=h)
    else:
        parts += shifted([shade(rng, palette, r, 0.28, lit, glow)], z=h - 0.28)
    return Piece("lamp.floor", parts, (2 * r, 2 * r, h))


def desk_lamp(rng: Rng, palette: Palette, lit: bool, glow: Color) -> Piece:
    """A lamp with an arm and a cone; the cone points forward and down."""
    metal = palette.plastic(0.9)
    knee, head = (0.0, 0.1, rng.uniform(0.25, 0.38)), (0.0, -0.12, rng.uniform(0.36, 0.5))
    parts = [
        cylinder((0, 0.05, 0), 0.08, 0.02, "lamp", metal, 14),
        bar((0, 0.05, 0.02), knee, 0.008, "lamp", metal, 6),
        bar(knee, head, 0.008, "lamp", metal, 6),
    ]
    light: Color = glow if lit else (0.0, 0.0, 0.0)
    cone = [
        lathe([(0.075, -0.12), (0.03, 0.0), (0.0, 0.02)], "lamp", metal),
        lathe([(0.0, -0.08), (0.05, -0.08)], "lamp", Material((0.9, 0.9, 0.85), Finish(emission=light))),
    ]
    parts += shifted(tilted(cone, "x", rng.uniform(0.0, 0.5)), 0, head[1], head[2])
    return Piece("lamp.desk", parts, (0.17, 0.36, 0.5))


def loudspeaker(rng: Rng, palette: Palette) -> Piece:
    """A loudspeaker that stands on the floor."""
    w, d, h = rng.uniform(0.2, 0.32), rng.uniform(0.24, 0.36), rng.uniform(0.6, 1.15)
    case = palette.black if rng.random() < 0.6 else palette.wood()
    parts = [block((0, 0, 0), (w, d, h), "otherprop", case)]
    cone = paint((0.03, 0.03, 0.03), MATT)
    for z, r in ((h * 0.35, w * 0.36), (h * 0.68, w * 0.3), (h * 0.87, w * 0.14)):
        disc = lathe([(0, 0.0), (r * 0.3, 0.0), (r, 0.012), (r, 0.0)], "otherprop", cone, sides=16)
        parts += shifted(tilted([disc], "x", math.pi / 2), 0, -d / 2, z)
    return Piece("loudspeaker", parts, (w, d + 0.03, h))


def printer_stand(rng: Rng, palette: Palette) -> Piece:
    """A copier or large printer on the floor."""
    w, d, h = rng.uniform(0.5, 0.65), rng.uniform(0.5, 0.62), rng.uniform(0.7, 1.1)
    body, dark = palette.white, paint((0.1, 0.1, 0.11), SATIN)
    parts = [
        rounded((0, 0, 0.05), (w, d, h - 0.05), 0.03, "otherprop", body),
        block((0, -0.02, h - 0.001), (w * 0.9, d * 0.8, 0.09), "otherprop", dark if rng.random() < 0.5 else body),
        box((-w * 0.4, -d / 2 - 0.005, h * 0.62), (w * 0.4, -d / 2 + 0.02, h * 0.72), "otherprop", dark),
    ]
    for z in (0.12, 0.3):
        parts.append(box((-w * 0.44, -d / 2 - 0.012, h * z), (w * 0.44, -d / 2, h * (z + 0.15)), "otherprop", body))
    if rng.random() < 0.5:
        parts.append(block((0, 0, h + 0.09), (0.21, 0.297, 0.01), "paper", paint(PAPER, MATT)))
    return Piece("printer", parts, (w, d + 0.03, h + 0.1))


def stove_heater(rng: Rng, palette: Palette) -> Piece:
    """An electric heater, dehumidifier or air cleaner on the floor (class otherfurniture)."""
    w, d, h = rng.uniform(0.3, 0.75), rng.uniform(0.12, 0.28), rng.uniform(0.4, 0.7)
    body = palette.white if rng.random() < 0.7 else palette.black
    parts = [rounded((0, 0, 0.04), (w, d, h - 0.04), 0.04, "otherfurniture", body)]
    x = np.arange(-w / 2 + 0.05, w / 2 - 0.04, 0.035)
    low = np.column_stack([x, np.full(len(x), -d / 2 - 0.006), np.full(len(x), 0.12)])
    parts.append(boxes(low, low + np.array([0.014, 0.012, h - 0.24]), "otherfurniture", palette.black))
    for s in (-1, 1):
        parts.append(block((s * w * 0.35, 0, 0), (0.04, d + 0.06, 0.04), "otherfurniture", palette.black))
    return Piece("heater", parts, (w, d + 0.06, h))
