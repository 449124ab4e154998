"""A room as flat tables for the path tracer: all faces, materials, texels and lights. NumPy alone, no renderer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.rooms.scene import CLASS_ID, Finish, Floats, Light, Part, Room

CREASE = 40.0
"""Degrees between faces up to which a surface is shaded as smooth."""
GLOWING = 0.5
"""Emission from which on a surface is a lamp's or a window's, which reflects nothing."""
THIN = (CLASS_ID["curtain"], CLASS_ID["blinds"])
FACE, MATERIAL, LIGHT, DRAWS = 24, 12, 16, 256
"""Numbers per row of the tables (see `pathtracer.Tables`), and rows of the draw of lights."""


@dataclass(frozen=True)
class Packed:
    """A room as flat tables. Thin faces stand behind all others.

    Attributes:
        vertices: float32 [V, 3].
        faces: int32 [F, 3].
        solid_count: Faces that are not thin.
        label: uint8 [F], class id of NYU-40.
        owner: int32 [F], index of the object.
        furniture: bool [F].
        rows, materials, texels, lights, light_draw: see `pathtracer.Tables`.
    """

    vertices: Floats
    faces: NDArray[np.int32]
    solid_count: int
    label: NDArray[np.uint8]
    owner: NDArray[np.int32]
    furniture: NDArray[np.bool_]
    rows: Floats
    materials: Floats
    texels: NDArray[np.uint32]
    lights: Floats
    light_draw: NDArray[np.uint32]


class _Materials:
    """Collects finishes and their textures, each once."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []
        self.texels: list[NDArray[np.uint32]] = [np.zeros(1, np.uint32)]
        self.size = 1
        self._index: dict[tuple[Any, ...], int] = {}
        self._texture: dict[int, tuple[int, int, int]] = {}

    def index(self, finish: Finish, textured: bool) -> int:
        picture = finish.texture if textured else None
        key = (id(picture), finish.roughness, finish.metallic, finish.specular, finish.emission, finish.mirror)
        if key not in self._index:
            first, width, height = (0, 0, 0) if picture is None else self._place(picture)
            surface = [finish.roughness, finish.metallic, finish.specular]
            self._index[key] = len(self.rows)
            self.rows.append([first, width, height, *surface, *finish.emission, float(finish.mirror), 0, 0])
        return self._index[key]

    def _place(self, picture: NDArray[np.uint8]) -> tuple[int, int, int]:
        if id(picture) not in self._texture:
            height, width = picture.shape[:2]
            wide = picture.astype(np.uint32)
            packed = wide[..., 0] + wide[..., 1] * np.uint32(256) + wide[..., 2] * np.uint32(65536)
            self.texels.append(np.asarray(packed, np.uint32).ravel())
            self._texture[id(picture)] = (self.size, width, height)
            self.size += width * height
        return self._texture[id(picture)]


def _light_tables(lights: tuple[Light, ...], centre: Floats) -> tuple[Floats, NDArray[np.uint32]]:
    """Rows of lights with their chance of being drawn, which is a whole number of DRAWS, and the draw's table.

    The chance follows the light that reaches `centre` [3], the middle of the room.
    """
    rows, power = [], []
    for light in lights or (Light((0, 0, 0), (0, 0, 1), (0.01, 0.01), (0.0, 0.0, 0.0)),):
        normal = np.asarray(light.normal, np.float64)
        if len(light.half_extent) == 1:
            u, v, normal = np.array([light.half_extent[0], 0, 0]), np.zeros(3), np.zeros(3)
            area = 4 * np.pi * light.half_extent[0] ** 2
        else:
            normal = normal / np.linalg.norm(normal)
            # The first half extent is horizontal; of lights that point up or down it lies along x.
            level = np.array([1.0, 0, 0]) if abs(normal[2]) > 0.99 else np.cross([0, 0, 1.0], normal)
            level = level / np.linalg.norm(level)
            u, v = level * light.half_extent[0], np.cross(normal, level) * light.half_extent[1]
            area = 4 * light.half_extent[0] * light.half_extent[1]
        rows.append([*light.position, *normal, *u, *v, *light.radiance, 0.0])
        distance = np.linalg.norm(np.asarray(light.position) - centre)
        power.append(area * float(np.mean(light.radiance)) / max(float(distance), 1.0) ** 2 + 1e-9)
    share = np.sqrt(np.asarray(power))  # between power and one chance each: a weak lamp may be the nearest
    table = np.asarray(rows, np.float32)
    counts = np.maximum(np.floor(share / share.sum() * DRAWS), 1).astype(int)
    counts[counts.argmax()] += DRAWS - counts.sum()
    table[:, 15] = counts / DRAWS
    return table, np.repeat(np.arange(len(rows)), counts).astype(np.uint32)


