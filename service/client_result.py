"""What `service.client` gives for a picture."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.arrays import UInt8
from service.client_errors import NotUnderstood
from service.pinhole import grid_step, positions
from service.rgb import upright_rgb

Float32 = NDArray[np.float32]
Color = tuple[int, int, int]
"""sRGB, 0 to 255."""


class Nearest(NamedTuple):
    """The nearest pixel of a class: column and row in the picture, and depth in metres."""

    u: int
    v: int
    depth_m: float


@dataclass(frozen=True)
class Class:
    """A class that is in the picture. Depths are in metres along the optical axis, None without any valid one."""

    id: int
    """Its value in `labels`."""
    name: str
    color: Color
    pixels: int
    fraction: float
    """Of all pixels, 0 to 1."""
    median_depth_m: float | None
    p5_depth_m: float | None
    """5 of 100 pixels are nearer."""
    p95_depth_m: float | None
    nearest: Nearest | None
    area_m2: float
    """What is visible, as an area that faces the camera."""


@dataclass(frozen=True)
class Camera:
    """The pinhole intrinsics that the depth is for, in pixels of the upright picture; the middle of its first pixel is
    (0, 0)."""

    fx: float
    fy: float
    cx: float
    cy: float
    hfov_deg: float
    """Horizontal field of view in degrees."""
    source: Literal["request", "exif", "assumed"]
    """Where they come from; assumed is a focal length of 0.85 longer sides."""

    @property
    def matrix(self) -> NDArray[np.float64]:
        """K, float64 [3, 3]."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Model:
    """What answered."""

    name: str
    version: str
    network: str
    backbone: str
    provider: str
    """What the network ran on, such as CPUExecutionProvider or OpenVINO-bf16."""


class PointCloud(NamedTuple):
    """N points: xyz float32 [N, 3] in metres in camera coordinates (x to the right, y down, z forward); rgb uint8
    [N, 3], sRGB; labels uint8 [N], class ids."""

    xyz: Float32
    rgb: UInt8
    labels: UInt8


@dataclass(frozen=True, eq=False)
class Prediction:
    """Maps of the picture as seen upright (EXIF orientation is applied), pixel for pixel. The arrays may be written to.

    `picture`, `overlay` and `point_cloud` decode the uploaded picture, which is kept for that.
    """

    labels: UInt8
    """uint8 [H, W]: class ids."""
    depth: Float32
    """float32 [H, W]: metres along the optical axis, NaN where invalid. Whole millimetres, as the server has them."""
    confidence: Float32
    """float32 [H, W]: the probability of the class, 0 to 1 in steps of 1/255."""
    classes: tuple[Class, ...]
    """Those in the picture, largest first."""
    colors: UInt8 = field(repr=False)
    """uint8 [K, 3]: sRGB by class id, of all classes that the model knows."""
    camera: Camera
    model: Model
    timing_ms: Mapping[str, float]
    """Milliseconds in the server: decode, queue, infer, encode, total."""
    request_id: str
    """Under which the server's log has it."""
    upload: bytes = field(repr=False)
    """The picture file as it was sent."""

    @property
    def height(self) -> int:
        return int(self.labels.shape[0])

    @property
    def width(self) -> int:
        return int(self.labels.shape[1])

    @cached_property
    def picture(self) -> UInt8:
        """The picture, uint8 [H, W, 3], sRGB, upright, transparency on white."""
        with Image.open(io.BytesIO(self.upload)) as image:
            return np.array(upright_rgb(image))

    def mask(self) -> Image.Image:
        """The segmentation as a palette image (mode P): values are class ids, the palette has the classes' colours.

        `.save("mask.png")` keeps both; `.convert("RGB")` gives the colours alone.
        """
        image = Image.fromarray(self.labels)
        image.putpalette(self.colors.tobytes())
        return image

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """The picture under the colours of its classes, an RGB image; `opacity` of the colours from 0 to 1."""
        return Image.blend(Image.fromarray(self.picture), self.mask().convert("RGB"), opacity)

    def point_cloud(
        self,
        color: Literal["picture", "class"] = "picture",
        *,
        max_points: int = 500_000,
        min_confidence: float = 0.0,
    ) -> PointCloud:
        """The pixels with valid depth as points, row by row, by the pinhole camera `camera`.

        Args:
            color: of the picture, or of the class.
            max_points: of a larger picture every 2nd, 3rd, ... row and column is taken, so that it has no more pixels.
            min_confidence: 0 to 1; pixels of less are left out.

        Raises:
            ValueError: `max_points` is not at least 1.
        """
        if max_points < 1:
            raise ValueError(f"max_points is {max_points}; it must be at least 1")
        step = grid_step((self.height, self.width), max_points)
        grid = np.s_[::step, ::step]
        depth = self.depth[grid]
        reliable = np.rint(self.confidence[grid] * np.float32(255)) >= math.ceil(min_confidence * 255 - 1e-4)
        at = np.flatnonzero((depth > 0) & reliable)
        labels = self.labels[grid].ravel().take(at)
        rgb = (
            self.colors.take(labels, axis=0) if color == "class" else self.picture[grid].reshape(-1, 3).take(at, axis=0)
        )
        return PointCloud(positions(depth, at, self.camera, step), rgb, labels)


def prediction_of(archive: bytes, upload: bytes, request_id: str) -> Prediction:
    """Read what `output=zip` answers.

    Raises:
        NotUnderstood: it is not that.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            document = json.loads(files.read("metadata.json"))
            mask, depth, confidence = (_image(files.read(f"{name}.png")) for name in ("mask", "depth", "confidence"))
        palette = mask.getpalette()
        if palette is None:
            raise ValueError("the mask has no palette")
        mm = np.asarray(depth)
        metres = np.divide(mm, np.float32(1000), dtype=np.float32)
        metres[mm == document["depth"]["invalid"]] = np.nan
        return Prediction(
            labels=np.array(mask),
            depth=metres,
            confidence=np.divide(np.asarray(confidence), np.float32(255), dtype=np.float32),
            classes=tuple(_class(one) for one in document["segmentation"]["classes"]),
            colors=np.array(palette, np.uint8).reshape(-1, 3),
            camera=_known(Camera, document["camera"]),
            model=_known(Model, document["model"]),
            timing_ms=document["timing_ms"],
            request_id=request_id,
            upload=upload,
        )
    except (zipfile.BadZipFile, OSError, KeyError, TypeError, ValueError) as error:
        raise NotUnderstood(f"The answer is not what a segdepth server gives: {error!r}") from None


def _image(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=["PNG"])
    image.load()
    return image


def _class(values: Mapping[str, Any]) -> Class:
    nearest = values["nearest"]
    point = None if nearest is None else Nearest(nearest["u"], nearest["v"], nearest["depth_m"])
    return _known(Class, {**values, "color": tuple(values["color"]), "nearest": point})


T = TypeVar("T", Class, Camera, Model)


def _known(kind: type[T], values: Mapping[str, Any]) -> T:
    """Without what a newer server may say besides."""
    return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})
