"""Soft simple shapes: beds and bedding, pillows, sofas, curtains, towels, clothes, bags."""

from __future__ import annotations

import math

import numpy as np

from training.rooms.palette import CLOTH, Palette
from training.rooms.scene import Floats, Part
from training.rooms.shapes import (
    Material,
    Piece,
    Rng,
    bar,
    block,
    box,
    creases,
    cylinder,
    hsv,
    lathe,
    noise,
    paint,
    rounded,
    shifted,
    surface,
    tilted,
    tint,
    top,
    tube,
)

# ------------------------------------------------------------------------------------------------------------- pillows


def cushion(rng: Rng, w: float, d: float, thick: float, material: Material, label: str = "pillow") -> list[Part]:
    """A filled pillow lying flat: two bulged sheets with pinched edges and dents."""
    n = 11
    s = np.linspace(-1, 1, n)
    x, y = np.meshgrid(s, s)
    profile = ((1 - np.abs(x) ** 3.2) * (1 - np.abs(y) ** 3.2)) ** 0.55
    profile = profile * (1 + 0.16 * noise(rng, n, n, 3))
    px = x * (1 - 0.07 * (1 - y**2)) * w / 2
    py = y * (1 - 0.07 * (1 - x**2)) * d / 2
    sheets = []
    for sign in (1.0, -1.0):
        z = sign * profile * thick / 2 + thick / 2
        points = np.stack([px, py, z], -1)
        sheets.append(surface(points if sign > 0 else points[:, ::-1], label, material))
    return sheets


def pillow(rng: Rng, palette: Palette, decorative: bool = False) -> tuple[list[Part], tuple[float, float, float]]:
    """A bed pillow or a square decorative one, lying; and its width, depth, height."""
    if decorative:
        side = rng.uniform(0.38, 0.52)
        w, d, thick = side, side * rng.uniform(0.75, 1.0), rng.uniform(0.12, 0.18)
        material = palette.fabric() if rng.random() < 0.4 else palette.cover()
    else:
        w, d, thick = rng.uniform(0.58, 0.8), rng.uniform(0.42, 0.56), rng.uniform(0.14, 0.22)
        material = palette.cover() if rng.random() < 0.7 else palette.white
    return cushion(rng, w, d, thick, material), (w, d, thick)


# ---------------------------------------------------------------------------------------------------------------- beds


