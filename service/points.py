"""Depth as a point cloud, and its files: PLY and glTF binary."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.arrays import UInt8
from service.images import INVALID_DEPTH
from service.maps import Maps
from service.outputs import Options
from service.pinhole import grid_step, positions

_METRES = (np.arange(1 << 16) / 1000).astype(np.float32)
"""Of every depth in millimetres."""


class Points(NamedTuple):
    """xyz: float32 [N, 3], metres in camera coordinates: x to the right, y down, z forward; rgb: uint8 [N, 3], sRGB;
    labels: uint8 [N], class ids."""

    xyz: NDArray[np.float32]
    rgb: UInt8
    labels: UInt8


def cloud(maps: Maps, options: Options) -> Points:
    """The pixels with valid depth and enough confidence, row by row; of a large picture every 2nd, 3rd ... of both
    directions, so that they are at most `options.max_points`."""
    step = grid_step(maps.box.size, options.max_points)
    grid = np.s_[::step, ::step]
    depth = maps.depth[grid]
    chosen = depth != INVALID_DEPTH
    if options.least_confidence > 0:
        chosen &= maps.confidence[grid] >= options.least_confidence
    at = np.flatnonzero(chosen)
    xyz = positions(_METRES.take(depth), at, maps.camera, step)
    labels = maps.labels[grid].ravel().take(at)
    if options.color == "class":
        return Points(xyz, np.array(maps.colors, np.uint8).take(labels, axis=0), labels)
    return Points(xyz, maps.picture[grid].reshape(-1, 3).take(at, axis=0), labels)


def ply(points: Points, maps: Maps) -> bytes:
    """A binary PLY: x, y, z (camera coordinates, metres), red, green, blue, and label, the class id."""
    vertices = np.empty((len(points.xyz), 4), "<f4")  # The last for four bytes.
    vertices[:, :3] = points.xyz
    data = vertices.view(np.uint8)
    data[:, 12:15] = points.rgb
    data[:, 15] = points.labels
    camera, (height, width) = maps.camera, maps.box.size
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment metres in camera coordinates: x to the right, y down, z forward",
        f"comment camera fx {camera.fx:.10g} fy {camera.fy:.10g} cx {camera.cx:.10g} cy {camera.cy:.10g} "
        f"width {width} height {height}",
        f"comment camera is {camera.source}",
        f"element vertex {len(vertices)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {name}" for name in ("red", "green", "blue", "label")),
        "end_header\n",
    ]
    return b"".join(["\n".join(header).encode("ascii"), vertices.data])


# --- glTF 2.0 -------------------------------------------------------------------------------------------------

FLOAT, ARRAY_BUFFER, POINTS = 5126, 34962, 0


def glb(points: Points, maps: Maps) -> bytes:
    """A glTF binary of points in metres, y up and the camera looking along -z, as glTF wants it. The camera is in the
    `extras` of its asset."""
    about = {"version": "2.0", "generator": "segdepth", "extras": asdict(maps.camera)}
    asset: dict[str, Any] = {"asset": about, "scene": 0, "scenes": [{}]}
    if not len(points.xyz):
        return _glb(asset, [])  # An accessor must not be empty.
    xyz = points.xyz * np.array([1, -1, -1], np.float32)
    # Colours of vertices are linear; with 8 bits, dark ones would fall together. Of 16, trimesh takes the lower 8.
    buffers = [values.astype("<f4", copy=False).data for values in (xyz, _linear().take(points.rgb))]
    sizes = [buffer.nbytes for buffer in buffers]
    count = len(xyz)
    asset["scenes"] = [{"nodes": [0]}]
    asset["nodes"] = [{"mesh": 0}]
    asset["meshes"] = [
        {"primitives": [{"mode": POINTS, "attributes": {"POSITION": 0, "COLOR_0": 1}, "material": 0}]},
    ]
    # The colours are those of the photo: its light is in them already.
    asset["extensionsUsed"] = ["KHR_materials_unlit"]
    asset["materials"] = [{"extensions": {"KHR_materials_unlit": {}}}]
    asset["accessors"] = [
        {
            **{"bufferView": 0, "componentType": FLOAT, "type": "VEC3", "count": count},
            # Column by column: with `axis=0` it takes ten times as long.
            **{"min": [float(axis.min()) for axis in xyz.T], "max": [float(axis.max()) for axis in xyz.T]},
        },
        {"bufferView": 1, "componentType": FLOAT, "type": "VEC3", "count": count},
    ]
    asset["bufferViews"] = [
        {"buffer": 0, "byteOffset": 0, "byteLength": sizes[0], "target": ARRAY_BUFFER},
        {"buffer": 0, "byteOffset": sizes[0], "byteLength": sizes[1], "target": ARRAY_BUFFER},
    ]
    asset["buffers"] = [{"byteLength": sum(sizes)}]
    return _glb(asset, buffers)


def _glb(asset: dict[str, Any], binary: Sequence[memoryview]) -> bytes:
    """The container: a header, the JSON chunk, and the binary one (a multiple of 4 bytes) unless it is empty."""
    text = json.dumps(asset, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    parts: list[bytes | memoryview] = [struct.pack("<I4s", len(text), b"JSON"), text]
    if binary:
        parts += [struct.pack("<I4s", sum(part.nbytes for part in binary), b"BIN\0"), *binary]
    size = 12 + sum(memoryview(part).nbytes for part in parts)
    return b"".join([struct.pack("<4sII", b"glTF", 2, size), *parts])


def _linear() -> NDArray[np.float32]:
    """Linear light, 0 to 1, of every 8-bit sRGB value (IEC 61966-2-1)."""
    s = np.arange(256) / 255
    light = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)
