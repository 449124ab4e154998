"""Any kind of picture as RGB, the same for the service and its client."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

UInt8 = NDArray[np.uint8]
WHITE = (255, 255, 255)


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded picture of any of Pillow's modes as RGB: transparency on white, 16 bits scaled to 8."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # Pillow's `convert` would copy it.
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_scale_to_8_bits(np.asarray(image, dtype=np.float64))).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, WHITE)
        white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")


def _scale_to_8_bits(grey: NDArray[np.float64]) -> UInt8:
    """32-bit grey, whose range no header tells: the smallest usual range (1, 8, 16 or 32 bits) that holds it."""
    grey = np.nan_to_num(grey, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(grey.max())
    full = next((limit for limit in (1.0, 255.0, 65535.0) if top <= limit), 2.0**32 - 1)
    scaled: UInt8 = np.rint(grey.clip(0, full) * (255.0 / full)).astype(np.uint8)
    return scaled
