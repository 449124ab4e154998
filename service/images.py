"""Pictures: from a client's bytes to a model canvas, and from the model's maps to pictures of the uploaded size.

    decode           bytes -> uint8 [H, W, 3], sRGB, upright
    fit              uint8 [H, W, 3] -> uint8 [h, w, 3] of one of the model's sizes (letterbox), and where it lies in it
    decode_to_canvas both, faster for a JPEG, of which no more pixels are decoded than the canvas needs
    unfit_*          maps [h, w] -> maps [H, W], padding cut off
    *_png            maps -> PNG files

Whatever a file does inside Pillow ends as a `Problem` with a 4xx status.
"""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, features

from service import kernels, png
from service.arrays import Size, UInt8, UInt16
from service.errors import BrokenImage, Problem, TooManyPixels, UnsupportedImage
from service.rgb import to_rgb

Color = tuple[int, int, int]

# The mean of ImageNet, in sRGB: after normalisation it is about 0, which is also what convolutions pad with.
PADDING: Color = (124, 116, 104)
INVALID_DEPTH = 0
GREY = "L"
"""Pillow's: luma by BT.601, as JPEG has it, and as `model.backbones.LUMA`."""
MAX_ENLARGED = 1.1
"""A JPEG is decoded at a smaller scale where its pixels then need not be enlarged by more for the canvas. Else 640x480
would be decoded in full, at twice the time, for a canvas of 352x264, a tenth larger than its half."""

# Between its limit and twice that Pillow only warns. Here the limit is the limit.
warnings.simplefilter("error", Image.DecompressionBombWarning)
# What it finds odd in a client's file is of no use in the server's log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_HAS_AVIF = bool(features.check("avif"))


def _read_heic() -> bool:
    """Has Pillow read HEIC, if the extra `heic` is installed."""
    try:
        pi_heif = import_module("pi_heif")
    except ImportError:
        return False
    # One thread, as for other formats, and nothing of what a phone keeps beside the picture.
    pi_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return True


_HAS_HEIC = _read_heic()
FORMATS = (
    ("JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF") + (("AVIF",) if _HAS_AVIF else ()) + (("HEIF",) if _HAS_HEIC else ())
)
"""By Pillow's names; HEIF is what phones call HEIC."""

MAX_SCANS = 100
"""Of a JPEG; cameras and encoders write up to 20."""
MAX_SEGMENTS = 10_000
"""Of a JPEG; the most that a tool has a reason for are a thousand, of a depth map in XMP."""
MAX_CHUNKS = 50_000
"""Of a PNG: 50 million pixels in chunks of 4 KiB, should they be noise."""
MAX_TILES = 100_000
"""Of a TIFF: as many strips as no picture has rows."""
BMP_RUN_LENGTHS = (1, 2)
"""Compressions, of 8 bits and of 4."""
MAX_RLE_PIXELS = 1_000_000
"""Of a BMP with run lengths, which Pillow decodes in Python, a third of a microsecond a pixel."""
TIFF_OFFSETS = (273, 324)
"""The tags of the places of strips and tiles."""
HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
"""Brands of what phones call HEIC, whose codec Pillow itself does not have."""

TEXT_BYTES = 2000
"""Of so many bytes of a picture, some are always zeros, or what in a text would be a line's end."""

# How a stored picture is turned to stand upright, by the value of the EXIF tag Orientation (1 is upright already).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""Of a JPEG's segment; the others have no length."""
_SIDEWAYS = {
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
}


# --- decode ---------------------------------------------------------------------------------------------------


def decode(data: bytes, max_pixels: int) -> UInt8:
    """A picture file as upright sRGB pixels, uint8 [H, W, 3].

    The EXIF orientation is applied, transparency is put on white, 16 bits per channel are scaled to 8, and of an
    animation or a multi-page file the first picture is taken.

    Raises:
        UnsupportedImage: not one of `FORMATS`.
        TooManyPixels: the header announces more than `max_pixels`; nothing was decoded.
        BrokenImage: one of `FORMATS`, but truncated, damaged, or of an unusual kind.
    """
    image, _ = _load(data, max_pixels)
    return np.asarray(image)