def _corner_normals(vertices: Floats, faces: NDArray[np.int32]) -> tuple[Floats, Floats]:
    """Normals of the corners [F, 9], smooth where faces meet at less than CREASE degrees, and of the faces [F, 3]."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    length = np.linalg.norm(cross, axis=1, keepdims=True)
    flat = cross / np.maximum(length, 1e-20)
    flat[length[:, 0] < 1e-20] = (0, 0, 1)
    corner = faces.ravel()
    total = np.stack([np.bincount(corner, np.repeat(cross[:, k], 3), len(vertices)) for k in range(3)], 1)
    total = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)
    smooth = total.astype(np.float32)[faces]
    near = np.einsum("fkc,fc->fk", smooth, flat) > np.cos(np.radians(CREASE))
    return np.where(near[..., None], smooth, flat[:, None]).reshape(len(faces), 9), flat


def is_thin(part: Part) -> NDArray[np.bool_]:
    """Whether light passes faces, bool [F]: lamps' shades and windows' panes, which emit; curtains and blinds too,
    since the planner dims the daylight behind them.
    """
    return np.isin(part.label, THIN) | (max(part.finish.emission) > 0)


def pack(room: Room) -> Packed:
    """Flat tables of all surfaces and lights of a room."""
    pieces: list[tuple[int, bool, Part]] = [
        (index, thing.furniture, part)
        for index, thing in enumerate(room.objects)
        for part in thing.parts
        if len(part.faces)
    ]
    parts = [part for _, _, part in pieces]
    counts = [len(part.faces) for part in parts]
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts)])[:-1]
    vertices = np.concatenate([part.vertices for part in parts]).astype(np.float32, copy=False)
    faces = np.concatenate([part.faces + o for part, o in zip(parts, offsets, strict=True)]).astype(
        np.int32, copy=False
    )
    materials = _Materials()
    rows = np.zeros((len(faces), FACE), np.float32)
    rows[:, 0:9], rows[:, 9:12] = _corner_normals(vertices, faces)
    start = 0
    for part, count in zip(parts, counts, strict=True):
        own = rows[start : start + count]
        textured = part.finish.texture is not None and part.uv is not None
        if textured:
            assert part.uv is not None
            own[:, 12:18] = part.uv[part.faces].reshape(count, 6)
        own[:, 18:21] = part.color
        own[:, 21] = materials.index(part.finish, textured)
        start += count
    thin = np.concatenate([is_thin(part) for part in parts])
    order = np.argsort(thin, kind="stable")
    lights, light_draw = _light_tables(room.lights, np.array([*np.mean(room.outline, 0), room.height / 2]))
    return Packed(
        vertices,
        faces[order],
        int(len(thin) - thin.sum()),
        np.concatenate([part.label for part in parts]).astype(np.uint8, copy=False)[order],
        np.repeat(np.array([index for index, _, _ in pieces], np.int32), counts)[order],
        np.repeat(np.array([furniture for _, furniture, _ in pieces], bool), counts)[order],
        rows[order],
        np.asarray(materials.rows, np.float32),
        np.concatenate(materials.texels),
        lights,
        light_draw,
    )
