"""What hangs on walls and from ceilings, what lies and stands about on the floor."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from training.rooms import case_shapes as cases
from training.rooms import device_shapes as devices
from training.rooms import small_shapes as small
from training.rooms import soft_shapes as soft
from training.rooms import textures
from training.rooms import wall_shapes as walls
from training.rooms.builder import Builder, Lamp
from training.rooms.clutter import draw, prop
from training.rooms.layout import Placed, Wall, corners
from training.rooms.palette import CLOTH
from training.rooms.plant_shapes import plant
from training.rooms.scene import Part
from training.rooms.shapes import Material, Piece, box, quad, shifted, textured

# ---------------------------------------------------------------------------------------------------------------- walls


def hang_picture(b: Builder, kind: str = "picture") -> bool:
    """A picture, poster or sheets of paper at eye level, where there is room."""
    r, p = b.rng, b.palette
    make = {"picture": walls.picture, "poster": walls.poster, "paper": walls.papers}[kind]
    parts, (w, h) = make(r, p)
    z = b.uniform(1.35, 1.75) - h / 2
    spot = b.wall_spot(w + 0.04, h, max(0.8, z), 0.05)
    if spot is None:
        return False
    b.hang(spot[0], parts, spot[1], max(0.8, z))
    return True


def row_of_pictures(b: Builder) -> None:
    """Two to four equal frames side by side."""
    n = b.count(2, 4)
    sizes = b.uniform(0.22, 0.42)
    made = [walls.picture(b.rng, b.palette, sizes) for _ in range(n)]
    w, h = sum(s[0] + 0.06 for _, s in made), max(s[1] for _, s in made)
    z = b.uniform(1.3, 1.5)
    spot = b.wall_spot(w, h, z, 0.05)
    if spot is None:
        return
    u = spot[1] - w / 2
    for parts, (pw, ph) in made:
        b.hang(spot[0], parts, u + pw / 2 + 0.03, z + (h - ph) / 2)
        u += pw + 0.06


def over(b: Builder, base: Placed, what: str) -> bool:
    """A mirror, picture, shelf or television on the wall above a piece that stands with its back to it."""
    wall = min(b.plan.walls, key=lambda w: abs(math.remainder(w.yaw - base.yaw, 2 * math.pi)) * 10 + _distance(w, base))
    u = float(np.dot(np.array([base.x, base.y]) - wall.origin, wall.axis))
    low = base.z + base.piece.size[2]
    r, p = b.rng, b.palette
    if what == "mirror":
        w, h = min(base.piece.size[0] * b.uniform(0.6, 1.0), 1.3), b.uniform(0.6, 1.0)
        z = max(low + 0.12, b.uniform(0.95, 1.15))
        if (
            u - w / 2 < 0.03
            or u + w / 2 > wall.length - 0.03
            or z + h > b.plan.height - 0.1
            or not b.mark(wall, u, w, h, z, 0.04)
        ):
            return False
        b.hang(wall, walls.mirror(r, p, w, h), u, z)
        return True
    if what == "picture":
        parts, (w, h) = walls.picture(r, p)
        z = max(low + 0.2, 1.1)
        if (
            u - w / 2 < 0.03
            or u + w / 2 > wall.length - 0.03
            or z + h > b.plan.height - 0.1
            or not b.mark(wall, u, w, h, z, 0.04)
        ):
            return False
        b.hang(wall, parts, u, z)
        return True
    if what == "shelf":
        w, d = min(b.uniform(0.6, 1.4), base.piece.size[0]), b.uniform(0.18, 0.28)
        z = max(low + 0.45, b.uniform(1.3, 1.6))
        if u - w / 2 < 0.03 or u + w / 2 > wall.length - 0.03 or not b.mark(wall, u, w, 0.4, z - 0.05, d):
            return False
        b.hang(wall, cases.wall_board(r, p, w, d, 0.34, 0.5), u, z)
        return True
    tv = b.model("tv.wall") if b.chance(0.2) else None
    tv = tv or devices.television(r, p, b.uniform(0.8, 1.4), wall=True)
    w, d, h = tv.size
    z = max(low + 0.12, b.uniform(0.95, 1.25))
    if u - w / 2 < 0.03 or u + w / 2 > wall.length - 0.03 or not b.mark(wall, u, w, h, z, d + 0.04):
        return False
    b.hang(wall, shifted(tv.parts, y=-d / 2 - 0.03), u, z, tv.name, tv.model)
    return True


def _distance(wall: Wall, base: Placed) -> float:
    """How far a piece is from a wall."""
    return float(abs(np.dot(np.array([base.x, base.y]) - wall.origin, wall.normal)))


def wall_shelves(b: Builder, books: float = 0.45) -> bool:
    """One to three boards on a wall with things on them (class shelves)."""
    n, w, d = b.count(1, 3), b.uniform(0.5, 1.4), b.uniform(0.16, 0.28)
    step = b.uniform(0.3, 0.4)
    z = b.uniform(1.05, 1.5)
    while n > 1 and z + n * step > b.plan.height - 0.1:
        n -= 1
    spot = b.wall_spot(w, n * step, z - 0.03, d)
    if spot is None:
        return False
    for i in range(n):
        b.hang(spot[0], cases.wall_board(b.rng, b.palette, w, d, step - 0.06, books), spot[1], z + i * step)
    return True


def television_on_wall(b: Builder) -> bool:
    """A television or screen on a wall."""
    tv = devices.television(b.rng, b.palette, b.uniform(0.8, 1.6), wall=True)
    w, d, h = tv.size
    z = b.uniform(1.0, 1.4)
    spot = b.wall_spot(w, h, z, d + 0.04)
    if spot is None:
        return False
    b.hang(spot[0], shifted(tv.parts, y=-d / 2 - 0.03), spot[1], z, "television")
    return True


def whiteboard(b: Builder, w: float | None = None) -> bool:
    w, h = w or b.uniform(0.9, 2.4), b.uniform(0.8, 1.25)
    spot = b.wall_spot(w, h, 0.85, 0.1, where="middle" if b.chance(0.5) else "any")
    if spot is None:
        return False
    b.hang(spot[0], walls.whiteboard(b.rng, b.palette, w, h), spot[1], 0.85)
    return True


def mirror_on_wall(b: Builder) -> bool:
    w, h = (b.uniform(0.35, 0.6), b.uniform(1.1, 1.6)) if b.chance(0.5) else (b.uniform(0.45, 0.9), b.uniform(0.5, 0.9))
    z = 0.25 if h > 1 else 1.1
    spot = b.wall_spot(w, h, z, 0.04)
    if spot is None:
        return False
    b.hang(spot[0], walls.mirror(b.rng, b.palette, w, h), spot[1], z)
    return True


def coat_hooks(b: Builder) -> bool:
    w = b.uniform(0.45, 1.2)
    spot = b.wall_spot(w + 0.2, 1.3, 0.5, 0.25)
    if spot is None:
        return False
    b.hang(spot[0], cases.coat_hooks(b.rng, b.palette, w), spot[1], b.uniform(1.6, 1.75))
    return True


def towel_rail(b: Builder) -> bool:
    """A rail on the wall with one to three towels; or a towel from the catalogue."""
    r, p = b.rng, b.palette
    if b.chance(0.15):
        found = b.model(("towel.hanging", "towel.rack"), fits=lambda m: m.size[1] < 0.35)
        if found is not None:
            w, d, h = found.size
            spot = b.wall_spot(w, h, 1.35 - h / 2, d)
            if spot is not None:
                b.hang(spot[0], shifted(found.parts, y=-d / 2), spot[1], 1.35 - h / 2, found.name, found.model)
                return True
    w = b.uniform(0.45, 0.8)
    height = b.uniform(1.1, 1.45)
    spot = b.wall_spot(w, 0.75, height - 0.72, 0.1)
    if spot is None:
        return False
    parts = shifted(soft.curtain_rod(w, 0.0, "otherprop", p.chrome), y=-0.06)
    u = -w / 2 + 0.03
    while u < w / 2 - 0.2:
        wide = min(b.uniform(0.22, 0.5), w / 2 - 0.02 - u)
        cloth = soft.towel(r, p.towel(), wide, b.uniform(0.3, 0.68), b.uniform(0.25, 0.6))
        parts += shifted(cloth, u + wide / 2, -0.06, 0.012)
        u += wide + b.uniform(0.02, 0.12)
        if b.chance(0.35):
            break
    b.hang(spot[0], parts, spot[1], height)
    return True


def radiators(b: Builder) -> None:
    """Below windows that leave room for them."""
    for w in b.windows:
        o = w.opening
        if o.z0 < 0.6 or not b.chance(0.5):
            continue
        width, h = min(b.uniform(0.7, 1.6), o.size[0] + 0.2), min(0.55, o.z0 - 0.22)
        u = (o.u0 + o.u1) / 2
        if b.mark(w.wall, u, width, h + 0.12, 0.0, 0.13):
            parts = walls.radiator(b.rng, b.palette, width, h)
            b.hang(w.wall, parts, u, 0.0)


def switches(b: Builder) -> None:
    """Switches beside doors, sockets near the floor, a vent or two."""
    for i, wall in enumerate(b.plan.walls):
        for o in b.openings[i]:
            if o.kind == "door" and b.chance(0.7):
                u = o.u0 - 0.2 if b.chance(0.5) else o.u1 + 0.2
                if 0.1 < u < wall.length - 0.1 and b.mark(wall, u, 0.09, 0.09, 1.06, 0.02):
                    b.hang(wall, walls.switch(b.rng, b.palette), u, 1.105)
    for _ in range(b.count(0, 3)):
        spot = b.wall_spot(0.09, 0.09, 0.25, 0.02)
        if spot:
            b.hang(spot[0], walls.switch(b.rng, b.palette), spot[1], 0.295)
    if b.chance(0.25):
        w, h = b.uniform(0.3, 0.7), b.uniform(0.12, 0.35)
        z = b.plan.height - h - b.uniform(0.05, 0.2)
        spot = b.wall_spot(w, h, z, 0.03)
        if spot:
            b.hang(spot[0], walls.vent(b.rng, b.palette, w, h), spot[1], z)


def dress_walls(
    b: Builder, pictures: float, papers: float, posters: float, shelves: float, books: float = 0.45
) -> None:
    """Pictures, posters, papers and shelves: expected numbers for a room of 16 m²."""
    scale = math.sqrt(b.plan.area / 16) * b.uniform(0.4, 1.4)
    if b.chance(0.3):
        row_of_pictures(b)
    for kind, mean in (("picture", pictures), ("poster", posters), ("paper", papers)):
        for _ in range(int(b.rng.poisson(mean * scale))):
            hang_picture(b, kind)
    for _ in range(int(b.rng.poisson(shelves * scale))):
        wall_shelves(b, books)
    if b.chance(0.2):
        spot = b.wall_spot(0.42, 0.42, 1.6, 0.05)
        if spot:
            b.hang(spot[0], devices.clock(b.rng, b.palette), spot[1], 1.81)


# ----------------------------------------------------------------------------------------------------------- the floor


def _for_area(b: Builder) -> float:
    """How much more stands on this floor than on one of 16 m²: it grows with the room's sides, not its area."""
    return min(2.0, math.sqrt(b.plan.area / 16))