def bedding(rng: Rng, palette: Palette, w: float, d: float, z: float, drop: float) -> list[Part]:
    """A rumpled cover over a mattress w × d whose top is at `z`; it hangs `drop` down the sides and the foot.

    The head is at +y. The cover begins below the pillows; on unmade beds it is thrown back, sometimes far.
    """
    state = float(rng.random())  # 0 made, 1 slept in
    rough = 0.008 + 0.05 * state**1.5
    h, n = 34, 40
    start = d / 2 - rng.uniform(0.3, 0.55) - (rng.uniform(0, 0.7) if state > 0.6 else 0)
    foot = drop if rng.random() < 0.75 else 0.0
    side = drop * np.array([rng.uniform(0.6, 1.0), rng.uniform(0.6, 1.0)])
    if state > 0.75:  # pulled over to one side
        side = side * np.array([0.0, 1.0]) if rng.random() < 0.5 else side * np.array([1.0, 0.0])
    s = np.linspace(-w / 2 - side[0], w / 2 + side[1], n)
    t = np.linspace(start, -d / 2 - foot, h)[::-1]
    u, v = np.meshgrid(s, t)
    if state > 0.5:  # the upper edge runs aslant
        slant = rng.uniform(-0.35, 0.35) * state
        v = v + slant * (u / w) * np.clip((v + d / 2) / d, 0, 1)
    out = np.maximum(np.abs(u) - w / 2, 0) + np.maximum(-d / 2 - v, 0)  # how far past the mattress' edge
    bumps = noise(rng, h, n, 5) * rough + creases(rng, h, n, 6, float(rng.choice([1, 2]))) * rough * 0.9
    bumps = bumps + 0.4 * rough * noise(rng, h, n, 12)
    near_edge = np.clip((v - (start - 0.22)) / 0.22, 0, 1) * np.clip((np.abs(u) < w / 2 + 0.05) * 1.0, 0, 1)
    bumps = bumps + near_edge * (0.03 + 0.09 * state * rng.random()) * (1 + 0.5 * noise(rng, h, n, 4))
    lift = 0.025 + np.maximum(bumps + rough * 0.6, 0.0)
    over = np.clip(out / 0.06, 0, 1)
    x = np.clip(u, -w / 2, w / 2) + np.sign(u) * np.where(np.abs(u) > w / 2, 0.015 + 0.7 * lift, 0)
    y = np.maximum(v, -d / 2) - np.where(v < -d / 2, 0.015 + 0.7 * lift, 0)
    height = z + lift * (1 - over) - np.maximum(out - 0.02, 0)
    points = np.stack([x, y, np.maximum(height, 0.02)], -1)
    uv = np.stack([u, v], -1)
    parts = [surface(points, "bed", palette.cover(), uv)]
    if rng.random() < 0.4:  # a folded blanket across the foot
        depth, thick = rng.uniform(0.3, 0.6), rng.uniform(0.03, 0.07)
        y0 = -d / 2 + rng.uniform(0.0, 0.2)
        blanket = palette.fabric()
        n2 = 16
        xs, ys = np.meshgrid(np.linspace(-w / 2 - 0.12, w / 2 + 0.12, n2), np.linspace(y0, y0 + depth, 8))
        beyond = np.maximum(np.abs(xs) - w / 2, 0)
        zs = z + 0.03 + rough * 1.4 + thick * (1 + 0.2 * noise(rng, 8, n2, 4)) - 2.2 * beyond
        zs[[0, -1]] -= thick
        parts.append(surface(np.stack([np.clip(xs, -w / 2 - 0.06, w / 2 + 0.06), ys, zs], -1), "bed", blanket))
    return parts


def _bed_frame(rng: Rng, palette: Palette, w: float, d: float, kind: str) -> tuple[list[Part], float]:
    """Head, foot and base under a mattress w × d; and the height of the base."""
    material = palette.fabric() if kind == "padded" else palette.wood() if rng.random() < 0.75 else palette.board()
    parts: list[Part] = []
    base = rng.uniform(0.2, 0.34)
    head = rng.uniform(0.75, 1.25)
    if kind == "metal":
        material = palette.black if rng.random() < 0.6 else palette.white
        for y, height in ((d / 2 + 0.03, head), (-d / 2 - 0.03, rng.uniform(0.45, 0.8))):
            for x in (-w / 2, w / 2):
                parts.append(bar((x, y, 0), (x, y, height), 0.02, "bed", material))
            parts.append(bar((-w / 2, y, height), (w / 2, y, height), 0.018, "bed", material))
            parts.append(bar((-w / 2, y, base), (w / 2, y, base), 0.015, "bed", material))
            for x in np.linspace(-w / 2, w / 2, int(w / 0.14))[1:-1]:
                parts.append(bar((x, y, base), (x, y, height), 0.009, "bed", material, 5))
    elif kind == "box":
        pass
    else:
        thick = 0.09 if kind == "padded" else rng.uniform(0.03, 0.06)
        low = base * 0.4
        if kind == "padded":
            cols = int(rng.integers(1, 5))
            for i in range(cols):
                x = (-0.5 + (i + 0.5) / cols) * (w + 0.06)
                piece = rounded((0, 0, 0), ((w + 0.06) / cols, head, thick), 0.035, "bed", material, 0.01)
                parts += shifted(tilted([piece], "x", math.pi / 2), x, d / 2 + thick, head / 2)
        elif rng.random() < 0.35:  # slats between posts
            for x in (-w / 2 - 0.01, w / 2 + 0.01):
                parts.append(block((x, d / 2 + 0.03, 0), (0.06, 0.06, head), "bed", material, upright=True))
            for z in np.arange(base + 0.05, head - 0.05, 0.16):
                parts.append(box((-w / 2, d / 2 + 0.015, z), (w / 2, d / 2 + 0.045, z + 0.1), "bed", material))
        else:
            parts.append(box((-w / 2 - 0.04, d / 2, 0.03), (w / 2 + 0.04, d / 2 + thick, head), "bed", material))
        if rng.random() < 0.4:
            foot = rng.uniform(base + 0.1, 0.8)
            parts.append(
                box((-w / 2 - 0.03, -d / 2 - 0.05, 0.05), (w / 2 + 0.03, -d / 2 - 0.01, foot), "bed", material)
            )
        for sign in (-1, 1):
            x = sign * (w / 2 + 0.005)
            parts.append(box((x - 0.015, -d / 2, low), (x + 0.015, d / 2, base + 0.06), "bed", material))
    parts.append(
        box((-w / 2, -d / 2, 0.08), (w / 2, d / 2, base), "bed", palette.black if kind == "metal" else material)
    )
    if kind == "metal":
        parts.pop()  # nothing under the mattress but its frame
        parts.append(box((-w / 2, -d / 2, base - 0.04), (w / 2, d / 2, base), "bed", material))
    return parts, base


