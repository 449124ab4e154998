"""Hard simple shapes: bookcases, shelves, dressers, night stands, desks, tables, wardrobes, kitchens, chairs, baths.

Pieces have their back at +y and their front at -y.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from training.rooms import device_shapes as devices
from training.rooms import small_shapes as small
from training.rooms.palette import Palette
from training.rooms.scene import CLASS_ID, Part
from training.rooms.shapes import (
    MIRROR,
    Material,
    Piece,
    Rng,
    Top,
    bar,
    block,
    box,
    boxes,
    cylinder,
    lathe,
    quad,
    rounded,
    shifted,
    tilted,
    top,
)
from training.rooms.soft_shapes import clothes_heap, folded_towels, hanging_garment

GAP = 0.004


def case(
    w: float, d: float, z0: float, z1: float, label: str, material: Material, back: bool = True, t: float = 0.02
) -> list[Part]:
    """A box of boards open at the front: sides, bottom, top, back."""
    low = [(-w / 2, -d / 2, z0), (w / 2 - t, -d / 2, z0), (-w / 2, -d / 2, z0), (-w / 2, -d / 2, z1 - t)]
    high = [(-w / 2 + t, d / 2, z1), (w / 2, d / 2, z1), (w / 2, d / 2, z0 + t), (w / 2, d / 2, z1)]
    if back:
        low.append((-w / 2, d / 2 - 0.008, z0))
        high.append((w / 2, d / 2, z1))
    return [boxes(np.array(low), np.array(high), label, material)]


def legs(
    w: float,
    d: float,
    h: float,
    label: str,
    material: Material,
    side: float = 0.045,
    inset: float = 0.02,
    round_: bool = False,
) -> list[Part]:
    """Four legs under a plate."""
    parts = []
    for sx in (-1, 1):
        for sy in (-1, 1):
            x, y = sx * (w / 2 - inset - side / 2), sy * (d / 2 - inset - side / 2)
            if round_:
                parts.append(cylinder((x, y, 0), side * 0.35, h, label, material, 9, 1.4))
            else:
                parts.append(block((x, y, 0), (side, side, h), label, material, upright=True))
    return parts


class Fronts:
    """Doors and drawer fronts in one style: flat, framed or with bevels; bars, knobs or grips."""

    def __init__(self, rng: Rng, palette: Palette, label: str, material: Material | None = None) -> None:
        self.rng, self.palette, self.label = rng, palette, label
        self.material = material or palette.board()
        self.style = palette.pick(["flat", "framed", "inset"], [6, 3, 1.5])
        self.handle = palette.pick(["bar", "knob", "cup", "none"], [4, 4, 1, 1.2])
        self.metal = palette.handle if rng.random() < 0.7 else palette.black

    def add(self, parts: list[Part], x0: float, x1: float, z0: float, z1: float, y: float, kind: str) -> None:
        """One front: `kind` is drawer, left, right (the side of the hinge) or up."""
        x0, x1, z0, z1 = x0 + GAP / 2, x1 - GAP / 2, z0 + GAP / 2, z1 - GAP / 2
        if x1 - x0 < 0.03 or z1 - z0 < 0.03:
            return
        upright = z1 - z0 > (x1 - x0) * 1.1
        parts.append(box((x0, y - 0.018, z0), (x1, y, z1), self.label, self.material, upright=upright))
        e = min(0.06, (z1 - z0) * 0.22, (x1 - x0) * 0.25)
        if self.style == "framed" and z1 - z0 > 0.14:
            low = [(x0, z0), (x0, z1 - e), (x0, z0 + e), (x1 - e, z0 + e)]
            high = [(x1, z0 + e), (x1, z1), (x0 + e, z1 - e), (x1, z1 - e)]
            front = np.full((4, 1), y - 0.026)
            a = np.column_stack([np.array(low)[:, :1], front, np.array(low)[:, 1:]])
            b = np.column_stack([np.array(high)[:, :1], front + 0.01, np.array(high)[:, 1:]])
            parts.append(boxes(a, b, self.label, self.material))
        elif self.style == "inset" and z1 - z0 > 0.12:
            parts.append(
                box((x0 + e, y - 0.024, z0 + e), (x1 - e, y, z1 - e), self.label, self.material, upright=upright)
            )
        self._handle(parts, x0, x1, z0, z1, y - 0.026, kind)

    def _handle(self, parts: list[Part], x0: float, x1: float, z0: float, z1: float, y: float, kind: str) -> None:
        cx, cz, w = (x0 + x1) / 2, (z0 + z1) / 2, x1 - x0
        edge = {"left": x1 - 0.04, "right": x0 + 0.04}.get(kind, cx)
        high = cz if kind == "drawer" else (z0 + 0.06 if z0 > 1.2 else z1 - 0.08 if z1 < 1.1 else min(max(1.0, z0), z1))
        if self.handle == "none":
            return
        if self.handle == "knob":
            spots = [cx - w * 0.3, cx + w * 0.3] if kind == "drawer" and w > 0.55 else [edge]
            for x in spots:
                knob = lathe([(0.006, 0), (0.006, 0.012), (0.015, 0.018), (0.0, 0.03)], self.label, self.metal, sides=8)
                parts += shifted(tilted([knob], "x", math.pi / 2), x, y + 0.002, high)
        elif self.handle == "cup" and kind == "drawer":
            parts.append(rounded((cx, y - 0.006, cz), (0.09, 0.024, 0.028), 0.012, self.label, self.metal))
        else:
            long = min(0.16, w * 0.5) if kind == "drawer" else 0.14
            a, b = (
                ((cx - long / 2, high), (cx + long / 2, high))
                if kind == "drawer"
                else ((edge, high - long / 2), (edge, high + long / 2))
            )
            parts.append(bar((a[0], y - 0.02, a[1]), (b[0], y - 0.02, b[1]), 0.006, self.label, self.metal, 6))
            for x, z in (a, b):
                parts.append(bar((x, y, z), (x, y - 0.02, z), 0.005, self.label, self.metal, 5))


def drawers(
    fronts: Fronts, parts: list[Part], x0: float, x1: float, z0: float, z1: float, y: float, rows: int, columns: int
) -> None:
    for i in range(rows):
        n = columns if columns < 3 or i < rows - 1 else columns + 1
        for j in range(n):
            a, b = x0 + (x1 - x0) * j / n, x0 + (x1 - x0) * (j + 1) / n
            fronts.add(parts, a, b, z0 + (z1 - z0) * i / rows, z0 + (z1 - z0) * (i + 1) / rows, y, "drawer")


# -------------------------------------------------------------------------------------------------- drawers and cases


def dresser(rng: Rng, palette: Palette, tall: bool | None = None) -> Piece:
    """A chest of drawers."""
    tall = rng.random() < 0.4 if tall is None else tall
    w, h = (rng.uniform(0.6, 0.95), rng.uniform(0.95, 1.3)) if tall else (rng.uniform(0.9, 1.6), rng.uniform(0.7, 0.95))
    d, foot = rng.uniform(0.4, 0.52), float(rng.choice([0.03, 0.06, 0.12]))
    material = palette.board()
    parts = case(w, d, foot, h, "dresser", material)
    parts.append(box((-w / 2 + 0.03, -d / 2 + 0.03, foot), (w / 2 - 0.03, d / 2, h - 0.03), "dresser", palette.black))
    lip = rng.uniform(0, 0.02)
    parts.append(box((-w / 2 - lip, -d / 2 - lip - 0.02, h), (w / 2 + lip, d / 2, h + 0.025), "dresser", material))
    parts += legs(w, d, foot, "dresser", material)
    fronts = Fronts(rng, palette, "dresser", material if rng.random() < 0.8 else None)
    rows = int(rng.integers(4, 7)) if tall else int(rng.integers(3, 5))
    columns = 1 if w < 0.75 else int(rng.integers(1, 3)) if w < 1.1 else 2 + int(rng.random() < 0.25)
    drawers(fronts, parts, -w / 2 + 0.02, w / 2 - 0.02, foot + 0.02, h - 0.02, -d / 2 + 0.012, rows, columns)
    tops = [top(-w / 2, -d / 2, w / 2, d / 2, h + 0.025, kind="dresser")]
    return Piece("dresser", parts, (w + 2 * lip, d + 0.05, h + 0.03), tops, 0.6)


def night_stand(rng: Rng, palette: Palette) -> Piece:
    """A bedside table with drawers, a door or an open shelf."""
    w, d, h = rng.uniform(0.36, 0.58), rng.uniform(0.34, 0.45), rng.uniform(0.45, 0.68)
    material = palette.board()
    foot = float(rng.choice([0.0, 0.05, 0.18]))
    label = "night stand"
    parts = case(w, d, foot, h, label, material)
    fronts = Fronts(rng, palette, label, material)
    kind = palette.pick(["drawers", "drawer", "door", "open"], [4, 3, 1, 1])
    x0, x1, z0, z1, y = -w / 2 + 0.02, w / 2 - 0.02, foot + 0.02, h - 0.02, -d / 2 + 0.014
    tops = [top(-w / 2, -d / 2, w / 2, d / 2, h, kind="stand")]
    if kind == "drawers":
        drawers(fronts, parts, x0, x1, z0, z1, y, int(rng.integers(2, 4)), 1)
    elif kind == "door":
        fronts.add(parts, x0, x1, z1 - 0.14, z1, y, "drawer")
        fronts.add(parts, x0, x1, z0, z1 - 0.14, y, "left")
    else:
        if kind == "drawer":
            split = z1 - rng.uniform(0.12, 0.18)
            parts.append(box((x0, -d / 2, split - 0.02), (x1, d / 2, split), label, material))
            fronts.add(parts, x0, x1, split, z1, y, "drawer")
            z1 = split - 0.02
        tops.append(top(x0, -d / 2 + 0.02, x1, d / 2 - 0.02, z0, z1 - z0, "shelf"))
    parts += legs(w, d, foot, label, material, 0.035) if foot > 0 else []
    return Piece("night stand", parts, (w, d + 0.03, h), tops, 0.3)


def wardrobe(rng: Rng, palette: Palette, opened: bool | None = None) -> Piece:
    """A wardrobe (class cabinet) with doors; open ones show clothes on hangers and folded ones on a board."""
    w, d, h = rng.uniform(0.8, 2.2), rng.uniform(0.52, 0.64), rng.uniform(1.8, 2.25)
    opened = rng.random() < 0.3 if opened is None else opened
    material = palette.board()
    parts = case(w, d, 0.05, h, "cabinet", material)
    parts.append(box((-w / 2 + 0.01, -d / 2 + 0.03, 0), (w / 2 - 0.01, d / 2, 0.06), "cabinet", material))
    fronts = Fronts(rng, palette, "cabinet", material if rng.random() < 0.7 else None)
    doors = max(2, round(w / rng.uniform(0.42, 0.6)))
    step = (w - 0.04) / doors
    gone = range(doors) if opened and rng.random() < 0.5 else range(int(doors / 2)) if opened else range(0)
    low = rng.uniform(0.25, 0.5) if rng.random() < 0.35 else 0.07
    if low > 0.1:
        drawers(fronts, parts, -w / 2 + 0.02, w / 2 - 0.02, 0.07, low, -d / 2 + 0.012, 1, doors)
    mirror = rng.random() < 0.15
    for i in range(doors):
        x0 = -w / 2 + 0.02 + step * i
        if i not in gone:
            fronts.add(parts, x0, x0 + step, low, h - 0.02, -d / 2 + 0.012, "left" if i % 2 == 0 else "right")
            if mirror and i % 2 == 0:
                y = -d / 2 - 0.016
                corners = np.array(
                    [
                        [x0 + 0.05, y, low + 0.1],
                        [x0 + step - 0.05, y, low + 0.1],
                        [x0 + step - 0.05, y, h - 0.1],
                        [x0 + 0.05, y, h - 0.1],
                    ]
                )
                parts.append(quad(corners, "mirror", Material(finish=MIRROR)))
    tops: list[Top] = [top(-w / 2, -d / 2, w / 2, d / 2, h, kind="wardrobe")]
    if len(gone):
        x1 = -w / 2 + 0.02 + step * len(gone)
        rail = h - 0.12
        parts.append(box((-w / 2, -d / 2 + 0.03, low), (w / 2, d / 2, low + 0.02), "cabinet", material))
        parts.append(box((x1, -d / 2 + 0.02, low), (x1 + 0.018, d / 2, h - 0.02), "cabinet", material))
        parts.append(bar((-w / 2 + 0.02, 0, rail), (x1, 0, rail), 0.012, "cabinet", palette.chrome))
        parts += clothes_rail(rng, palette, -w / 2 + 0.05, x1 - 0.03, rail, min(1.1, rail - low - 0.12))
        tops.append(top(-w / 2 + 0.03, -d / 2 + 0.05, x1, d / 2 - 0.03, low + 0.02, 0.3, "closet"))
    return Piece("wardrobe", parts, (w, d + 0.05, h), tops, 0.65)


def clothes_rail(rng: Rng, palette: Palette, x0: float, x1: float, z: float, longest: float = 1.1) -> list[Part]:
    """Garments on hangers along x, seen edge on."""
    parts: list[Part] = []
    x = x0 + 0.05
    while x < x1 - 0.03:
        garment = hanging_garment(rng, palette)
        lowest = -min(float(p.vertices[:, 2].min()) for p in garment)
        if lowest <= longest + 0.1:
            parts += shifted(garment, x, 0, z, math.pi / 2 + rng.normal(0, 0.12))
        x += rng.uniform(0.06, 0.14)
    return parts


def clothes_stand(rng: Rng, palette: Palette) -> Piece:
    """A clothes rack on feet, with garments."""
    w, h = rng.uniform(0.8, 1.4), rng.uniform(1.4, 1.65)
    metal = palette.black if rng.random() < 0.5 else palette.chrome
    parts = [bar((-w / 2, 0, h), (w / 2, 0, h), 0.014, "otherfurniture", metal)]
    for x in (-w / 2, w / 2):
        parts.append(bar((x, 0, 0.03), (x, 0, h), 0.014, "otherfurniture", metal))
        parts.append(bar((x, -0.24, 0.02), (x, 0.24, 0.02), 0.014, "otherfurniture", metal))
    parts += clothes_rail(rng, palette, -w / 2 + 0.03, w / 2 - 0.03, h, h - 0.1)
    tops = [top(-w / 2 + 0.05, -0.2, w / 2 - 0.05, 0.2, 0.0, 0.3, "floor")]
    return Piece("clothes rack", parts, (w, 0.5, h + 0.03), tops, 0.3)


def coat_hooks(rng: Rng, palette: Palette, w: float) -> list[Part]:
    """A board with hooks, coats on them; its back is at y = 0, its middle at the origin."""
    parts = [box((-w / 2, -0.02, -0.04), (w / 2, 0, 0.04), "otherprop", palette.wood())]
    count = max(2, round(w / 0.22))
    for i in range(count):
        x = (-0.5 + (i + 0.5) / count) * w
        parts.append(bar((x, -0.02, 0), (x, -0.07, 0.015), 0.007, "otherprop", palette.handle, 5))
        if rng.random() < 0.65:
            garment = hanging_garment(rng, palette)[:-1]
            parts += shifted(garment, x, -0.1, 0.08)
    return parts


# ----------------------------------------------------------------------------------------------- bookcases and shelves


def fill_board(
    rng: Rng, palette: Palette, x0: float, x1: float, front: float, depth: float, z: float, clear: float, books: float
) -> list[Part]:
    """What stands on one board of a shelf: books (chance `books`), boxes, ornaments, clothes, or nothing."""
    parts: list[Part] = []
    x = x0 + 0.005
    while x1 - x > 0.12:
        wide = x1 - x if rng.random() < 0.55 else min(x1 - x, rng.uniform(0.15, 0.6))
        draw = rng.random()
        if draw < books and clear > 0.18:
            if rng.random() < 0.2:
                parts += small.spine_block(
                    palette, x, x + wide, front + 0.01, min(0.2, depth - 0.02), z, min(clear - 0.03, 0.27)
                )
            else:
                parts += small.book_row(
                    rng, palette, x, x + wide * rng.uniform(0.6, 1.0), front + 0.008, depth - 0.02, z, clear
                )
            x += wide
            continue
        if draw > 0.93:
            x += rng.uniform(0.08, 0.25)
            continue
        makers, weights = tuple(ON_BOARD), np.array(list(ON_BOARD.values()))
        for _ in range(3):
            item = makers[int(rng.choice(len(makers), p=weights / weights.sum()))](rng, palette)
            w, d, h = item.size
            if h < clear - 0.01 and d < depth and w < x1 - x:
                parts += shifted(item.parts, x + w / 2, front + depth / 2, z)
                x += w + rng.uniform(0.01, 0.08)
                break
        else:
            x += 0.1
    return parts


def folded_clothes(rng: Rng, palette: Palette) -> Piece:
    return folded_towels(rng, palette, "clothes")


ON_BOARD: dict[small.Maker, float] = {
    small.book_stack: 3,
    small.small_box: 3,
    small.vase: 2,
    small.globe: 1,
    devices.device: 1,
    small.standing_picture: 2,
    small.cup: 1,
    small.bottle: 1.5,
    small.paper_stack: 1.5,
    small.toy: 1,
    folded_clothes: 1.2,
    small.basket: 1,
    small.plate: 1,
}
"""What stands on the boards of shelves besides books, with weights."""


def bookcase(
    rng: Rng, palette: Palette, w: float | None = None, h: float | None = None, label: str = "bookshelf"
) -> Piece:
    """A bookcase with books, boxes and ornaments on its boards. Open shelves of `shelves` hold fewer books."""
    w, h, d = w or rng.uniform(0.55, 1.3), h or rng.uniform(0.8, 2.25), rng.uniform(0.24, 0.36)
    material = palette.board()
    t = rng.uniform(0.018, 0.03)
    parts = case(w, d, 0.0, h, label, material, back=label == "bookshelf" or rng.random() < 0.4, t=t)
    parts.append(box((-w / 2 + 0.01, -d / 2 + 0.02, 0), (w / 2 - 0.01, d / 2, 0.06), label, material))
    columns = 1 if w < 0.95 else 2
    for i in range(1, columns):
        x = -w / 2 + w * i / columns
        parts.append(box((x - t / 2, -d / 2, 0.06), (x + t / 2, d / 2, h), label, material, upright=True))
    z, books = (
        0.06,
        float(rng.choice([0.9, 0.75, 0.5])) if label == "bookshelf" else float(rng.choice([0.0, 0.15, 0.3])),
    )
    # People who label pictures outline the books of a bookcase one time, the bookcase as a whole the other.
    whole = label == "bookshelf" and rng.random() < 0.55
    first = len(parts)
    while z < h - 0.2:
        clear = rng.uniform(0.24, 0.38)
        if h - z - clear < 0.24:
            clear = h - z - t
        if z > 0.07:
            parts.append(box((-w / 2 + t, -d / 2, z - t), (w / 2 - t, d / 2, z), label, material))
        for i in range(columns):
            x0, x1 = -w / 2 + w * i / columns + t, -w / 2 + w * (i + 1) / columns - t
            parts += fill_board(rng, palette, x0, x1, -d / 2 + 0.01, d - 0.02, z, clear - t, books)
        z += clear
    if whole:
        books_id, case_id = CLASS_ID["books"], np.uint8(CLASS_ID["bookshelf"])
        parts[first:] = [replace(p, label=np.where(p.label == books_id, case_id, p.label)) for p in parts[first:]]
    tops = [top(-w / 2, -d / 2, w / 2, d / 2, h, kind="shelf")]
    return Piece(label, parts, (w, d, h), tops, 0.4)


def open_shelves(rng: Rng, palette: Palette) -> Piece:
    """Shelves (class shelves) that are not full of books: a rack of metal or wood on posts, or cubes."""
    if rng.random() < 0.4:
        return bookcase(rng, palette, label="shelves")
    w, d, h = rng.uniform(0.7, 1.6), rng.uniform(0.3, 0.5), rng.uniform(1.0, 2.0)
    post = palette.black if rng.random() < 0.4 else palette.chrome if rng.random() < 0.4 else palette.wood()
    board = post if rng.random() < 0.4 else palette.board()
    parts: list[Part] = []
    for sx in (-1, 1):
        for sy in (-1, 1):
            parts.append(
                block((sx * (w / 2 - 0.018), sy * (d / 2 - 0.018), 0), (0.03, 0.03, h), "shelves", post, upright=True)
            )
    count = int(rng.integers(3, 6))
    levels = np.linspace(rng.uniform(0.08, 0.25), h - 0.03, count)
    for i, z in enumerate(levels):
        parts.append(box((-w / 2, -d / 2, z - 0.02), (w / 2, d / 2, z), "shelves", board))
        if i < count - 1:
            parts += fill_board(
                rng,
                palette,
                -w / 2 + 0.04,
                w / 2 - 0.04,
                -d / 2 + 0.02,
                d - 0.04,
                float(z),
                float(levels[i + 1] - z) - 0.02,
                0.12,
            )
    return Piece("shelves", parts, (w, d, h), [top(-w / 2, -d / 2, w / 2, d / 2, float(levels[-1]), kind="shelf")], 0.4)


def wall_board(rng: Rng, palette: Palette, w: float, d: float, clear: float, books: float = 0.4) -> list[Part]:
    """A board on the wall with things on it; its back is at y = 0, its top at z = 0."""
    material = palette.board()
    parts = [box((-w / 2, -d, -0.025), (w / 2, 0, 0), "shelves", material)]
    if rng.random() < 0.5:
        for x in (-w * 0.38, w * 0.38):
            parts.append(box((x - 0.01, -d * 0.8, -0.05), (x + 0.01, 0, -0.025), "shelves", palette.black))
            parts.append(box((x - 0.01, -0.02, -0.18), (x + 0.01, 0, -0.025), "shelves", palette.black))
    return parts + fill_board(rng, palette, -w / 2 + 0.02, w / 2 - 0.02, -d + 0.01, d - 0.02, 0.0, clear, books)


# ------------------------------------------------------------------------------------------------- tables and desks


def tv_stand(rng: Rng, palette: Palette, w: float) -> Piece:
    """A low board (class cabinet) for a television: doors, drawers and open compartments with devices."""
    d, h, foot = rng.uniform(0.36, 0.48), rng.uniform(0.4, 0.62), float(rng.choice([0.0, 0.06, 0.12]))
    material = palette.board()
    parts = case(w, d, foot, h, "cabinet", material)
    fronts = Fronts(rng, palette, "cabinet", material if rng.random() < 0.75 else None)
    columns = max(2, round(w / 0.5))
    for i in range(columns):
        x0, x1 = -w / 2 + 0.02 + (w - 0.04) * i / columns, -w / 2 + 0.02 + (w - 0.04) * (i + 1) / columns
        if i:
            parts.append(box((x0 - 0.01, -d / 2 + 0.01, foot), (x0 + 0.01, d / 2, h - 0.02), "cabinet", material))
        draw = rng.random()
        if draw < 0.35:
            fronts.add(parts, x0, x1, foot + 0.02, h - 0.02, -d / 2 + 0.012, "left" if i % 2 else "right")
        elif draw < 0.6:
            drawers(fronts, parts, x0, x1, foot + 0.02, h - 0.02, -d / 2 + 0.012, 2, 1)
        else:
            middle = (foot + h) / 2
            parts.append(box((x0, -d / 2 + 0.03, middle - 0.01), (x1, d / 2, middle + 0.01), "cabinet", material))
            for z, clear in ((foot + 0.02, middle - foot - 0.03), (middle + 0.01, h - middle - 0.03)):
                parts += fill_board(rng, palette, x0 + 0.015, x1 - 0.015, -d / 2 + 0.04, d - 0.08, z, clear, 0.3)
    parts += legs(w, d, foot, "cabinet", material) if foot else []
    return Piece("cabinet.tv", parts, (w, d + 0.03, h), [top(-w / 2, -d / 2, w / 2, d / 2, h, kind="media")], 0.4)


def cupboard(rng: Rng, palette: Palette, w: float | None = None, h: float | None = None) -> Piece:
    """A cabinet with doors and drawers: a sideboard, a filing cabinet, a hall cupboard."""
    w, h, d = w or rng.uniform(0.6, 1.6), h or rng.uniform(0.75, 1.25), rng.uniform(0.36, 0.5)
    material = palette.board() if rng.random() < 0.8 else palette.metal()
    foot = float(rng.choice([0.04, 0.08, 0.14]))
    parts = case(w, d, foot, h, "cabinet", material)
    parts.append(box((-w / 2 + 0.02, -d / 2 + 0.02, 0.0), (w / 2 - 0.02, d / 2, h - 0.02), "cabinet", material))
    fronts = Fronts(rng, palette, "cabinet", material if rng.random() < 0.8 else None)
    columns = max(1, round(w / rng.uniform(0.4, 0.55)))
    split = h - 0.02 - (rng.uniform(0.14, 0.2) if rng.random() < 0.5 else 0.0)
    y = -d / 2 + 0.012
    for i in range(columns):
        x0, x1 = -w / 2 + 0.02 + (w - 0.04) * i / columns, -w / 2 + 0.02 + (w - 0.04) * (i + 1) / columns
        if split < h - 0.05:
            fronts.add(parts, x0, x1, split, h - 0.02, y, "drawer")
        if rng.random() < 0.2:
            drawers(fronts, parts, x0, x1, foot + 0.02, split, y, max(2, round((split - foot) / 0.25)), 1)
        else:
            fronts.add(parts, x0, x1, foot + 0.02, split, y, "left" if i % 2 == 0 else "right")
    return Piece("cabinet", parts, (w, d + 0.03, h), [top(-w / 2, -d / 2, w / 2, d / 2, h, kind="dresser")], 0.5)


# -------------------------------------------------------------------------------------------------------------- chairs


# ------------------------------------------------------------------------------------------------ kitchens and baths


def laundry(rng: Rng, palette: Palette) -> list[Part]:
    """Clothes on the floor."""
    parts: list[Part] = []
    for _ in range(int(rng.integers(1, 4))):
        heap = clothes_heap(rng, palette, rng.uniform(0.3, 0.6), rng.uniform(0.25, 0.5), rng.uniform(0.05, 0.14))
        parts += shifted(heap, rng.normal(0, 0.12), rng.normal(0, 0.12), 0, rng.uniform(0, 6.28))
    return parts
