"""Kitchens and bathrooms."""

from __future__ import annotations

import math

import numpy as np

from training.rooms import case_shapes as cases
from training.rooms import decorate as deco
from training.rooms import small_shapes as small
from training.rooms import soft_shapes as soft
from training.rooms import wet_shapes as wet
from training.rooms.builder import Builder
from training.rooms.kinds_home import chair_at, dining_group, take_chair
from training.rooms.layout import Placed, Wall, corners
from training.rooms.palette import Palette
from training.rooms.scene import Finish, Part
from training.rooms.shapes import (
    GLOSS,
    MATT,
    Material,
    Piece,
    Rng,
    Top,
    bar,
    box,
    cylinder,
    paint,
    quad,
    rounded,
    shifted,
    tilted,
    top,
    tube,
)

# ------------------------------------------------------------------------------------------------------------- kitchens

DEPTH, HEIGHT = 0.6, 0.9


class KitchenStyle:
    """What all runs of one kitchen share."""

    def __init__(self, b: Builder, splash: Material) -> None:
        p = b.palette
        self.front = p.board()
        self.worktop = p.stone() if b.chance(0.6) else p.wood() if b.chance(0.5) else p.board()
        self.fronts = cases.Fronts(b.rng, p, "cabinet", self.front)
        self.splash = splash
        self.upper = self.front if b.chance(0.85) else p.board()
        self.upper_low = b.uniform(1.35, 1.5)
        self.upper_high = min(b.uniform(1.95, 2.25), b.plan.height - 0.12)
        self.height = b.uniform(0.86, 0.93)