def plants(b: Builder, mean: float) -> None:
    """Plants, some as tall as a person, some in twos.

    Args:
        mean: Expected number for a room of 16 m².
    """
    for _ in range(int(b.rng.poisson(mean * _for_area(b)))):
        grown = b.stand(
            b.take(
                "plant.large",
                lambda rng, palette: plant(rng, palette, rng.uniform(0.6, 2.0)),
                0.3,
                fits=lambda m: m.size[2] < 2.2,
            )
        )
        if grown is not None and b.chance(0.35):
            b.beside(grown, plant(b.rng, b.palette, b.uniform(0.6, 1.8)), -1 if b.chance(0.5) else 1)


def litter(
    b: Builder,
    boxes: float = 0.5,
    bags: float = 0.5,
    clothes: float = 0.3,
    toys: float = 0.2,
    bins: float = 0.5,
    paper: float = 0.1,
) -> None:
    """Things on the floor: expected numbers for a room of 16 m²."""
    r, p = b.rng, b.palette
    scale = b.mess * _for_area(b)

    def number(mean: float) -> range:
        return range(int(r.poisson(mean * scale)))

    for _ in number(boxes):
        box = b.take("box", lambda rng, palette: small.carton(rng, palette), 0.85)
        placed = b.stand(box)
        if placed is not None and placed.piece.model is None and b.chance(0.45):  # a stack of them
            w, d, h = placed.piece.size
            upper = small.carton(
                r, p, (w * b.uniform(0.6, 1.0), d * b.uniform(0.6, 1.0), b.uniform(0.12, 0.35)), opened=b.chance(0.2)
            )
            if h + upper.size[2] < 1.6:
                placed.parts.extend(placed.move(shifted(upper.parts, z=h, yaw=r.normal(0, 0.1))))
    for _ in number(bags):
        b.stand(b.take("bag", lambda rng, palette: soft.bag(rng, palette), 0.75))
    for _ in number(clothes):
        parts = cases.laundry(r, p)
        b.stand(Piece("clothes", parts, (0.5, 0.5, 0.14)), near_walls=b.chance(0.5))
    for _ in number(toys):
        for _ in range(b.count(1, 4)):
            b.stand(prop(b, ("clutter.toy", "clutter.ball", "clutter.toy_large"), small.toy, 0.6), near_walls=False)
    for _ in number(bins):
        b.stand(b.take("trash_bin", small.bin_, 0.7))
    for _ in number(paper):
        b.stand(small.sheet(r, p), near_walls=False)
    if b.chance(0.15 * scale):
        b.stand(small.shoes(r, p))
    if b.chance(0.07):
        b.stand(
            b.model(
                (
                    "otherprop.fan",
                    "otherprop.guitar",
                    "otherfurniture.ladder",
                    "otherfurniture.clothes_horse",
                    "otherprop.clothes_basket",
                    "otherprop.broom",
                    "otherfurniture.bike",
                ),
                faces=40_000,
            )
        )
    if b.chance(0.03):
        b.stand(b.model(("person.cat", "person.dog")), near_walls=False)


