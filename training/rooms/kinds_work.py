"""Offices, classrooms and corridors."""

from __future__ import annotations

import math

from training.rooms import case_shapes as cases
from training.rooms import decorate as deco
from training.rooms import small_shapes as small
from training.rooms import soft_shapes as soft
from training.rooms import table_shapes as tables
from training.rooms import wall_shapes as walls
from training.rooms.builder import Builder
from training.rooms.kinds_home import chair_at, chairs_around, desk_place, dining_group, same_again, take_chair
from training.rooms.layout import Placed
from training.rooms.shapes import Piece, box, shifted


def office(b: Builder) -> None:
    area = b.plan.area
    if area > 22 and b.chance(0.6):
        desk_rows(b)
    elif area > 14 and b.chance(0.3):
        meeting(b)
    else:
        desk_place(b, where="corner" if b.chance(0.5) else "any")
    for _ in range(b.count(1, 3) if area < 30 else b.count(2, 5)):
        desk_place(b, where="corner" if b.chance(0.4) else "any")
    for _ in range(b.count(0, 2)):
        b.against(b.take(("cabinet.file", "cabinet.office", "cabinet.tall"), lambda r, p: cases.cupboard(r, p), 0.5))
    for _ in range(b.count(0, 3)):
        b.against(b.take(("bookshelf.full", "bookshelf.tall"), lambda r, p: cases.bookcase(r, p), 0.8))
    for _ in range(b.count(0, 2)):
        b.against(b.take(("shelf.tall", "shelf.low"), cases.open_shelves, 0.7))
    if b.chance(0.8):
        deco.whiteboard(b)
        if b.chance(0.25):
            deco.whiteboard(b)
    for _ in range(b.count(0, 2)):
        b.stand(take_chair(b, "office" if b.chance(0.5) else "dining"), near_walls=b.chance(0.5))
    if b.chance(0.22):
        b.against(soft.sofa(b.rng, b.palette, 2))
    if b.chance(0.15):
        b.against(b.take(("otherprop.water_cooler", "refrigerator"), None))
    if b.chance(0.2):
        deco.coat_hooks(b)
    if b.chance(0.2) and area > 25:
        partition(b)
    deco.people(b, 0.25)


