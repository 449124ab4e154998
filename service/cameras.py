"""The camera of a picture: its intrinsics, and how they make depth metric.

What a network sees of a thing is its apparent size: as many pixels may be a near thing before a short lens or a far one
before a long lens. So depth learned with one focal length is right for another one in proportion to it (Facil et al.,
"CAM-Convs", CVPR 2019; Yin et al., "Metric3D", ICCV 2023).

Where the focal length comes from, the first that is there: the request, the picture's EXIF, an assumption.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image

from service.arrays import Size, UInt16
from service.errors import InvalidRequest
from service.images import INVALID_DEPTH, Letterbox, png_chunks, sniff

TYPICAL_FOCAL = 0.85
"""In longer sides of the picture. Main cameras of phones have 0.72 to 0.75, Kinects 0.81 to 0.9, headsets 0.92."""
FOCAL_RANGE = (1 / 20, 100.0)
"""Of a request, in longer sides: a field of view of 169 degrees, and a telescope."""
HFOV_RANGE = (1.0, 179.0)
"""Of a request, in degrees, exclusive."""
EXIF_RANGE = (10.0, 400.0)
"""Of EXIF, in mm of 35 mm film; a phone writes 0 for "unknown", and editing programs write all sorts of things."""
SQUARE = 0.02
"""Pixels are taken for square where fx and fy differ by less than this part: a calibration does not know better, and no
picture needs a border for it."""
PER_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
"""Of EXIF's FocalPlaneResolutionUnit: how many millimetres it has; 2 is an inch."""
FILM_DIAGONAL = math.hypot(36.0, 24.0)
"""Of 35 mm film, in mm."""

MOST_CUT = 2.0
"""Times the diagonal. A strip of a picture of 4:3 that is as high as that comes to 1.7; beyond is what is no EXIF of a
camera's."""
PANORAMA = 6
"""Of EXIF's CustomRendered, as phones write it."""
_SPHERE = re.compile(rb"GPano:ProjectionType\W{1,9}equirectangular")

Source = Literal["request", "exif", "assumed"]


@dataclass(frozen=True)
class Camera:
    """Pinhole intrinsics in pixels of the uploaded picture as seen upright; the centres of pixels are whole numbers."""

    fx: float
    fy: float
    cx: float
    cy: float
    source: Source

    def hfov_deg(self, width: int) -> float:
        """The angle in degrees between the left and the right edge of a picture that is `width` pixels wide."""
        left, right = self.cx + 0.5, width - 0.5 - self.cx
        return math.degrees(math.atan(left / self.fx) + math.atan(right / self.fx))

    def as_text(self) -> dict[str, str]:
        """For files that are not JSON."""
        return {name: f"{getattr(self, name):.10g}" for name in ("fx", "fy", "cx", "cy")} | {"camera": self.source}

    @property
    def stretch(self) -> float:
        """How many times as wide the picture has to be for pixels that are square."""
        return _stretch(self.fx, self.fy)


def _stretch(fx: float, fy: float) -> float:
    return fy / fx if abs(fy / fx - 1) > SQUARE else 1.0


@dataclass(frozen=True)
class Given:
    """What a request says of its camera, in pixels of the picture as seen upright; `hfov` in degrees of its width.

    Raises:
        InvalidRequest: parts that contradict each other, or are of no use alone.
    """

    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    hfov: float | None = None

    @property
    def stretch(self) -> float:
        """`stretch` of the camera that it gives; 1 for one that is impossible, which `camera_of` will say."""
        if not self.fx or not self.fy:
            return 1.0
        stretch = _stretch(self.fx, self.fy)
        least, most = FOCAL_RANGE
        return stretch if least / most <= stretch <= most / least else 1.0

    def __post_init__(self) -> None:
        if self.fx is not None and self.hfov is not None:
            raise InvalidRequest("fx and hfov say the same thing; give one of them.")
        if self.fx is None and any(value is not None for value in (self.fy, self.cx, self.cy)):
            raise InvalidRequest("fy, cx and cy are of no use without fx; give fx as well.")


def camera_of(upload: bytes, size: Size, given: Given) -> Camera:
    """The camera of an uploaded file, whose picture has `size` (height, width) as seen upright.

    Raises:
        InvalidRequest: the request's values are impossible for a picture of this size; or it has none, and the file
            says that no lens has made this picture.
    """
    height, width = size
    cx, cy = (width - 1) / 2, (height - 1) / 2
    if given.hfov is not None:
        if not HFOV_RANGE[0] < given.hfov < HFOV_RANGE[1]:  # also where it is not a number
            raise InvalidRequest(f"hfov is {given.hfov:g} degrees; it must be between 1 and 179.")
        focal = width / 2 / math.tan(math.radians(given.hfov) / 2)
        low, high = sorted(math.degrees(2 * math.atan(width / 2 / limit / max(size))) for limit in FOCAL_RANGE)
        if not low <= given.hfov <= high:
            raise InvalidRequest(
                f"A field of view of {given.hfov:g} degrees is impossible for a picture of {width} x {height}; it must "
                f"be between {max(low, HFOV_RANGE[0]):.3g} and {min(high, HFOV_RANGE[1]):.4g} degrees."
            )
        return Camera(focal, focal, cx, cy, "request")
    if given.fx is not None:
        fy = given.fx if given.fy is None else given.fy
        cx, cy = cx if given.cx is None else given.cx, cy if given.cy is None else given.cy
        return _checked(Camera(given.fx, fy, cx, cy, "request"), size)
    diagonals = exif_focal(upload)
    if diagonals is not None:
        focal = diagonals * math.hypot(width, height)
        return Camera(focal, focal, cx, cy, "exif")
    focal = TYPICAL_FOCAL * max(size)
    return Camera(focal, focal, cx, cy, "assumed")


