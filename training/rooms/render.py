"""From a room to a picture: flat tables for the path tracer, colour, labels, depth, and noise removed."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.classes import IGNORE
from training.rooms.camera import Camera
from training.rooms.scene import CLASS_ID, Finish, Floats, Light, Part, Room

CREASE = 40.0
"""Degrees between faces up to which a surface is shaded as smooth."""
GLOWING = 0.5
"""Emission from which on a surface is a lamp's or a window's, which reflects nothing."""
THIN = (CLASS_ID["curtain"], CLASS_ID["blinds"])
FACE, MATERIAL, LIGHT, DRAWS = 24, 12, 16, 256
"""Numbers per row of the tables (see `pathtracer.Tables`), and rows of the draw of lights."""
SAMPLES, BOUNCES = 8, 4
"""Paths of a pixel, and diffuse surfaces along a path."""


# ---------------------------------------------------------------------------------------------------- what is needed


@lru_cache
def find_llvm() -> Path | None:
    """LLVM's library, the newest from version 15 on: older ones cannot compile what Dr.Jit writes."""
    if os.environ.get("DRJIT_LIBLLVM_PATH"):
        given = Path(os.environ["DRJIT_LIBLLVM_PATH"])
        return given if given.is_file() else None
    found: dict[int, Path] = {}
    for pattern in ("/usr/lib/*/libLLVM*.so*", "/usr/lib/llvm-*/lib/libLLVM*.so*", "/usr/lib64/libLLVM*.so*"):
        for name in sorted(glob.glob(pattern)):
            version = re.search(r"libLLVM(?:-|\.so\.)(\d+)", name)
            if version and int(version[1]) >= 15:
                found[int(version[1])] = Path(name)
    return found[max(found)] if found else None


def missing() -> str | None:
    """One line that says what rendering lacks and how to install it; None if nothing."""
    packages = [name for name in ("mitsuba", "drjit", "pyoidn") if importlib.util.find_spec(name) is None]
    if packages:
        return f"rooms need {', '.join(packages)}: pip install 'segdepth[rooms]'"
    if find_llvm() is None:
        return "rooms need LLVM 15 or newer: apt-get install libllvm19 (or set DRJIT_LIBLLVM_PATH to its library)"
    return None


class RenderError(Exception):
    """Something that rendering needs is missing."""


def _pathtracer() -> Any:
    """The module that starts Dr.Jit, imported late: packing a room and choosing views can be tested without."""
    line = missing()
    if line:
        raise RenderError(line)
    os.environ.setdefault("DRJIT_LIBLLVM_PATH", str(find_llvm()))
    from training.rooms import pathtracer

    return pathtracer


# ------------------------------------------------------------------------------------------------------------ packing


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


# ---------------------------------------------------------------------------------------------------------- rendering


