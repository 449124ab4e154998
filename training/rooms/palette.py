"""The materials of one room: few woods, cloths and paints, used again and again, as in real rooms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from training.rooms import textures
from training.rooms.scene import Finish
from training.rooms.shapes import (
    GLOSS,
    MATT,
    SATIN,
    STEEL,
    Color,
    Material,
    Rng,
    hsv,
    paint,
    textured,
    tint,
)

CLOTH = Finish(roughness=0.95, specular=0.1)
LIMIT = {
    "wood": 3, "fabric": 3, "bedding": 2, "curtain": 2, "towel": 3, "paper": 2, "painting": 5, "poster": 3,
    "metal": 1, "cardboard": 2, "rug": 2, "cloth": 3, "spines": 2, "screen": 2, "stone": 1, "shower": 1,
}  # fmt: skip
"""How many different textures of a kind one room has at most: each costs time and memory."""


class Palette:
    """Draws materials; what was drawn before is preferred."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.pools: dict[str, list[Material]] = {}
        self.handle = Material(hsv(0.1, 0.1, rng.uniform(0.3, 0.8)), STEEL)
        self.chrome = Material((0.75, 0.75, 0.76), Finish(roughness=0.12, metallic=1.0))
        self.white = paint(hsv(rng.uniform(0.08, 0.16), rng.uniform(0, 0.06), rng.uniform(0.85, 0.96)), SATIN)
        self.black = paint(hsv(0.6, 0.05, rng.uniform(0.08, 0.2)), SATIN)
        self.ceramic = paint(hsv(0.12, rng.uniform(0, 0.06), rng.uniform(0.9, 0.98)), GLOSS)
        self.trim = self.white if rng.random() < 0.7 else None  # of doors, skirting, windows; None is wood
        self.glass = paint(hsv(0.5, 0.06, rng.uniform(0.35, 0.75)), GLOSS)

    def _pool(self, kind: str, make: Callable[[], Material], fresh: float = 0.4) -> Material:
        pool = self.pools.setdefault(kind, [])
        if not pool or (len(pool) < LIMIT[kind] and self.rng.random() < fresh):
            pool.append(make())
        return pool[int(self.rng.integers(len(pool)))]

    def wood(self) -> Material:
        finish = Finish(roughness=float(self.rng.choice([0.35, 0.5, 0.65])), specular=0.35)
        return self._pool("wood", lambda: textured(textures.wood(self.rng), finish))

    def board(self) -> Material:
        """What cases are made of: wood, white, black or a colour."""
        draw = self.rng.random()
        if draw < 0.58:
            return self.wood()
        if draw < 0.8:
            return self.white
        return self.black if draw < 0.91 else paint(tint(self.rng, 0.6, 0.3, 0.9))

    def trim_or_wood(self) -> Material:
        return self.trim or self.wood()

    def fabric(self) -> Material:
        """Upholstery; sometimes leather."""
        if self.rng.random() < 0.2:
            dark = hsv(self.rng.uniform(0.02, 0.1), self.rng.uniform(0, 0.6), self.rng.uniform(0.12, 0.8))
            return paint(dark, Finish(roughness=0.4, specular=0.45))
        return self._pool("fabric", lambda: textured(textures.fabric(self.rng), CLOTH))

    def bedding(self) -> Material:
        return self._pool("bedding", lambda: textured(textures.bedding(self.rng), CLOTH), 0.6)

    def cover(self) -> Material:
        """Bed covers, pillows: bedding, or plain."""
        if self.rng.random() < 0.45:
            return paint(self.plain_cloth(), CLOTH)
        return self.bedding()

    def plain_cloth(self) -> Color:
        draw = self.rng.random()
        if draw < 0.4:
            return hsv(self.rng.random(), 0.1 * self.rng.random(), self.rng.uniform(0.7, 0.95))
        if draw < 0.6:
            return hsv(self.rng.uniform(0.05, 0.14), self.rng.uniform(0.05, 0.4), self.rng.uniform(0.4, 0.9))
        return tint(self.rng, 0.9, 0.1, 0.85)

    def curtain(self) -> Material:
        def make() -> Material:
            if self.rng.random() < 0.5:
                return paint(self.plain_cloth(), CLOTH)
            return textured(textures.fabric(self.rng), CLOTH, float(self.rng.uniform(0.8, 2.0)))

        return self._pool("curtain", make, 0.3)

    def shower(self) -> Material:
        """A shower curtain: white or pale with a pattern, shiny."""
        gloss = Finish(roughness=0.35, specular=0.4)

        def make() -> Material:
            if self.rng.random() < 0.3:
                return paint(hsv(self.rng.random(), 0.12 * self.rng.random(), self.rng.uniform(0.8, 0.97)), gloss)
            draw = textures.bedding if self.rng.random() < 0.6 else textures.wallpaper
            return textured(draw(self.rng), gloss, float(self.rng.uniform(0.6, 1.2)))

        return self._pool("shower", make, 0.0)

    def towel(self) -> Material:
        def make() -> Material:
            if self.rng.random() < 0.7:
                return paint(self.plain_cloth(), CLOTH)
            return textured(textures.fabric(self.rng), CLOTH)

        return self._pool("towel", make, 0.5)

    def cloth(self) -> Material:
        """Clothes: plain, now and then with a pattern."""
        if self.rng.random() < 0.65:
            draw = self.rng.random()
            if draw < 0.3:
                return paint(
                    hsv(self.rng.uniform(0.55, 0.68), self.rng.uniform(0.2, 0.6), self.rng.uniform(0.15, 0.5)), CLOTH
                )
            return paint(tint(self.rng, 1.0, 0.06, 0.92), CLOTH)
        return self._pool("cloth", lambda: textured(textures.fabric(self.rng), CLOTH, 0.7))

    def stone(self) -> Material:
        return self._pool("stone", lambda: textured(textures.stone(self.rng), GLOSS))

    def metal(self) -> Material:
        finish = Finish(roughness=0.35, metallic=1.0)
        return self._pool("metal", lambda: textured(textures.metal(self.rng), finish))

    def painting(self) -> Material:
        finish = GLOSS if self.rng.random() < 0.25 else MATT
        return self._pool("painting", lambda: textured(textures.painting(self.rng), finish), 0.75)

    def poster(self) -> Material:
        return self._pool("poster", lambda: textured(textures.poster(self.rng), MATT), 0.7)

    def paper(self) -> Material:
        return self._pool("paper", lambda: textured(textures.paper_with_text(self.rng), MATT), 0.6)

    def cardboard(self) -> Material:
        return self._pool("cardboard", lambda: textured(textures.cardboard(self.rng), MATT), 0.5)

    def rug(self) -> Material:
        return self._pool("rug", lambda: textured(textures.rug(self.rng), CLOTH), 0.8)

    def spines(self) -> Material:
        return self._pool("spines", lambda: textured(textures.book_spines(self.rng), SATIN), 0.6)

    def screen(self) -> Material:
        def make() -> Material:
            material = textured(textures.screen(self.rng), GLOSS)
            shine = float(self.rng.uniform(0.3, 1.5))
            return replace(material, finish=replace(material.finish, emission=(shine, shine, shine)))

        return self._pool("screen", make, 0.6)

    def plastic(self, saturation: float = 1.0) -> Material:
        """Things of plastic, tin or lacquer."""
        finish = (MATT, SATIN, SATIN, GLOSS)[int(self.rng.integers(4))]
        return paint(tint(self.rng, saturation, 0.08, 0.95), finish)

    def frame(self) -> Material:
        """Of pictures and mirrors."""
        draw = self.rng.random()
        if draw < 0.35:
            return self.wood()
        if draw < 0.7:
            return (self.black, self.white)[int(self.rng.integers(2))]
        return Material(hsv(0.11, self.rng.uniform(0.1, 0.6), 0.75), Finish(roughness=0.35, metallic=1.0))

    def pick(self, options: list[str], weights: list[float] | None = None) -> str:
        p = None if weights is None else np.asarray(weights) / np.sum(weights)
        return str(self.rng.choice(options, p=p))