def bed(rng: Rng, palette: Palette, double: bool) -> Piece:
    """A bed with mattress, rumpled cover and pillows; the head is at the back."""
    w = rng.choice([1.4, 1.6, 1.8]) if double else rng.choice([0.9, 1.0, 1.2])
    w, d = float(w), float(rng.uniform(1.95, 2.1))
    kind = palette.pick(["wood", "padded", "metal", "box"], [5, 2, 1.5, 2])
    parts, base = _bed_frame(rng, palette, w, d, kind)
    thick = rng.uniform(0.16, 0.28)
    sheet = palette.cover() if rng.random() < 0.4 else palette.white
    parts.append(rounded((0, 0, base), (w - 0.02, d - 0.02, thick), 0.06, "bed", sheet, 0.01))
    z = base + thick
    if rng.random() < 0.93:
        parts += bedding(rng, palette, w, d, z, rng.uniform(0.15, z - 0.1))
    count = 2 if double else 1
    for i in range(count):
        if rng.random() < 0.06:
            continue
        x = (i - (count - 1) / 2) * w * 0.48 + rng.uniform(-0.06, 0.06)
        shape, size = pillow(rng, palette)
        yaw = rng.normal(0, 0.12)
        if rng.random() < 0.5:  # propped against the head
            shape = tilted(shape, "x", rng.uniform(0.5, 1.1), (0, size[1] / 2, 0))
            parts += shifted(shape, x, d / 2 - size[1] / 2 - 0.12, z + 0.02, yaw)
        else:
            parts += shifted(shape, x, d / 2 - size[1] / 2 - rng.uniform(0.02, 0.1), z, yaw)
        if rng.random() < (0.7 if double else 0.5):
            shape, size = pillow(rng, palette, decorative=rng.random() < 0.6)
            shape = tilted(shape, "x", rng.uniform(0.6, 1.2), (0, size[1] / 2, 0))
            parts += shifted(shape, x, d / 2 - 0.5 - size[1] / 2, z + 0.07, rng.normal(0, 0.2))
    surface_top = top(-w / 2 + 0.05, -d / 2 + 0.05, w / 2 - 0.05, d / 2 - 0.75, z + 0.06, kind="bed")
    return Piece("bed.double" if double else "bed.single", parts, (w + 0.1, d + 0.16, 1.0), [surface_top], 0.55)


# --------------------------------------------------------------------------------------------------------------- sofas