class RenderScene:
    """A room on the device, ready for any number of views."""

    def __init__(self, packed: Packed) -> None:
        self.packed = packed
        tracer = _pathtracer()
        nothing = np.array([[0, 0, -1000], [1e-3, 0, -1000], [0, 1e-3, -1000]], np.float32)

        def part(faces: NDArray[np.int32]) -> Any:
            if not len(faces):
                return tracer.intersector(nothing, np.array([[0, 1, 2]]))
            low, high = faces.min(), faces.max() + 1
            return tracer.intersector(packed.vertices[low:high], faces - low)

        self.tables = tracer.upload(
            part(packed.faces[: packed.solid_count]),
            part(packed.faces[packed.solid_count :]),
            packed.solid_count,
            packed.rows,
            packed.materials,
            packed.texels,
            packed.lights,
            packed.light_draw,
        )

    @property
    def label(self) -> NDArray[np.uint8]:
        """Class id of each face, uint8 [F]."""
        return self.packed.label

    @property
    def owner(self) -> NDArray[np.int32]:
        """Index of each face's object, int32 [F]."""
        return self.packed.owner

    @property
    def furniture(self) -> NDArray[np.bool_]:
        """Whether each face belongs to furniture, bool [F]."""
        return self.packed.furniture

    @cached_property
    def centres(self) -> Floats:
        """Middles [T, 3] of the pieces of furniture."""
        corners = self.packed.vertices[self.packed.faces[self.packed.furniture]].mean(1)
        _, owner, count = np.unique(self.packed.owner[self.packed.furniture], return_inverse=True, return_counts=True)
        sums = np.stack([np.bincount(owner, corners[:, k], len(count)) for k in range(3)], 1)
        return np.asarray(sums / count[:, None])

    def glance(self, camera: Camera) -> Floats:
        """Luminance [H, W] at four samples, with noise: how bright a view is before any metering."""
        color, _, _ = self.radiance(camera, samples=4, seed=0, bounces=3)
        return np.asarray(color @ np.array([0.2126, 0.7152, 0.0722], np.float32))

    def first_hits(self, origin: Floats, direction: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """Distance [N] in lengths of the direction (inf: nothing) and face [N] (-1: nothing) of rays [3, N]."""
        t, face = _pathtracer().first_hits(self.tables, origin, direction)
        return t, face

    def radiance(self, camera: Camera, samples: int, seed: int, bounces: int) -> tuple[Floats, Floats, Floats]:
        """Colour, albedo and normals, float32 [H, W, 3] each."""
        color, albedo, normal = _pathtracer().radiance(
            self.tables, camera.position, camera.axes, camera.intrinsics, camera.size, samples, seed, bounces
        )
        return np.nan_to_num(color, posinf=0), albedo, normal


def load(room: Room) -> RenderScene:
    """The room as a scene to be rendered.

    Raises:
        RenderError: Mitsuba, Dr.Jit, LLVM or Open Image Denoise is missing; the message says how to install it.
    """
    return RenderScene(pack(room))


def render(scene: RenderScene, camera: Camera, size: tuple[int, int], samples: int = SAMPLES, seed: int = 0) -> Floats:
    """What the camera sees: linear RGB, float32 [H, W, 3], denoised.

    The same arguments give the same picture, bit for bit, on machines of one kind.
    """
    return denoise(*scene.radiance(camera.resized(size), samples, seed, BOUNCES))


def labels_and_depth(
    scene: RenderScene, camera: Camera, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """What the pixels' centres see: NYU-40 class ids (IGNORE: nothing) and depth along the axis in mm (0: nothing).

    Mirrors and window panes have their own label and depth.
    """
    width, height = size
    direction = camera.resized(size).rays()
    origin = np.broadcast_to(np.asarray(camera.position, np.float32)[:, None], direction.shape)
    t, face = scene.first_hits(origin, direction)
    seen = face >= 0
    label = np.where(seen, scene.label[np.maximum(face, 0)], IGNORE).astype(np.uint8)
    depth = np.rint(np.where(seen, t, 0).astype(np.float64) * 1000).clip(0, 65535).astype(np.uint16)
    return label.reshape(height, width), depth.reshape(height, width)


@lru_cache
def _denoiser() -> tuple[Any, Any]:
    """Open Image Denoise on one thread: the device and its filter."""
    import pyoidn

    device = pyoidn.Device()
    device.set_int("numThreads", 1)
    device.set_bool("setAffinity", False)
    device.commit()
    return device, pyoidn.Filter(device, pyoidn.OIDN_FILTER_TYPE_RT)


def denoise(color: Floats, albedo: Floats, normal: Floats) -> Floats:
    """Noise of few samples removed by Intel's Open Image Denoise; all float32 [H, W, 3]."""
    import pyoidn

    device, network = _denoiser()
    output = np.empty_like(color, np.float32)
    images = {"color": color, "albedo": albedo, "normal": normal, "output": output}
    images = {name: np.ascontiguousarray(picture, np.float32) for name, picture in images.items()}
    for name, picture in images.items():
        network.set_image(name, picture, pyoidn.OIDN_FORMAT_FLOAT3)
    network.set_bool("hdr", True)
    network.set_quality(pyoidn.OIDN_QUALITY_FAST)
    network.commit()
    network.execute()
    error = device.get_error()
    if error:
        raise RenderError(f"denoising failed: {error}")
    return output
