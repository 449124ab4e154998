"""Simple shapes to sit at and on: desks, tables, chairs, stools, pianos.

Pieces have their back at +y and their front at -y.
"""

from __future__ import annotations

import math

import numpy as np

from training.rooms.case_shapes import Fronts, case, drawers, fill_board, legs
from training.rooms.palette import Palette
from training.rooms.scene import Part
from training.rooms.shapes import (
    GLOSS,
    SATIN,
    Material,
    Piece,
    Rng,
    Top,
    bar,
    block,
    box,
    boxes,
    cylinder,
    hsv,
    lathe,
    paint,
    rounded,
    shifted,
    surface,
    tilted,
    top,
    tube,
)


def desk(rng: Rng, palette: Palette, w: float | None = None) -> Piece:
    """A desk: a plate on legs, trestles, side boards or drawer units; one sits at its front."""
    w, d, h = w or rng.uniform(1.0, 1.8), rng.uniform(0.55, 0.85), rng.uniform(0.71, 0.77)
    plate = palette.board()
    t = rng.uniform(0.02, 0.04)
    parts = [box((-w / 2, -d / 2, h - t), (w / 2, d / 2, h), "desk", plate)]
    kind = palette.pick(["legs", "metal", "sides", "unit", "units"], [2, 3, 2, 3, 1])
    under = h - t
    if kind in ("legs", "metal"):
        material = plate if kind == "legs" else palette.black if rng.random() < 0.5 else palette.chrome
        parts += legs(w, d, under, "desk", material, rng.uniform(0.03, 0.06))
        if rng.random() < 0.6:
            parts.append(
                box(
                    (-w / 2 + 0.04, d / 2 - 0.06, under - rng.uniform(0.08, 0.35)),
                    (w / 2 - 0.04, d / 2 - 0.04, under),
                    "desk",
                    material,
                )
            )
    else:
        for sign in (-1, 1):
            with_drawers = kind == "units" or (kind == "unit" and sign == 1)
            if with_drawers:
                uw = min(rng.uniform(0.36, 0.46), w * 0.35)
                x = sign * (w / 2 - uw / 2)
                parts += shifted(case(uw, d - 0.04, 0.03, under, "desk", plate), x, 0)
                fronts = Fronts(rng, palette, "desk", plate)
                drawers(
                    fronts, parts, x - uw / 2, x + uw / 2, 0.04, under - 0.01, -d / 2 + 0.02, int(rng.integers(2, 5)), 1
                )
            else:
                x = sign * (w / 2 - 0.013)
                parts.append(
                    box((x - 0.013, -d / 2 + 0.02, 0), (x + 0.013, d / 2 - 0.02, under), "desk", plate, upright=True)
                )
        parts.append(box((-w / 2, d / 2 - 0.05, 0.25), (w / 2, d / 2 - 0.03, under), "desk", plate))
    tops = [top(-w / 2, -d / 2, w / 2, d / 2, h, kind="desk")]
    if rng.random() < 0.12:  # a hutch above the back
        hh, hd = rng.uniform(0.3, 0.7), 0.24
        hutch = case(w, hd, h, h + hh, "desk", plate)
        parts += shifted(hutch, 0, d / 2 - hd / 2)
        parts += shifted(
            fill_board(rng, palette, -w / 2 + 0.03, w / 2 - 0.03, -hd / 2, hd - 0.02, h + 0.02, hh - 0.05, 0.6),
            0,
            d / 2 - hd / 2,
        )
        tops = [top(-w / 2, -d / 2, w / 2, d / 2 - hd, h, kind="desk")]
        h += hh
    return Piece("desk", parts, (w, d, h), tops, 0.0)


