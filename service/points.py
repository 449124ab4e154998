"""Depth as a point cloud, and its files: PLY and glTF binary.

A pixel (u, v) with depth z, seen by a pinhole camera, lies at x = (u - cx) z / fx, y = (v - cy) z / fy.
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_left
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.arrays import Size, UInt8
from service.images import INVALID_DEPTH
from service.maps import Maps
from service.outputs import Options


class Points(NamedTuple):
    """xyz: float32 [N, 3], metres in camera coordinates: x to the right, y down, z forward; rgb: uint8 [N, 3], sRGB;
    labels: uint8 [N], class ids."""

    xyz: NDArray[np.float32]
    rgb: UInt8
    labels: UInt8


def cloud(maps: Maps, options: Options) -> Points:
    """The pixels with valid depth and enough confidence, row by row; of a large picture every 2nd, 3rd ... of both
    directions, so that they are at most `options.max_points`."""
    step = _step(maps.box.size, options.max_points)
    grid = np.s_[::step, ::step]
    depth = maps.depth[grid]
    chosen = depth != INVALID_DEPTH
    if options.least_confidence > 0:
        chosen &= maps.confidence[grid] >= options.least_confidence
    rows, columns = np.nonzero(chosen)
    camera = maps.camera
    z = depth[chosen] / 1000.0
    xyz = np.empty((len(z), 3), np.float32)
    xyz[:, 0] = (columns * step - camera.cx) * z / camera.fx
    xyz[:, 1] = (rows * step - camera.cy) * z / camera.fy
    xyz[:, 2] = z
    labels = maps.labels[grid][chosen]
    rgb = np.array(maps.colors, np.uint8)[labels] if options.color == "class" else maps.picture[grid][chosen]
    return Points(xyz, rgb, labels)


def _step(size: Size, max_points: int) -> int:
    """The least distance, in pixels, at which a grid over `size` has no more than `max_points`."""
    height, width = size

    def few_enough(step: int) -> bool:
        return -(-height // step) * -(-width // step) <= max_points  # rounded up

    steps = range(1, max(size) + 1)
    return steps[bisect_left(steps, True, key=few_enough)]


def ply(points: Points, maps: Maps) -> bytes:
    """A binary PLY: x, y, z (camera coordinates, metres), red, green, blue, and label, the class id."""
    fields: list[Any] = [(axis, "<f4") for axis in "xyz"]
    fields += [(name, "u1") for name in ("red", "green", "blue", "label")]
    vertices = np.empty(len(points.xyz), fields)
    for k, axis in enumerate("xyz"):
        vertices[axis] = points.xyz[:, k]
    for k, name in enumerate(("red", "green", "blue")):
        vertices[name] = points.rgb[:, k]
    vertices["label"] = points.labels
    camera, (height, width) = maps.camera, maps.box.size
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment metres in camera coordinates: x to the right, y down, z forward",
        f"comment camera fx {camera.fx:.10g} fy {camera.fy:.10g} cx {camera.cx:.10g} cy {camera.cy:.10g} "
        f"width {width} height {height}",
        f"comment camera is {camera.source}",
        f"element vertex {len(vertices)}",
        *(f"property {'float' if type_ == '<f4' else 'uchar'} {name}" for name, type_ in fields),
        "end_header\n",
    ]
    return "\n".join(header).encode("ascii") + vertices.tobytes()


# --- glTF 2.0 -------------------------------------------------------------------------------------------------

FLOAT, ARRAY_BUFFER, POINTS = 5126, 34962, 0


def glb(points: Points, maps: Maps) -> bytes:
    """A glTF binary of points in metres, y up and the camera looking along -z, as glTF wants it. The camera is in the
    `extras` of its asset."""
    about = {"version": "2.0", "generator": "segdepth", "extras": asdict(maps.camera)}
    asset: dict[str, Any] = {"asset": about, "scene": 0, "scenes": [{}]}
    if not len(points.xyz):
        return _glb(asset, b"")  # An accessor must not be empty.
    xyz = points.xyz * np.array([1, -1, -1], np.float32)
    # Colours of vertices are linear; with 8 bits, dark ones would fall together. Of 16, trimesh takes the lower 8.
    buffers = [xyz.astype("<f4").tobytes(), _linear()[points.rgb].astype("<f4").tobytes()]
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
            **{"min": xyz.min(axis=0).tolist(), "max": xyz.max(axis=0).tolist()},
        },
        {"bufferView": 1, "componentType": FLOAT, "type": "VEC3", "count": count},
    ]
    asset["bufferViews"] = [
        {"buffer": 0, "byteOffset": 0, "byteLength": len(buffers[0]), "target": ARRAY_BUFFER},
        {"buffer": 0, "byteOffset": len(buffers[0]), "byteLength": len(buffers[1]), "target": ARRAY_BUFFER},
    ]
    asset["buffers"] = [{"byteLength": len(buffers[0]) + len(buffers[1])}]
    return _glb(asset, b"".join(buffers))


def _glb(asset: dict[str, Any], binary: bytes) -> bytes:
    """The container: a header, the JSON chunk, and the binary one (a multiple of 4 bytes) unless it is empty."""
    text = json.dumps(asset, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    if binary:
        chunks += struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _linear() -> NDArray[np.float32]:
    """Linear light, 0 to 1, of every 8-bit sRGB value (IEC 61966-2-1)."""
    s = np.arange(256) / 255
    light = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)
