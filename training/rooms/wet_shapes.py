"""Simple shapes of kitchens and bathrooms: fridges, baths, toilets, basins, taps, towel shelves.

Pieces have their back at +y and their front at -y.
"""

from __future__ import annotations

import math

import numpy as np

from training.rooms.case_shapes import Fronts, case
from training.rooms.palette import Palette
from training.rooms.scene import Part
from training.rooms.shapes import (
    Material,
    Piece,
    Rng,
    bar,
    block,
    box,
    boxes,
    lathe,
    quad,
    rounded,
    shifted,
    surface,
    tilted,
    top,
    tube,
)
from training.rooms.soft_shapes import folded_towels


def fridge(rng: Rng, palette: Palette) -> Piece:
    """A refrigerator: white, steel or dark; one or two doors; often with notes on it."""
    w, d, h = rng.uniform(0.58, 0.92), rng.uniform(0.6, 0.75), rng.uniform(1.4, 1.9)
    draw = rng.random()
    material = palette.white if draw < 0.55 else palette.metal() if draw < 0.85 else palette.black
    label = "refrigerator"
    parts = [
        box((-w / 2, -d / 2 + 0.07, 0.03), (w / 2, d / 2, h), label, material),
        block((0, 0.04, 0), (w - 0.06, d - 0.1, 0.05), label, palette.black),
    ]
    kind = palette.pick(["top", "bottom", "single", "double"], [3, 2, 1, 1.5 if w > 0.8 else 0.0])
    split = {"top": h * 0.68, "bottom": h * 0.38, "single": h, "double": h}[kind]
    doors = [(-w / 2, w / 2, 0.05, split - 0.004)]
    if split < h:
        doors.append((-w / 2, w / 2, split + 0.004, h))
    if kind == "double":
        doors = [(-w / 2, -0.05 - 0.004, 0.05, h), (-0.05 + 0.004, w / 2, 0.05, h)]
    metal = palette.chrome if rng.random() < 0.6 else material
    for i, (x0, x1, z0, z1) in enumerate(doors):
        parts.append(box((x0, -d / 2, z0), (x1, -d / 2 + 0.065, z1), label, material, upright=True))
        x = x1 - 0.05 if i == 0 and kind == "double" else x0 + 0.05
        long = min(0.5, (z1 - z0) * 0.5)
        middle = (z0 + z1) / 2 if z1 - z0 > 0.8 else (z1 - long / 2 - 0.05 if z0 < 0.3 else z0 + long / 2 + 0.05)
        path = [
            [x, -d / 2, middle - long / 2],
            [x, -d / 2 - 0.04, middle - long / 2 + 0.02],
            [x, -d / 2 - 0.04, middle + long / 2 - 0.02],
            [x, -d / 2, middle + long / 2],
        ]
        parts.append(tube(np.array(path), 0.011, label, metal, 6))
    for _ in range(int(rng.choice([0, 0, 1, 3, 6]))):
        s = rng.uniform(0.05, 0.2)
        x, z = rng.uniform(-w / 2 + 0.12, w / 2 - 0.22), rng.uniform(0.8, h - 0.3)
        y = -d / 2 - 0.002
        corners = np.array([[x, y, z], [x + s * 0.75, y, z], [x + s * 0.75, y, z + s], [x, y, z + s]])
        paper = palette.paper() if rng.random() < 0.6 else palette.poster()
        parts.append(quad(corners, "paper", paper, whole=True))
    return Piece("fridge", parts, (w, d + 0.05, h), [top(-w / 2, -d / 2 + 0.1, w / 2, d / 2, h, kind="wardrobe")], 0.7)


def bathtub(rng: Rng, palette: Palette, length: float = 1.7) -> Piece:
    """A built-in bath with an apron; along x, its wall side at +y."""
    d, h = rng.uniform(0.68, 0.8), rng.uniform(0.45, 0.6)
    white, w = palette.ceramic, length
    a = np.linspace(0, 2 * math.pi, 33)
    power = 0.35
    ring = np.stack(
        [np.sign(np.cos(a)) * np.abs(np.cos(a)) ** power, np.sign(np.sin(a)) * np.abs(np.sin(a)) ** power], -1
    )
    square = np.stack([np.clip(ring[:, 0] * 1.6, -1, 1), np.clip(ring[:, 1] * 1.6, -1, 1)], -1)
    rim, rows = 0.07, []
    x, y = w / 2, d / 2
    levels = (
        (square, x, y, h),
        (ring, x - rim, y - rim, h),
        (ring, x - rim - 0.02, y - rim - 0.02, h - 0.03),
        (ring, x - 0.2, y - 0.15, 0.16),
        (ring, x - 0.35, y - 0.22, 0.12),
        (ring * 0, 1, 1, 0.12),
    )
    for shape, sx, sy, z in levels:
        rows.append(np.column_stack([shape * np.array([sx, sy]), np.full(33, z)]))
    apron = white if rng.random() < 0.7 else palette.stone()
    parts = [
        surface(np.array(rows), "bathtub", white),
        box((-w / 2, -d / 2, 0), (w / 2, -d / 2 + 0.02, h - 0.002), "bathtub", apron),
        box((-w / 2, -d / 2, 0), (-w / 2 + 0.02, d / 2, h - 0.002), "bathtub", apron),
        box((w / 2 - 0.02, -d / 2, 0), (w / 2, d / 2, h - 0.002), "bathtub", apron),
    ]
    parts += tap(palette, -w / 2 + 0.12, d / 2 - 0.035, h, "otherprop", 0.1)
    tops = [top(-w / 2 + 0.1, d / 2 - 0.07, w / 2 - 0.1, d / 2 - 0.01, h, kind="sink")]
    return Piece("bathtub", parts, (w, d, h), tops, 0.6)