def table(rng: Rng, palette: Palette, w: float, d: float, h: float, kind: str = "table") -> Piece:
    """A table with four legs, a trestle, a pedestal or a board below; now and then with a cloth."""
    plate = palette.wood() if rng.random() < 0.7 else palette.board()
    t = rng.uniform(0.02, 0.05)
    under = h - t
    parts: list[Part] = []
    round_top = rng.random() < 0.22 and abs(w - d) < 0.5
    leg = plate if rng.random() < 0.6 else palette.board() if rng.random() < 0.5 else palette.black
    if round_top:
        w = d = min(w, d) if w < 1.3 else 1.1
        rim = [(0, under), (w / 2 - 0.01, under), (w / 2, under + t / 2), (w / 2 - 0.005, h), (0, h)]
        parts.append(_round_plate(rim, plate))
        if rng.random() < 0.6:
            parts.append(lathe([(0, 0), (w * 0.24, 0), (w * 0.22, 0.03), (0.05, 0.06), (0.04, under)], "table", leg))
        else:
            parts += legs(w * 0.75, d * 0.75, under, "table", leg, 0.045, round_=True)
    else:
        glass = kind == "coffee" and rng.random() < 0.15
        parts.append(box((-w / 2, -d / 2, under), (w / 2, d / 2, h), "table", palette.glass if glass else plate))
        style = palette.pick(["legs", "round", "sides", "solid"], [6, 2, 1, 0.7 if kind == "coffee" else 0.0])
        if style == "sides":
            for x in (-w / 2 + 0.06, w / 2 - 0.06):
                parts.append(
                    box((x - 0.02, -d / 2 + 0.05, 0), (x + 0.02, d / 2 - 0.05, under), "table", leg, upright=True)
                )
        elif style == "solid":
            parts.append(box((-w / 2 + 0.03, -d / 2 + 0.03, 0), (w / 2 - 0.03, d / 2 - 0.03, under), "table", leg))
        else:
            side = rng.uniform(0.035, 0.08)
            parts += legs(w, d, under, "table", leg, side, rng.uniform(0.0, 0.06), style == "round")
            if rng.random() < 0.6:
                low, high = under - 0.08, under
                e = side * 0.6 + 0.02
                a = [
                    (-w / 2 + e, -d / 2 + e, low),
                    (-w / 2 + e, d / 2 - e - 0.02, low),
                    (-w / 2 + e, -d / 2 + e, low),
                    (w / 2 - e - 0.02, -d / 2 + e, low),
                ]
                b = [
                    (w / 2 - e, -d / 2 + e + 0.02, high),
                    (w / 2 - e, d / 2 - e, high),
                    (-w / 2 + e + 0.02, d / 2 - e, high),
                    (w / 2 - e, d / 2 - e, high),
                ]
                parts.append(boxes(np.array(a), np.array(b), "table", leg))
    tops = [top(-w / 2, -d / 2, w / 2, d / 2, h, kind=kind)]
    if round_top:
        _cut_round(tops[0])
    if kind == "coffee" and not round_top and rng.random() < 0.3:
        parts.append(box((-w / 2 + 0.05, -d / 2 + 0.05, 0.12), (w / 2 - 0.05, d / 2 - 0.05, 0.14), "table", plate))
        tops.append(top(-w / 2 + 0.1, -d / 2 + 0.1, w / 2 - 0.1, d / 2 - 0.1, 0.14, under - 0.16, "shelf"))
    if kind == "table" and not round_top and rng.random() < 0.18:
        parts += _table_cloth(rng, palette, w, d, h)
        tops[0].z += 0.004
    return Piece(f"table.{kind}", parts, (w, d, h), tops, 0.0)


def _round_plate(rim: list[tuple[float, float]], plate: Material) -> Part:
    t = np.linspace(0, 2 * math.pi, 25)
    ring = np.stack([np.cos(t), np.sin(t)], -1)
    points = np.array([[(r * x, r * y, z) for x, y in ring] for r, z in rim])
    return surface(points, "table", plate, points[..., :2] + 0.5)


def _cut_round(surface_: Top) -> None:
    """Only what lies inside the circle is free."""
    rows, columns = surface_.free.shape
    y, x = np.mgrid[:rows, :columns]
    surface_.free &= np.hypot(x - (columns - 1) / 2, y - (rows - 1) / 2) < min(rows, columns) / 2 - 0.5