def decode_to_canvas(
    data: bytes, max_pixels: int, sizes: Sequence[Size], stretch: float = 1.0, grey: bool = False
) -> tuple[UInt8, Letterbox]:
    """What `fit` gives for the picture that `decode` gives, uint8 [h, w, 3] and where the picture lies in it.

    A JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 that `MAX_ENLARGED` allows, at a fraction of the time and
    memory. Its canvas differs from that of full decoding by one to three levels of 255 in the mean.

    Raises:
        UnsupportedImage, TooManyPixels, BrokenImage: as `decode` does.
    """
    image, size = _load(data, max_pixels, sizes, stretch, grey)
    return _fit(image, letterbox(size, sizes, stretch), grey)


def _load(
    data: bytes, max_pixels: int, sizes: Sequence[Size] | None = None, stretch: float = 1.0, grey: bool = False
) -> tuple[Image.Image, Size]:
    """A picture file as an upright RGB image, reduced where that is enough for one of `sizes`, and its full size. With
    `grey` it may be grey already."""
    name = sniff(data)
    if name is None:
        what = "The body is not a picture"
        if _brands(data) & HEIC:
            what = "HEIC is not read here, where the extra heic is not installed"
        elif data.startswith((b"data:", b"/9j/", b"iVBOR")):
            what = "The body is base64, not the bytes of a picture"
        raise UnsupportedImage(f"{what}. Send {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    _refuse_endless(data, name)
    # The limit inside Pillow is a global of the process. It also guards what our own check does not see,
    # such as tiles that are larger than the picture.
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        if name == "PNG":
            # Pillow does not look at the checksums of pixel data when it decodes.
            with _open(data, name, max_pixels) as image:
                image.verify()
        with _open(data, name, max_pixels) as image:
            run_lengths = name == "BMP" and image.info.get("compression") in BMP_RUN_LENGTHS
            if run_lengths and image.width * image.height > MAX_RLE_PIXELS:
                raise BrokenImage(f"A BMP with run lengths may have {MAX_RLE_PIXELS} pixels. Save it without.")
            if sizes is not None and name == "JPEG":
                return _load_reduced(image, sizes, stretch, grey)
            image.load()
            # Read after loading: a PNG may carry EXIF behind its pixels, and the TIFF plugin turns the picture itself.
            upright = to_rgb(_turned(image, _turn(image)))
            return upright, (upright.height, upright.width)
    except Problem:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(max_pixels) from None
    except Exception as error:  # Pillow's plugins raise nearly anything on a hostile file.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "its header is damaged or cut off, or of a kind that is not read"
        if len(data) > TEXT_BYTES and not any(byte in data for byte in (b"\0", b"\r", b"\n")):
            reason += ". It was sent as text, without its line ends: with curl take --data-binary instead of -d"
        raise BrokenImage(f"The {name} cannot be decoded: {reason}.") from None


def _refuse_endless(data: bytes, name: str) -> None:
    """Raises BrokenImage for a file that would take a core for minutes, since it has many more parts than its pixels
    need."""
    if (
        (name == "JPEG" and _has_endless_segments(data))
        or (name == "PNG" and _has_endless_chunks(data))
        or (name == "TIFF" and _tiff_tiles(data) > MAX_TILES)
    ):
        raise BrokenImage(f"The {name} has more parts than any camera writes.")


def _has_endless_chunks(png: bytes) -> bool:
    """Whether it has too many chunks, which Pillow reads one by one."""
    return next(islice(png_chunks(png), MAX_CHUNKS - 1, None), None) is not None


def png_chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The type of each chunk before the last, and where its content begins and ends; nothing is checked."""
    position = 8
    while position < len(png) and (kind := png[position + 4 : position + 8]) != b"IEND":
        start = position + 8
        end = start + int.from_bytes(png[position : position + 4], "big")
        yield kind, start, end
        position = end + 4


def _has_endless_segments(jpeg: bytes) -> bool:
    """Whether it has too many segments, or too many of those that take time, up to the end of the first picture."""
    position = segments = slow = 0
    while (found := _MARKER.search(jpeg, position)) and found[0] != b"\xff\xd9":
        position = found.end()
        if found[0] == b"\xff\xd8":  # The beginning, which has no length.
            continue
        segments += 1
        # Each scan goes over all pixels, and Pillow joins the EXIF of one segment after the other.
        slow += found[0] == b"\xff\xda" or jpeg.startswith(b"Exif", position + 2)
        if segments > MAX_SEGMENTS or slow > MAX_SCANS:
            return True
        position += int.from_bytes(jpeg[position : position + 2], "big")
    return False


def _tiff_tiles(data: bytes) -> int:
    """How many strips or tiles the first picture of a TIFF has, by its directory as far as that goes."""
    order = "<" if data.startswith(b"I") else ">"
    offset, count, entry, value = (8, "Q", 20, "HHQ") if data[2:4] in (b"+\0", b"\0+") else (4, "H", 12, "HHI")
    most = 0
    with suppress(struct.error):  # It may be cut off, or far behind the end.
        (start,) = struct.unpack_from(order + ("Q" if entry == 20 else "I"), data, offset)
        (entries,) = struct.unpack_from(order + count, data, start)
        first = start + struct.calcsize(order + count)
        for k in range(min(entries, 65536)):
            tag, _, n = struct.unpack_from(order + value, data, first + entry * k)
            most = max(most, n) if tag in TIFF_OFFSETS else most
    return most


def _load_reduced(jpeg: Image.Image, sizes: Sequence[Size], stretch: float, grey: bool) -> tuple[Image.Image, Size]:
    """`_load` of an opened JPEG. Where it is decoded at a smaller scale, it already has the size it gets in `_fit`."""
    # A JPEG's first component is `GREY`, so the others need not be decoded; unless its colours are not those of sRGB.
    mode = GREY if grey and "icc_profile" not in jpeg.info else None
    width, height = jpeg.size
    turn = _turn(jpeg)
    sideways = turn in _SIDEWAYS
    full = (width, height) if sideways else (height, width)
    box = letterbox(full, sizes, stretch)
    place = (box.height, box.width) if sideways else (box.width, box.height)
    drafted = jpeg.draft(mode, (math.ceil(place[0] / MAX_ENLARGED), math.ceil(place[1] / MAX_ENLARGED)))
    jpeg.load()
    image = jpeg
    if drafted is not None and jpeg.size != (width, height):
        # The picture ends within the last row and column where its size is no multiple of the scale.
        image = jpeg.resize(place, Image.Resampling.BILINEAR, box=drafted[1])
    image = _turned(image, turn)
    return image if image.mode == mode else to_rgb(image), full


def sniff(data: bytes) -> str | None:
    """The picture format by the first bytes, one of `FORMATS`, or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    # "BM" alone also starts English text; the size of the second header tells.
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124):
        return "BMP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if _HAS_AVIF and _brands(data) & {b"avif", b"avis"}:
        return "AVIF"
    if _HAS_HEIC and _brands(data) & HEIC:
        return "HEIF"
    return None


