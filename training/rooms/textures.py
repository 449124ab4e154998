"""Procedural textures: what walls, floors, furniture and things in a room are made of.

Every function draws one example from a random generator and returns a small sRGB picture with its size in metres.
Materials (wood, tiles, carpet, fabric, ...) repeat without a seam in both directions; pictures (paintings, posters,
paper, screens, rugs, whiteboards, the outdoors) are meant to be seen once.

    picture    row 0 is the top; x runs to the right along u, the grain of wood and the length of planks run along x
    colours    sRGB, 0 to 1, while a texture is made; most saturations are low, as in homes
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Color = tuple[float, float, float]
Rng = np.random.Generator


class Texture(NamedTuple):
    """A picture and its width.

    Attributes:
        picture: uint8 [h, w, 3], sRGB.
        metres: Width of the picture; its pixels are square, so its height is metres · h / w.
    """

    picture: NDArray[np.uint8]
    metres: float


# ----------------------------------------------------------------------------------------------------------- helpers


@lru_cache(maxsize=64)
def _bank(size: int, power: float, stretch: float) -> Floats:
    """A periodic cloud [size, size] of mean 0 and deviation 1 whose spectrum falls with frequency to the `power`.

    `stretch` lengthens it along x. The bank is the same in every process; textures take rolled and mirrored parts.
    """
    rng = np.random.default_rng([size, int(power * 100), int(stretch * 100)])
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    frequency = np.hypot(fy, fx * stretch) + 1 / size
    cloud = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) / frequency**power, (size, size))
    cloud = (cloud - cloud.mean()) / cloud.std()
    return np.asarray(cloud, np.float32)


def _cloud(rng: Rng, size: int, power: float = 1.5, stretch: float = 1.0) -> Floats:
    """A random periodic cloud [size, size], mean 0, deviation 1: power 0 is white noise, 2 is smooth."""
    cloud = np.roll(_bank(size, power, stretch), (int(rng.integers(size)), int(rng.integers(size))), (0, 1))
    cloud = cloud[:: (1, -1)[rng.integers(2)], :: (1, -1)[rng.integers(2)]]
    return cloud.T if stretch == 1 and rng.random() < 0.5 else cloud


def _grid(h: int, w: int) -> tuple[Floats, Floats]:
    """x [1, w] and y [h, 1] of the pixels' centres, 0 to 1."""
    x = (np.arange(w, dtype=np.float32) + 0.5) / w
    y = (np.arange(h, dtype=np.float32) + 0.5) / h
    return x[None], y[:, None]


def _hsv(h: float, s: float, v: float) -> Color:
    return colorsys.hsv_to_rgb(h % 1, min(max(s, 0), 1), min(max(v, 0), 1))