def rug(b: Builder, x: float, y: float, yaw: float, w: float, d: float, material: Material | None = None) -> None:
    """A rug on the floor (class floor mat), wherever there is room for most of it; furniture may stand on it.

    Args:
        material: A carpet cut from the roll; a woven rug, whose picture fills it, if None.
    """
    plan = b.plan
    for _ in range(5):
        if plan.inside(corners(x, y, w, d, yaw), 0.02):
            break
        w, d = w * 0.85, d * 0.85
    else:
        return
    h = 0.008
    parts: list[Part] = [box((-w / 2, -d / 2, 0.001), (w / 2, d / 2, h), "floor mat", b.palette.black)]
    e = 0.002
    face = np.array([[-w / 2, -d / 2, h + e], [w / 2, -d / 2, h + e], [w / 2, d / 2, h + e], [-w / 2, d / 2, h + e]])
    face = face if w >= d else np.roll(face, 1, axis=0)
    parts.append(quad(face, "floor mat", material or b.palette.rug(), whole=material is None))
    b.scatter("rug", [part.moved((x, y, 0.0), yaw) for part in parts], furniture=False)


def runner(b: Builder) -> None:
    """A strip of carpet, as long as most of the room, where no rug lies."""
    if any(thing.name == "rug" for thing in b.loose):
        return
    along = int(b.plan.extent[1] > b.plan.extent[0])
    length, wide = b.plan.extent[along], b.plan.extent[1 - along]
    center = np.zeros(2)
    center[along] = length / 2
    center[1 - along] = wide * b.uniform(0.3, 0.7)
    carpet = textured(textures.carpet(b.rng), CLOTH)
    width = min(b.uniform(0.9, 2.2), wide * 0.6)
    rug(b, float(center[0]), float(center[1]), along * math.pi / 2, length * b.uniform(0.6, 0.98), width, carpet)


