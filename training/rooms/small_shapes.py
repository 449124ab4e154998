"""Small simple shapes: books, paper, boxes, crockery, bottles, vases, screens, lamps, toys, bins.

Each function returns a `Piece` that stands on z = 0, or a list of parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from training.rooms.palette import Palette
from training.rooms.plant_shapes import leaves
from training.rooms.scene import Part
from training.rooms.shapes import (
    GLOSS,
    MATT,
    SATIN,
    Color,
    Piece,
    Rng,
    ball,
    bar,
    block,
    box,
    boxes,
    cylinder,
    hsv,
    lathe,
    noise,
    paint,
    quad,
    rounded,
    shifted,
    slabs,
    surface,
    tilted,
    tint,
    tints,
    tube,
    turns,
)
from training.rooms.soft_shapes import clothes_heap

PAPER: Color = (0.82, 0.81, 0.77)

# -------------------------------------------------------------------------------------------------------------- books


def book_row(
    rng: Rng, palette: Palette, x0: float, x1: float, front: float, depth: float, z: float, clear: float
) -> list[Part]:
    """Books standing side by side from x0 to x1, their backs at y = front (towards -y), on height z.

    Sizes and colours come in runs; some rows end in leaning books or have gaps. With `depth` and the free height
    `clear` given, nothing sticks out.
    """
    lows, highs, colors, tilt = [], [], [], []
    labels_low, labels_high, inks = [], [], []
    x, lean_next = x0, False
    tall = min(clear - 0.02, rng.uniform(0.2, 0.3))
    deep = min(depth - 0.01, tall * rng.uniform(0.62, 0.8))
    color, height, width, run = tint(rng, 0.9, 0.1, 0.9), tall, 0.03, 0
    while True:
        if run <= 0:
            run = int(rng.choice([1, 1, 1, 2, 3, 6, 10]))
            draw = rng.random()
            color = tint(rng, 1.0, 0.08, 0.9) if draw < 0.7 else hsv(0.1, 0.2 * rng.random(), rng.uniform(0.5, 0.95))
            height = min(tall * rng.uniform(0.62, 1.12), clear - 0.02)
            width = rng.uniform(0.012, 0.05)
            if rng.random() < 0.06:  # a gap; what stands before it may lean into it
                lean_next = True
        run -= 1
        w = width * rng.uniform(0.9, 1.1)
        if x + w > x1:
            break
        y1 = front + max(0.0, rng.normal(0.008, 0.01))
        angle = 0.0
        if lean_next:
            angle = rng.uniform(0.12, 0.3)
            reach = height * math.sin(angle) + w
            if x + reach > x1:
                break
            x += reach - w
            angle, lean_next = -angle, False
        lows.append((x, y1, z))
        highs.append((x + w - 0.001, min(y1 + deep * rng.uniform(0.85, 1.0), front + depth), z + height))
        colors.append(color)
        tilt.append(angle)
        if w > 0.014 and rng.random() < 0.7:
            a = rng.uniform(0.15, 0.5)
            labels_low.append((x + w * 0.2, y1 - 0.0015, z + height * a))
            labels_high.append((x + w * 0.8, y1 + 0.001, z + height * rng.uniform(a + 0.12, 0.92)))
            light = sum(color) > 0.9
            inks.append(hsv(0.1, rng.uniform(0, 0.5), rng.uniform(0.08, 0.3) if light else rng.uniform(0.7, 0.95)))
            if angle:
                for part_of in (labels_low, labels_high, inks):
                    part_of.pop()
        x += w
    if not lows:
        return []
    low, high = np.array(lows), np.array(highs)
    parts = [slabs(low, high, turns(np.array(tilt), 1), "books", paint((1, 1, 1), SATIN), np.array(colors))]
    if labels_low:
        parts.append(boxes(np.array(labels_low), np.array(labels_high), "books", paint((1, 1, 1)), np.array(inks)))
    return parts


def spine_block(
    palette: Palette, x0: float, x1: float, front: float, depth: float, z: float, height: float
) -> list[Part]:
    """A row of books as one block with painted spines; cheaper than `book_row`."""
    corners = np.array([[x0, front, z], [x1, front, z], [x1, front, z + height], [x0, front, z + height]])
    material = palette.spines()
    face = quad(corners, "books", replace(material, metres=(material.metres[0], height)))
    body = box((x0, front + 0.001, z), (x1, front + depth, z + height * 0.8), "books", paint(PAPER, MATT))
    return [face, body]


def book_stack(rng: Rng, palette: Palette) -> Piece:
    """Books lying one on the other."""
    count = int(rng.choice([1, 1, 2, 3, 4, 6]))
    w, d, z = rng.uniform(0.16, 0.3), rng.uniform(0.12, 0.22), 0.0
    parts, color = [], tints(rng, count)
    widest = 0.0
    for i in range(count):
        bw, bd, h = w * rng.uniform(0.75, 1.0), d * rng.uniform(0.75, 1.0), rng.uniform(0.012, 0.045)
        cover = paint((float(color[i, 0]), float(color[i, 1]), float(color[i, 2])))
        one = [
            block((0, 0, 0), (bw, bd, h), "books", cover),
            block((0.002, 0, 0.003), (bw, bd - 0.008, h - 0.006), "books", paint(PAPER, MATT)),
        ]
        parts += shifted(one, 0, 0, z, rng.normal(0, 0.12))
        z += h
        widest = max(widest, bw)
    return Piece("books", parts, (w + 0.04, d + 0.04, z))


def open_book(rng: Rng, palette: Palette) -> Piece:
    """An open book or magazine lying face up."""
    w, d = rng.uniform(0.28, 0.42), rng.uniform(0.2, 0.28)
    x = np.linspace(-w / 2, w / 2, 13)
    z = 0.012 + 0.018 * np.abs(np.sin(np.pi * np.minimum(np.abs(x) * 2 / w, 1) ** 0.6))
    points = np.stack(np.broadcast_arrays(x[None], np.array([[-d / 2], [d / 2]]), z[None]), -1)
    page = palette.paper()
    uv = np.stack(
        np.broadcast_arrays((x / w + 0.5)[None] * 2 * page.metres[0], np.array([[0.0], [page.metres[1]]])), -1
    )
    cover = block((0, 0, 0), (w + 0.01, d + 0.01, 0.01), "books", palette.plastic())
    return Piece("books", [surface(points, "books", page, uv), cover], (w + 0.01, d + 0.01, 0.04))


# --------------------------------------------------------------------------------------------------- paper and boxes


def sheet(rng: Rng, palette: Palette) -> Piece:
    """A sheet of paper lying flat, or a few askew."""
    parts = []
    for i in range(int(rng.choice([1, 1, 2, 3]))):
        w, d = (0.21, 0.297) if rng.random() < 0.8 else (0.15, 0.2)
        z = 0.002 + 0.0015 * i
        corners = np.array([[-w / 2, -d / 2, z], [w / 2, -d / 2, z], [w / 2, d / 2, z], [-w / 2, d / 2, z]])
        parts += shifted(
            [quad(corners, "paper", palette.paper(), whole=True)],
            rng.normal(0, 0.015),
            rng.normal(0, 0.02),
            0,
            rng.normal(0, 0.2),
        )
    return Piece("paper", parts, (0.26, 0.34, 0.01))


def paper_stack(rng: Rng, palette: Palette) -> Piece:
    """A ream, a pile or a newspaper."""
    h = rng.uniform(0.01, 0.09)
    parts, z = [], 0.0
    while z < h:
        step = rng.uniform(0.004, 0.025)
        pile = block(
            (0, 0, z),
            (0.21, 0.297, step),
            "paper",
            paint(hsv(0.12, 0.08 * rng.random(), rng.uniform(0.85, 0.96)), MATT),
        )
        parts += shifted([pile], rng.normal(0, 0.006), rng.normal(0, 0.006), 0, rng.normal(0, 0.04))
        z += step
    corners = np.array([[-0.105, -0.148, z], [0.105, -0.148, z], [0.105, 0.148, z], [-0.105, 0.148, z]])
    corners[:, 2] += 0.001
    parts.append(quad(corners, "paper", palette.paper(), whole=True))
    return Piece("paper", parts, (0.25, 0.33, z))


def carton(
    rng: Rng, palette: Palette, size: tuple[float, float, float] | None = None, opened: bool | None = None
) -> Piece:
    """A box of cardboard or a coloured storage box; open ones have flaps and an inside."""
    w, d, h = size or (rng.uniform(0.25, 0.6), rng.uniform(0.2, 0.45), rng.uniform(0.15, 0.45))
    draw = rng.random()
    material = palette.cardboard() if draw < 0.7 else palette.white if draw < 0.8 else palette.plastic(0.8)
    if opened is None:
        opened = rng.random() < 0.3
    if not opened:
        parts = [block((0, 0, 0), (w, d, h), "box", material)]
        if rng.random() < 0.3:  # a lid
            parts.append(block((0, 0, h * 0.75), (w + 0.012, d + 0.012, h * 0.25 + 0.005), "box", material))
        return Piece("box", parts, (w + 0.012, d + 0.012, h + 0.005))
    t = 0.006
    parts = [
        block((0, 0, 0), (w, d, t), "box", material),
        box((-w / 2, -d / 2, 0), (w / 2, -d / 2 + t, h), "box", material),
        box((-w / 2, d / 2 - t, 0), (w / 2, d / 2, h), "box", material),
        box((-w / 2, -d / 2, 0), (-w / 2 + t, d / 2, h), "box", material),
        box((w / 2 - t, -d / 2, 0), (w / 2, d / 2, h), "box", material),
    ]
    for sign in (-1, 1):
        flap = block((0, -d / 4, 0), (w, d / 2, t), "box", material)
        bent = tilted([flap], "x", rng.uniform(-0.4, 0.9))
        parts += shifted(bent, 0, -d / 2, h, 0.0) if sign < 0 else shifted(bent, 0, d / 2, h, math.pi)
        flap = block((0, -w / 6, 0), (d, w / 3, t), "box", material)
        bent = tilted([flap], "x", rng.uniform(-0.6, 1.2))
        parts += shifted(bent, sign * w / 2, 0, h, sign * math.pi / 2)
    if rng.random() < 0.6:  # something in it
        parts.append(block((0, 0, t), (w - 0.03, d - 0.03, h * rng.uniform(0.4, 0.85)), "otherprop", palette.plastic()))
    return Piece("box", parts, (w + 0.1, d + 0.1, h))


def small_box(rng: Rng, palette: Palette) -> Piece:
    """A shoe box, packet or tissue box."""
    size = (rng.uniform(0.1, 0.34), rng.uniform(0.08, 0.22), rng.uniform(0.05, 0.2))
    return carton(rng, palette, size, opened=False)


# ------------------------------------------------------------------------------------------- crockery, bottles, vases


def cup(rng: Rng, palette: Palette) -> Piece:
    r, h = rng.uniform(0.032, 0.048), rng.uniform(0.07, 0.12)
    material = palette.ceramic if rng.random() < 0.5 else palette.plastic()
    if rng.random() < 0.25:
        material = palette.glass
    foot = r * rng.uniform(0.6, 1.0)
    inner = [(r - 0.004, h), (foot - 0.004, 0.01), (0, 0.008)]
    parts = [lathe([(0, 0), (foot, 0), (r, h), *inner], "otherprop", material, sides=12)]
    if rng.random() < 0.6:
        s = np.linspace(-math.pi / 2, math.pi / 2, 6)
        loop = np.column_stack([r - 0.006 + 0.028 * np.cos(s), np.zeros(6), h * 0.5 + h * 0.3 * np.sin(s)])
        parts.append(tube(loop, 0.005, "otherprop", material, 5))
    return Piece("cup", parts, (2 * r + 0.04, 2 * r, h))


def bottle(rng: Rng, palette: Palette) -> Piece:
    """A bottle, jar, spray or can."""
    r, h = rng.uniform(0.022, 0.05), rng.uniform(0.1, 0.32)
    neck, shoulder = r * rng.uniform(0.3, 0.95), h * rng.uniform(0.5, 0.8)
    material = (
        palette.plastic()
        if rng.random() < 0.7
        else paint(hsv(rng.uniform(0.1, 0.4), 0.6, rng.uniform(0.1, 0.35)), GLOSS)
    )
    parts = [
        lathe([(0, 0), (r, 0), (r, shoulder), (neck, h * 0.88), (neck, h), (0, h)], "otherprop", material, sides=12)
    ]
    if rng.random() < 0.6:  # a label around it
        parts.append(cylinder((0, 0, shoulder * 0.25), r * 1.015, shoulder * 0.5, "otherprop", palette.plastic(), 12))
    parts.append(cylinder((0, 0, h * 0.95), neck * 1.15, h * 0.06, "otherprop", palette.plastic(), 10))
    return Piece("bottle", parts, (2 * r, 2 * r, h))


def plate(rng: Rng, palette: Palette) -> Piece:
    """A plate, bowl or a stack of them; sometimes with fruit."""
    material = palette.ceramic if rng.random() < 0.6 else palette.plastic()
    r, deep = rng.uniform(0.08, 0.15), rng.uniform(0.02, 0.1)
    profile = [(0, 0), (r * 0.5, 0), (r, deep), (r - 0.004, deep), (r * 0.5, 0.008), (0, 0.008)]
    parts = [lathe(profile, "otherprop", material, sides=16)]
    height = deep
    if rng.random() < 0.35:
        for i in range(int(rng.integers(2, 6))):
            parts += shifted([lathe(profile, "otherprop", material, sides=14)], z=0.012 * (i + 1))
            height = deep + 0.012 * (i + 1)
    elif deep > 0.05:
        fruit = tint(rng, 1.0, 0.4, 0.9)
        for _ in range(int(rng.integers(2, 6))):
            a, q = rng.uniform(0, 6.3), rng.uniform(0, r * 0.45)
            parts.append(ball((q * math.cos(a), q * math.sin(a), deep * 0.35), 0.035, paint(fruit)))
        height = deep + 0.05
    return Piece("plate", parts, (2 * r, 2 * r, height))


def vase(rng: Rng, palette: Palette) -> Piece:
    """A vase or pot; half of them with flowers or leaves."""
    h, r = rng.uniform(0.12, 0.38), rng.uniform(0.04, 0.1)
    z = np.linspace(0, 1, 8)
    shape = r * (0.65 + 0.35 * np.sin(z * rng.uniform(2, 5) + rng.uniform(0, 3)))
    profile = [
        (0.0, 0.0),
        *zip(shape.tolist(), (z * h).tolist(), strict=True),
        (shape[-1] * 0.85, h - 0.01),
        (0.0, h * 0.5),
    ]
    material = palette.plastic() if rng.random() < 0.8 else palette.glass
    parts = [lathe(profile, "otherprop", material, sides=14)]
    if rng.random() < 0.6:
        spread = rng.uniform(0.08, 0.2)
        parts += shifted(leaves(rng, spread, spread * rng.uniform(1.2, 2.2), rng.random() < 0.5), z=h * 0.9)
        return Piece("vase", parts, (2 * spread, 2 * spread, h * 2))
    return Piece("vase", parts, (2.2 * r, 2.2 * r, h))


# ------------------------------------------------------------------------------------------------- screens and devices


# -------------------------------------------------------------------------------------------------------------- lamps


# --------------------------------------------------------------------------------------------------- on the floor etc.


def bin_(rng: Rng, palette: Palette) -> Piece:
    """A waste paper basket or pedal bin (class otherfurniture)."""
    r, h = rng.uniform(0.11, 0.19), rng.uniform(0.25, 0.6)
    material = palette.plastic(0.7) if rng.random() < 0.7 else palette.chrome
    parts = [
        lathe([(0, 0), (r * 0.8, 0), (r, h), (r - 0.006, h), (r * 0.75, 0.02), (0, 0.02)], "otherfurniture", material)
    ]
    if rng.random() < 0.4:
        parts.append(lathe([(r * 1.01, h), (r * 0.8, h + 0.04), (0, h + 0.06)], "otherfurniture", palette.black))
    return Piece("bin", parts, (2 * r, 2 * r, h))


def toy(rng: Rng, palette: Palette) -> Piece:
    """A ball, building blocks, or a soft animal."""
    draw = rng.random()
    if draw < 0.35:
        r = rng.uniform(0.04, 0.13)
        return Piece("toy", [ball((0, 0, 0), r, palette.plastic(1.4))], (2 * r, 2 * r, 2 * r))
    if draw < 0.7:
        n = int(rng.integers(3, 9))
        xy = rng.uniform(-0.12, 0.12, (n, 2))
        low = np.column_stack([xy, np.zeros(n)])
        size = rng.uniform(0.03, 0.07, (n, 1)) * np.array([[1, 1, 1]])
        turn = turns(rng.uniform(0, 3, n))
        return Piece(
            "toy", [slabs(low, low + size, turn, "otherprop", palette.plastic(), tints(rng, n, 1.4))], (0.4, 0.4, 0.07)
        )
    fur = paint(tint(rng, 0.9, 0.25, 0.9), MATT)
    s = rng.uniform(0.7, 1.6)
    parts = [ball((0, 0, 0), 0.09, fur), ball((0, -0.01, 0.14), 0.07, fur)]
    for x in (-1, 1):
        parts += [
            ball((x * 0.05, 0, 0.24), 0.028, fur),
            ball((x * 0.07, -0.07, 0), 0.038, fur),
            ball((x * 0.1, -0.03, 0.09), 0.032, fur),
        ]
    return Piece("toy", parts, (0.26, 0.24, 0.3)).scaled(s)


def shoes(rng: Rng, palette: Palette) -> Piece:
    """A pair of shoes (class otherprop)."""
    material = palette.plastic(0.8)
    parts: list[Part] = []
    for x in (-0.055, 0.055):
        pair = [
            rounded((0, 0, 0), (0.09, 0.27, 0.06), 0.03, "otherprop", material),
            rounded((0, 0.07, 0.03), (0.08, 0.12, 0.08), 0.03, "otherprop", material),
        ]
        parts += shifted(pair, x, rng.normal(0, 0.02), 0, rng.normal(0, 0.15))
    return Piece("shoes", parts, (0.26, 0.32, 0.11))


def basket(rng: Rng, palette: Palette, label: str = "otherprop") -> Piece:
    """A basket, laundry in it now and then."""
    w, d, h = rng.uniform(0.25, 0.45), rng.uniform(0.22, 0.38), rng.uniform(0.18, 0.5)
    material = (
        paint(hsv(0.09, rng.uniform(0.2, 0.5), rng.uniform(0.3, 0.8)), MATT)
        if rng.random() < 0.6
        else palette.plastic()
    )
    n = 25
    a = np.linspace(0, 2 * math.pi, n)
    ring = np.stack([np.sign(np.cos(a)) * np.abs(np.cos(a)) ** 0.5, np.sign(np.sin(a)) * np.abs(np.sin(a)) ** 0.5], -1)
    rows = []
    for scale, z in ((0.0, 0.0), (0.85, 0.0), (1.0, h), (0.95, h), (0.8, 0.02), (0.0, 0.02)):
        rows.append(np.column_stack([ring * scale * np.array([w / 2, d / 2]), np.full(n, z)]))
    parts = [surface(np.array(rows), label, material)]
    if rng.random() < 0.5:
        parts += shifted(clothes_heap(rng, palette, w * 0.8, d * 0.8, h * 0.35), z=h * 0.75)
    return Piece("basket", parts, (w, d, h * 1.2))


def globe(rng: Rng, palette: Palette) -> Piece:
    """A round ornament on a foot, a globe or a trophy."""
    r = rng.uniform(0.05, 0.14)
    foot = palette.wood()
    parts = [
        cylinder((0, 0, 0), r * 0.6, 0.02, "otherprop", foot, 14),
        bar((0, 0, 0), (0, 0, r), 0.01, "otherprop", foot),
    ]
    parts.append(ball((0, 0, r * 0.7), r, palette.plastic()))
    return Piece("globe", parts, (2 * r, 2 * r, r * 2.7))


def standing_picture(rng: Rng, palette: Palette) -> Piece:
    """A framed photograph on a desk or shelf."""
    h = rng.uniform(0.13, 0.28)
    w = h * rng.uniform(0.7, 1.3)
    parts = [box((-w / 2, -0.01, 0), (w / 2, 0.01, h), "picture", palette.frame())]
    e = 0.016
    corners = np.array(
        [[-w / 2 + e, -0.011, e], [w / 2 - e, -0.011, e], [w / 2 - e, -0.011, h - e], [-w / 2 + e, -0.011, h - e]]
    )
    parts.append(quad(corners, "picture", palette.painting(), whole=True))
    return Piece("picture", tilted(parts, "x", -0.2), (w, 0.1, h))


Maker = Callable[[Rng, Palette], Piece]


def crumpled_paper(rng: Rng, palette: Palette) -> Piece:
    """A ball of paper."""
    a, b = np.meshgrid(np.linspace(0, 2 * math.pi, 10), np.linspace(-math.pi / 2, math.pi / 2, 7))
    r = 0.035 * (1 + 0.3 * noise(rng, 7, 10, 5))
    r[:, -1] = r[:, 0]
    points = np.stack([r * np.cos(b) * np.cos(a), r * np.cos(b) * np.sin(a), 0.03 + r * np.sin(b)], -1)
    return Piece("paper", [surface(points, "paper", paint(PAPER, MATT))], (0.08, 0.08, 0.07))
