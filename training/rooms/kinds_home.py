"""Bedrooms, living rooms, dining rooms and studies: which furniture, and where."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from training.rooms import case_shapes as cases
from training.rooms import clutter
from training.rooms import decorate as deco
from training.rooms import small_shapes as small
from training.rooms import soft_shapes as soft
from training.rooms import table_shapes as tables
from training.rooms import wall_shapes as walls
from training.rooms.builder import Builder, Maker
from training.rooms.layout import Placed
from training.rooms.shapes import Piece, shifted


def take_chair(b: Builder, kind: str = "dining") -> Piece | None:
    """A chair for a table or a desk."""
    if kind == "office":
        return b.take("chair.office", tables.office_chair, 0.6)
    if kind == "bar":
        return b.take("chair.bar", lambda r, p: tables.stool(r, p, 0.68), 0.4)
    return b.take(("chair.dining", "chair.folding"), tables.chair, 0.4, fits=lambda m: m.size[2] < 1.25)


def same_again(piece: Piece) -> Piece:
    """The same piece, with surfaces of its own."""
    return replace(piece, tops=[replace(t, free=t.free.copy()) for t in piece.tops])


def chair_at(
    b: Builder, table: Placed, chair: Piece | None, side: float, shift: float, tuck: float | None = None
) -> Placed | None:
    """A chair at a side of a table: `side` 0 is its front, pi its back; it faces the table, a part of it below.

    Chairs are pushed in as far as they go without touching; mostly they stand a little away, a little turned.
    """
    if chair is None:
        return None
    w, d, _ = table.piece.size
    half = d / 2 if abs(math.sin(side)) < 0.5 else w / 2
    turn = side + math.pi
    if table.piece.name.startswith("table") and tuck is None and b.chance(0.6):
        chair = _tucked(chair, b.uniform(0.05, 0.24))
    for gap in (tuck if tuck is not None else b.uniform(0.02, 0.12), 0.25):
        off = half + chair.size[1] / 2 + gap
        # The front of a piece is towards -y: at side 0 the chair stands at -y and looks to +y.
        x, y = math.cos(side) * shift + math.sin(side) * off, math.sin(side) * shift - math.cos(side) * off
        placed = b.try_put(same_again(chair), *table.world(x, y), table.yaw + turn + b.rng.normal(0, 0.13), zones=False)
        if placed is not None:
            return placed
    return None


def _table(w: float, d: float, h: float, kind: str) -> Maker:
    """What makes a table of this size."""
    return lambda rng, palette: tables.table(rng, palette, w, d, h, kind)


def _tucked(chair: Piece, depth: float) -> Piece:
    """A chair whose front is below a table: its footprint is what sticks out."""
    w, d, h = chair.size
    tops = [replace(t, y=t.y - depth / 2) for t in chair.tops]
    return replace(chair, parts=shifted(chair.parts, y=-depth / 2), size=(w, d - depth, h), tops=tops)


def chairs_around(b: Builder, table: Placed, kind: str = "dining", most: int = 8) -> int:
    """Equal chairs along the sides of a table."""
    chair = take_chair(b, kind)
    if chair is None:
        return 0
    w, d, _ = table.piece.size
    pitch = chair.size[0] + 0.08
    seats = []
    for side, length in ((0.0, w), (math.pi, w), (math.pi / 2, d), (-math.pi / 2, d)):
        n = int(min(4, max(0, length - 0.05) // pitch)) if length > w * 0.99 or length > 0.6 else 0
        if side not in (0.0, math.pi):
            n = min(n, 1)
        seats += [(side, (i - (n - 1) / 2) * pitch) for i in range(n)]
    done = 0
    for index in b.rng.permutation(len(seats)):
        if done >= most or b.chance(0.1):
            continue
        side, shift = seats[int(index)]
        done += chair_at(b, table, chair, side, shift) is not None
    return done


# ------------------------------------------------------------------------------------------------------------- bedrooms


def bedroom(b: Builder) -> None:
    area = b.plan.area
    child = b.chance(0.25)
    double = area > 10 and b.chance(0.25 if child else 0.82)
    beds = []
    main = _bed(b, double)
    if main is not None:
        beds.append(main)
        if not double and b.chance(0.4):
            second = _bed(b, False)
            if second is not None:
                beds.append(second)
    for placed in beds:
        sides = [-1, 1] if b.chance(0.7) else [1 if b.chance(0.5) else -1]
        stand = _night_stand(b)
        for side in sides:
            b.beside(placed, same_again(stand) if stand and b.chance(0.75) else _night_stand(b), side)
        if b.chance(0.3):
            deco.over(b, placed, "picture")
        if double and b.chance(0.18):
            b.before(placed, b.take("bench", soft.ottoman, 0.7), 0.03)
        if b.chance(0.45):
            x, y = placed.world(b.uniform(-0.3, 0.3), -b.uniform(0.2, 0.8))
            deco.rug(
                b, x, y, placed.yaw + (math.pi / 2 if b.chance(0.5) else 0), b.uniform(1.4, 2.6), b.uniform(1.0, 1.9)
            )
    if b.chance(0.72):
        b.against(b.take("wardrobe", cases.wardrobe, 0.55, front=0.6), "corner" if b.chance(0.6) else "any")
    if b.chance(0.62):
        found = b.against(_dresser(b), "any")
        if found is not None:
            draw = b.rng.random()
            if draw < 0.4:
                deco.over(b, found[0], "mirror")
            elif draw < 0.55:
                deco.over(b, found[0], "picture")
            elif found[0].piece.tops and draw < 0.9:
                b.on(found[0], clutter.television(b, 0.9), yaw=0.0)
    if b.chance(0.4):
        desk_place(b)
    if b.chance(0.35):
        b.against(_bookcase(b))
    if b.chance(0.2):
        b.against(b.take(("shelf.tall", "shelf.low"), cases.open_shelves, 0.6))
    if child and b.chance(0.3):
        b.against(b.model(("crib", "dresser.changing_table", "clutter.toy_large", "table.child")))
    if b.chance(0.3):
        b.stand(b.take(("chair.arm", "chair.dining", "ottoman"), lambda r, p: soft.sofa(r, p, 1), 0.4))
    if b.chance(0.15):
        b.against(b.take("clothes.rack", cases.clothes_stand, 0.8))
    if b.chance(0.3) and area > 12:
        b.against(soft.sofa(b.rng, b.palette, 2))
    if b.chance(0.2):
        deco.mirror_on_wall(b)
    if b.chance(0.2):
        deco.coat_hooks(b)
    if b.chance(0.2):
        b.floor_lamp()
    if b.chance(0.25):
        b.stand(small.basket(b.rng, b.palette))
    if child:
        for _ in range(b.count(1, 3)):
            deco.hang_picture(b, "poster")
        deco.litter(b, 0.2, 0.2, 0.2, 1.2, 0.0, 0.1)


def _bed(b: Builder, double: bool) -> Placed | None:
    uses = ("bed.double",) if double else ("bed.single", "bed.child", "bed.day", "bed.bunk", "bed.mattress")
    piece = b.take(
        uses, lambda r, p: soft.bed(r, p, double), 0.62, fits=lambda m: m.size[2] < b.plan.height - 0.1, front=0.5
    )
    for where in ("middle" if double else "corner", "any", "any"):
        found = b.against(piece, where, tries=20)
        if found is not None:
            if piece is not None and piece.model is not None:
                _bed_clothes(b, found[0])
            return found[0]
        piece = soft.bed(b.rng, b.palette, double and b.plan.area > 9)
    found = b.against(soft.bed(b.rng, b.palette, False), "any", tries=40)
    return found[0] if found else None


def _bed_clothes(b: Builder, placed: Placed) -> None:
    """Pillows on a bed of the catalogue that is level where its head is."""
    for surface in placed.piece.tops:
        for _ in range(b.count(1, 3)):
            parts, size = soft.pillow(b.rng, b.palette)
            b.on(placed, Piece("pillow", parts, size), surface, yaw=b.rng.normal(0, 0.2), edge="back")


def _night_stand(b: Builder) -> Piece | None:
    return b.take("night_stand", cases.night_stand, 0.75)


def _dresser(b: Builder) -> Piece | None:
    return b.take(("dresser", "dresser.dressing_table"), cases.dresser, 0.8, front=0.5)


def _bookcase(b: Builder, share: float = 0.7) -> Piece | None:
    return b.take(("bookshelf.full", "bookshelf.tall"), lambda r, p: cases.bookcase(r, p), share, front=0.3)


def desk_place(b: Builder, where: str = "any") -> Placed | None:
    """A desk at a wall with its chair; its surface is filled with the others."""
    found = b.against(b.take(("desk.desk", "desk.large"), tables.desk, 0.5, fits=lambda m: m.size[0] < 2.2), where)
    if found is None:
        return None
    desk = found[0]
    chair = take_chair(b, "office" if b.chance(0.65) else "dining")
    if chair_at(b, desk, chair, 0.0, b.uniform(-0.15, 0.15), b.uniform(-0.0, 0.2)) is None:
        chair_at(b, desk, tables.chair(b.rng, b.palette), 0.0, 0.0)
    if b.chance(0.3):
        deco.over(b, desk, "shelf")
    elif b.chance(0.3):
        deco.over(b, desk, "picture")
    return desk


# --------------------------------------------------------------------------------------------------------- living rooms


def _sofa(b: Builder, small_one: bool = False) -> Piece | None:
    seats = int(b.rng.choice([2, 3])) if not small_one else 2
    uses = ("sofa.loveseat",) if small_one else ("sofa.sofa", "sofa.loveseat", "sofa.bench")
    return b.take(uses, lambda r, p: soft.sofa(r, p, seats), 0.4)


def _armchair(b: Builder) -> Piece | None:
    return b.take("chair.arm", lambda r, p: soft.sofa(r, p, 1), 0.4, fits=lambda m: m.size[2] < 1.3)


def sitting_group(b: Builder) -> Placed | None:
    """A sofa, a coffee table on a rug, armchairs, and a television opposite."""
    sofa = _sofa(b)
    if b.plan.area > 16 and b.chance(0.3):
        sofa = b.model("sofa.corner") or sofa
    if sofa is None:
        return None
    base: Placed | None = None
    if b.plan.area > 24 and b.chance(0.3):  # free in the room, its back to the other half
        wall = b.plan.walls[int(b.rng.integers(len(b.plan.walls)))]
        x, y = wall.point(wall.length * b.uniform(0.35, 0.65), b.uniform(2.6, 3.4))
        base = b.try_put(sofa, x, y, wall.yaw + math.pi)
    if base is None:
        found = b.against(sofa, "middle", tries=20) or b.against(sofa, "any", tries=20)
        base = found[0] if found else None
    if base is None:
        return None
    table = None
    if b.chance(0.78):
        size = b.uniform(0.7, 1.25), b.uniform(0.5, 0.75), b.uniform(0.36, 0.48)
        piece = (
            b.take("table.coffee", _table(*size, "coffee"), 0.45) if b.chance(0.85) else soft.ottoman(b.rng, b.palette)
        )
        table = b.before(base, piece, b.uniform(0.28, 0.45), b.uniform(-0.15, 0.15), turn=b.rng.normal(0, 0.05))
    if b.chance(0.7):
        x, y = base.world(0, -base.piece.size[1] / 2 - b.uniform(0.3, 0.8))
        deco.rug(b, x, y, base.yaw, b.uniform(1.8, 3.0), b.uniform(1.3, 2.0))
    for side in (-1, 1):
        if b.chance(0.5):
            chair = _armchair(b)
            if chair is not None:
                x = side * (base.piece.size[0] / 2 + b.uniform(-0.1, 0.3))
                y = -base.piece.size[1] / 2 - b.uniform(0.7, 1.1)
                b.try_put(chair, *base.world(x, y), base.yaw - side * b.uniform(0.9, 1.6), zones=False)
        elif b.chance(0.5):
            make = _table(0.45, 0.45, b.uniform(0.48, 0.6), "stand")
            b.beside(base, b.take("table.side", make, 0.7), side, back=False)
    if b.chance(0.85):
        _television_place(b, base)
    if b.chance(0.5):
        deco.over(b, base, "picture")
    return base if table is None else table


def _television_place(b: Builder, sofa: Placed) -> None:
    """A low board with a television at the wall that the sofa looks at, if there is room."""
    look = np.array([math.sin(sofa.yaw), -math.cos(sofa.yaw)])
    facing = [w for w in b.plan.walls if float(np.dot(w.normal, look)) < -0.9]
    wide = b.uniform(1.0, 2.0)
    stand = b.take(("cabinet.tv", "cabinet.media"), lambda r, p: cases.tv_stand(r, p, wide), 0.6)
    if stand is None:
        return
    target = (sofa.x, sofa.y)
    best = None
    for wall in facing:
        u = float(np.dot(np.array(target) - wall.origin, wall.axis)) + b.uniform(-0.4, 0.4)
        half = stand.size[0] / 2 + 0.02
        if wall.length < 2 * half:
            continue
        u = float(np.clip(u, half, wall.length - half))
        x, y = wall.point(u, stand.size[1] / 2 + 0.02)
        best = b.try_put(stand, x, y, wall.yaw)
        if best is not None:
            break
    if best is None:
        found = b.against(stand, "middle")
        best = found[0] if found else None
    if best is None:
        return
    if b.chance(0.3):
        deco.over(b, best, "television")
    else:
        b.on(best, clutter.television(b, min(1.5, best.piece.size[0] * 0.95)), yaw=0.0)


def living_room(b: Builder) -> None:
    sitting_group(b)
    area = b.plan.area
    if b.chance(0.2):
        parts = walls.fireplace(b.rng, b.palette)
        found = b.against(Piece("fireplace", shifted(parts, y=0.33), (1.7, 0.68, 1.3), [], 0.5), "middle")
        if found is not None and b.chance(0.6):
            deco.over(b, found[0], "mirror" if b.chance(0.5) else "picture")
    for _ in range(b.count(0, 2)):
        b.against(_bookcase(b))
    if b.chance(0.35):
        found = b.against(b.take(("cabinet.low", "cabinet.display", "dresser"), cases.cupboard, 0.6))
        if found is not None:
            deco.over(b, found[0], "mirror" if b.chance(0.3) else "picture")
    if b.chance(0.3):
        b.against(b.take(("shelf.tall", "shelf.low"), cases.open_shelves, 0.6))
    if b.chance(0.6) and area > 15:
        second = b.against(_sofa(b, b.chance(0.5)))
        if second is not None and b.chance(0.3):
            deco.over(b, second[0], "picture")
    if b.chance(0.13) and area > 15:
        found = b.against(b.model("piano.upright") if b.chance(0.4) else tables.piano(b.rng, b.palette))
        if found is not None:
            chair_at(b, found[0], b.take("bench.piano", lambda r, p: tables.stool(r, p, 0.5), 0.3), 0.0, 0.0)
    if area > 24 and b.chance(0.55):
        dining_group(b, 0.8)
    if b.chance(0.3):
        desk_place(b)
    for _ in range(b.count(0, 2)):
        b.stand(_armchair(b) if b.chance(0.7) else soft.ottoman(b.rng, b.palette))
    if b.chance(0.55):
        b.floor_lamp()
    if b.chance(0.15):
        deco.coat_hooks(b)
    deco.people(b, 0.12, ("person.standing",))
    _sitting_person(b, 0.1)


def _sitting_person(b: Builder, chance: float) -> None:
    """Somebody on a sofa or chair."""
    if not b.chance(chance):
        return
    seats = [(p, t) for p, t in b.tops("seat") if p.piece.name.startswith(("sofa", "chair"))]
    person = b.model("person.sitting", fits=lambda m: m.size[2] > 1.0)
    if not seats or person is None:
        return
    placed, surface = seats[int(b.rng.integers(len(seats)))]
    # The catalogue's sitting persons are modelled with their feet on the floor and sit at about 0.45 m.
    front = -placed.piece.size[1] / 2 + 0.05
    x, y = placed.world(surface.x + surface.free.shape[1] * 0.0125, front)
    b.add(person, [q.moved((x, y, 0.0), placed.yaw) for q in person.parts])
    surface.free[:] = False


# --------------------------------------------------------------------------------------------------- dining and study


def dining_group(b: Builder, big: float = 1.0) -> Placed | None:
    """A table with chairs in the middle of free floor."""
    w, d = b.uniform(1.0, 2.0) * big, b.uniform(0.75, 1.0)
    make = _table(w, d, b.uniform(0.72, 0.78), "table")
    piece = b.take(("table.dining", "table.round"), make, 0.5, fits=lambda m: m.size[0] < 2.5 and 0.6 < m.size[2] < 0.9)
    if piece is None:
        return None
    wide = Piece(piece.name, piece.parts, (piece.size[0] + 0.9, piece.size[1] + 0.9, piece.size[2]))
    center = b.plan.extent / 2
    for attempt in range(24):
        yaw = float(b.rng.choice([0, math.pi / 2])) + (b.rng.normal(0, 0.04) if b.chance(0.5) else 0)
        spread = 0.15 + 0.35 * attempt / 24
        x, y = center + b.rng.uniform(-1, 1, 2) * spread * b.plan.extent
        if b.plan.fits_piece(wide if attempt < 18 else piece, x, y, yaw, zones=attempt < 18):
            if b.chance(0.4):
                deco.rug(b, x, y, yaw, piece.size[0] + 1.1, piece.size[1] + 1.1)
            placed = b.put(piece, x, y, yaw)
            chairs_around(b, placed)
            return placed
    return None


def dining_room(b: Builder) -> None:
    table = dining_group(b)
    b.spots = [(table.x, table.y)] if table is not None else b.spots
    for _ in range(b.count(1, 3)):
        found = b.against(b.take(("cabinet.display", "cabinet.low", "dresser"), cases.cupboard, 0.6))
        if found is not None and b.chance(0.6):
            deco.over(b, found[0], "mirror" if b.chance(0.35) else "picture")
    if b.chance(0.3):
        b.against(_bookcase(b))
    if b.chance(0.25):
        b.against(b.take(("shelf.low", "shelf.tall"), cases.open_shelves, 0.6))
    if b.chance(0.3):
        chair = take_chair(b)
        for _ in range(b.count(1, 2)):
            b.stand(same_again(chair) if chair else None)
    if b.chance(0.25) and b.plan.area > 16:
        b.against(_sofa(b))
    if b.chance(0.15):
        b.against(b.model("piano.upright") or tables.piano(b.rng, b.palette))
    if b.chance(0.3):
        b.floor_lamp()
    deco.people(b, 0.1)


def study(b: Builder) -> None:
    """A room to work and read in at home: desk, bookcases, an armchair."""
    desk_place(b, where="middle" if b.chance(0.4) else "any")
    for _ in range(b.count(1, 4)):
        b.against(_bookcase(b, 0.8))
    if b.chance(0.4):
        desk_place(b)
    if b.chance(0.5):
        placed = b.stand(_armchair(b))
        if placed is not None and b.chance(0.4):
            deco.rug(b, placed.x, placed.y, placed.yaw, b.uniform(1.5, 2.4), b.uniform(1.1, 1.6))
    if b.chance(0.35):
        b.against(b.take(("shelf.tall", "shelf.low"), cases.open_shelves, 0.7))
    if b.chance(0.5):
        b.against(b.take(("cabinet.file", "cabinet.low", "cabinet.office"), cases.cupboard, 0.6))
    if b.chance(0.4):
        b.against(_sofa(b, True))
    if b.chance(0.3):
        deco.whiteboard(b, b.uniform(0.6, 1.4))
    if b.chance(0.35):
        b.floor_lamp()
    deco.people(b, 0.1)


def library(b: Builder) -> None:
    """A shop or room full of bookcases, along the walls and in rows, with tables between."""
    h = b.uniform(1.5, 2.2)
    for wall in b.plan.walls:
        u = b.uniform(0.1, 0.5)
        while u < wall.length - 0.6:
            w = b.uniform(0.8, 1.25)
            if b.chance(0.85):
                case = cases.bookcase(
                    b.rng, b.palette, w, h * b.uniform(0.95, 1.05) if h < b.plan.height - 0.2 else None
                )
                x, y = wall.point(u + w / 2, case.size[1] / 2 + 0.01)
                b.try_put(case, x, y, wall.yaw)
            u += w + (0.01 if b.chance(0.8) else b.uniform(0.3, 1.0))
            if len(b.placed) > 12:
                break
    if b.plan.area > 20:
        yaw = float(b.rng.choice([0, math.pi / 2]))
        for _ in range(b.count(1, 3)):
            if b.chance(0.5):
                case = cases.bookcase(b.rng, b.palette, b.uniform(0.9, 1.3), b.uniform(1.2, 1.6))
                spot = b.plan.anywhere(b.rng, case, yaw=yaw)
                if spot:
                    placed = b.put(case, *spot)
                    twin = cases.bookcase(b.rng, b.palette, case.size[0], case.size[2])
                    b.try_put(
                        twin, *placed.world(0, case.size[1] / 2 + twin.size[1] / 2 + 0.01), yaw + math.pi, zones=False
                    )
            else:
                b.stand(
                    tables.table(b.rng, b.palette, b.uniform(1.0, 1.6), b.uniform(0.6, 0.9), 0.74, "table"),
                    near_walls=False,
                    yaw=yaw,
                )
    for _ in range(b.count(0, 2)):
        b.stand(_armchair(b))
    deco.people(b, 0.25)