def sofa(rng: Rng, palette: Palette, seats: int) -> Piece:
    """A sofa or, with one seat, an armchair (class chair): seat and back cushions, arms, feet."""
    label = "sofa" if seats > 1 else "chair"
    seat = rng.uniform(0.55, 0.75)
    arm = float(rng.choice([0.0, 0.1, 0.16, 0.24], p=[0.08, 0.3, 0.37, 0.25]))
    depth, height = rng.uniform(0.78, 1.0), rng.uniform(0.7, 0.98)
    z = rng.uniform(0.38, 0.47)
    inner = seats * seat
    w = inner + 2 * arm
    body = palette.fabric()
    cushions = body if rng.random() < 0.85 else palette.fabric()
    soft = rng.uniform(0.03, 0.09)
    lift = float(rng.choice([0.04, 0.1, 0.16]))
    parts = [rounded((0, 0, lift), (w - 0.01, depth, z - 0.14 - lift), 0.03, label, body)]
    back = rng.uniform(0.14, 0.26)
    parts.append(rounded((0, depth / 2 - back / 2, lift), (w, back, height * 0.88 - lift), soft, label, body))
    for sign in (-1, 1):
        if arm:
            x = sign * (w / 2 - arm / 2)
            parts.append(rounded((x, 0, lift), (arm, depth, rng.uniform(0.54, 0.66) - lift), soft, label, body))
    for i in range(seats):
        x = (i - (seats - 1) / 2) * seat
        d = depth - back
        parts.append(
            rounded((x, -back / 2, z - 0.15), (seat - 0.01, d, 0.15), soft, label, cushions, rng.uniform(0.01, 0.05))
        )
        rest = rounded(
            (0, 0, 0), (seat - 0.02, height - z + 0.03, 0.18), 0.08, label, cushions, rng.uniform(0.02, 0.06)
        )
        rest_parts = tilted([rest], "x", math.pi / 2 - rng.uniform(0.1, 0.25))
        parts += shifted(rest_parts, x, depth / 2 - back + 0.03, (height + z) / 2)
    feet = palette.wood() if rng.random() < 0.5 else palette.black
    for x in (-w / 2 + 0.07, w / 2 - 0.07):
        for y in (-depth / 2 + 0.07, depth / 2 - 0.07):
            parts.append(cylinder((x, y, 0), 0.022, lift + 0.01, label, feet, 8))
    for _ in range(int(rng.integers(1, 4 + seats))):
        shape, size = pillow(rng, palette, decorative=True)
        shape = tilted(shape, "x", rng.uniform(0.9, 1.25), (0, size[1] / 2, 0))
        x = rng.uniform(-1, 1) * max(0.0, inner / 2 - size[0] / 2)
        parts += shifted(shape, x, depth / 2 - back - 0.2 - size[1] / 2 + 0.02, z + 0.02, rng.normal(0, 0.12))
    if rng.random() < 0.12:
        throw = clothes_heap(rng, palette, 0.5, 0.4, 0.05, "sofa" if seats > 1 else "chair", palette.fabric())
        parts += shifted(throw, rng.uniform(-0.3, 0.3) * inner, -0.05, z, rng.uniform(0, 6))
    tops = [top(-inner / 2 + 0.05, -depth / 2 + 0.05, inner / 2 - 0.05, depth / 2 - back - 0.25, z + 0.03, kind="seat")]
    return Piece("sofa" if seats > 1 else "chair.armchair", parts, (w, depth, height), tops, 0.5)


def ottoman(rng: Rng, palette: Palette) -> Piece:
    """A padded stool without a back: a cube, a bench or a round one."""
    w, d, h = rng.uniform(0.4, 1.1), rng.uniform(0.38, 0.6), rng.uniform(0.36, 0.48)
    material = palette.fabric()
    if rng.random() < 0.35:
        profile = [(0, 0.02), (d * 0.5, 0.02), (d * 0.52, h * 0.5), (d * 0.48, h * 0.93), (0, h)]
        return Piece("ottoman", [lathe(profile, "otherfurniture", material)], (d * 1.04, d * 1.04, h))
    parts = [rounded((0, 0, 0.05), (w, d, h - 0.05), 0.05, "otherfurniture", material, 0.015)]
    for x in (-w / 2 + 0.06, w / 2 - 0.06):
        for y in (-d / 2 + 0.06, d / 2 - 0.06):
            parts.append(cylinder((x, y, 0), 0.02, 0.07, "otherfurniture", palette.black, 8))
    return Piece(
        "ottoman",
        parts,
        (w, d, h),
        [top(-w / 2 + 0.05, -d / 2 + 0.05, w / 2 - 0.05, d / 2 - 0.05, h + 0.01, kind="seat")],
    )


# ------------------------------------------------------------------------------------------------------ hanging sheets