def base_run(b: Builder, style: KitchenStyle, w: float, sink: float | None, stove: float | None, washer: bool) -> Piece:
    """A run of base cabinets with worktop, w wide: sink and stove at these places (x), or none."""
    p = b.palette
    h, t = style.height, 0.04
    y = -DEPTH / 2
    # The bowl of the sink needs room below the worktop.
    sw, sd = (b.uniform(0.7, 0.82), 0.43) if b.chance(0.5) else (b.uniform(0.45, 0.55), 0.42)
    low = h - t if sink is None else h - 0.25
    parts: list[Part] = [
        box((-w / 2, y + 0.04, 0.09), (w / 2, DEPTH / 2, low), "cabinet", style.front),
        box((-w / 2, y + 0.08, 0.0), (w / 2, DEPTH / 2, 0.09), "cabinet", p.black if b.chance(0.6) else style.front),
    ]
    if sink is not None:
        for a, c in _gaps(-w / 2, w / 2, [(sink - sw / 2, sink + sw / 2)]):
            parts.append(box((a, y + 0.04, low), (c, DEPTH / 2, h - t), "cabinet", style.front))
    used: list[tuple[float, float]] = []
    hole = None
    if stove is not None:
        used.append((stove - 0.3, stove + 0.3))
        parts += _stove(b, stove, y, h, style)
    if washer:
        x = (
            sink + 0.75
            if sink is not None and sink + 1.1 < w / 2
            else (sink - 0.75 if sink is not None and sink - 1.1 > -w / 2 else None)
        )
        if x is not None and (stove is None or abs(stove - x) > 0.62):
            used.append((x - 0.3, x + 0.3))
            steel = p.white if b.chance(0.4) else p.metal() if b.chance(0.6) else p.black
            parts.append(
                box(
                    (x - 0.298, y + 0.015, 0.1),
                    (x + 0.298, y + 0.05, h - t - 0.005),
                    "otherfurniture",
                    steel,
                    upright=True,
                )
            )
            parts.append(
                box(
                    (x - 0.298, y + 0.008, h - t - 0.13), (x + 0.298, y + 0.05, h - t - 0.02), "otherfurniture", p.black
                )
            )
            parts.append(
                bar((x - 0.22, y - 0.02, h - 0.2), (x + 0.22, y - 0.02, h - 0.2), 0.01, "otherfurniture", p.chrome)
            )
    for a, c in _gaps(-w / 2, w / 2, used):
        n = max(1, round((c - a) / b.uniform(0.42, 0.6)))
        for i in range(n):
            x0, x1 = a + (c - a) * i / n, a + (c - a) * (i + 1) / n
            if b.chance(0.25):
                for j in range(3):
                    style.fronts.add(
                        parts,
                        x0,
                        x1,
                        0.1 + (h - t - 0.11) * j / 3,
                        0.1 + (h - t - 0.11) * (j + 1) / 3,
                        y + 0.04,
                        "drawer",
                    )
            else:
                split = h - t - 0.15 if b.chance(0.7) else h - t - 0.01
                style.fronts.add(parts, x0, x1, 0.1, split, y + 0.04, "left" if i % 2 == 0 else "right")
                if split < h - t - 0.05:
                    style.fronts.add(parts, x0, x1, split, h - t - 0.005, y + 0.04, "drawer")
    tops: list[Top] = []
    if sink is not None:
        hole = (sink, 0.0, sw - 0.04, sd - 0.04)
        bowl = p.ceramic if b.chance(0.2) else p.chrome
        if sw > 0.6:
            for s in (-1, 1):
                parts += shifted(wet.basin(sw / 2 - 0.01, sd, 0.17, bowl), sink + s * sw / 4, 0.0, h)
            parts.append(
                box((sink - 0.014, -sd / 2 + 0.03, h - 0.12), (sink + 0.014, sd / 2 - 0.03, h + 0.006), "sink", bowl)
            )
        else:
            parts += shifted(wet.basin(sw, sd, 0.17, bowl), sink, 0.0, h)
        parts += wet.tap(p, sink, sd / 2 + 0.03, h, "sink", b.uniform(0.14, 0.26))
        used.append((sink - sw / 2, sink + sw / 2))
    plate = wet.plate_with_hole(w + 0.01, DEPTH + 0.03, h - t, h, hole, "counter", style.worktop)
    parts += shifted(plate, y=-0.015)
    if b.chance(0.3):
        parts.append(box((-w / 2, DEPTH / 2 - 0.02, h), (w / 2, DEPTH / 2, h + 0.1), "counter", style.worktop))
    blocked = [
        u
        for u in used
        if not (washer and abs(u[1] - u[0] - 0.6) < 1e-6 and (stove is None or abs((u[0] + u[1]) / 2 - stove) > 0.01))
    ]
    for a, c in _gaps(-w / 2, w / 2, blocked):
        if c - a > 0.15:
            tops.append(top(a + 0.02, -DEPTH / 2 + 0.02, c - 0.02, DEPTH / 2 - 0.04, h, 0.4, "counter"))
    return Piece("kitchen run", parts, (w, DEPTH + 0.05, h), tops, 0.75)