def desk_rows(b: Builder) -> None:
    """Equal desks in pairs face to face, with screens between them."""
    w, d = b.uniform(1.3, 1.7), b.uniform(0.7, 0.8)
    make = tables.desk(b.rng, b.palette, w)
    if len(make.tops) != 1 or make.tops[0].free.shape[0] * 0.025 < make.size[1] - 0.1:
        make = tables.table(b.rng, b.palette, w, d, 0.74, "desk")
    chair = take_chair(b, "office")
    w, d, _ = make.size
    columns = max(1, int((b.plan.extent[0] - 2.2) // (w + 0.02)))
    rows = max(1, int((b.plan.extent[1] - 1.2) // (2 * d + 2.2)))
    columns = min(columns, 4)
    x0 = b.uniform(0.9, max(0.95, b.plan.extent[0] - columns * (w + 0.02) - 0.9))
    done = 0
    for row in range(rows):
        y = 1.1 + d + row * (2 * d + 2.2)
        for column in range(columns):
            x = x0 + w / 2 + column * (w + 0.02)
            for yaw, shift in ((0.0, -d / 2 - 0.012), (math.pi, d / 2 + 0.012)):
                if done >= 8:
                    return
                placed = b.try_put(same_again(make), x, y + shift, yaw)
                if placed is None:
                    continue
                done += 1
                chair_at(b, placed, chair, 0.0, b.uniform(-0.2, 0.2), b.uniform(0.0, 0.3))
        if b.chance(0.6):  # a low screen between the two sides
            cloth = b.palette.fabric()
            screen = box(
                (x0, y - 0.011, 0.74),
                (x0 + columns * (w + 0.02), y + 0.011, b.uniform(1.05, 1.35)),
                "otherstructure",
                cloth,
            )
            b.scatter("screen", [screen])


def partition(b: Builder) -> None:
    """A free-standing screen (class otherstructure)."""
    w, h = b.uniform(1.2, 2.0), b.uniform(1.3, 1.8)
    cloth, frame = b.palette.fabric(), b.palette.handle
    parts = [
        box((-w / 2, -0.025, 0.08), (w / 2, 0.025, h - 0.02), "otherstructure", cloth),
        box((-w / 2, -0.03, h - 0.03), (w / 2, 0.03, h), "otherstructure", frame),
    ]
    for x in (-w / 2, w / 2):
        parts.append(box((x - 0.02, -0.03, 0.0), (x + 0.02, 0.03, h), "otherstructure", frame))
        parts.append(box((x - 0.03, -0.22, 0.0), (x + 0.03, 0.22, 0.03), "otherstructure", frame))
    b.stand(Piece("partition", parts, (w + 0.04, 0.44, h)), near_walls=False)


def meeting(b: Builder) -> None:
    """A long table with chairs, a board or screen on the wall."""
    w, d = b.uniform(1.8, 3.2), b.uniform(0.9, 1.3)
    table = tables.table(b.rng, b.palette, w, d, b.uniform(0.72, 0.76), "table")
    for _ in range(20):
        yaw = float(b.rng.choice([0, math.pi / 2]))
        x, y = b.plan.extent / 2 + b.rng.uniform(-0.15, 0.15, 2) * b.plan.extent
        if b.plan.fits_piece(table, x, y, yaw):
            placed = b.put(table, x, y, yaw)
            chairs_around(b, placed, "office" if b.chance(0.5) else "dining", 10)
            break
    deco.whiteboard(b)


def classroom(b: Builder) -> None:
    """Rows of tables before a board."""
    extent = b.plan.extent
    # The front is the wall of the least x; rows run along y.
    front = next(w for w in b.plan.walls if w.outer and abs(w.normal[0] - 1) < 1e-6)
    boards = []
    for _ in range(b.count(1, 2)):
        w = min(b.uniform(1.8, 3.6), front.length * 0.6)
        spot = b.wall_spot(w, 1.2, 0.9, 0.1, [front], "middle", 20)
        if spot:
            boards.append(spot)
            b.hang(front, walls.whiteboard(b.rng, b.palette, w, 1.2), spot[1], 0.9)
    teacher = b.take(("desk.desk", "desk.large"), tables.desk, 0.6, fits=lambda m: m.size[0] < 2)
    if teacher is not None:
        x, y = front.point(front.length * b.uniform(0.2, 0.8), 1.1 + teacher.size[1])
        placed = b.try_put(teacher, x, y, front.yaw + math.pi)
        if placed is not None:
            back = take_chair(b, "office")
            chair_at(b, placed, back, 0.0, 0.0)
    draw = b.rng.random()
    w, d = (b.uniform(0.6, 0.75), 0.5) if draw < 0.35 else (b.uniform(1.2, 1.6), b.uniform(0.5, 0.65))
    label = "desk" if b.chance(0.6) else "table"
    desk = tables.desk(b.rng, b.palette, w) if label == "desk" else tables.table(b.rng, b.palette, w, d, 0.73, "table")
    if len(desk.tops) != 1:
        desk = tables.table(b.rng, b.palette, w, d, 0.73, "table")
    desk.tops[0].kind = "pupil"
    w, d, _ = desk.size
    chair = b.take(("chair.class", "chair.dining"), tables.chair, 0.5, fits=lambda m: m.size[2] < 1.1)
    pitch_x, gap = d + b.uniform(0.75, 0.95), b.uniform(0.15, 0.6)
    rows = min(5, int((extent[0] - 3.2) // pitch_x))
    columns = min(5, int((extent[1] - 1.2) // (w + gap)))
    y0 = (extent[1] - columns * (w + gap) + gap) / 2
    for i in range(rows):
        for j in range(columns):
            if b.chance(0.06):
                continue
            x, y = 2.6 + i * pitch_x, y0 + w / 2 + j * (w + gap)
            # Pupils sit behind their desks and look towards the front (-x): the desk's own front is towards +x.
            placed = b.try_put(
                same_again(desk),
                x + b.rng.normal(0, 0.02),
                y + b.rng.normal(0, 0.02),
                math.pi / 2 + b.rng.normal(0, 0.02),
            )
            if placed is None:
                continue
            seats = [0.0] if w < 0.9 else [-w / 4, w / 4]
            for shift in seats:
                if not b.chance(0.1):
                    chair_at(b, placed, chair, 0.0, shift, b.uniform(0.0, 0.15))
    for _ in range(b.count(1, 4)):
        b.against(
            b.take(
                ("bookshelf.tall", "shelf.low", "cabinet.office"),
                lambda r, p: cases.bookcase(r, p, None, r.uniform(0.8, 1.6)),
                0.8,
            )
        )
    for _ in range(b.count(0, 2)):
        b.against(cases.cupboard(b.rng, b.palette))
    if b.chance(0.5):
        b.against(cases.open_shelves(b.rng, b.palette))
    if b.chance(0.3):
        deco.whiteboard(b)
    if b.chance(0.4):
        deco.coat_hooks(b)
    for _ in range(2):
        deco.people(b, 0.2)


def corridor(b: Builder) -> None:
    """Narrow things along the walls: coats, shoes, a cabinet, a runner; or those of an office's corridor."""
    home = b.chance(0.55)
    wide = float(b.plan.extent.min())
    length = float(b.plan.extent.max())
    yaw = 0.0 if b.plan.extent[0] > b.plan.extent[1] else math.pi / 2

    def narrow() -> Piece:
        return cases.bookcase(b.rng, b.palette, b.uniform(0.6, 1.0), b.uniform(0.8, 1.9))

    if home:
        if b.chance(0.6):
            center = b.plan.extent / 2 if b.plan.notch is None else b.plan.outline[:3].mean(0) * 0.5
            deco.rug(
                b, float(center[0]), float(center[1]), yaw, length * b.uniform(0.3, 0.6), wide * b.uniform(0.4, 0.55)
            )
        for _ in range(b.count(1, 2)):
            deco.coat_hooks(b)
        if b.chance(0.5):
            found = b.against(_shallow(cases.cupboard(b.rng, b.palette, b.uniform(0.6, 1.1), b.uniform(0.75, 0.95))))
            if found is not None:
                deco.over(b, found[0], "mirror" if b.chance(0.6) else "picture")
        if b.chance(0.35):
            b.against(_shallow(narrow()))
        if b.chance(0.3):
            b.against(_shallow(cases.dresser(b.rng, b.palette, False)))
        if b.chance(0.3):
            b.against(b.take("bench", soft.ottoman, 0.6))
        if b.chance(0.3):
            deco.mirror_on_wall(b)
        for _ in range(b.count(0, 3)):
            b.stand(small.shoes(b.rng, b.palette), tries=14)
        deco.people(b, 0.1)
        b.habit = "corridor.home"
        return
    b.habit = "corridor.office"
    for _ in range(b.count(0, 3)):
        draw = b.rng.random()
        if draw < 0.35:
            b.against(_shallow(cases.cupboard(b.rng, b.palette)))
        elif draw < 0.6:
            b.against(_shallow(narrow()))
        elif draw < 0.8:
            chair = take_chair(b)
            found = b.against(chair)
            if found is not None and chair is not None:
                b.beside(found[0], same_again(chair), 1, 0.05)
        else:
            b.against(b.model(("otherprop.water_cooler", "bench", "otherprop.fire_extinguisher")))
    if b.chance(0.4):
        deco.whiteboard(b, b.uniform(0.9, 1.8))
    deco.people(b, 0.22)


def _shallow(piece: Piece) -> Piece:
    """Room to pass is kept by having no zone before a narrow piece."""
    piece.front = 0.0
    return piece


def playroom(b: Builder) -> None:
    """Toys on the floor, low shelves, a small table."""
    for _ in range(b.count(2, 4)):
        b.against(
            cases.bookcase(b.rng, b.palette, None, b.uniform(0.7, 1.2), "shelves" if b.chance(0.7) else "bookshelf")
        )
    if b.chance(0.6):
        table = b.stand(
            b.take("table.child", lambda r, p: tables.table(r, p, 0.9, 0.6, 0.52, "table"), 0.6), near_walls=False
        )
        if table is not None:
            chair = b.take("chair.child", lambda r, p: tables.chair(r, p).scaled(0.7), 0.5)
            for side in (0.0, math.pi, math.pi / 2):
                chair_at(b, table, chair, side, 0.0)
    else:
        dining_group(b, 0.7)
    if b.chance(0.6):
        b.against(soft.sofa(b.rng, b.palette, 2))
    b.against(b.model(("clutter.toy_large", "crib", "table.football")))
    center: Placed | None = None
    x, y = b.plan.extent * b.rng.uniform(0.35, 0.65, 2)
    if center is None:
        deco.rug(b, float(x), float(y), 0.0, b.uniform(1.5, 2.6), b.uniform(1.2, 1.8))
    b.against(small_boxes(b))
    if b.chance(0.4):
        deco.whiteboard(b, b.uniform(0.7, 1.4))


def small_boxes(b: Builder) -> Piece:
    """Storage boxes side by side."""
    parts, x = [], 0.0
    w, d, h = b.uniform(0.28, 0.4), b.uniform(0.3, 0.4), b.uniform(0.2, 0.34)
    n = b.count(2, 4)
    for _ in range(n):
        parts += shifted(small.carton(b.rng, b.palette, (w, d, h)).parts, x + w / 2)
        x += w + 0.06
    return Piece("boxes", shifted(parts, -x / 2), (x + 0.06, d + 0.1, h))
