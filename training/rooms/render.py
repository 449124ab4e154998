"""From a room to a picture: colour, labels, depth, and noise removed."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.classes import IGNORE
from training.rooms.camera import Camera
from training.rooms.packing import Packed, pack
from training.rooms.scene import Floats, Room

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