def curtain(
    rng: Rng, material: Material, w: float, z0: float, z1: float, label: str = "curtain", full: float = 0.05
) -> list[Part]:
    """A gathered curtain `w` wide between heights z0 and z1, hanging along x at y = 0; folds `full` deep."""
    folds = max(2, round(w / rng.uniform(0.1, 0.17)))
    n, h = folds * 8 + 1, 9
    x = np.linspace(-w / 2, w / 2, n)
    phase = x / w * folds * 2 * math.pi + 0.7 * noise(rng, 1, n, folds / 2)[0]
    down = np.linspace(0, 1, h)[::-1, None]  # from the hem upwards
    depth = full * (0.55 + 0.45 * down) * (1 + 0.4 * noise(rng, h, n, 3))
    drift = 0.02 * down * noise(rng, h, n, 3)
    y = depth * np.sin(phase)[None] + drift
    xs = x[None] + 0.3 * full * np.sin(2 * phase)[None] * np.ones((h, 1))
    hem = 0.01 * noise(rng, 1, n, 3)[0]
    z = z1 + (z0 + hem - z1) * down
    # As long as the cloth is along its folds, so that patterns are narrower than flat.
    u = np.broadcast_to(x * 1.6, (h, n))
    return [surface(np.stack([xs, y, z], -1), label, material, np.stack([u, z], -1))]


def curtain_rod(w: float, z: float, label: str, material: Material, rings: int = 0) -> list[Part]:
    """A rod along x at y = 0, with rings for shower curtains."""
    parts = [bar((-w / 2, 0, z), (w / 2, 0, z), 0.013, label, material)]
    t = np.linspace(0, 2 * math.pi, 9)
    for x in np.linspace(-w / 2 + 0.05, w / 2 - 0.05, rings) if rings else []:
        ring = np.column_stack([np.full(9, x), 0.024 * np.sin(t), z - 0.012 + 0.024 * np.cos(t)])
        parts.append(tube(ring, 0.004, label, material, 4))
    return parts


def towel(rng: Rng, material: Material, w: float, front: float, back: float, gap: float = 0.02) -> list[Part]:
    """A towel folded over a rail along x at (y, z) = (0, 0); `front` and `back` are how far its halves hang."""
    n = 12
    down = np.concatenate([np.linspace(-front, -0.02, 7), [0.008, 0.012, 0.008], np.linspace(-0.02, -back, 5)])
    y = np.concatenate([np.full(7, -gap), [-gap * 0.7, 0, gap * 0.7], np.full(5, gap)])
    x = np.linspace(-w / 2, w / 2, n)
    wave = 0.012 * noise(rng, len(down), n, 3) + 0.004 * noise(rng, len(down), n, 7)
    amount = np.clip(-down / max(front, back), 0, 1)[:, None]
    sign = np.where(y <= 0, -1.0, 1.0)[:, None]
    ys = y[:, None] + sign * np.maximum(wave, -0.006) * amount
    xs = x[None] * (1 - 0.03 * amount)
    zs = np.broadcast_to(down[:, None], xs.shape)
    length = np.concatenate([[0], np.cumsum(np.hypot(np.diff(down), np.diff(y)))])
    uv = np.stack(np.broadcast_arrays(x[None], length[:, None]), -1)
    return [surface(np.stack([xs, ys, zs], -1), "towel", material, uv)]


def folded_towels(rng: Rng, palette: Palette, label: str = "towel") -> Piece:
    """A pile of folded towels (or clothes) on a shelf."""
    w, d = rng.uniform(0.22, 0.38), rng.uniform(0.16, 0.26)
    parts, z = [], 0.0
    for _ in range(int(rng.integers(1, 5))):
        thick = rng.uniform(0.03, 0.07)
        material = palette.towel() if label == "towel" else palette.cloth()
        yaw = rng.normal(0, 0.04)
        parts += shifted([rounded((0, 0, 0), (w, d, thick), 0.02, label, material)], z=z, yaw=yaw)
        z += thick
    return Piece("folded", parts, (w, d, z))


# -------------------------------------------------------------------------------------------------------------- clothes