def _checked(camera: Camera, size: Size) -> Camera:
    height, width = size
    low, high = (limit * max(size) for limit in FOCAL_RANGE)
    for name, focal in (("fx", camera.fx), ("fy", camera.fy)):
        if not low <= focal <= high:
            raise InvalidRequest(
                f"A focal length {name} of {focal:g} pixels is impossible for a picture of {width} x {height}; it must "
                f"be between {low:g} and {high:g} pixels."
            )
    for name, centre, side in (("cx", camera.cx, width), ("cy", camera.cy, height)):
        if not -side <= centre <= 2 * side:
            raise InvalidRequest(
                f"A principal point {name} of {centre:g} is too far outside a picture of {width} x {height}; it must "
                f"be between {-side} and {2 * side}."
            )
    return camera


def exif_focal(upload: bytes) -> float | None:
    """The focal length that EXIF has of a picture file, in diagonals of the picture, or None where it is missing or
    makes no sense. No pixels are decoded.

    Raises:
        InvalidRequest: a picture of all directions, by its XMP (Google's Photo Sphere XMP Metadata).
    """
    name = sniff(upload)
    try:
        with Image.open(io.BytesIO(upload), formats=[str(name)]) as image:
            xmp = image.info.get("xmp", b"")
            if isinstance(xmp, bytes) and _SPHERE.search(xmp):
                raise InvalidRequest(
                    "The picture shows all directions (equirectangular), and depth is along the axis of a lens. Cut "
                    "views from it, and give their hfov."
                )
            # Asked for EXIF that it has not met yet, the PNG plugin would decode the pixels to get behind them.
            late = name == "PNG" and "exif" not in image.info
            tags = (_late_exif(upload) if late else image.getexif()).get_ifd(ExifTags.IFD.Exif)
            if tags.get(ExifTags.Base.CustomRendered) == PANORAMA:
                return None
            film_mm = float(tags.get(ExifTags.Base.FocalLengthIn35mmFilm) or _film_mm(tags))
            if not EXIF_RANGE[0] <= film_mm <= EXIF_RANGE[1]:
                return None
            return film_mm / FILM_DIAGONAL * _whole(image.size, tags)
    except InvalidRequest:
        raise
    except Exception:  # A picture with corrupt EXIF is still a picture, and Pillow raises nearly anything on it.
        return None


def _late_exif(png: bytes) -> Image.Exif:
    """That of a PNG whose EXIF, if it has any, is behind its pixels."""
    exif = Image.Exif()
    exif.load(next((png[start:end] for kind, start, end in png_chunks(png) if kind == b"eXIf"), b""))
    return exif


def _whole(size: tuple[int, int], tags: Mapping[int, Any]) -> float:
    """How many times as long the diagonal of what the camera took is as that of the picture, whose stored width and
    height are `size`: 1, unless the picture was cut.

    Programs that cut a picture, to a square say, leave EXIF as it was. Of a picture of other proportions than the
    camera's, one side is taken to be whole.
    """
    width, height = size
    across, down = tags.get(ExifTags.Base.ExifImageWidth), tags.get(ExifTags.Base.ExifImageHeight)
    if not (isinstance(across, int) and isinstance(down, int) and across > 0 and down > 0):
        return 1.0
    if abs(width * across / (height * down) - 1) < SQUARE:  # Turned, and EXIF has not noticed.
        across, down = down, across
    whole = math.hypot(across, down) / math.hypot(width, height) * max(width / across, height / down)
    return whole if whole < MOST_CUT else 1.0


def _film_mm(tags: Mapping[int, Any]) -> float:
    """The focal length in mm of 35 mm film, by the size of the sensor. Raises where a tag is missing, or 0."""
    # Of the picture as the camera made it, which is what pixels of the focal plane are about; it may be smaller now.
    pixels = math.hypot(tags[ExifTags.Base.ExifImageWidth], tags[ExifTags.Base.ExifImageHeight])
    unit = PER_MM[tags.get(ExifTags.Base.FocalPlaneResolutionUnit, 2)]  # The standard's default is an inch.
    pixels_per_mm = tags[ExifTags.Base.FocalPlaneXResolution] / unit
    return float(tags[ExifTags.Base.FocalLength] * FILM_DIAGONAL * pixels_per_mm / pixels)


def metric_depth(depth: UInt16, camera: Camera, box: Letterbox, focal_px: float | None) -> UInt16:
    """Depth in mm of a canvas, uint16 [h, w], for the picture's own camera.

    Args:
        depth: as the network gives it, 0 = invalid.
        box: where the picture lies in the canvas.
        focal_px: of the model card: the focal length in canvas pixels that the network's depth is for, or None where
            its depth is to be taken as it is.

    Returns:
        uint16 [h, w]; invalid, too, where it is farther than the 65.535 m that 16 bits have.
    """
    if focal_px is None:
        return depth
    scale = min(box.canvas[0] / box.size[0], box.canvas[1] / (box.size[1] * camera.stretch))
    return _times(camera.fx * camera.stretch * scale / focal_px).take(depth)


@lru_cache(maxsize=16)  # Most requests come from few cameras.
def _times(factor: float) -> UInt16:
    """Every depth in mm times `factor`, uint16 [65536]."""
    table = np.arange(65536, dtype=np.float32)
    table *= np.float32(factor)
    np.rint(table, out=table)
    np.maximum(table, 1, out=table)  # What is too near for 1 mm is still there.
    table[table > 65535] = INVALID_DEPTH
    table[INVALID_DEPTH] = INVALID_DEPTH
    scaled: UInt16 = table.astype(np.uint16)
    return scaled
