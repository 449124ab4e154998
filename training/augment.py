"""Paired augmentation: one geometric change for picture, label and depth, one photometric for the picture.

Zooming by s is what a lens of s times the focal length does; at the network's size the same scene then looks
s times nearer, so depth is divided by s (Eigen et al., NIPS 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.backbones import IMAGENET_MEAN
from model.classes import IGNORE

INVALID_DEPTH = 0
"""The depth value of pixels without a measurement, in millimetres and in metres."""


Pixel = TypeVar("Pixel", bound=np.generic)


class Picture(NamedTuple):
    """image: uint8 [H, W, 3]; label: uint8 [H, W], 255 = ignore; depth: uint16 mm [H, W], 0 = invalid."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    depth: NDArray[np.uint16]


class Box(NamedTuple):
    """A rectangle in pixels of a picture; it may reach beyond its border."""

    left: float
    top: float
    right: float
    bottom: float


def resample(picture: Picture, box: Box, size: tuple[int, int]) -> Picture:
    """The content of `box` at `size` (height, width).

    The picture is interpolated (antialiased when shrinking); label and depth take the nearest pixel, for a mean of
    two classes or of two surfaces is neither. Outside the picture: mean colour, ignore, invalid.
    """
    height, width = picture.label.shape
    label = nearest(picture.label, box, size, IGNORE)
    depth = nearest(picture.depth, box, size, INVALID_DEPTH)

    image = picture.image
    # By the box, not by pixels outside: a border narrower than half a pixel holds no pixel's centre.
    if box.top < 0 or box.left < 0 or box.bottom > height or box.right > width:
        pad = np.ceil([max(0.0, -box.top), max(0.0, box.bottom - height), max(0.0, -box.left)]).astype(int)
        top, bottom, left = (int(p) for p in pad)
        right = int(np.ceil(max(0.0, box.right - width)))
        mean = np.array([round(255 * m) for m in IMAGENET_MEAN], np.uint8)
        canvas = np.broadcast_to(mean, (height + top + bottom, width + left + right, 3)).copy()
        canvas[top : top + height, left : left + width] = image
        image = canvas
        box = Box(box.left + left, box.top + top, box.right + left, box.bottom + top)
    resized = Image.fromarray(image).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR, box=(box.left, box.top, box.right, box.bottom)
    )
    return Picture(np.asarray(resized), label, depth)


def nearest(values: NDArray[Pixel], box: Box, size: tuple[int, int], outside: float) -> NDArray[Pixel]:
    """The nearest of the pixels `values` [H, W, ...] at each place of `box` at `size` (height, width)."""
    height, width = values.shape[:2]
    rows = np.floor(box.top + (np.arange(size[0]) + 0.5) * (box.bottom - box.top) / size[0]).astype(np.int64)
    columns = np.floor(box.left + (np.arange(size[1]) + 0.5) * (box.right - box.left) / size[1]).astype(np.int64)
    found: NDArray[Pixel] = values[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))]
    found[(rows < 0) | (rows >= height)] = outside
    found[:, (columns < 0) | (columns >= width)] = outside
    return found


def fitting_scale(height: int, width: int, size: tuple[int, int]) -> float:
    """Of a whole picture, as large as fits `size` (height, width), which is turned for a portrait picture."""
    if (height > width) != (size[0] > size[1]):
        size = size[1], size[0]
    return min(size[0] / height, size[1] / width)


class View(NamedTuple):
    """Where a picture's geometry comes from.

    Attributes:
        box: The rectangle seen.
        zoom: How much larger things are in it than in the whole picture as it is measured and served, which fits the
            training size; by this depth is divided.
        flip: Mirrored or not.
    """

    box: Box
    zoom: float
    flip: bool


@dataclass(frozen=True)
class Augmentation:
    """Random zoom and crop to the training size, flip, and colour or none.

    Attributes:
        size: Training size (height, width).
        zoom: Range of the zoom, drawn log-uniformly. 1 shows as much of the picture as the size's shape allows;
            below 1 there is a border without labels.
        flip: Mirror every other picture.
        color: Strength of brightness, contrast, saturation, colour-cast and gamma changes: 0 is none, 1 is strong.
        grey: Share of the pictures that lose their colours, which is when the network must learn from shapes and
            shading. Colours of rendered rooms are not those of real ones.
    """

    size: tuple[int, int]
    zoom: tuple[float, float] = (1.0, 1.5)
    flip: bool = True
    color: float = 0.5
    grey: float = 0.0

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        return self.show(picture, self.view(picture, rng), rng)

    def view(self, picture: Picture, rng: np.random.Generator) -> View:
        """Draws the geometric change."""
        zoom = float(np.exp(rng.uniform(*np.log(self.zoom))))
        height, width = picture.label.shape
        # The largest window of the training shape that lies in the picture, made smaller by the zoom.
        window = min(height / self.size[0], width / self.size[1]) / zoom
        window_height, window_width = self.size[0] * window, self.size[1] * window
        left = (width - window_width) * rng.uniform()
        top = (height - window_height) * rng.uniform()
        flip = bool(self.flip and rng.uniform() < 0.5)
        # A picture of another shape fills the size here, and fits it when it is measured: all in it is larger here.
        zoom *= max(self.size[0] / height, self.size[1] / width) / fitting_scale(height, width, self.size)
        return View(Box(left, top, left + window_width, top + window_height), zoom, flip)

    def show(self, picture: Picture, view: View, rng: np.random.Generator) -> Picture:
        """Makes a drawn geometric change, and draws and makes the photometric one."""
        out = resample(picture, view.box, self.size)
        # The quotient of an invalid 0 is 0. Beyond uint16 (65 m) there is no room, so nothing is known of it.
        quotient = np.round(out.depth / view.zoom)
        depth = np.where(quotient <= 65535, quotient, INVALID_DEPTH).astype(np.uint16)
        image, label = out.image, out.label
        if view.flip:
            image, label, depth = image[:, ::-1], label[:, ::-1], depth[:, ::-1]
        if self.color > 0:
            image = jitter(image, self.color, rng)
        if self.grey > 0 and rng.uniform() < self.grey:
            image = np.repeat(np.asarray(Image.fromarray(image).convert("L"))[..., None], 3, axis=2)
        return Picture(np.ascontiguousarray(image), np.ascontiguousarray(label), np.ascontiguousarray(depth))


def jitter(image: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Photometric changes as cameras and lamps make them: gamma, colour cast, saturation, contrast, brightness."""
    x = image.astype(np.float32) / 255
    x = x ** np.float32(np.exp(rng.uniform(-0.4, 0.4) * strength))
    x *= np.exp(rng.uniform(-0.2, 0.2, size=3) * strength).astype(np.float32)
    grey = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    x = grey + (x - grey) * np.float32(max(0.0, 1 + rng.uniform(-0.8, 0.8) * strength))
    mean = grey.mean()
    x = mean + (x - mean) * np.float32(1 + rng.uniform(-0.5, 0.5) * strength)
    x *= np.float32(np.exp(rng.uniform(-0.4, 0.4) * strength))
    out: NDArray[np.uint8] = np.round(x.clip(0, 1) * 255).astype(np.uint8)
    return out