def _table_cloth(rng: Rng, palette: Palette, w: float, d: float, h: float) -> list[Part]:
    """A cloth over a rectangular table that hangs a hand's breadth down."""
    drop, n = rng.uniform(0.12, 0.3), 33
    s = np.linspace(-w / 2 - drop, w / 2 + drop, n)
    t = np.linspace(-d / 2 - drop, d / 2 + drop, n)
    u, v = np.meshgrid(s, t)
    ox, oy = np.maximum(np.abs(u) - w / 2, 0), np.maximum(np.abs(v) - d / 2, 0)
    out = np.maximum(ox, oy)
    flare = 0.012 + 0.05 * out + 0.012 * np.sin((u + v) * 28) * (out > 0.02)
    x = np.clip(u, -w / 2, w / 2) + np.sign(u) * np.where(ox > 0, flare, 0)
    y = np.clip(v, -d / 2, d / 2) + np.sign(v) * np.where(oy > 0, flare, 0)
    return [surface(np.stack([x, y, h + 0.003 - out], -1), "table", palette.cover(), np.stack([u, v], -1))]


def chair(rng: Rng, palette: Palette) -> Piece:
    """A plain chair of wood, plastic or metal, with slats, a board or upholstery; it faces -y."""
    w, d, z, h = rng.uniform(0.4, 0.48), rng.uniform(0.4, 0.5), rng.uniform(0.43, 0.48), rng.uniform(0.78, 1.02)
    frame = palette.wood() if rng.random() < 0.6 else palette.black if rng.random() < 0.5 else palette.board()
    seat = frame if rng.random() < 0.5 else palette.fabric() if rng.random() < 0.7 else palette.plastic(0.9)
    parts = [rounded((0, 0, z - 0.04), (w, d, 0.04 + 0.01), 0.02, "chair", seat, 0.008)]
    metal = rng.random() < 0.3
    for sx in (-1, 1):
        for sy, height in ((-1, z - 0.03), (1, h)):
            x, y = sx * (w / 2 - 0.025), sy * (d / 2 - 0.025)
            lean = 0.06 if sy > 0 else 0.0
            if metal:
                path = np.array([[x * 1.04, y * 1.04, 0], [x, y, z - 0.03], [x, y + lean, height]])
                parts.append(tube(path, 0.013, "chair", palette.chrome if seat is not frame else frame, 6))
            else:
                path = np.array([[x, y, 0], [x, y, z * 0.7], [x, y, z], [x, y + lean, height]])
                parts.append(tube(path, 0.019, "chair", frame, 5))
    style = palette.pick(["slats", "board", "padded", "upright"], [3, 2, 3, 2])
    y = d / 2 + 0.01
    if style == "slats":
        for k in range(3):
            zz = z + (h - z) * (0.35 + 0.24 * k)
            parts.append(box((-w / 2 + 0.02, y - 0.01, zz), (w / 2 - 0.02, y + 0.012, zz + 0.05), "chair", frame))
    elif style == "upright":
        parts.append(box((-w / 2 + 0.02, y + 0.0, h - 0.07), (w / 2 - 0.02, y + 0.025, h), "chair", frame))
        for x in np.linspace(-w / 2 + 0.08, w / 2 - 0.08, 4):
            parts.append(bar((x, y - 0.015, z), (x, y + 0.01, h - 0.05), 0.009, "chair", frame, 5))
    else:
        low = z + (0.02 if style == "padded" and rng.random() < 0.5 else 0.16)
        material = seat if style == "padded" else frame
        rest = rounded(
            (0, 0, 0), (w - 0.02, h - low, 0.04 if style == "padded" else 0.018), 0.02, "chair", material, 0.006
        )
        parts += shifted(tilted([rest], "x", math.pi / 2 - 0.1), 0, y + 0.015, (h + low) / 2)
    return Piece(
        "chair",
        parts,
        (w, d + 0.1, h),
        [top(-w / 2 + 0.03, -d / 2 + 0.03, w / 2 - 0.03, d / 2 - 0.05, z + 0.012, 0.4, "seat")],
        0.0,
    )