def clothes_heap(
    rng: Rng, palette: Palette, w: float, d: float, h: float, label: str = "clothes", material: Material | None = None
) -> list[Part]:
    """Something of cloth dropped: an irregular heap with creases, flat at its rim."""
    rings, n = 9, 26
    t = np.linspace(0, 2 * math.pi, n)
    rim = 1 + 0.3 * noise(rng, 1, n, 5)[0]
    rim[-1] = rim[0]
    blend = np.clip((t - 5.2) / 1.08, 0, 1)
    rim = rim * (1 - blend) + rim[0] * blend
    r = np.linspace(1, 0, rings)
    x = r[:, None] * rim * np.cos(t) * w / 2
    y = r[:, None] * rim * np.sin(t) * d / 2
    bumps = 0.6 + 0.55 * noise(rng, 24, 24, 4) + 0.7 * creases(rng, 24, 24, 5)
    i = np.clip(((x / w + 0.75) / 1.5 * 23).astype(int), 0, 23)
    j = np.clip(((y / d + 0.75) / 1.5 * 23).astype(int), 0, 23)
    z = h * np.maximum(bumps[j, i], 0.15) * (1 - r[:, None] ** 4)
    z = np.maximum(z, 0.004)
    z[-1] = z[-1].mean()
    z[0] = 0.0
    uv = np.stack([x, y], -1)
    return [surface(np.stack([x, y, z], -1), label, material or palette.cloth(), uv)]


def hanging_garment(rng: Rng, palette: Palette) -> list[Part]:
    """A shirt, dress or coat on a hanger, seen from the front (-y); its hook is at (0, 0, 0) and it hangs down."""
    material = palette.cloth()
    wide, length = rng.uniform(0.38, 0.5), rng.uniform(0.6, 1.15)
    rows, n = 12, 14
    t = np.linspace(0, 1, rows)[::-1]  # from the hem upwards: 1 is the hem
    flare = rng.uniform(-0.05, 0.2)
    width = wide * (1 + flare * t)
    slope = np.clip((0.14 - t) / 0.14, 0, 1)
    width = width * (1 - 0.72 * slope)
    thick = rng.uniform(0.05, 0.11) * (0.55 + 0.45 * np.sin(np.clip(t * 4, 0, math.pi / 2)))
    a = np.linspace(0, 2 * math.pi, 2 * n + 1)
    folds = 1 + 0.25 * np.sin(a * rng.integers(5, 9))[None] * t[:, None] + 0.15 * noise(rng, rows, 2 * n + 1, 5)
    x = width[:, None] / 2 * np.cos(a)[None]
    y = thick[:, None] * np.sin(a)[None] * folds
    z = np.broadcast_to((-0.09 - t * length)[:, None], x.shape)
    uv = np.stack(np.broadcast_arrays(a[None] * wide / 3.1, -t[:, None] * length), -1)
    parts = [surface(np.stack([x, y, z], -1), "clothes", material, uv)]
    for sign in (-1, 1):  # sleeves
        if rng.random() < 0.85:
            reach = length * rng.uniform(0.3, 0.75)
            start = np.array([sign * wide * 0.44, 0, -0.13])
            end = np.array([sign * wide * (0.52 + 0.1 * rng.random()), -0.02, -0.13 - reach])
            path = np.linspace(start, end, 4)
            parts.append(tube(path, 0.05, "clothes", material, 8))
    hook = np.array([[0, 0, 0], [0.02, 0, 0.02], [0.035, 0, 0], [0.01, 0, -0.03], [0, 0, -0.09]])
    parts.append(tube(hook, 0.003, "otherprop", palette.chrome, 4))
    return parts


# ----------------------------------------------------------------------------------------------------------------- bags


