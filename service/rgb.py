"""Any kind of picture as sRGB, the same for the service, its client and training."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

WHITE = (255, 255, 255)
MAX_PROFILE_BYTES = 8 << 20
"""The largest of printers' profiles have a few megabytes."""
BAND_PIXELS = 256 * 1024


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened picture as `to_rgb` has it, turned as its EXIF says."""
    image.load()
    with suppress(Exception):  # A picture with corrupt EXIF is still a picture.
        ImageOps.exif_transpose(image, in_place=True)
    return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded picture of any of Pillow's modes as sRGB: transparency on white, 16 bits scaled to 8, and colours by the
    picture's ICC profile. One that cannot be used is as none."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or len(profile) > MAX_PROFILE_BYTES:
        return _rgb(image)
    if image.mode != "CMYK":
        image = _rgb(image)
    transform = _to_srgb(profile, image.mode)
    return _rgb(image) if transform is None else transform.apply(image)


@lru_cache(maxsize=8)  # A camera has one; to read it takes longer than to apply it.
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What makes the colours of a profile those of sRGB; None where they are, or where it is not for pictures of this
    mode."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space != mode or "sRGB" in (source.profile.profile_description or ""):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):  # What lcms2 does not understand.
        return None


def _rgb(image: Image.Image) -> Image.Image:
    """As `to_rgb`, with colours as they are."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # Pillow's `convert` would copy it.
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return _scaled_to_8_bits(image).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, WHITE)
        white.paste(rgba, mask=rgba)
        return white
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """32-bit grey, whose range no header tells: the smallest usual range (1, 8, 16 or 32 bits) that holds it."""
    rows = max(1, BAND_PIXELS // image.width)  # Of all of them at once, 8 bytes a pixel would be taken several times.

    def bands() -> Iterator[tuple[int, NDArray[np.float64]]]:
        for top in range(0, image.height, rows):
            band = image.crop((0, top, image.width, min(top + rows, image.height)))
            yield top, np.nan_to_num(np.asarray(band, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)

    most = max(float(band.max()) for _, band in bands())
    full = next((limit for limit in (1.0, 255.0, 65535.0) if most <= limit), 2.0**32 - 1)
    grey = np.empty((image.height, image.width), np.uint8)
    for top, band in bands():
        grey[top : top + rows] = np.rint(band.clip(0, full) * (255.0 / full))
    return Image.fromarray(grey)