def office_chair(rng: Rng, palette: Palette) -> Piece:
    """A swivel chair on castors; it faces -y."""
    cloth = (
        palette.fabric()
        if rng.random() < 0.5
        else paint(hsv(rng.random(), 0.3 * rng.random(), rng.uniform(0.05, 0.35)), SATIN)
    )
    z, h = rng.uniform(0.44, 0.52), rng.uniform(0.85, 1.2)
    parts = [cylinder((0, 0, 0.1), 0.025, z - 0.12, "chair", palette.chrome, 10)]
    start = rng.uniform(0, 1)
    for i in range(5):
        a = start + i * 2 * math.pi / 5
        x, y = 0.29 * math.cos(a), 0.29 * math.sin(a)
        parts.append(bar((0, 0, 0.12), (x, y, 0.075), 0.02, "chair", palette.black, 6))
        parts.append(cylinder((x, y, 0), 0.026, 0.06, "chair", palette.black, 8))
    parts.append(rounded((0, 0, z - 0.08), (0.48, 0.47, 0.09), 0.04, "chair", cloth, 0.015))
    rest = rounded((0, 0, 0), (0.45, h - z - 0.12, 0.07), 0.035, "chair", cloth, 0.02)
    parts += shifted(tilted([rest], "x", math.pi / 2 - 0.12), 0, 0.26, (h + z + 0.12) / 2)
    parts.append(bar((0, 0.2, z - 0.06), (0, 0.29, z + 0.25), 0.02, "chair", palette.black, 6))
    if rng.random() < 0.6:
        for s in (-1, 1):
            path = np.array(
                [[s * 0.2, 0, z - 0.04], [s * 0.28, 0, z - 0.02], [s * 0.28, 0, z + 0.18], [s * 0.28, -0.12, z + 0.2]]
            )
            parts.append(tube(path, 0.016, "chair", palette.black, 6))
            parts.append(rounded((s * 0.28, -0.02, z + 0.19), (0.06, 0.26, 0.03), 0.014, "chair", palette.black))
    return Piece("chair.office", parts, (0.62, 0.66, h), [], 0.0)


def stool(rng: Rng, palette: Palette, h: float | None = None) -> Piece:
    h = h or float(rng.choice([0.45, 0.65, 0.75]))
    r = rng.uniform(0.15, 0.19)
    frame = palette.wood() if rng.random() < 0.5 else palette.chrome
    parts = [cylinder((0, 0, h - 0.04), r, 0.04, "chair", palette.fabric() if rng.random() < 0.5 else frame, 16)]
    for i in range(4):
        a = math.pi / 4 + i * math.pi / 2
        parts.append(
            bar(
                (r * 1.05 * math.cos(a), r * 1.05 * math.sin(a), 0),
                (r * 0.7 * math.cos(a), r * 0.7 * math.sin(a), h - 0.03),
                0.014,
                "chair",
                frame,
                6,
            )
        )
    t = np.linspace(0, 2 * math.pi, 17)
    ring = np.column_stack([r * 0.95 * np.cos(t), r * 0.95 * np.sin(t), np.full(17, h * 0.3)])
    parts.append(tube(ring, 0.008, "chair", frame, 5))
    return Piece("chair.bar", parts, (2.1 * r, 2.1 * r, h), [], 0.0)


def piano(rng: Rng, palette: Palette) -> Piece:
    """An upright piano (class otherfurniture)."""
    w, d, h = 1.48, 0.6, rng.uniform(1.1, 1.3)
    body = palette.black if rng.random() < 0.5 else palette.wood()
    label = "otherfurniture"
    parts = [
        box((-w / 2, d / 2 - 0.32, 0), (w / 2, d / 2, h), label, body),
        box((-w / 2 - 0.01, d / 2 - 0.34, h), (w / 2 + 0.01, d / 2, h + 0.03), label, body),
        box((-w / 2, -d / 2, 0.62), (w / 2, d / 2 - 0.3, 0.7), label, body),
        box(
            (-w / 2 + 0.08, -d / 2 + 0.01, 0.7),
            (w / 2 - 0.08, -d / 2 + 0.16, 0.715),
            label,
            paint((0.85, 0.84, 0.78), GLOSS),
        ),
    ]
    x = np.linspace(-w / 2 + 0.1, w / 2 - 0.12, 36)
    low = np.column_stack([x, np.full(36, -d / 2 + 0.07), np.full(36, 0.71)])
    parts.append(boxes(low, low + np.array([0.012, 0.09, 0.016]), label, paint((0.01, 0.01, 0.01), GLOSS)))
    for s in (-1, 1):
        parts.append(block((s * (w / 2 - 0.04), -d / 2 + 0.05, 0), (0.07, 0.07, 0.63), label, body, upright=True))
    tops = [top(-w / 2, d / 2 - 0.32, w / 2, d / 2, h + 0.03, kind="dresser")]
    return Piece("piano", parts, (w + 0.02, d, h + 0.03), tops, 0.6)