def bag(rng: Rng, palette: Palette, kind: str | None = None) -> Piece:
    """A backpack, handbag, shopping bag, paper bag or sports bag standing on the floor."""
    kind = kind or palette.pick(["backpack", "handbag", "paper", "plastic", "sports"], [4, 3, 1.5, 2, 1.5])
    cloth = paint(tint(rng, 1.0, 0.06, 0.7), CLOTH)
    strap = palette.black if rng.random() < 0.6 else cloth
    parts: list[Part]
    if kind == "backpack":
        w, d, h = rng.uniform(0.28, 0.36), rng.uniform(0.16, 0.24), rng.uniform(0.4, 0.52)
        parts = [
            rounded((0, 0, 0), (w, d, h), 0.08, "bag", cloth, 0.01),
            rounded((0, -d / 2, 0.03), (w * 0.8, 0.1, h * 0.45), 0.04, "bag", cloth),
        ]
        for sign in (-1, 1):
            x = sign * w * 0.25
            path = [
                [x, d / 2 - 0.02, h * 0.9],
                [x, d / 2 + 0.05, h * 0.7],
                [x, d / 2 + 0.05, h * 0.3],
                [x, d / 2, 0.06],
            ]
            parts.append(tube(np.array(path), 0.014, "bag", strap, 6))
        if rng.random() < 0.5:
            parts = tilted(parts, "x", -rng.uniform(0.05, 0.2), (0, d / 2, 0))
        return Piece("bag", parts, (w, d + 0.1, h))
    if kind == "sports":
        w, d = rng.uniform(0.45, 0.65), rng.uniform(0.24, 0.32)
        body = rounded((0, 0, 0), (w, d, d * 0.95), d * 0.4, "bag", cloth, 0.01)
        arch = [
            [-w * 0.2, -d * 0.3, d * 0.8],
            [-w * 0.15, -d * 0.2, d * 1.2],
            [w * 0.15, -d * 0.2, d * 1.2],
            [w * 0.2, -d * 0.3, d * 0.8],
        ]
        return Piece("bag", [body, tube(np.array(arch), 0.014, "bag", strap, 6)], (w, d, d * 1.2))
    w, d, h = rng.uniform(0.26, 0.42), rng.uniform(0.1, 0.18), rng.uniform(0.24, 0.42)
    if kind == "paper":
        cloth = paint(hsv(rng.uniform(0.06, 0.11), rng.uniform(0.1, 0.45), rng.uniform(0.6, 0.95)), CLOTH)
    elif kind == "plastic":
        cloth = paint(hsv(rng.random(), 0.5 * rng.random() ** 2, rng.uniform(0.75, 0.97)), CLOTH)
    parts = [_sack(rng, w, d, h, cloth, rough=0.02 if kind == "plastic" else 0.006, waist=kind == "plastic")]
    if kind in ("handbag", "paper"):
        for sign in (-1, 1):
            rise = rng.uniform(0.08, 0.2)
            s = np.linspace(0, math.pi, 7)
            grip = np.column_stack([-w * 0.22 * np.cos(s), np.full(7, sign * d * 0.3), h - 0.02 + rise * np.sin(s)])
            parts.append(tube(grip, 0.007, "bag", strap, 5))
    return Piece("bag", parts, (w, d + 0.06, h + 0.12))


def _sack(rng: Rng, w: float, d: float, h: float, material: Material, rough: float, waist: bool) -> Part:
    """A soft open bag: a rounded rectangle that narrows to the top."""
    rows, n = 9, 25
    a = np.linspace(0, 2 * math.pi, n)
    e = 0.5
    ring = np.stack(
        [np.sign(np.cos(a)) * np.abs(np.cos(a)) ** e * w / 2, np.sign(np.sin(a)) * np.abs(np.sin(a)) ** e * d / 2], -1
    )
    t = np.linspace(0, 1, rows)
    width = 1 + 0.06 * np.sin(t * math.pi) - (0.45 * np.clip((t - 0.6) / 0.4, 0, 1) if waist else 0.0)
    depth = 1 + 0.2 * np.sin(t * math.pi) - (0.75 if waist else 0.5) * t**2
    bumps = rough * noise(rng, rows, n, 6)
    bumps[:, -1] = bumps[:, 0]
    x, y = ring[None, :, 0] * width[:, None] + bumps, ring[None, :, 1] * depth[:, None] + bumps
    z = np.broadcast_to((t * h)[:, None], x.shape)
    points = np.stack([x, y, z], -1)
    floor: Floats = points[:1] * np.array([0.0, 0.0, 0.0])
    return surface(np.concatenate([floor, points]), "bag", material)