def _scale(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor


def _array(color: Color) -> Floats:
    return np.asarray(color, np.float32)


def _mix(a: Color | Floats, b: Color | Floats, t: Floats) -> Floats:
    """Colours [h, w, 3] between a (t = 0) and b (t = 1), t [h, w]."""
    first = np.asarray(a, np.float32)
    return np.asarray(first + (np.asarray(b, np.float32) - first) * t[..., None])


def _finish(picture: Floats) -> NDArray[np.uint8]:
    return np.asarray(np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _tint(rng: Rng, saturation: float = 0.5, low: float = 0.15, high: float = 0.9) -> Color:
    """Any colour; the draw of the saturation is squared, since saturated rooms look absurd."""
    return _hsv(rng.random(), saturation * rng.random() ** 2, rng.uniform(low, high))


def _pick(rng: Rng, options: tuple[Any, ...] | list[Any], weights: tuple[float, ...] | None = None) -> Any:
    p = None if weights is None else np.asarray(weights) / sum(weights)
    return options[int(rng.choice(len(options), p=p))]


def _vary(rng: Rng, color: Color, amount: float = 0.06) -> Color:
    """A colour near the given one: lighter or darker, a little warmer or colder."""
    value = 1 + rng.normal(0, amount)
    warm = rng.normal(0, amount / 4)
    r, g, b = (float(np.clip(c * value, 0, 1)) for c in color)
    return min(r * (1 + warm), 1.0), g, min(b * (1 - warm), 1.0)


def _rows(rng: Rng, h: int, w: int, rows: int, ink: Color, picture: Floats, margin: float = 0.08) -> None:
    """Writes `rows` lines of words: short dark bars that look like text from a distance; into `picture` [h, w, 3]."""
    pitch = h * (1 - 2 * margin) / rows
    left, right = int(w * margin), int(w * (1 - margin))
    for row in range(rows):
        top = int(h * margin + row * pitch)
        bottom = max(top + 1, int(top + pitch * 0.5))
        end = right if rng.random() < 0.75 else int(rng.uniform(left, right))
        x = left
        if rng.random() < 0.08:
            continue
        while x < end:
            word = int(rng.integers(max(1, w // 30), max(2, w // 9)))
            strength = rng.uniform(0.45, 0.8)
            area = picture[top:bottom, x : min(x + word, end)]
            area += (_array(ink) - area) * strength
            x += word + max(1, w // 60)


# ------------------------------------------------------------------------------------------------- wood and floors

WOODS: tuple[tuple[Color, float], ...] = (
    ((0.83, 0.70, 0.52), 1.2),  # beech, birch
    ((0.87, 0.77, 0.60), 1.0),  # pine, maple
    ((0.72, 0.56, 0.38), 1.6),  # oak
    ((0.64, 0.45, 0.28), 1.2),  # oak, stained
    ((0.55, 0.33, 0.20), 1.0),  # cherry, teak
    ((0.42, 0.26, 0.16), 1.0),  # walnut
    ((0.34, 0.17, 0.11), 0.7),  # mahogany
    ((0.20, 0.14, 0.11), 0.7),  # wenge, black-brown
    ((0.66, 0.61, 0.54), 0.5),  # grey wash
    ((0.90, 0.88, 0.84), 0.9),  # white
)


def _wood_tone(rng: Rng) -> Color:
    return _vary(rng, _pick(rng, [c for c, _ in WOODS], tuple(w for _, w in WOODS)), 0.07)


def _grain(rng: Rng, size: int) -> Floats:
    """Grain along x [size, size], about -1 to 1: growth rings cut lengthwise and fine streaks."""
    _, y = _grid(size, size)
    warp = _cloud(rng, size, 2.2, 6.0)
    rings = np.sin(2 * np.pi * (rng.integers(2, 7) * y + rng.uniform(0.3, 0.9) * warp))
    return np.asarray(0.55 * rings * rng.uniform(0.2, 1.0) + 0.35 * _cloud(rng, size, 0.9, 14.0))


def wood(rng: Rng) -> Texture:
    """Boards, furniture fronts and table tops; the grain runs along x. Painted now and then, with hardly a grain."""
    tone = _wood_tone(rng)
    strength = rng.uniform(0.04, 0.16) * (0.3 if min(tone) > 0.8 else 1.0)
    grain = _grain(rng, 256)
    dark = _scale(tone, 0.62)
    picture = _mix(tone, dark, strength * 3 * (grain * 0.5 + 0.3)) * (1 + 0.02 * _cloud(rng, 256, 0.0))[..., None]
    return Texture(_finish(picture), float(rng.uniform(0.6, 1.0)))


def _planks(rng: Rng, size: int) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_], float]:
    """A floor of planks: index of each pixel's plank, closeness to a joint 0..1, whether it lies along y, metres."""
    x, y = _grid(size, size)
    kind = _pick(rng, ("ship", "brick", "herringbone", "basket"), (6, 2, 1.5, 0.7))
    joint = 1.6 / size
    if kind in ("ship", "brick"):
        width = rng.uniform(0.07, 0.2)
        rows = int(rng.integers(8, 13))
        metres = width * rows
        per_row = max(1, round(metres / rng.uniform(0.7, 1.6)))
        row = np.broadcast_to(np.floor(y * rows), (size, size))
        offset = rng.random(rows) if kind == "ship" else np.arange(rows) % 2 * 0.5
        along = x * per_row + offset[row.astype(int)]
        column = np.floor(along) % per_row
        near_row = np.abs((y * rows) % 1 - 0.5) > 0.5 - joint * rows * 0.6
        near_end = np.abs(along % 1 - 0.5) > 0.5 - joint * per_row * 0.6
        edge = (near_row | near_end).astype(np.float32)
        return (row * per_row + column).astype(np.int64), edge, np.zeros((size, size), bool), metres
    n = int(rng.integers(3, 6))
    cells = 2 * n if kind == "herringbone" else 4
    j, i = np.indices((size, size)) * cells // size
    if kind == "herringbone":
        k = (i - j) % (2 * n)
        upright = k >= n
        start_i, start_j = np.where(upright, i, i - k), np.where(upright, j - (2 * n - 1 - k), j)
        index = (start_i % cells) * cells + start_j % cells + np.where(upright, cells * cells, 0)
        metres = cells * rng.uniform(0.06, 0.1)
    else:
        upright = (i + j) % 2 == 1
        across = np.where(upright, x * cells % 1, y * cells % 1)
        index = (i * cells + j) * n + np.floor(across * n).astype(np.int64)
        metres = cells * rng.uniform(0.25, 0.4)
    edge = ((index != np.roll(index, 1, 0)) | (index != np.roll(index, 1, 1))).astype(np.float32)
    return index, edge, upright, float(metres)


def parquet(rng: Rng) -> Texture:
    """A floor of planks or parquet: ship's deck, half bond, herringbone, basket weave; or laminate, which is even."""
    size = 512
    tone = _wood_tone(rng)
    index, edge, upright, metres = _planks(rng, size)
    grain = np.tile(_grain(rng, 256), (2, 2))
    # Every plank is cut from another place of the grain.
    shift = rng.integers(0, 256, (int(index.max()) + 1, 2))[index]
    row, column = np.indices((size, size))
    along, across = np.where(upright, row, column) // 2, np.where(upright, column, row)
    grain = grain[(across + shift[..., 0]) % 256, (along + shift[..., 1]) % 256]
    plank = 1 + rng.normal(0, rng.uniform(0.02, 0.1), int(index.max()) + 1)[index]
    dark = _scale(tone, 0.6)
    picture = _mix(tone, dark, rng.uniform(0.1, 0.4) * (grain * 0.5 + 0.3)) * plank[..., None]
    picture *= (1 - rng.uniform(0.15, 0.55) * edge)[..., None]
    return Texture(_finish(picture), float(metres))


def _stone_tone(rng: Rng) -> Color:
    if rng.random() < 0.3:
        return _hsv(rng.uniform(0.05, 0.12), rng.uniform(0.05, 0.4), rng.uniform(0.4, 0.85))
    return _hsv(rng.uniform(0.04, 0.14) if rng.random() < 0.7 else 0.6, 0.12 * rng.random(), rng.uniform(0.2, 0.95))


def _veins(rng: Rng, size: int) -> Floats:
    """Thin wandering lines of marble [size, size], 0 to 1."""
    return np.asarray(np.exp(-np.abs(_cloud(rng, size, 2.0)) * rng.uniform(12, 30)) * (0.5 + 0.5 * rng.random()))


def tiles(rng: Rng, wall: bool = False) -> Texture:
    """Ceramic or stone tiles with joints: square, half bond, mosaic, chequered. Wall tiles are smaller and lighter."""
    size = 512
    x, y = _grid(size, size)
    across = int(_pick(rng, (4, 6, 8), (2, 3, 2)))
    weights = (5, 2, 2.5, 0.3, 1.2) if wall else (6, 2, 0, 1.2, 0.4)
    kind = _pick(rng, ("square", "bond", "metro", "check", "mosaic"), weights)
    side = float(rng.uniform(0.1, 0.3) if wall else rng.uniform(0.2, 0.6))
    if kind == "mosaic":
        across, side = 16, float(rng.uniform(0.02, 0.05))
    down = across * 2 if kind == "metro" else across
    row = np.floor(y * down) * np.ones_like(x)
    along = x * across + (0.5 * (row % 2) if kind in ("bond", "metro") else 0)
    column = np.floor(along) % across
    index = (row * across + column).astype(np.int64)
    joint = max(2.0 / size, rng.uniform(0.002, 0.006) / (side * across))
    u, v = along % 1, (y * down) % 1 * np.ones_like(x)
    edge = np.maximum(np.abs(u - 0.5) - 0.5 + joint * across * 0.5, np.abs(v - 0.5) - 0.5 + joint * down * 0.5) > 0
    if wall:
        light = _hsv(rng.random(), 0.15 * rng.random() ** 2, rng.uniform(0.78, 0.96))
        tone = light if rng.random() < 0.7 else _tint(rng, 0.7, 0.3, 0.8)
    else:
        tone = _stone_tone(rng)
    spread = rng.uniform(0.05, 0.2) if kind == "mosaic" else rng.uniform(0.0, 0.05)
    picture = np.ones((size, size, 1), np.float32) * _array(tone)
    picture = picture * (1 + rng.normal(0, spread, down * across)[index])[..., None]
    if kind == "check":
        other = (index + (row.astype(np.int64) if across % 2 == 0 else 0)) % 2 == 0
        second = _vary(rng, (0.12, 0.12, 0.12) if rng.random() < 0.5 else _scale(tone, 0.55))
        picture = np.where(other[..., None], _array(second), picture)
    surface = rng.random()
    if surface < 0.3:
        picture *= (1 - rng.uniform(0.1, 0.35) * _veins(rng, size))[..., None]
    elif surface < 0.75:
        picture *= (1 + rng.uniform(0.01, 0.06) * _cloud(rng, size, 1.1))[..., None]
    grout = _vary(rng, _pick(rng, ((0.75, 0.73, 0.7), (0.5, 0.48, 0.46), (0.9, 0.89, 0.87), (0.3, 0.29, 0.28))))
    picture = np.where(edge[..., None], _array(grout), picture)
    return Texture(_finish(picture), side * across)


def _carpet_tone(rng: Rng) -> Color:
    """Fitted carpets: beige and grey ones, pale ones of any colour, and the deep blues, reds and greens of offices."""
    draw = rng.random()
    if draw < 0.4:
        return _hsv(rng.uniform(0.05, 0.12), rng.uniform(0.05, 0.3), rng.uniform(0.35, 0.8))
    if draw < 0.75:
        return _tint(rng, 0.6, 0.2, 0.7)
    hue = _pick(rng, (0.6, 0.64, 0.0, 0.38, 0.5, 0.78, 0.07), (4, 2, 2, 1.5, 1, 0.5, 1))
    return _hsv(hue + rng.normal(0, 0.02), rng.uniform(0.4, 0.85), rng.uniform(0.15, 0.6))


def carpet(rng: Rng) -> Texture:
    """Fitted carpet: cut pile, loop, flecked, office squares."""
    size = 256
    tone = _carpet_tone(rng)
    x, y = _grid(size, size)
    detail = rng.uniform(0.08, 0.2) * _cloud(rng, size, _pick(rng, (0.0, 0.2, 0.4))) + 0.03 * _cloud(rng, size, 1.5)
    kind = _pick(rng, ("pile", "loop", "fleck", "squares", "streaks"), (5, 2, 2, 2, 1))
    if kind == "loop":
        detail = detail * 0.5 + 0.1 * np.sin(2 * np.pi * 32 * x) * np.sin(2 * np.pi * 32 * y)
    elif kind == "streaks":
        detail = detail * 0.5 + 0.12 * _cloud(rng, size, 0.8, 10.0)
    picture = np.ones((size, size, 1), np.float32) * _array(tone) * (1 + detail)[..., None]
    metres = float(rng.uniform(0.5, 0.9))
    if kind == "fleck":
        picture = np.where((_cloud(rng, size, 0.3) > 1.5)[..., None], _array(_tint(rng, 0.6, 0.2, 0.9)), picture)
    elif kind == "squares":
        square = (np.floor(x * 2) + np.floor(y * 2)) % 2
        edge = np.maximum(np.abs((x * 2) % 1 - 0.5), np.abs((y * 2) % 1 - 0.5)) > 0.49
        picture *= (1 + rng.uniform(0.0, 0.12) * (square - 0.5) - 0.1 * edge)[..., None]
        metres = 1.0
    return Texture(_finish(picture), metres)


# ----------------------------------------------------------------------------------------------------------- walls


def _wall_tone(rng: Rng) -> Color:
    """What walls are painted: mostly white, cream or grey, seldom a colour."""
    draw = rng.random()
    if draw < 0.45:
        return _hsv(rng.uniform(0.05, 0.17), 0.1 * rng.random(), rng.uniform(0.82, 0.97))
    if draw < 0.65:
        return _hsv(rng.uniform(0.07, 0.14), rng.uniform(0.1, 0.35), rng.uniform(0.65, 0.93))
    if draw < 0.78:
        return _hsv(rng.random(), 0.06 * rng.random(), rng.uniform(0.45, 0.85))
    return _hsv(rng.random(), rng.uniform(0.08, 0.45) * rng.uniform(0.5, 1), rng.uniform(0.5, 0.9))


def plaster(rng: Rng) -> Texture:
    """Painted wall or ceiling: smooth, rolled, rough or woodchip."""
    size = 256
    tone = _wall_tone(rng)
    bumps = _cloud(rng, size, float(_pick(rng, (0.3, 0.8, 1.2))))
    detail = rng.uniform(0.0, 0.035) * bumps + rng.uniform(0.0, 0.02) * _cloud(rng, size, 2.0)
    return Texture(_finish(_array(tone) * (1 + detail)[..., None]), float(rng.uniform(0.8, 1.6)))


def _motif(rng: Rng, size: int) -> Floats:
    """One flower, leaf or ornament centred in [size, size], 0 to 1, empty at the borders."""
    x, y = _grid(size, size)
    u, v = x - 0.5, y - 0.5
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    petals = int(rng.integers(3, 9))
    outline = 0.2 + rng.uniform(0.04, 0.2) * np.cos(petals * angle + rng.uniform(0, 6.28))
    if rng.random() < 0.3:
        outline = outline * (1 + 0.4 * np.cos(2 * angle))
    inside = np.clip((outline - radius) * size / 3, 0, 1)
    if rng.random() < 0.5:
        inside = inside * np.clip((radius - outline * rng.uniform(0.3, 0.6)) * size / 3, 0, 1)
    return np.asarray(inside * np.clip((0.48 - radius) * size / 4, 0, 1))


def _pattern(rng: Rng, size: int, kind: str) -> Floats:
    """How much of the second colour there is [size, size], 0 to 1, periodic."""
    x, y = _grid(size, size)
    n = int(_pick(rng, (2, 4, 8)))
    if kind == "stripes":
        f, phase = 2 * np.pi * n * x + 0 * y, rng.uniform(-0.6, 0.6)
        wave = np.sin(f) + (0.6 * np.sin(3 * f) if rng.random() < 0.4 else 0)
        return np.asarray(np.clip(0.5 + 3 * (wave - phase), 0, 1))
    if kind == "checks":
        duty = rng.uniform(0.2, 0.5)
        return np.asarray((((x * n) % 1 < duty) * 0.5 + ((y * n) % 1 < duty) * 0.5).astype(np.float32))
    if kind == "dots":
        radius = np.hypot((x * n * 2) % 1 - 0.5, (y * n * 2) % 1 - 0.5)
        return np.asarray(np.clip((rng.uniform(0.15, 0.35) - radius) * 12, 0, 1))
    if kind == "waves":
        f = 2 * np.pi * (n * y + 0.06 * n * np.sin(2 * np.pi * n * x))
        return np.asarray(np.clip(0.5 + 2 * np.sin(f), 0, 1))
    if kind == "motif":
        half = size // 2
        one, two = _motif(rng, half), _motif(rng, half)
        return np.block([[one, two], [two, one]])
    if kind == "scatter":
        total = np.zeros((size, size), np.float32)
        for _ in range(int(rng.integers(8, 20))):
            small = _motif(rng, int(rng.integers(size // 8, size // 3)))
            canvas = np.zeros_like(total)
            canvas[: small.shape[0], : small.shape[1]] = small
            total = np.maximum(total, np.roll(canvas, tuple(rng.integers(0, size, 2).tolist()), (0, 1)))
        return total
    return np.zeros((size, size), np.float32)


def wallpaper(rng: Rng) -> Texture:
    """Wallpaper: plain and textured, striped, dotted, flowered or with ornaments."""
    size = 256
    tone = _wall_tone(rng)
    kinds = ("plain", "stripes", "motif", "scatter", "dots", "waves")
    amount = _pattern(rng, size, _pick(rng, kinds, (3, 3, 3, 2, 1, 1)))
    other = _vary(rng, tone, 0.12) if rng.random() < 0.6 else _tint(rng, 0.6, 0.4, 0.95)
    picture = _mix(tone, other, amount * rng.uniform(0.25, 0.9))
    picture *= (1 + rng.uniform(0.005, 0.03) * _cloud(rng, size, 0.6))[..., None]
    return Texture(_finish(picture), float(rng.uniform(0.4, 0.8)))


def stone(rng: Rng) -> Texture:
    """Marble, granite, terrazzo or concrete: worktops, sills, floors."""
    size = 256
    tone = _stone_tone(rng)
    kind = _pick(rng, ("marble", "granite", "concrete", "terrazzo"), (3, 4, 2, 1))
    base = np.ones((size, size, 1), np.float32) * _array(tone) * (1 + 0.04 * _cloud(rng, size, 1.5))[..., None]
    if kind == "marble":
        base = _mix(base, _scale(tone, 0.55), rng.uniform(0.2, 0.8) * _veins(rng, size))
    elif kind in ("granite", "terrazzo"):
        for _ in range(3):
            speck = _cloud(rng, size, 0.5 if kind == "granite" else 1.2) > rng.uniform(0.9, 1.7)
            base = np.where(speck[..., None], _array(_vary(rng, tone, 0.5)), base)
    else:
        base = base * (1 + 0.05 * _cloud(rng, size, 0.7))[..., None]
    return Texture(_finish(base), float(rng.uniform(0.5, 1.2)))


# ----------------------------------------------------------------------------------------------------------- cloth


def _cloth_tone(rng: Rng) -> Color:
    draw = rng.random()
    if draw < 0.3:
        return _hsv(rng.uniform(0.04, 0.14), 0.35 * rng.random(), rng.uniform(0.35, 0.9))
    if draw < 0.5:
        return _hsv(rng.random(), 0.08 * rng.random(), rng.uniform(0.12, 0.9))
    return _tint(rng, 0.85, 0.2, 0.85)


def fabric(rng: Rng) -> Texture:
    """Upholstery, curtains, clothes, towels: woven or melange, plain or with a pattern."""
    size = 256
    x, y = _grid(size, size)
    tone = _cloth_tone(rng)
    kinds = ("plain", "stripes", "checks", "motif", "scatter", "dots", "waves")
    amount = _pattern(rng, size, _pick(rng, kinds, (8, 1.2, 1, 1, 1, 0.5, 0.5)))
    picture = _mix(tone, _cloth_tone(rng), amount * rng.uniform(0.3, 0.9))
    weave = rng.uniform(0, 0.08) * np.sin(2 * np.pi * 64 * x) * np.sin(2 * np.pi * 64 * y)
    detail = weave + rng.uniform(0.02, 0.1) * _cloud(rng, size, 0.2) + 0.03 * _cloud(rng, size, 1.6)
    return Texture(_finish(picture * (1 + detail)[..., None]), float(rng.uniform(0.3, 0.6)))


def bedding(rng: Rng) -> Texture:
    """Sheets, blankets and pillow cases: often light, often with a large pattern, with soft creases painted in."""
    size = 256
    light = _hsv(rng.random(), 0.2 * rng.random() ** 2, rng.uniform(0.75, 0.97))
    tone = light if rng.random() < 0.5 else _cloth_tone(rng)
    kinds = ("plain", "stripes", "checks", "motif", "scatter", "dots", "waves")
    amount = _pattern(rng, size, _pick(rng, kinds, (5, 2, 2, 2, 3, 1, 1)))
    picture = _mix(tone, _cloth_tone(rng), amount * rng.uniform(0.3, 1.0))
    crease = np.abs(_cloud(rng, size, 2.0, 2.0))
    detail = 0.015 * _cloud(rng, size, 0.2) + rng.uniform(0.02, 0.1) * (np.minimum(crease * 2, 1) - 0.7)
    return Texture(_finish(picture * (1 + detail)[..., None]), float(rng.uniform(0.6, 1.2)))


def rug(rng: Rng) -> Texture:
    """A whole rug, 3:2: oriental with border and medallion, striped, geometric, plain or shaggy."""
    h, w = 256, 384
    x, y = _grid(h, w)
    ground = _tint(rng, 0.9, 0.2, 0.75)
    kind = _pick(rng, ("oriental", "stripes", "geometric", "plain", "shaggy"), (3, 2, 2, 2, 1))
    noise = np.tile(_cloud(rng, 256, 0.2), (1, 2))[:, :w]
    picture: Floats = np.ones((h, w, 1), np.float32) * _array(ground)
    from_edge = np.minimum(np.minimum(x, 1 - x) * 1.5, np.minimum(y, 1 - y))  # in heights
    if kind == "oriental":
        ornament = np.tile(_pattern(rng, 64, "motif"), (4, 6))
        picture = _mix(picture, _tint(rng, 0.7, 0.3, 0.85), ornament * 0.8)
        radius = np.abs(x - 0.5) * 1.5 / rng.uniform(0.3, 0.5) + np.abs(y - 0.5) / rng.uniform(0.2, 0.35)
        medallion = np.clip((1 - radius) * 30, 0, 1)
        picture = _mix(picture, _tint(rng, 0.9, 0.2, 0.8), medallion * 0.85)
        picture = _mix(picture, ground, np.clip((0.6 - radius) * 30, 0, 1) * 0.8)
        ornament = np.tile(_pattern(rng, 32, "motif"), (8, 12))
        border = _mix(_tint(rng, 0.9, 0.15, 0.7), _tint(rng, 0.6, 0.4, 0.9), ornament)
        picture = np.where((from_edge < 0.14)[..., None], border, picture)
        line = (np.abs(from_edge - 0.14) < 0.012) | (np.abs(from_edge - 0.03) < 0.012)
        picture = np.where(line[..., None], _array(_tint(rng, 0.5, 0.3, 0.9)), picture)
    elif kind == "stripes":
        edges = np.cumsum(rng.uniform(0.2, 1.0, 14))
        colors = np.array([_tint(rng, 0.8, 0.2, 0.85) if rng.random() < 0.6 else ground for _ in range(15)], np.float32)
        picture = np.broadcast_to(colors[np.searchsorted(edges / edges[-1], x[0])], (h, w, 3)).copy()
    elif kind == "geometric":
        amount = np.tile(_pattern(rng, 128, _pick(rng, ("checks", "waves", "motif", "dots"))), (2, 3))
        picture = _mix(picture, _tint(rng, 0.6, 0.3, 0.9), amount * 0.9)
    elif rng.random() < 0.6:
        picture = np.where((from_edge < 0.06)[..., None], _array(_vary(rng, ground, 0.3)), picture)
    detail = 0.2 if kind == "shaggy" else 0.07
    return Texture(_finish(picture * (1 + detail * noise)[..., None]), float(rng.uniform(1.2, 2.6)))


# ---------------------------------------------------------------------------------------------- pictures and screens


def _landscape(rng: Rng, h: int, w: int, saturation: float) -> Floats:
    """Sky, hills or sea, ground: layers from far to near, [h, w, 3]."""
    x, y = _grid(h, w)
    size = max(h, w)
    sky_low = _hsv(rng.uniform(0.05, 0.15) if rng.random() < 0.4 else 0.58, saturation * rng.uniform(0.1, 0.6), 0.9)
    sky_high = _hsv(rng.uniform(0.55, 0.65), saturation * rng.uniform(0.2, 0.8), rng.uniform(0.45, 0.95))
    picture = _mix(sky_high, sky_low, np.clip(y * 1.8, 0, 1) * np.ones_like(x))
    clouds = np.clip(_cloud(rng, size, 1.7, 2.0)[:h, :w] - rng.uniform(-0.3, 1.2), 0, 1)
    picture = _mix(picture, (0.95, 0.94, 0.93), clouds * (1 - y) * 0.8)
    horizon = rng.uniform(0.35, 0.6)
    for layer in range(int(rng.integers(2, 5))):
        ridge = horizon + layer * 0.12 - 0.05 * _cloud(rng, size, 2.0)[0, :w][None] * rng.uniform(0.2, 1.5)
        hue = _pick(rng, (0.6, 0.3, 0.25, 0.1, 0.08), (1, 2, 2, 1, 1)) + rng.normal(0, 0.02)
        tone = _hsv(hue, saturation * (0.2 + 0.2 * layer), rng.uniform(0.25, 0.65))
        texture = 1 + 0.25 * _cloud(rng, size, 1.0)[:h, :w]
        picture = _mix(picture, _array(tone) * texture[..., None], np.clip((y - ridge) * h / 2, 0, 1))
    return picture


def _abstract(rng: Rng, h: int, w: int, saturation: float) -> Floats:
    """Patches, bars and discs of few colours [h, w, 3]."""
    x, y = _grid(h, w)
    size = max(h, w)
    palette = [_tint(rng, saturation, 0.1, 0.95) for _ in range(5)]
    picture: Floats = np.ones((h, w, 1), np.float32) * _array(palette[0])
    for _ in range(int(rng.integers(3, 12))):
        tone, kind = palette[int(rng.integers(5))], rng.random()
        if kind < 0.35:
            amount = np.clip((_cloud(rng, size, 2.0)[:h, :w] - rng.uniform(0, 1)) * 6, 0, 1)
        elif kind < 0.7:
            a, b = np.sort(rng.random(2)), np.sort(rng.random(2))
            amount = ((x > a[0]) & (x < a[1]) & (y > b[0]) & (y < b[1])).astype(np.float32)
        else:
            radius = np.hypot((x - rng.random()) * w / h, y - rng.random())
            amount = np.clip((rng.uniform(0.05, 0.4) - radius) * h / 2, 0, 1)
        picture = _mix(picture, tone, amount * rng.uniform(0.5, 1))
    return np.asarray(picture * (1 + 0.05 * _cloud(rng, size, 0.7)[:h, :w])[..., None])


def _portrait(rng: Rng, h: int, w: int, saturation: float) -> Floats:
    """Head and shoulders before a ground, as rough as seen from across a room [h, w, 3]."""
    x, y = _grid(h, w)
    size = max(h, w)
    ground = _tint(rng, saturation, 0.1, 0.8)
    picture = _array(ground) * (1 + 0.15 * _cloud(rng, size, 1.8)[:h, :w])[..., None]
    skin = _hsv(rng.uniform(0.04, 0.08), rng.uniform(0.3, 0.55), rng.uniform(0.35, 0.85))
    cx, cy = rng.uniform(0.4, 0.6), rng.uniform(0.33, 0.45)
    u, v = (x - cx) * w / h, y - cy
    body = np.clip((v - 0.2 - 1.8 * u**2) * h / 2, 0, 1)
    hair = np.clip((0.2 - np.hypot(u, (v + 0.03) * 0.85)) * h / 2, 0, 1)
    face = np.clip((0.16 - np.hypot(u, (v - 0.02) * 0.75)) * h / 2, 0, 1)
    picture = _mix(picture, _tint(rng, 0.8, 0.1, 0.8), body)
    picture = _mix(picture, _hsv(rng.uniform(0.03, 0.12), rng.uniform(0.1, 0.7), rng.uniform(0.05, 0.6)), hair)
    shade = np.clip(0.9 + u * rng.uniform(-1.5, 1.5), 0.5, 1.1) * np.ones_like(y)
    return _mix(picture, _array(skin) * shade[..., None], face)


def _subject(rng: Rng, h: int, w: int, saturation: float) -> Floats:
    """Any motive of a picture [h, w, 3]."""
    motives: tuple[Callable[[Rng, int, int, float], Floats], ...] = (_landscape, _abstract, _portrait)
    draw: Callable[[Rng, int, int, float], Floats] = _pick(rng, motives, (3, 3, 1.5))
    return draw(rng, h, w, saturation)


def _format(rng: Rng, long: int) -> tuple[int, int]:
    """Height and width of a picture: upright, square or wide."""
    ratio = float(_pick(rng, (1.0, 1.25, 1.4, 1.6), (1, 2, 3, 1)))
    short = round(long / ratio)
    return (long, short) if rng.random() < 0.5 else (short, long)


def painting(rng: Rng) -> Texture:
    """A painting, print or photograph with its mat; the frame is made of geometry. 0.3 to 1.2 m wide."""
    h, w = _format(rng, 192)
    grey = rng.random() < 0.15
    picture = _subject(rng, h, w, rng.uniform(0.3, 1.0))
    if grey:
        picture = np.repeat(picture.mean(-1, keepdims=True), 3, -1)
    if rng.random() < 0.35:  # a mat
        edge = int(min(h, w) * rng.uniform(0.08, 0.22))
        mat = np.ones((h, w, 3), np.float32) * _array(_vary(rng, (0.93, 0.92, 0.88), 0.04))
        mat[edge:-edge, edge:-edge] = picture[edge:-edge, edge:-edge]
        picture = mat
    return Texture(_finish(picture), float(rng.uniform(0.3, 1.0)) * math.sqrt(w / h))


def poster(rng: Rng) -> Texture:
    """A poster, calendar, map or notice: a motive with a title and lines of text."""
    h, w = _format(rng, 192)
    ground = (0.95, 0.95, 0.93) if rng.random() < 0.5 else _tint(rng, 1.0, 0.1, 0.95)
    ink = (0.08, 0.08, 0.1) if sum(ground) > 1.5 else (0.95, 0.95, 0.9)
    picture = np.ones((h, w, 3), np.float32) * _array(ground)
    top = int(h * rng.uniform(0.0, 0.25))
    bottom = int(h * rng.uniform(0.5, 1.0))
    side = int(w * rng.uniform(0.0, 0.1))
    area = _subject(rng, bottom - top, w - 2 * side, 1.0)
    picture[top:bottom, side : w - side] = area
    _rows(rng, max(top, h // 10), w, 1, ink, picture[: max(top, h // 10)])
    if h - bottom > 12:
        _rows(rng, h - bottom, w, int(rng.integers(2, 5)), ink, picture[bottom:])
    return Texture(_finish(picture), float(rng.uniform(0.4, 0.8)) * math.sqrt(w / h))


def paper_with_text(rng: Rng) -> Texture:
    """A sheet of A4 (0.21 m wide): print, a form, a drawing or notes; white, seldom coloured."""
    h, w = 180, 128
    ground = _vary(rng, (0.96, 0.96, 0.95), 0.02) if rng.random() < 0.85 else _hsv(rng.random(), 0.25, 0.95)
    picture = np.ones((h, w, 3), np.float32) * _array(ground)
    ink = (0.1, 0.1, 0.12) if rng.random() < 0.8 else (0.1, 0.15, 0.5)
    rows = int(rng.integers(12, 30))
    if rng.random() < 0.35:  # a figure among the text
        top, height = int(rng.uniform(0.1, 0.5) * h), int(rng.uniform(0.2, 0.4) * h)
        _rows(rng, h, w, rows, ink, picture, 0.1)
        picture[top : top + height, 14 : w - 14] = _subject(rng, height, w - 28, 0.8)
    else:
        _rows(rng, h, w, rows, ink, picture, 0.1)
    return Texture(_finish(picture), 0.21)


def whiteboard(rng: Rng) -> Texture:
    """A whiteboard with what is left on it: lines of writing, boxes, curves in marker colours. 1 to 2.4 m wide."""
    h, w = 192, 320
    x, _ = _grid(h, w)
    picture = np.ones((h, w, 3), np.float32) * _array(_vary(rng, (0.94, 0.95, 0.95), 0.02))
    picture *= (1 - 0.03 * np.clip(_cloud(rng, 512, 1.8)[:h, :w], 0, 2))[..., None]
    inks: tuple[Color, ...] = ((0.1, 0.1, 0.15), (0.1, 0.2, 0.6), (0.7, 0.12, 0.12), (0.1, 0.45, 0.2))
    for _ in range(int(rng.integers(0, 7))):
        ink = _pick(rng, inks)
        bh, bw = int(rng.uniform(0.15, 0.5) * h), int(rng.uniform(0.15, 0.5) * w)
        top, left = int(rng.uniform(0.04, 0.9) * (h - bh)), int(rng.uniform(0.04, 0.9) * (w - bw))
        area, kind = picture[top : top + bh, left : left + bw], rng.random()
        if kind < 0.6:
            _rows(rng, bh, bw, max(2, bh // 12), ink, area, 0.02)
        elif kind < 0.8:
            for edge in (area[:2], area[-2:], area[:, :2], area[:, -2:]):
                edge[...] = _array(ink)
        else:
            curve = (0.5 + 0.4 * np.sin(x[0, :bw] * rng.uniform(10, 40)) * np.linspace(1, rng.random(), bw)) * (bh - 3)
            for shift in (0, 1):
                area[curve.astype(int) + shift, np.arange(bw)] = _array(ink)
    return Texture(_finish(picture), float(rng.uniform(1.0, 2.4)))


def screen(rng: Rng) -> Texture:
    """What a television or monitor shows, 16:9: a film, windows of a desktop, text, or black."""
    h, w = 144, 256
    kind = _pick(rng, ("film", "desktop", "text", "off"), (3, 3, 2, 2))
    if kind == "off":
        picture = np.ones((h, w, 3), np.float32) * rng.uniform(0.01, 0.05)
    elif kind == "film":
        picture = _subject(rng, h, w, 1.0) * rng.uniform(0.6, 1.1)
    else:
        picture = _landscape(rng, h, w, 0.9) if rng.random() < 0.5 else np.ones((h, w, 1)) * _array(_tint(rng, 0.9))
        for _ in range(int(rng.integers(1, 4)) if kind == "desktop" else 1):
            bh, bw = (h, w) if kind == "text" else (int(rng.uniform(0.4, 0.9) * h), int(rng.uniform(0.3, 0.7) * w))
            top, left = int(rng.random() * (h - bh)), int(rng.random() * (w - bw))
            light = rng.random() < 0.65
            area = picture[top : top + bh, left : left + bw]
            area[...] = 0.95 if light else 0.13
            _rows(rng, bh, bw, max(4, bh // 7), (0.1, 0.12, 0.2) if light else (0.7, 0.75, 0.7), area, 0.06)
            area[: max(3, bh // 14)] = _array(_tint(rng, 0.9, 0.2, 0.8))
    return Texture(_finish(np.asarray(picture)), float(rng.uniform(0.4, 1.3)))


def book_spines(rng: Rng, n: int = 20) -> Texture:
    """A row of `n` books seen from the back: bounds of different width and height, titles, bands; dark above them."""
    h, w = 96, 12 * n
    thickness = rng.uniform(0.5, 1.6, n)
    edges = np.round(np.concatenate([[0], np.cumsum(thickness)]) / thickness.sum() * w).astype(int)
    picture = np.full((h, w, 3), 0.06, np.float32)
    series: Color | None = None
    for left, right in pairwise(edges.tolist()):
        if series is None or rng.random() < 0.6:
            draw = rng.random()
            series = (
                _tint(rng, 1.0, 0.1, 0.8)
                if draw < 0.65
                else (_hsv(0.1, 0.15 * rng.random(), 0.9) if draw < 0.85 else _hsv(rng.uniform(0, 0.08), 0.7, 0.4))
            )
            top = int(h * rng.uniform(0.0, 0.3))
        tone = _vary(rng, series, 0.03)
        width = right - left
        picture[top:, left:right] = _array(tone)
        across = np.abs((np.arange(width) + 0.5) / width - 0.5) * 2
        picture[top:, left:right] *= (1 - 0.35 * across**3)[None, :, None]
        ink = (0.9, 0.85, 0.7) if sum(tone) < 1.5 else (0.12, 0.1, 0.1)
        if rng.random() < 0.75 and width > 3:  # a title along the spine
            a, b = np.sort(rng.uniform(0.1, 0.9, 2))
            rows = slice(top + int((h - top) * a), top + int((h - top) * b))
            middle = slice(left + width // 3, max(left + width // 3 + 1, right - width // 3))
            picture[rows, middle] += (_array(ink) - picture[rows, middle]) * 0.6
        if rng.random() < 0.4:
            row = top + int((h - top) * rng.uniform(0.05, 0.9))
            picture[row : row + int(rng.integers(2, 8)), left:right] = _array(_vary(rng, ink, 0.3))
    return Texture(_finish(picture), 0.028 * n)


def cardboard(rng: Rng) -> Texture:
    """A side of a box: brown or printed board, tape, a label; 0.4 m wide."""
    size = 128
    printed = rng.random() < 0.35
    tone = _tint(rng, 1.0, 0.2, 0.9) if printed else _vary(rng, (0.70, 0.55, 0.38), 0.1)
    picture = np.ones((size, size, 1), np.float32) * _array(tone) * (1 + 0.03 * _cloud(rng, size, 0.8, 3.0))[..., None]
    if rng.random() < 0.6:  # tape along the middle
        half = int(rng.integers(4, 9))
        picture[size // 2 - half : size // 2 + half] = _array(_vary(rng, (0.78, 0.66, 0.48), 0.08))
    if rng.random() < 0.6:  # a label or print
        top, left = (int(v) for v in rng.integers(8, 70, 2))
        area = picture[top : top + int(rng.integers(20, 50)), left : left + int(rng.integers(25, 50))]
        if rng.random() < 0.6:
            area[...] = 0.93
        _rows(rng, area.shape[0], area.shape[1], 4, (0.12, 0.12, 0.12), area)
    return Texture(_finish(picture), 0.4)


def metal(rng: Rng) -> Texture:
    """Brushed steel, aluminium or lacquered sheet; brushed along x."""
    size = 128
    value = rng.uniform(0.45, 0.8)
    tone = _hsv(0.6, 0.03, value) if rng.random() < 0.7 else _tint(rng, 0.5, 0.15, 0.9)
    detail = rng.uniform(0.01, 0.06) * _cloud(rng, size, 0.6, 16.0) + 0.02 * _cloud(rng, size, 1.8)
    return Texture(_finish(_array(tone) * (1 + detail)[..., None]), float(rng.uniform(0.3, 0.6)))


def outdoor(rng: Rng, night: bool = False) -> Texture:
    """What is seen through a window, 3:2, 6 m wide at 2 m beyond the pane: sky, trees, houses; out of focus."""
    h, w = 64, 96  # few pixels, since it is blurred anyway
    x, y = _grid(h, w)
    sky = _hsv(rng.uniform(0.55, 0.62), rng.uniform(0.0, 0.45), rng.uniform(0.85, 1.0))
    picture = _mix(sky, (0.97, 0.97, 0.97), np.clip(y * 1.4, 0, 1) * np.ones_like(x))
    clouds = np.clip(_cloud(rng, 128, 1.7, 2.0)[:h, :w], 0, 1)
    picture = _mix(picture, (1.0, 1.0, 1.0), clouds * 0.6)
    horizon = rng.uniform(0.45, 0.75)
    for _ in range(int(rng.integers(0, 6))):  # houses
        left, width, top = rng.random(), rng.uniform(0.1, 0.4), horizon - rng.uniform(0.05, 0.4)
        wall = _array(_hsv(rng.uniform(0.02, 0.14), 0.4 * rng.random(), rng.uniform(0.4, 0.9)))
        inside = (x > left) & (x < left + width) & (y > top)
        panes = ((x - left) * 14 % 1 > 0.55) & ((y - top) * 10 % 1 > 0.5)
        picture = np.where(inside[..., None], np.where(panes[..., None], wall * 0.4, wall), picture)
    ground = _hsv(_pick(rng, (0.28, 0.25, 0.1, 0.6)), rng.uniform(0.05, 0.45), rng.uniform(0.25, 0.55))
    texture = 1 + 0.25 * _cloud(rng, 128, 1.0)[:h, :w]
    picture = np.where((y > horizon)[..., None], _array(ground) * texture[..., None], picture)
    for _ in range(int(rng.integers(0, 7))):  # trees and bushes
        cx, cy, r = rng.random(), horizon + rng.uniform(-0.3, 0.15), rng.uniform(0.08, 0.3)
        blob = np.hypot((x - cx) * 1.5, y - cy) + 0.04 * _cloud(rng, 128, 1.3)[:h, :w]
        leaf = _hsv(rng.uniform(0.2, 0.36), rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.55))
        trunk = (np.abs(x - cx) < 0.012) & (y > cy) & (y < horizon + 0.15)
        picture = np.where(trunk[..., None], 0.22, picture)
        leaves = _array(leaf) * (0.8 + 0.4 * texture)[..., None]
        picture = _mix(picture, leaves, np.clip((r - blob) * 25, 0, 1))
    if night:
        lamps = (_cloud(rng, 128, 0.6)[:h, :w] > 3.0)[..., None]
        picture = picture * _array((0.05, 0.06, 0.1)) + lamps * _array((0.9, 0.7, 0.4))
    # Out of focus, by a gaussian in the frequency domain of the mirrored picture, which has no seam.
    mirrored = np.concatenate([picture, picture[::-1]], 0)
    mirrored = np.concatenate([mirrored, mirrored[:, ::-1]], 1)
    sigma = rng.uniform(0.3, 1.2)
    fy, fx = np.fft.fftfreq(2 * h)[:, None], np.fft.rfftfreq(2 * w)[None]
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2))[..., None]
    blurred = np.fft.irfft2(np.fft.rfft2(mirrored, axes=(0, 1)) * gain, (2 * h, 2 * w), axes=(0, 1))
    return Texture(_finish(blurred[:h, :w]), 6.0)