def _gaps(low: float, high: float, used: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What is left of an interval."""
    out, at = [], low
    for a, c in sorted(used):
        if a - at > 0.08:
            out.append((at, a))
        at = max(at, c)
    if high - at > 0.08:
        out.append((at, high))
    return out


def _stove(b: Builder, x: float, y: float, h: float, style: KitchenStyle) -> list[Part]:
    """Oven door, knobs and cooking plates, 60 cm wide (classes otherstructure and otherprop)."""
    p = b.palette
    body = p.white if b.chance(0.45) else p.metal() if b.chance(0.6) else p.black
    glass = paint((0.015, 0.015, 0.017), GLOSS)
    label = "otherstructure"
    parts = [
        box((x - 0.298, y + 0.0, 0.1), (x + 0.298, y + 0.05, h - 0.02), label, body, upright=True),
        box((x - 0.22, y - 0.006, 0.3), (x + 0.22, y, 0.62), label, glass),
        bar((x - 0.24, y - 0.04, 0.68), (x + 0.24, y - 0.04, 0.68), 0.011, label, p.chrome),
        box(
            (x - 0.29, y + 0.03, h + 0.001),
            (x + 0.29, y + 0.56, h + 0.008),
            "otherprop",
            glass if b.chance(0.7) else body,
        ),
    ]
    for i in range(4):
        knob = cylinder((0, 0, 0), 0.018, 0.025, label, p.black, 10)
        parts += shifted(tilted([knob], "x", math.pi / 2), x - 0.18 + 0.12 * i, y, h - 0.09)
    coil = paint((0.03, 0.03, 0.03), MATT)
    gas = b.chance(0.5)
    for sx in (-0.14, 0.14):
        for sy in (0.17, 0.42):
            parts.append(cylinder((x + sx, y + sy, h + 0.008), 0.09, 0.006 if not gas else 0.02, "otherprop", coil, 14))
            if gas:
                parts.append(
                    bar((x + sx - 0.1, y + sy, h + 0.03), (x + sx + 0.1, y + sy, h + 0.03), 0.006, "otherprop", coil, 4)
                )
    if b.chance(0.55):  # a pot or kettle
        sx, sy = float(b.rng.choice([-0.14, 0.14])), float(b.rng.choice([0.17, 0.42]))
        pot = p.chrome if b.chance(0.5) else p.plastic(0.8)
        ph = b.uniform(0.06, 0.2)
        z = h + (0.035 if gas else 0.015)
        parts.append(cylinder((x + sx, y + sy, z), b.uniform(0.08, 0.12), ph, "otherprop", pot, 16, 1.05))
        parts.append(
            bar(
                (x + sx + 0.08, y + sy, z + ph - 0.02),
                (x + sx + 0.24, y + sy - 0.05, z + ph),
                0.01,
                "otherprop",
                p.black,
                5,
            )
        )
    if b.chance(0.3):
        parts += shifted(soft.towel(b.rng, p.towel(), 0.3, 0.35, 0.3), x, y - 0.04, 0.692)
    return parts


def wall_run(b: Builder, style: KitchenStyle, w: float, hood: float | None) -> list[Part]:
    """Wall cabinets along x, backs at y = 0; some open, a hood over the stove."""
    low, high, d = style.upper_low, style.upper_high, 0.34
    parts: list[Part] = []
    used = [(hood - 0.31, hood + 0.31)] if hood is not None else []
    if hood is not None:
        p = b.palette
        steel = p.metal() if b.chance(0.5) else p.white
        parts.append(box((hood - 0.3, -0.48, low + 0.12), (hood + 0.3, 0, low + 0.2), "otherstructure", steel))
        if b.chance(0.5):
            parts.append(
                box(
                    (hood - 0.13, -0.3, low + 0.2),
                    (hood + 0.13, 0, b.plan.height - 0.01),
                    "otherstructure",
                    steel,
                    upright=True,
                )
            )
        else:
            parts.append(box((hood - 0.3, -d, low + 0.2), (hood + 0.3, 0, high), "cabinet", style.upper))
            style.fronts.add(parts, hood - 0.3, hood + 0.3, low + 0.21, high, -d, "left")
    for a, c in _gaps(-w / 2, w / 2, used):
        n = max(1, round((c - a) / b.uniform(0.4, 0.6)))
        for i in range(n):
            x0, x1 = a + (c - a) * i / n, a + (c - a) * (i + 1) / n
            if b.chance(0.12) and x1 - x0 > 0.25:  # open, with crockery
                parts += shifted(cases.case(x1 - x0, d, low, high, "cabinet", style.upper), (x0 + x1) / 2, -d / 2)
                step = (high - low) / 2
                for k in range(2):
                    if k:
                        parts.append(
                            box((x0, -d + 0.01, low + step), (x1, 0, low + step + 0.018), "cabinet", style.upper)
                        )
                    parts += cases.fill_board(
                        b.rng,
                        b.palette,
                        x0 + 0.025,
                        x1 - 0.025,
                        -d + 0.03,
                        d - 0.05,
                        low + 0.02 + k * step,
                        step - 0.04,
                        0.1,
                    )
                continue
            parts.append(box((x0, -d, low), (x1, 0, high), "cabinet", style.upper))
            style.fronts.add(parts, x0, x1, low, high, -d, "left" if i % 2 == 0 else "right")
    return parts


def kitchen(b: Builder, splash: Material) -> None:
    style = KitchenStyle(b, splash)
    plan = b.plan
    order = sorted(plan.walls, key=lambda w: -w.length * b.uniform(0.7, 1.3))
    fridge_done = False
    runs = 0
    need_sink, need_stove = True, True
    for wall in order:
        if runs >= (3 if plan.area < 12 else 4) or (runs >= 1 and b.chance(0.12)):
            break
        for low, high in plan.spans(wall, DEPTH + 0.08, 0.0, HEIGHT):
            if high - low < 1.0 or (runs >= 1 and high - low < 1.2):
                continue
            a, c = low + 0.02, min(high - 0.02, low + 0.02 + b.uniform(2.6, 5.5))
            if not fridge_done and c - a > 1.9 and b.chance(0.75):
                fridge = b.take("refrigerator", wet.fridge, 0.6)
                if fridge is not None:
                    left = b.chance(0.5)
                    u = a + fridge.size[0] / 2 + 0.01 if left else c - fridge.size[0] / 2 - 0.01
                    placed = b.try_put(fridge, *wall.point(u, fridge.size[1] / 2 + 0.02), wall.yaw)
                    if placed is not None:
                        fridge_done = True
                        a, c = (a + fridge.size[0] + 0.03, c) if left else (a, c - fridge.size[0] - 0.03)
            w = c - a
            if w < 0.7:
                continue
            middle = (a + c) / 2
            sink = stove = None
            window = [x for x in b.windows if x.wall is wall]
            if need_sink and w > 1.0:
                sink = b.uniform(-w / 2 + 0.5, w / 2 - 0.5)
                for x in window:
                    u = (x.opening.u0 + x.opening.u1) / 2 - middle
                    if abs(u) < w / 2 - 0.5 and b.chance(0.8):
                        sink = u
            if need_stove and w > 1.9 and sink is not None:
                spots = [s for s in np.linspace(-w / 2 + 0.4, w / 2 - 0.4, 9) if abs(s - sink) > 0.85]
                stove = float(spots[int(b.rng.integers(len(spots)))]) if spots else None
            elif need_stove and not need_sink and w > 0.9:
                stove = b.uniform(-w / 2 + 0.4, w / 2 - 0.4)
            run = base_run(b, style, w, sink, stove, b.chance(0.5))
            placed = b.try_put(run, *wall.point(middle, run.size[1] / 2 + 0.005), wall.yaw)
            if placed is None:
                continue
            runs += 1
            need_sink, need_stove = need_sink and sink is None, need_stove and stove is None
            _above_run(b, style, wall, a, c, None if stove is None else middle + stove)
            break
    if not fridge_done:
        b.against(b.take("refrigerator", wet.fridge, 0.6), "corner", tries=30)
    if need_stove and b.chance(0.7):
        b.against(b.model(("appliance.stove", "appliance.washing_machine")))
    if b.chance(0.25):
        b.against(
            b.take("cabinet.kitchen_tall", lambda r, p: cases.cupboard(r, p, r.uniform(0.5, 0.9), 2.0), 0.6), "corner"
        )
    if plan.area > 11 and b.chance(0.3):
        _island(b, style)
    elif b.chance(0.7):
        dining_group(b, 0.75)
    if b.chance(0.3):
        b.stand(take_chair(b, "bar"))
    if b.chance(0.2):
        b.against(b.take(("appliance.washing_machine", "appliance.dryer", "appliance.freezer"), None), "any")
    if b.chance(0.25):
        b.against(cases.open_shelves(b.rng, b.palette))
    if b.chance(0.35):
        deco.towel_rail(b)
    placed_runs = [p for p in b.placed if p.piece.name == "kitchen run"]
    if placed_runs and b.chance(0.4):
        base = placed_runs[0]
        place = base.world(b.uniform(-0.4, 0.4), -0.85)
        deco.rug(b, *place, base.yaw, b.uniform(0.7, 1.5), b.uniform(0.45, 0.7))
    deco.people(b, 0.05)


def _above_run(b: Builder, style: KitchenStyle, wall: Wall, a: float, c: float, stove: float | None) -> None:
    """Tiles behind the worktop and wall cabinets between the windows."""
    plan = b.plan
    low, high = style.height, min(style.upper_low, plan.height)
    blocked = [
        (o.u0 - 0.1, o.u1 + 0.1) for i, w in enumerate(plan.walls) if w is wall for o in b.openings[i] if o.z1 > low
    ]
    for u0, u1 in _gaps(a, c, blocked):
        tiles = quad(
            np.array([[u0, -0.004, low], [u1, -0.004, low], [u1, -0.004, high], [u0, -0.004, high]]),
            "wall",
            style.splash,
        )
        b.shell_on(wall, [tiles])
        if u1 - u0 < 0.45 or b.chance(0.12):
            continue
        w, middle = u1 - u0 - 0.02, (u0 + u1) / 2
        rectangle = corners(*wall.point(middle, 0.18), w, 0.36, wall.yaw)
        if not plan.fits(rectangle, style.upper_low, style.upper_high):
            continue
        plan.solids.add(rectangle, style.upper_low, style.upper_high, "wall cabinets")
        hood = stove - middle if stove is not None and abs(stove - middle) < w / 2 - 0.31 else None
        b.hang(wall, wall_run(b, style, w, hood), middle, 0.0)


def _island(b: Builder, style: KitchenStyle) -> None:
    """A block with a worktop in the middle; stools at one side."""
    w = b.uniform(1.1, 2.0)
    run = base_run(b, style, w, None, None, False)
    d = DEPTH + 0.3
    back = box((-w / 2, DEPTH / 2 - 0.02, 0.0), (w / 2, DEPTH / 2 + 0.02, style.height - 0.04), "cabinet", style.front)
    plate = box(
        (-w / 2 - 0.02, -DEPTH / 2 - 0.03, style.height - 0.03),
        (w / 2 + 0.02, DEPTH / 2 + 0.25, style.height + 0.012),
        "counter",
        style.worktop,
    )
    for t in run.tops:
        t.z = style.height + 0.013
    piece = Piece("island", shifted([*run.parts, back, plate], y=-0.12), (w + 0.04, d, style.height), [], 0.6)
    piece.tops = [top(-w / 2, -d / 2 + 0.05, w / 2, d / 2 - 0.05, style.height + 0.013, kind="counter")]
    placed = b.stand(piece, near_walls=False, yaw=float(b.rng.choice([0, 0.5, 1, 1.5])) * math.pi, tries=30)
    if placed is None:
        return
    stool = take_chair(b, "bar")
    for x in (-0.45, 0.1, 0.6):
        if abs(x) < w / 2 - 0.1:
            chair_at(b, placed, stool, math.pi, x)


# ------------------------------------------------------------------------------------------------------------ bathrooms


def shower_curtain(b: Builder, bath: Placed) -> None:
    """A rod over the outer edge of a bath, a patterned curtain on rings, drawn or pushed to an end."""
    w, d, h = bath.piece.size
    z = min(b.uniform(1.95, 2.1), b.plan.height - 0.1)
    material = b.palette.shower()
    y = -d / 2 + b.uniform(-0.02, 0.04)
    parts = shifted(soft.curtain_rod(w, z, "shower curtain", b.palette.chrome, 12), y=y)
    share = b.uniform(0.3, 0.55) if b.chance(0.55) else b.uniform(0.6, 0.98)
    side = 1 if b.chance(0.5) else -1
    low = b.uniform(0.12, 0.3) if b.chance(0.6) else h + 0.02
    y0 = y if low > h else min(y, -d / 2 - 0.035)
    wide = (w - 0.06) * share
    cloth = soft.curtain(b.rng, material, wide, low, z - 0.035, "shower curtain", full=0.025)
    parts += shifted(cloth, side * (w / 2 - 0.03 - wide / 2), y0)
    bath.parts.extend(bath.move(parts))
    # Nothing else hangs where the curtain is.
    b.plan.solids.add(corners(*bath.world(0.0, y), w, 0.14, bath.yaw), h + 0.01, z + 0.03, "shower curtain")
    if b.chance(0.6):
        head = [
            bar((0, 0, 0), (0, -0.14, 0.06), 0.011, "otherprop", b.palette.chrome),
            cylinder((0, -0.17, 0.0), 0.045, 0.03, "otherprop", b.palette.chrome, 12),
        ]
        bath.parts.extend(bath.move(shifted(head, -side * (w / 2 - 0.02), 0.0, z - 0.1, yaw=side * math.pi / 2)))


def shower(b: Builder, tiles: Material) -> Piece:
    """A shower tray with glass walls, or with a curtain around it (in a corner, back and right side at walls)."""
    s = b.uniform(0.8, 1.0)
    p = b.palette
    parts: list[Part] = [rounded((0, 0, 0), (s, s, 0.12), 0.03, "bathtub", p.ceramic)]
    if b.chance(0.7):
        z = 2.0
        path = np.array(
            [[-s / 2, s / 2, z], [-s / 2, -s / 2 + 0.15, z], [-s / 2 + 0.15, -s / 2, z], [s / 2, -s / 2, z]]
        )
        parts.append(tube(path, 0.012, "shower curtain", p.chrome))
        material = p.shower()
        cloth = soft.curtain(b.rng, material, s * b.uniform(0.5, 0.95), 0.15, z - 0.03, "shower curtain", 0.022)
        parts += shifted(cloth, b.uniform(-0.0, 0.02) * s, -s / 2)
        if b.chance(0.6):
            cloth = soft.curtain(b.rng, material, s * b.uniform(0.3, 0.9), 0.15, z - 0.03, "shower curtain", 0.022)
            parts += shifted(cloth, -s / 2, 0.0, yaw=math.pi / 2)
    else:
        frame = p.chrome
        for x, y in ((-s / 2, -s / 2), (s / 2, -s / 2), (-s / 2, s / 2)):
            parts.append(box((x - 0.015, y - 0.015, 0.1), (x + 0.015, y + 0.015, 1.95), "otherstructure", frame))
        for z in (0.13, 1.93):
            parts.append(box((-s / 2, -s / 2 - 0.012, z), (s / 2, -s / 2 + 0.012, z + 0.03), "otherstructure", frame))
            parts.append(box((-s / 2 - 0.012, -s / 2, z), (-s / 2 + 0.012, s / 2, z + 0.03), "otherstructure", frame))
        glass = Material((0.55, 0.6, 0.6), Finish(roughness=0.1, specular=0.5))
        parts.append(
            quad(
                np.array(
                    [[-s / 2, -s / 2, 0.15], [s / 2, -s / 2, 0.15], [s / 2, -s / 2, 1.93], [-s / 2, -s / 2, 1.93]]
                ),
                "otherstructure",
                glass,
            )
        )
        parts.append(
            quad(
                np.array(
                    [[-s / 2, s / 2, 0.15], [-s / 2, -s / 2, 0.15], [-s / 2, -s / 2, 1.93], [-s / 2, s / 2, 1.93]]
                ),
                "otherstructure",
                glass,
            )
        )
    return Piece("shower", parts, (s + 0.04, s + 0.04, 2.02), [], 0.4)


def bathroom(b: Builder, tiles: Material) -> None:
    r, p, plan = b.rng, b.palette, b.plan
    tub = None
    if b.chance(0.72):
        longest = max(w.length for w in plan.walls)
        length = float(np.clip(b.uniform(1.45, 1.8), 1.3, longest - 0.1))
        between = sorted(w.length for w in plan.walls)[0]
        if 1.35 < between < 1.95 and b.chance(0.7):
            length = between - 0.03

        def make(rng: Rng, palette: Palette) -> Piece:
            return wet.bathtub(rng, palette, length)

        piece = b.take("bathtub", make, 0.8, fits=lambda m: m.size[0] < longest - 0.1)
        found = b.against(piece, "corner", tries=30) or b.against(make(r, p), "any", tries=30)
        if found is not None:
            tub = found[0]
            if b.chance(0.75):
                shower_curtain(b, tub)
            elif b.chance(0.5):
                _towel_over_edge(b, tub)
    if tub is None or b.chance(0.12):
        b.against(shower(b, tiles), "corner", tries=30)
    vanity = b.against(
        b.take(("sink.bath", "sink.vanity", "sink.wall"), wet.wash_basin, 0.6, front=0.5), "any", tries=30
    )
    if vanity is not None and not (b.chance(0.85) and deco.over(b, vanity[0], "mirror")):
        deco.over(b, vanity[0], "shelf")
    b.against(b.take("toilet", wet.toilet, 0.35, front=0.5), "any", tries=40)
    for _ in range(b.count(2, 4)):
        deco.towel_rail(b)
    if b.chance(0.2):
        deco.coat_hooks(b)
    if b.chance(0.5):
        b.against(
            b.take(
                ("cabinet.tall", "shelf.low"),
                lambda rng, palette: cases.cupboard(rng, palette, rng.uniform(0.35, 0.6), rng.uniform(0.8, 1.8)),
                0.7,
            ),
            "any",
        )
    if b.chance(0.3):
        b.against(wet.towel_shelf(r, p))
    if b.chance(0.35):
        deco.wall_shelves(b, 0.05)
    mat = tub or (vanity[0] if vanity else None)
    for base in [mat, vanity[0] if vanity and b.chance(0.3) else None]:
        if base is not None and b.chance(0.7):
            x, y = base.world(b.uniform(-0.2, 0.2), -base.piece.size[1] / 2 - 0.32)
            deco.rug(b, x, y, base.yaw + r.normal(0, 0.08), b.uniform(0.6, 1.0), b.uniform(0.4, 0.6))
    if b.chance(0.4):
        b.stand(small.basket(r, p))
    if b.chance(0.2):
        b.against(b.take("appliance.washing_machine", None))
    if b.chance(0.2):
        b.against(b.model("radiator.towel"))
    paper = [cylinder((0, 0, 0), 0.055, 0.1, "otherprop", p.white, 14)]
    spot = b.wall_spot(0.16, 0.16, 0.62, 0.12)
    if spot is not None:
        b.hang(spot[0], shifted(tilted(paper, "y", math.pi / 2), -0.05, -0.07), spot[1], 0.7)


def _towel_over_edge(b: Builder, tub: Placed) -> None:
    """A towel over the front edge of a bath."""
    w, d, h = tub.piece.size
    if tub.piece.model is not None:
        return
    cloth = soft.towel(b.rng, b.palette.towel(), b.uniform(0.4, 0.6), b.uniform(0.25, 0.4), 0.12, 0.04)
    tub.parts.extend(tub.move(shifted(cloth, b.uniform(-0.25, 0.25) * w, -d / 2 + 0.035, h + 0.005)))
