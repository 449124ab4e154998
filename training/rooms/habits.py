"""How rooms of each kind are lived in: what fills their empty walls, what hangs there, what lies about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from training.rooms import case_shapes as cases
from training.rooms import decorate as deco
from training.rooms import device_shapes as devices
from training.rooms import small_shapes as small
from training.rooms import soft_shapes as soft
from training.rooms import table_shapes as tables
from training.rooms import wet_shapes as wet
from training.rooms.builder import Builder
from training.rooms.clutter import weights
from training.rooms.kinds_home import take_chair
from training.rooms.plant_shapes import plant
from training.rooms.shapes import Piece

Filler = Callable[[Builder], Piece | None]


def _of(uses: str | tuple[str, ...], make: small.Maker | None, share: float = 0.7) -> Filler:
    return lambda b: b.take(uses, make, share, fits=lambda m: m.size[1] < 1.0)


FILLERS: dict[str, Filler] = {
    "bookcase": _of(("bookshelf.full", "bookshelf.tall"), lambda r, p: cases.bookcase(r, p), 0.85),
    "low bookcase": lambda b: cases.bookcase(b.rng, b.palette, None, b.uniform(0.7, 1.25)),
    "shelves": _of(("shelf.tall", "shelf.low"), cases.open_shelves, 0.75),
    "dresser": _of(("dresser", "dresser.dressing_table"), cases.dresser, 0.85),
    "wardrobe": _of("wardrobe", cases.wardrobe, 0.7),
    "cupboard": _of(("cabinet.low", "cabinet.display", "cabinet.tall"), cases.cupboard, 0.8),
    "office cabinet": _of(("cabinet.file", "cabinet.office", "cabinet.tall"), cases.cupboard, 0.6),
    "tall cupboard": lambda b: cases.cupboard(b.rng, b.palette, b.uniform(0.5, 1.1), b.uniform(1.6, 2.1)),
    "desk": _of(("desk.desk", "desk.technical"), tables.desk, 0.6),
    "side table": lambda b: tables.table(
        b.rng, b.palette, b.uniform(0.4, 1.1), b.uniform(0.35, 0.5), b.uniform(0.5, 0.8), "table"
    ),
    "media": lambda b: cases.tv_stand(b.rng, b.palette, b.uniform(0.9, 1.7)),
    "armchair": _of("chair.arm", lambda r, p: soft.sofa(r, p, 1), 0.5),
    "sofa": _of(("sofa.sofa", "sofa.loveseat"), lambda r, p: soft.sofa(r, p, 2), 0.5),
    "chair": lambda b: take_chair(b),
    "office chair": lambda b: take_chair(b, "office"),
    "ottoman": _of(("ottoman", "bench"), soft.ottoman, 0.7),
    "box": lambda b: small.carton(b.rng, b.palette),
    "basket": lambda b: small.basket(b.rng, b.palette),
    "bin": _of(("trash_bin", "trash_bin.large"), small.bin_, 0.6),
    "plant": _of("plant.large", lambda r, p: plant(r, p, float(r.uniform(0.7, 2.0))), 0.35),
    "bag": _of(("bag", "bag.suitcase"), soft.bag, 0.7),
    "clothes rack": _of("clothes.rack", cases.clothes_stand, 0.85),
    "crib": lambda b: b.model(("crib", "dresser.changing_table", "clutter.toy_large")),
    "piano": _of("piano.upright", tables.piano, 0.6),
    "machine": lambda b: b.model(("appliance.washing_machine", "appliance.dryer", "appliance.freezer")),
    "fan": lambda b: b.model(
        (
            "otherprop.fan",
            "otherprop.guitar",
            "otherprop.speaker",
            "otherfurniture.bike",
            "otherfurniture.treadmill",
            "otherfurniture.stroller",
        ),
        faces=40_000,
    ),
    "towel shelf": lambda b: wet.towel_shelf(b.rng, b.palette),
    "stool": lambda b: tables.stool(b.rng, b.palette),
    "speaker": lambda b: devices.loudspeaker(b.rng, b.palette),
    "printer": lambda b: devices.printer_stand(b.rng, b.palette),
    "cooler": lambda b: b.model(("otherprop.water_cooler", "refrigerator")),
    "heater": lambda b: devices.stove_heater(b.rng, b.palette),
}


@dataclass(frozen=True)
class Habit:
    """What is usual in rooms of a kind.

    Attributes:
        fill: Names of fillers of empty walls, with weights. share: see `decorate.fill_walls`.
        pictures, papers, posters, shelves, mirrors: Expected numbers on the walls of 16 m².
        plants: Expected number of plants on the floor of 16 m².
        litter: Expected numbers of boxes, bags, clothes, toys, bins, sheets of paper on the floor of 16 m².
    """

    fill: str
    share: float
    pictures: float
    papers: float
    posters: float
    shelves: float
    mirrors: float
    plants: float
    litter: tuple[float, float, float, float, float, float]


HABITS: dict[str, Habit] = {
    "bedroom": Habit(
        "dresser 3, wardrobe 3, bookcase 2.5, shelves 2, cupboard 1.5, tall cupboard 1, desk 0.8, media 1.2, "
        "armchair 1, chair 0.8, ottoman 0.8, box 1.5, basket 1, bin 0.8, plant 0.8, bag 1.2, clothes rack "
        "1.2, side table 1, fan 0.6, heater 1.0, speaker 0.5",
        0.62, 1.9, 0.25, 0.5, 0.7, 0.3, 0.4, (0.6, 0.8, 1.0, 0.3, 0.4, 0.15),
    ),
    "living room": Habit(
        "bookcase 4, cupboard 3, tall cupboard 1, shelves 2, media 1.5, armchair 2.5, sofa 2.5, side table "
        "1.5, plant 2, chair 1, piano 0.5, ottoman 2, box 0.7, basket 0.8, speaker 1.2, dresser 0.5, fan 0.6, "
        "heater 0.8",
        0.65, 2.4, 0.15, 0.3, 0.6, 0.2, 1.8, (0.5, 0.6, 0.3, 0.6, 0.3, 0.2),
    ),
    "kitchen": Habit(
        "cupboard 2, tall cupboard 2, shelves 2, chair 1.5, bin 1.5, machine 2.2, side table 1.2, stool 1, "
        "box 0.8, basket 0.6, heater 0.6, plant 0.4",
        0.6, 0.8, 0.4, 0.5, 0.7, 0.02, 0.4, (0.6, 0.7, 0.05, 0.1, 0.9, 0.1),
    ),
    "bathroom": Habit(
        "cupboard 1, tall cupboard 1, towel shelf 2.5, shelves 0.8, basket 2, bin 1.5, machine 1.6, stool "
        "0.8, heater 0.4",
        0.45, 0.5, 0.03, 0.1, 0.5, 0.15, 0.3, (0.1, 0.2, 0.6, 0.05, 0.8, 0.02),
    ),
    "dining room": Habit(
        "cupboard 4, tall cupboard 1.5, bookcase 2, shelves 1, chair 2, plant 2, piano 0.8, side table 1.5, "
        "armchair 0.8, dresser 0.8, box 0.6, heater 0.5",
        0.6, 2.6, 0.1, 0.2, 0.4, 0.35, 1.3, (0.5, 0.5, 0.1, 0.3, 0.2, 0.05),
    ),
    "office": Habit(
        "bookcase 4, office cabinet 4, shelves 3, desk 1.5, box 2.5, bin 1.5, plant 1, chair 1.2, office "
        "chair 1.5, printer 1.5, cooler 0.4, bag 1, side table 1, tall cupboard 1",
        0.68, 0.7, 1.9, 0.9, 0.6, 0.02, 1.4, (1.6, 1.1, 0.1, 0.02, 1.0, 0.4),
    ),
    "study": Habit(
        "bookcase 6, shelves 2, office cabinet 1.5, desk 0.8, box 1.5, bin 1, plant 1, chair 1, bag 1, "
        "printer 1, armchair 0.7, speaker 0.5",
        0.7, 1.5, 0.7, 0.6, 0.8, 0.05, 0.9, (1.0, 0.8, 0.2, 0.1, 0.6, 0.3),
    ),
    "library": Habit(
        "bookcase 4, low bookcase 2, shelves 1, box 1, side table 1, chair 1",
        0.6, 0.6, 0.7, 0.9, 0.2, 0.0, 0.7, (1.3, 0.4, 0.0, 0.3, 0.3, 0.1),
    ),
    "playroom": Habit(
        "low bookcase 3, shelves 4, crib 1.5, box 2.5, basket 2, sofa 0.7, chair 1, dresser 1, side table 1",
        0.65, 0.9, 0.8, 1.6, 0.7, 0.1, 0.2, (1.2, 0.6, 0.6, 3.5, 0.2, 0.4),
    ),
    "classroom": Habit(
        "low bookcase 3, shelves 3, cupboard 2, tall cupboard 1, box 1.5, desk 1, bin 1, chair 1.5, printer "
        "0.5, side table 1",
        0.6, 0.4, 1.8, 1.6, 0.4, 0.0, 0.3, (0.9, 1.8, 0.15, 0.2, 0.6, 0.3),
    ),
    "corridor.home": Habit(
        "low bookcase 1.5, cupboard 1.5, chair 1, ottoman 1, box 1, plant 1, bag 1.2, basket 0.8, side table "
        "1.5, clothes rack 0.7",
        0.3, 3.0, 0.1, 0.5, 0.3, 0.6, 0.4, (0.5, 0.9, 0.3, 0.15, 0.1, 0.05),
    ),
    "corridor.office": Habit(
        "office cabinet 1.5, low bookcase 1, box 2, bin 1.5, plant 1.5, chair 2, printer 1.2, cooler 0.6",
        0.3, 0.9, 2.2, 1.5, 0.1, 0.0, 1.5, (1.0, 0.4, 0.02, 0.0, 0.5, 0.05),
    ),
}  # fmt: skip
SCREENS = {"bedroom": 0.2, "living room": 0.1, "kitchen": 0.08, "dining room": 0.1, "office": 0.3, "classroom": 0.4}
"""Chance of a television on the wall."""
RUNNERS = {"corridor.office": 0.5, "office": 0.15, "library": 0.15, "living room": 0.08, "dining room": 0.06}
"""Chance of a strip of carpet through the room."""
TABLES = {kind: weights(habit.fill) for kind, habit in HABITS.items()}


def live_in(b: Builder, kind: str) -> None:
    """Fills the walls and the floor of a furnished room."""
    habit = HABITS[kind]
    # Paths stay open in narrow rooms.
    narrow = float(b.plan.extent.min()) < 1.7
    deco.plants(b, habit.plants)
    if not narrow:
        deco.fill_walls(b, FILLERS, TABLES[kind], min(0.97, habit.share * b.uniform(0.9, 1.6)))
    for _ in range(int(b.rng.poisson(habit.mirrors))):
        deco.mirror_on_wall(b)
    if b.chance(SCREENS.get(kind, 0.0)):
        deco.television_on_wall(b)
    books = {"bathroom": 0.03, "kitchen": 0.12}.get(kind, 0.45)
    deco.dress_walls(b, habit.pictures, habit.papers, habit.posters, habit.shelves, books)
    if b.chance(RUNNERS.get(kind, 0.0)):
        deco.runner(b)
    deco.litter(b, *habit.litter)