def structure(b: Builder, wall_material: Material, columns: float = 0.12, pipes: float = 0.15) -> None:
    """Columns and pipes (class otherstructure)."""
    if b.chance(columns):
        parts, side = walls.column(b.rng, b.palette, wall_material, b.plan.height)
        piece = Piece("column", parts, (side, side, b.plan.height - 0.02))
        if b.plan.area > 25 and b.chance(0.5):
            b.stand(piece, near_walls=False, yaw=0.0)
        else:
            spot = b.plan.against(b.rng, piece, where="corner" if b.chance(0.5) else "any", gap=-0.003)
            if spot:
                b.put(piece, *spot[:3])
    if b.chance(pipes):
        parts = walls.pipes(b.rng, b.palette, b.plan.height)
        piece = Piece("pipes", shifted(parts, x=-0.1, y=0.06), (0.4, 0.14, b.plan.height - 0.02))
        spot = b.plan.against(b.rng, piece, where="corner", gap=0.0)
        if spot:
            b.put(piece, *spot[:3])


def people(b: Builder, chance: float, uses: tuple[str, ...] = ("person.standing",)) -> None:
    """Somebody, rarely."""
    if b.chance(chance):
        b.stand(b.model(uses, fits=lambda m: 0.9 < m.size[2] < 2.1), near_walls=False, tries=20)