def _brands(data: bytes) -> set[bytes]:
    """Of an ISO base media file, such as AVIF, HEIC and MP4, what it says it can be read as."""
    if data[4:8] != b"ftyp":
        return set()
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return {box[i : i + 4] for i in range(0, len(box), 4)}


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Read the header only."""
    image = Image.open(io.BytesIO(data), formats=[name])
    if image.width * image.height > max_pixels:
        raise _too_many_pixels(max_pixels)
    return image


def _too_many_pixels(max_pixels: int) -> TooManyPixels:
    return TooManyPixels(f"The picture has more than {max_pixels} pixels, the limit of this server.")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes it stand upright, by its EXIF orientation."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # A picture with corrupt EXIF is still a picture.
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


# --- fit and unfit --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Letterbox:
    """Where a picture lies in a canvas. All in pixels."""

    size: Size
    """Of the picture as uploaded and seen upright."""
    canvas: Size
    top: int
    left: int
    height: int
    width: int


def letterbox(size: Size, sizes: Sequence[Size], stretch: float = 1.0) -> Letterbox:
    """Place a picture of `size` into that of `sizes` that keeps most of its pixels, in the middle, in its aspect ratio.

    Where several sizes keep as many, the one with the least padding is taken, then the largest.

    Args:
        stretch: how many times as wide it has to be for its pixels to be square.
    """
    height, width = size[0], size[1] * stretch

    def scale(canvas: Size) -> float:
        return min(canvas[0] / height, canvas[1] / width)

    def merit(canvas: Size) -> tuple[float, float, int]:
        area = canvas[0] * canvas[1]
        return min(1.0, scale(canvas)), scale(canvas) ** 2 * height * width / area, area

    canvas = max(sizes, key=merit)
    # An extreme picture, such as 1 x 3000, still gets one pixel.
    inner_height = min(canvas[0], max(1, round(height * scale(canvas))))
    inner_width = min(canvas[1], max(1, round(width * scale(canvas))))
    top, left = (canvas[0] - inner_height) // 2, (canvas[1] - inner_width) // 2
    return Letterbox(size, canvas, top, left, inner_height, inner_width)


def fit(picture: UInt8, sizes: Sequence[Size], stretch: float = 1.0, grey: bool = False) -> tuple[UInt8, Letterbox]:
    """Bring uint8 [H, W, 3] to one of the model's sizes: the canvas, uint8 [h, w, 3], and where the picture lies.

    Args:
        stretch: as `letterbox` has it.
        grey: the canvas is grey, three times, in a part of the time: for a model that sees no colours.
    """
    return _fit(Image.fromarray(picture), letterbox(picture.shape[:2], sizes, stretch), grey)


def _fit(image: Image.Image, box: Letterbox, grey: bool) -> tuple[UInt8, Letterbox]:
    """The canvas of a picture, of which `image` may be a reduced version."""
    if grey:
        image = image.convert(GREY)
    if image.size != (box.width, box.height):
        image = image.resize((box.width, box.height), Image.Resampling.BILINEAR)
    if (box.height, box.width) != box.canvas:
        canvas = Image.new("RGB", (box.canvas[1], box.canvas[0]), PADDING).convert(image.mode)
        canvas.paste(image, (box.left, box.top))
        image = canvas
    if not grey:
        return np.asarray(image), box
    plane = np.asarray(image)
    pixels = np.empty((*box.canvas, 3), np.uint8)
    for channel in range(3):  # Three times as fast as all at once.
        pixels[..., channel] = plane
    return pixels, box


T = TypeVar("T", bound=np.generic)


def inside(plane: NDArray[T], box: Letterbox) -> NDArray[T]:
    """Of a plane [h, w] of the canvas, what lies where the picture does."""
    return plane[box.top : box.top + box.height, box.left : box.left + box.width]


def unfit_nearest(plane: UInt8, box: Letterbox) -> UInt8:
    """Labels or confidence, uint8 [h, w] -> [H, W], by nearest neighbour."""
    return _nearest(inside(plane, box), box.size)


def _nearest(plane: NDArray[T], size: Size) -> NDArray[T]:
    """[h, w] -> [H, W]."""
    if plane.shape == size:
        return np.ascontiguousarray(plane)
    (height, width), (rows, columns) = size, plane.shape
    # Columns first, while there are few rows; whole rows are then copied at the speed of memory.
    out: NDArray[T] = plane.take(nearest_of(width, columns), axis=1).take(nearest_of(height, rows), axis=0)
    return out


def nearest_of(size: int, before: int) -> NDArray[np.intp]:
    """Of each of `size` pixels, that of `before` in which its middle lies: floor((y + 1/2) before / size)."""
    return (2 * np.arange(size) + 1) * before // (2 * size)


def unfit_depth(depth: UInt16, box: Letterbox) -> UInt16:
    """Depth in mm, uint16 [h, w] -> [H, W], bilinear over valid pixels only.

    A pixel is invalid (0) where its nearest neighbour is; elsewhere invalid neighbours have no weight.
    """
    content = np.ascontiguousarray(inside(depth, box))
    if content.shape == box.size:
        return content
    valid = content != INVALID_DEPTH
    if valid.all():
        return kernels.bilinear_mm(content, box.size)
    out = np.zeros(box.size, np.uint16)
    nearest = _nearest(valid, box.size)
    sums, weights = kernels.bilinear(content, box.size), kernels.bilinear(valid, box.size)
    for (rows, total), (_, weight) in zip(sums, weights, strict=True):
        known = nearest[rows] & (weight > 0)
        np.divide(total, weight, out=total, where=known)
        total += np.float32(0.5)
        np.copyto(out[rows], total, where=known, casting="unsafe")
    return out


# --- encode ---------------------------------------------------------------------------------------------------


def mask_png(labels: UInt8, colors: Sequence[Color]) -> bytes:
    """A palette PNG of uint8 [H, W]: each pixel's value is its class id, and the palette has the classes' colours."""
    return png.encode(labels, palette=np.array(colors, np.uint8))


def depth_png(depth: UInt16, text: Mapping[str, str] | None = None) -> bytes:
    """A 16-bit grey PNG of mm, uint16 [H, W], lossless; unit, scale to metres and invalid value are in its text, and
    what is given."""
    return png.encode(depth, text={"unit": "mm", "scale": "0.001", "invalid": str(INVALID_DEPTH), **(text or {})})


def depth_color_png(depth: UInt16, min_m: float, max_m: float) -> bytes:
    """A palette PNG of mm, uint16 [H, W], over the fixed range `min_m` to `max_m`: near is bright, invalid is black.

    The range has 255 steps, even in depth. It is for people; the depth itself is in `depth_png`.
    """
    return png.encode(_depth_steps(depth, min_m, max_m), palette=_depth_palette())


def overlay_png(picture: UInt8, labels: UInt8, colors: Sequence[Color]) -> bytes:
    """An RGB PNG, half the picture, uint8 [H, W, 3], and half the colours of its classes, uint8 [H, W]."""
    mask = Image.fromarray(labels)
    mask.putpalette(np.array(colors, np.uint8).tobytes())
    return png.encode(np.asarray(Image.blend(Image.fromarray(picture), mask.convert("RGB"), 0.5)))


def _depth_steps(depth: UInt16, min_m: float, max_m: float) -> UInt8:
    """The step of every depth in mm, uint8 of the same shape: 1 is the nearest, 255 the farthest, 0 is invalid."""
    per_mm = 254 / (1000 * (max_m - min_m))
    return kernels.steps(depth, per_mm, 1.5 - 1000 * min_m * per_mm)  # A half, for it is rounded down.


@lru_cache(maxsize=1)
def _depth_palette() -> UInt8:
    """The colour of every step, uint8 [256, 3]."""
    near = np.linspace(1.0, 0.0, 255)
    # Viridis (van der Walt and Smith, 2015; perceptually uniform), as Matt Zucker's polynomial of degree 6.
    coefficients = [
        (0.2777273272234177, 0.005407344544966578, 0.3340998053353061),
        (0.1050930431085774, 1.404613529898575, 1.384590162594685),
        (-0.3308618287255563, 0.214847559468213, 0.09509516302823659),
        (-4.634230498983486, -5.799100973351585, -19.33244095627987),
        (6.228269936347081, 14.17993336680509, 56.69055260068105),
        (4.776384997670288, -13.74514537774601, -65.35303263337234),
        (-5.435455855934631, 4.645852612178535, 26.3124352495832),
    ]
    rgb = np.polynomial.polynomial.polyval(near, np.array(coefficients)).T
    return np.vstack([np.zeros((1, 3)), np.rint(rgb.clip(0.0, 1.0) * 255.0)]).astype(np.uint8)
