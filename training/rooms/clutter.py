"""Things on surfaces: what stands on desks, tables, dressers, counters, shelves, what lies on beds and seats.

`ITEMS` says how each thing is made, `ON` what belongs on a kind of surface: names and weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from training.rooms import device_shapes as devices
from training.rooms import small_shapes as small
from training.rooms import soft_shapes as soft
from training.rooms.builder import SMALL_FACES, Builder
from training.rooms.layout import Placed
from training.rooms.plant_shapes import plant
from training.rooms.shapes import Piece, Top, shifted, tilted

MAX_PROPS = 9
"""Small things from the catalogue per room: each loads a mesh."""

Item = Callable[[Builder], Piece | None]


def prop(b: Builder, use: str | tuple[str, ...], make: small.Maker | None, share: float = 0.6) -> Piece | None:
    """A small thing: a simple shape with chance `share`, otherwise one from the catalogue while it may be."""
    if make is None or (b.props < MAX_PROPS and not b.chance(share)):
        found = b.model(use, fits=lambda m: max(m.size[:2]) < 0.6 and m.size[2] < 0.7, faces=SMALL_FACES)
        if found is not None:
            b.props += 1
            return found
    return None if make is None else make(b.rng, b.palette)


def weights(text: str) -> dict[str, float]:
    """Names with weights from a text like `cup 2, open book 1.5`."""
    pairs = (entry.strip().rsplit(" ", 1) for entry in text.split(","))
    return {name: float(weight) for name, weight in pairs}


def draw(b: Builder, table: dict[str, float]) -> str:
    """A name by its weight."""
    weight = np.array(list(table.values()))
    return list(table)[int(b.rng.choice(len(weight), p=weight / weight.sum()))]


def _made(make: small.Maker) -> Item:
    return lambda b: make(b.rng, b.palette)


def _prop(use: str | tuple[str, ...], make: small.Maker | None, share: float = 0.6) -> Item:
    return lambda b: prop(b, use, make, share)


def _heap(largest: tuple[float, float]) -> Item:
    """Clothes dropped, no larger than that."""

    def make(b: Builder) -> Piece:
        w, d, h = min(b.uniform(0.28, 0.6), largest[0]), min(b.uniform(0.25, 0.5), largest[1]), b.uniform(0.04, 0.14)
        return Piece("clothes", soft.clothes_heap(b.rng, b.palette, w, d, h), (w * 0.9, d * 0.9, h))

    return make


ITEMS: dict[str, Item] = {
    "books": _made(small.book_stack),
    "open book": _made(small.open_book),
    "sheet": _made(small.sheet),
    "papers": _made(small.paper_stack),
    "paper ball": _made(small.crumpled_paper),
    "box": _made(small.small_box),
    "large box": _made(lambda r, p: small.carton(r, p)),
    "photo": _made(small.standing_picture),
    "globe": _made(small.globe),
    "basket": _made(small.basket),
    "device": _made(devices.device),
    "laptop": _prop("otherprop.laptop", devices.laptop, 0.75),
    "phone": _prop("otherprop.phone", devices.device, 0.4),
    "alarm clock": _prop("clutter.clock", devices.device, 0.5),
    "remote": _prop("clutter.remote", None),
    "cup": _prop("clutter.cup", small.cup),
    "bottle": _prop("clutter.bottle", small.bottle),
    "plate": _prop(("clutter.plate", "clutter.bowl", "clutter.fruit"), small.plate, 0.7),
    "food": _prop("clutter.food", small.plate, 0.4),
    "vase": _prop("clutter.vase", small.vase),
    "plant": _prop("plant.small", plant),
    "toy": _prop("clutter.toy", small.toy),
    "office thing": _prop(("clutter.office", "otherprop.printer", "clutter.letter_tray"), small.cup, 0.3),
    "kitchen machine": _prop(
        ("clutter.kitchen_machine", "appliance.microwave", "clutter.kettle"), devices.device, 0.45
    ),
    "kitchen tool": _prop(
        ("clutter.kitchen_tool", "clutter.pan", "clutter.paper_towel", "clutter.kitchen_box"), small.bottle, 0.4
    ),
    "soap": _prop(("clutter.bath", "clutter.medicine"), small.bottle, 0.5),
    "towels": _made(lambda r, p: soft.folded_towels(r, p)),
    "folded clothes": _made(lambda r, p: soft.folded_towels(r, p, "clothes")),
    "clothes": _heap((0.6, 0.5)),
    "small clothes": _heap((0.4, 0.36)),
    "garment": _prop(("clothes.flat", "clothes.folded"), None),
    "bag": _made(lambda r, p: soft.bag(r, p)),
    "shoes": _made(small.shoes),
}

# Per kind of surface: what, how many at least, and how many more are expected on it and per square metre.
ON: dict[str, tuple[str, int, float, float]] = {
    "desk": (
        "sheet 5, papers 4, books 4, open book 1.5, cup 2.5, bottle 1.5, photo 1, device 2, box 1.5, plant 1, "
        "office thing 2, globe 0.5, paper ball 0.5",
        3, 8, 0,
    ),
    "pupil": ("sheet 5, books 3, open book 2, bottle 1, bag 0.6", 0, 1.3, 0),
    "table": (
        "plate 3, cup 3, bottle 2, vase 2, sheet 2, books 1.5, plant 1, laptop 0.7, box 1, food 1", 0, 3, 3.5
    ),
    "coffee": (
        "books 3, open book 2, cup 2.5, plate 1.5, vase 1.5, plant 1, sheet 2, device 0.7, toy 0.7, remote 0.7", 1, 5, 0
    ),
    "stand": ("books 3, cup 2, photo 2, bottle 1.5, box 1.5, device 1.5, plant 1, vase 1, alarm clock 1.5", 1, 3.5, 0),
    "dresser": (
        "books 2, photo 3, bottle 3, box 2.5, vase 2, plant 1.5, device 1.5, toy 1, sheet 1, basket 1, "
        "folded clothes 1.5, globe 0.8",
        2, 3, 6,
    ),
    "media": ("device 4, books 1, photo 2, vase 1, plant 1, box 1", 0, 2.5, 0),
    "counter": (
        "kitchen machine 3, kitchen tool 2, bottle 4, plate 3, cup 3, box 2, vase 0.7, plant 0.7, sheet 1, towels 0.8, "
        "food 1",
        2, 0, 10,
    ),
    "sink": ("bottle 5, cup 2, soap 2, towels 1.5, box 1.2", 1, 4, 0),
    "shelf": ("box 3, large box 2.5, basket 1, books 2, vase 1, plant 1, bag 1", 0, 2, 0),
    "wardrobe": ("box 3, large box 3, basket 1, folded clothes 1, bag 1", 0, 1.6, 0),
    "closet": ("folded clothes 4, box 2, shoes 2, bag 1", 1, 2, 0),
    "floor": ("shoes 2, box 1", 0, 2, 0),
    "bed": (
        "clothes 6, folded clothes 2, bag 2, books 1.2, open book 0.8, toy 1, laptop 0.7, garment 1.5, towels 1, "
        "box 0.6, sheet 0.5",
        0, 2.2, 0,
    ),
    "seat": (
        "small clothes 6, folded clothes 2, bag 2, books 1.2, open book 0.8, toy 1, garment 1.5, box 0.6", 0, 0.45, 0
    ),
}  # fmt: skip
TABLES = {kind: weights(entry[0]) for kind, entry in ON.items()}


def furnish(b: Builder, base: Placed, surface: Top) -> None:
    """Things as they belong on the kind of surface: few in tidy rooms, many in others (`Builder.mess`)."""
    kind = surface.kind if surface.kind in ON else "table"
    if kind == "desk":
        _work_place(b, base, surface)
    elif (kind == "stand" and b.chance(0.62)) or (kind == "dresser" and b.chance(0.3)):
        b.lamp_on(base, "table", surface)
    elif kind == "media" and surface.free.all() and b.chance(0.75):
        b.on(base, television(b, min(1.4, base.piece.size[0] * 0.95)), surface, yaw=0.0)
    area = float(surface.free.sum()) * 0.025**2
    _, least, mean, per_area = ON[kind]
    edge = "back" if kind == "counter" and b.chance(0.7) else "any"
    for _ in range(least + int(b.rng.poisson((mean + per_area * area) * b.mess))):
        item = ITEMS[draw(b, TABLES[kind])](b)
        b.on(base, item, surface, yaw=None if b.chance(0.7) else b.uniform(0, 6.28), edge=edge)


def _work_place(b: Builder, base: Placed, surface: Top) -> None:
    """A screen with its keyboard, or a laptop; a lamp."""
    if b.chance(0.65):
        for _ in range(1 + int(b.chance(0.2) and surface.free.shape[1] > 50)):
            screen = prop(b, "otherprop.computer", devices.monitor, 0.85)
            b.on(base, screen, surface, yaw=b.uniform(-0.15, 0.15), edge="back")
        b.on(base, devices.keyboard(b.rng, b.palette), surface, yaw=b.uniform(-0.05, 0.05), edge="front")
        if b.chance(0.3):
            b.on(base, ITEMS["phone"](b), surface)
    elif b.chance(0.55):
        b.on(base, ITEMS["laptop"](b), surface, yaw=b.uniform(-0.2, 0.2), edge="front")
    if b.chance(0.4):
        b.lamp_on(base, "desk" if b.chance(0.7) else "table", surface)


def television(b: Builder, widest: float) -> Piece:
    """A television on its foot: from the catalogue, an old one with a tube, or a flat one."""
    chance = b.rng.random()
    if chance < 0.25:
        found = b.model("tv.stand", fits=lambda m: m.size[0] < widest)
        if found is not None:
            return found
    if chance < 0.45:
        return devices.tube_television(b.rng, b.palette)
    return devices.television(b.rng, b.palette, b.uniform(0.75, 1.0) * widest)


def _cushions(b: Builder, base: Placed, surface: Top) -> None:
    """Pillows on the seat of a sofa, leaning against its back."""
    for _ in range(b.count(1, 4)):
        parts, size = soft.pillow(b.rng, b.palette, decorative=True)
        lean = b.uniform(0.7, 1.2)
        deep = size[1] * math.cos(lean) + size[2]
        parts = shifted(tilted(parts, "x", lean), z=size[1] / 2 * math.sin(lean))
        piece = Piece("pillow", parts, (size[0] * 0.9, deep, size[1] * 0.9))
        b.on(base, piece, surface, yaw=b.rng.normal(0, 0.1), edge="back")


def furnish_surfaces(b: Builder) -> None:
    """Everything that stands on what was placed."""
    for placed in list(b.placed):
        bare = placed.piece.name.startswith("sofa") and placed.piece.model is not None
        for surface in placed.piece.tops:
            if bare:
                _cushions(b, placed, surface)
            furnish(b, placed, surface)