def ceiling_lamps(b: Builder, kinds: list[str], spots: list[tuple[float, float]], power: float) -> None:
    """Lamps at places of the ceiling, all of one kind; each is a light when lit."""
    kind = b.palette.pick(kinds)
    h = b.plan.height
    drop = float(np.clip(b.uniform(0.35, 1.1), 0.2, h - 1.65))
    yaw = 0.0 if b.chance(0.5) else math.pi / 2
    found = None
    if kind in ("pendant", "dome") and b.chance(0.35):
        use = "lamp.ceiling" if kind == "pendant" else "lamp.ceiling_flush"
        found = b.model(use, fits=lambda m: m.size[2] < h - 1.75 and max(m.size[:2]) < 1.3, faces=30_000)
    if found is None and kind == "tube" and b.chance(0.3):
        found = b.model("lamp.fluorescent", fits=lambda m: m.size[2] < 0.6, faces=30_000)
    for x, y in spots:
        if found is not None:
            piece = Piece(found.name, found.parts, found.size, [], 0.0, found.model)
            reach = found.size[2]
            b.add(piece, [q.moved((x, y, h - reach), yaw) for q in piece.parts])
        else:
            parts, reach = walls.ceiling_lamp(b.rng, b.palette, kind, b.lit, b.glow, drop)
            b.scatter("ceiling lamp", [q.moved((x, y, h), yaw) for q in parts], furniture=False)
        if kind == "panel":
            b.lamps.append(Lamp((x, y, h - 0.05), power, True, (0.28, 0.28)))
        else:
            inside = found is None and kind == "pendant"
            z = h - drop * 0.85 if inside else h - reach - 0.06
            b.lamps.append(Lamp((x, y, z), power, True, (0.09,)))


# --------------------------------------------------------------------------------------------------- what walls lack


def fill_walls(
    b: Builder, fillers: dict[str, Callable[[Builder], Piece | None]], table: dict[str, float], share: float
) -> None:
    """Furniture for stretches of wall that are still empty: real rooms have something nearly everywhere.

    Args:
        fillers: How each thing is made; table: what may be taken, with weights.
        share: Chance that a stretch of wall gets something.
    """
    for wall in b.plan.walls:
        for u0, u1 in b.plan.spans(wall, 0.45, 0.0, 0.9):
            at = u0 + b.uniform(0.02, 0.15)
            while u1 - at > 0.45:
                if not b.chance(share):
                    at += b.uniform(0.4, 0.9)
                    continue
                piece = fillers[draw(b, table)](b)
                if piece is None or piece.size[0] > u1 - at - 0.02 or piece.size[2] > b.plan.height - 0.05:
                    at += 0.12
                    continue
                w, d, _ = piece.size
                x, y = wall.point(at + w / 2 + 0.01, d / 2 + 0.02 + abs(b.rng.normal(0, 0.02)))
                placed = b.try_put(piece, x, y, wall.yaw)
                at += b.uniform(0.2, 0.5) if placed is None else w + b.uniform(0.04, 0.3)