def tap(palette: Palette, x: float, y: float, z: float, label: str, height: float) -> list[Part]:
    """A mixer tap that points to -y."""
    s = np.linspace(0, math.pi, 7)
    reach = 0.12
    bend = np.column_stack([np.zeros(7), -reach / 2 + reach / 2 * np.cos(s), height + 0.05 * np.sin(s)])
    path = np.concatenate([[[0, 0, 0]], bend]) + np.array([x, y, z])
    return [
        tube(path, 0.012, label, palette.chrome, 7),
        bar((x, y, z + 0.04), (x + 0.06, y, z + 0.07), 0.007, label, palette.chrome, 6),
    ]


def toilet(rng: Rng, palette: Palette) -> Piece:
    """A toilet with tank and lid; its tank is at the back."""
    white = palette.ceramic
    h = rng.uniform(0.38, 0.43)
    bowl = [
        (0, 0),
        (0.12, 0),
        (0.12, 0.1),
        (0.17, h * 0.7),
        (0.19, h - 0.03),
        (0.19, h),
        (0.14, h),
        (0.1, h * 0.55),
        (0, h * 0.45),
    ]
    parts = [lathe(bowl, "toilet", white, (0, -0.12, 0), 20, (1.0, 1.3))]
    ring = [(0.2, h), (0.2, h + 0.02), (0.12, h + 0.022), (0.12, h)]
    parts.append(lathe(ring, "toilet", white, (0, -0.12, 0), 20, (1.0, 1.25)))
    lid = lathe([(0, 0), (0.2, 0), (0.2, 0.02), (0, 0.022)], "toilet", white, (0, -0.24, 0), 20, (1.0, 1.25))
    if rng.random() < 0.5:
        parts += shifted([lid], 0, 0.12, h + 0.02)
    else:
        parts += shifted(tilted([lid], "x", -1.5), 0, 0.14, h + 0.03)
    if rng.random() < 0.75:
        parts.append(rounded((0, 0.24, h - 0.02), (rng.uniform(0.36, 0.44), 0.18, 0.36), 0.03, "toilet", white))
        parts.append(rounded((0, 0.24, h + 0.34), (0.44, 0.2, 0.03), 0.014, "toilet", white))
        parts.append(bar((0.0, 0.14, h + 0.3), (0.06, 0.135, h + 0.3), 0.008, "toilet", palette.chrome, 6))
    else:
        parts.append(box((-0.09, 0.12, 0.0), (0.09, 0.33, h), "toilet", white))
    return Piece("toilet", parts, (0.44, 0.7, 0.8), [], 0.6)


def basin(w: float, d: float, deep: float, material: Material, label: str = "sink") -> list[Part]:
    """A bowl let into a plate, its rim at z = 0 and 8 mm above; seen from above."""
    a = np.linspace(0, 2 * math.pi, 25)
    ring = np.stack([np.sign(np.cos(a)) * np.abs(np.cos(a)) ** 0.5, np.sign(np.sin(a)) * np.abs(np.sin(a)) ** 0.5], -1)
    rows = []
    for scale, z in (
        (1.0, 0.0),
        (1.0, 0.008),
        (0.92, 0.009),
        (0.86, -0.02),
        (0.72, -deep * 0.9),
        (0.5, -deep),
        (0.0, -deep),
    ):
        rows.append(np.column_stack([ring * scale * np.array([w / 2, d / 2]), np.full(25, z)]))
    return [surface(np.array(rows), label, material)]


def wash_basin(rng: Rng, palette: Palette) -> Piece:
    """A wash basin on a pedestal or a cabinet."""
    w, d, h = rng.uniform(0.45, 1.1), rng.uniform(0.42, 0.52), rng.uniform(0.8, 0.88)
    parts: list[Part] = []
    if w > 0.58:
        slab = palette.stone() if rng.random() < 0.5 else palette.ceramic
        material = palette.board()
        parts += case(w, d, 0.08, h - 0.22, "cabinet", material)
        for sign in (-1, 1):
            x = sign * (w / 2 - 0.01)
            parts.append(box((x - 0.01, -d / 2, h - 0.22), (x + 0.01, d / 2, h - 0.04), "cabinet", material))
        parts.append(box((-w / 2 + 0.03, -d / 2 + 0.04, 0), (w / 2 - 0.03, d / 2, 0.1), "cabinet", material))
        fronts = Fronts(rng, palette, "cabinet", material)
        n = max(1, round(w / 0.45))
        for i in range(n):
            fronts.add(
                parts,
                -w / 2 + w * i / n,
                -w / 2 + w * (i + 1) / n,
                0.1,
                h - 0.05,
                -d / 2,
                "left" if i % 2 == 0 else "right",
            )
        parts += plate_with_hole(
            w + 0.02,
            d + 0.02,
            h - 0.04,
            h,
            (0, -0.02, 0.42, 0.32),
            "counter" if slab is not palette.ceramic else "sink",
            slab,
        )
        parts += shifted(basin(0.46, 0.36, 0.14, palette.ceramic), 0, -0.02, h)
        tops = [
            top(-w / 2 + 0.01, -d / 2 + 0.02, -0.24, d / 2 - 0.02, h, kind="sink"),
            top(0.24, -d / 2 + 0.02, w / 2 - 0.01, d / 2 - 0.02, h, kind="sink"),
        ]
    else:
        body = [
            (0, h - 0.2),
            (0.1, h - 0.19),
            (w * 0.46, h - 0.04),
            (w / 2, h),
            (w / 2 - 0.03, h),
            (w * 0.34, h - 0.12),
            (0, h - 0.14),
        ]
        parts.append(lathe(body, "sink", palette.ceramic, (0, 0, 0), 22, (1.0, d / w)))
        parts.append(box((-w * 0.3, d / 2 - 0.12, h - 0.12), (w * 0.3, d / 2, h + 0.005), "sink", palette.ceramic))
        parts.append(lathe([(0.1, 0), (0.07, 0.2), (0.08, h - 0.15)], "sink", palette.ceramic, (0, d / 2 - 0.16, 0)))
        tops = [top(-w * 0.28, d / 2 - 0.1, w * 0.28, d / 2 - 0.01, h + 0.005, kind="sink")]
    parts += tap(palette, 0, d / 2 - 0.07, h, "sink", 0.12)
    return Piece("sink.bathroom", parts, (w + 0.02, d + 0.03, h), tops, 0.55)


def plate_with_hole(
    w: float,
    d: float,
    z0: float,
    z1: float,
    hole: tuple[float, float, float, float] | None,
    label: str,
    material: Material,
) -> list[Part]:
    """A horizontal plate with a rectangular hole (centre x, y, width, depth)."""
    if hole is None:
        return [box((-w / 2, -d / 2, z0), (w / 2, d / 2, z1), label, material)]
    x, y, hw, hd = hole
    low = [(-w / 2, -d / 2, z0), (x + hw / 2, -d / 2, z0), (x - hw / 2, -d / 2, z0), (x - hw / 2, y + hd / 2, z0)]
    high = [(x - hw / 2, d / 2, z1), (w / 2, d / 2, z1), (x + hw / 2, y - hd / 2, z1), (x + hw / 2, d / 2, z1)]
    return [boxes(np.array(low), np.array(high), label, material)]


def towel_shelf(rng: Rng, palette: Palette) -> Piece:
    """Folded towels in an open rack."""
    w, d, h = rng.uniform(0.4, 0.7), rng.uniform(0.26, 0.36), rng.uniform(0.8, 1.7)
    board = palette.board()
    parts = case(w, d, 0.0, h, "shelves", board, back=rng.random() < 0.5)
    z = 0.02
    while z < h - 0.25:
        for x in (-w / 4, w / 4):
            pile = folded_towels(rng, palette)
            if pile.size[0] < w / 2 - 0.03 and pile.size[1] < d and pile.size[2] < 0.27 and rng.random() < 0.75:
                parts += shifted(pile.parts, x, 0.0, z)
        z += 0.3
        if z < h - 0.1:
            parts.append(box((-w / 2, -d / 2, z - 0.02), (w / 2, d / 2, z), "shelves", board))
    return Piece("shelves", parts, (w, d, h), [top(-w / 2, -d / 2, w / 2, d / 2, h, kind="sink")], 0.3)
