"""From radiance to a photograph: metering, white balance, tone, and the faults of phones and Kinects.

The order is that of a camera: lens, sensor, raw development, sharpening. JPEG is left to whoever writes the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.rooms.scene import Floats

Rng = np.random.Generator
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


@dataclass(frozen=True)
class Style:
    """How one camera takes one picture.

    Attributes:
        mean: Mean of the developed picture that its metering aims at, 0 to 1, before `exposure`.
        exposure: Deviation from the metering in stops.
        spot: How much the centre counts in metering, 0 to 1.
        adaptation: How much of the light's colour the white balance takes away, 0 to 1.
        cast: Error of the white balance, gains of red, green, blue.
        shoulder: 0: highlights are cut as in the sRGB curve alone; 1: compressed as film does.
        contrast: Exponent about the middle grey; 1 is neutral.
        black: Light that the lens and the display add, 0 to 0.08.
        saturation: 1 is neutral.
        vignetting: Loss of light in the corners, 0 to 0.5.
        glare: Share of the light that the lens spreads widely.
        defocus: Standard deviation of the blur, pixels of a picture 320 wide.
        motion: Length of the motion blur, pixels of a picture 320 wide; `direction` in radians.
        shot, read: Standard deviation of the noise at white, and at black; linear, white is 1.
        chroma: Share of the noise that is coloured and coarse.
        sharpening: Amount of the unsharp mask.
    """

    mean: float
    exposure: float
    spot: float
    adaptation: float
    cast: tuple[float, float, float]
    shoulder: float
    contrast: float
    black: float
    saturation: float
    vignetting: float
    glare: float
    defocus: float
    motion: float
    direction: float
    shot: float
    read: float
    chroma: float
    sharpening: float


def draw_style(rng: Rng) -> Style:
    """A phone, a headset, a Kinect or a good camera, each with its good and bad days."""
    kind = ("phone", "kinect", "headset", "camera")[int(rng.choice(4, p=(0.3, 0.4, 0.15, 0.15)))]
    soft = {"phone": (0.1, 0.5), "kinect": (0.3, 0.8), "headset": (0.2, 0.7), "camera": (0.1, 0.4)}[kind]
    noise = {"phone": 0.008, "kinect": 0.013, "headset": 0.012, "camera": 0.004}[kind] * float(
        min(rng.lognormal(0, 0.6), 2.2)
    )
    odd = rng.random()
    exposure = rng.normal(0, 0.2) + (
        rng.uniform(-1.4, -0.5) if odd < 0.1 else rng.uniform(0.4, 1.0) if odd > 0.92 else 0
    )
    warm, green = rng.normal(0, 0.05), rng.normal(0, 0.025)
    return Style(
        mean=float(rng.uniform(0.4, 0.55)),
        exposure=float(exposure),
        spot=float(rng.uniform(0.2, 1.0)),
        adaptation=float(rng.uniform(0.45, 1.0)),
        cast=(math.exp(warm), math.exp(green), math.exp(-warm)),
        shoulder=float(rng.uniform(0.0, 0.4) if kind == "kinect" else rng.uniform(0.2, 1.0)),
        contrast=float(rng.normal(1.04, 0.08)),
        black=float(rng.uniform(0, 0.03) + (rng.uniform(0, 0.05) if kind == "headset" else 0)),
        saturation=float(np.clip(rng.normal(0.88 if kind != "headset" else 0.72, 0.14), 0.4, 1.3)),
        vignetting=float(rng.uniform(0, 0.35)),
        glare=float(rng.uniform(0, 0.08) ** 1.3),
        defocus=float(rng.uniform(*soft)),
        motion=float(rng.uniform(2, 7) if rng.random() < 0.1 else 0),
        direction=float(rng.uniform(0, math.pi)),
        shot=noise,
        read=noise * float(rng.uniform(0.1, 0.4)),
        chroma=float(rng.uniform(0.2, 0.9)),
        sharpening=float(rng.uniform(0, 1.0) if kind in ("phone", "kinect") else rng.uniform(0, 0.5)),
    )


def jpeg_quality(rng: Rng) -> int:
    """60 to 95, mostly high."""
    return int(95.5 - 35 * rng.random() ** 1.7)


def _convolve(picture: Floats, kernel: Floats, axis: int) -> Floats:
    """Along one axis, the border repeated; the kernel is short and odd."""
    half = len(kernel) // 2
    pad = [(0, 0)] * picture.ndim
    pad[axis] = (half, half)
    padded = np.pad(picture, pad, mode="edge")
    n = picture.shape[axis]
    total = np.zeros_like(picture)
    for k, weight in enumerate(kernel):
        part = padded[k : k + n] if axis == 0 else padded[:, k : k + n]
        total += np.float32(weight) * part
    return total


def _gaussian(picture: Floats, sigma: float) -> Floats:
    """Blurred by a Gaussian; below 0.2 pixels nothing happens."""
    if sigma < 0.2:
        return picture
    half = max(1, math.ceil(2.5 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    return _convolve(_convolve(picture, kernel, 0), kernel, 1)


def _shifted(picture: Floats, dx: float, dy: float) -> Floats:
    """Moved by a fraction of pixels, the border repeated; bilinear."""
    h, w = picture.shape[:2]
    x0, y0 = math.floor(dx), math.floor(dy)
    fx, fy = np.float32(dx - x0), np.float32(dy - y0)
    cols, rows = np.arange(w) + x0, np.arange(h) + y0
    a = picture[np.clip(rows, 0, h - 1)]
    b = picture[np.clip(rows + 1, 0, h - 1)]
    mixed = a + (b - a) * fy
    left, right = mixed[:, np.clip(cols, 0, w - 1)], mixed[:, np.clip(cols + 1, 0, w - 1)]
    return np.asarray(left + (right - left) * fx)


def _motion(picture: Floats, length: float, direction: float) -> Floats:
    """Blurred along a line of `length` pixels."""
    steps = max(2, math.ceil(length))
    places = (np.arange(steps) - (steps - 1) / 2) * (length / steps)
    parts = [_shifted(picture, float(p * math.cos(direction)), float(p * math.sin(direction))) for p in places]
    return np.asarray(sum(parts) / np.float32(steps))


def _coarse(picture: Floats, factor: int) -> Floats:
    """Means of blocks; what does not fill a block at the right and at the bottom is left out."""
    h, w = (n // factor * factor for n in picture.shape[:2])
    blocks = picture[:h, :w].reshape(h // factor, factor, w // factor, factor, *picture.shape[2:])
    return np.asarray(blocks.mean((1, 3)))


def _enlarge(picture: Floats, size: tuple[int, int]) -> Floats:
    """To [h, w], bilinear."""
    h, w = size
    y = np.clip((np.arange(h) + 0.5) * picture.shape[0] / h - 0.5, 0, picture.shape[0] - 1)
    x = np.clip((np.arange(w) + 0.5) * picture.shape[1] / w - 0.5, 0, picture.shape[1] - 1)
    y0, x0 = y.astype(int), x.astype(int)
    y1, x1 = np.minimum(y0 + 1, picture.shape[0] - 1), np.minimum(x0 + 1, picture.shape[1] - 1)
    fy, fx = (y - y0).astype(np.float32)[:, None, None], (x - x0).astype(np.float32)[:, None]
    rows = picture[y0] + (picture[y1] - picture[y0]) * fy
    return np.asarray(rows[:, x0] + (rows[:, x1] - rows[:, x0]) * fx)


def tone(linear: Floats, style: Style) -> Floats:
    """The tone curve: exposed linear light to display values 0 to 1."""
    x = np.maximum(linear, 0)
    # The rational curve of film (Narkowicz's fit to ACES), which reaches white slowly, beside a plain cut at 1.
    film = np.clip(x * 0.8 * (2.51 * x * 0.8 + 0.03) / (x * 0.8 * (2.43 * x * 0.8 + 0.59) + 0.14), 0, 1)
    y = np.clip(x, 0, 1) * np.float32(1 - style.shoulder) + film * np.float32(style.shoulder)
    y = np.where(y <= 0.0031308, 12.92 * y, 1.055 * np.maximum(y, 1e-6) ** np.float32(1 / 2.4) - 0.055)
    # An S-curve about 0.45.
    low, high = 0.45 * (np.minimum(y, 0.45) / 0.45) ** style.contrast, 1 - np.maximum(y, 0.45)
    y = np.where(y < 0.45, low, 1 - 0.55 * (high / 0.55) ** style.contrast)
    return np.asarray(style.black + (1 - style.black) * y, np.float32)


def meter(linear: Floats, style: Style) -> float:
    """The gain that brings the mean of the developed picture to the style's: as cameras meter, what is white counts as
    white however bright it is, so that a window does not make the room black.
    """
    small = _coarse(linear, max(1, linear.shape[0] // 60)) @ LUMA
    h, w = small.shape
    y, x = np.mgrid[0:h, 0:w]
    centre = np.exp(-(((x / (w - 1) - 0.5) / 0.3) ** 2) - ((y / (h - 1) - 0.5) / 0.3) ** 2)
    weight = 1 - style.spot + style.spot * centre
    weight = weight / weight.sum()
    low, high = -14.0, 14.0  # stops
    for _ in range(20):
        middle = (low + high) / 2
        bright = float((tone(small * np.float32(2.0**middle), style) * weight).sum())
        low, high = (middle, high) if bright < style.mean else (low, middle)
    return float(2.0 ** (low + style.exposure))


def develop(linear: Floats, rng: Rng, style: Style | None = None) -> NDArray[np.uint8]:
    """A photograph of a radiance picture.

    Args:
        linear: Linear RGB, float32 [H, W, 3], of any scale.
        style: Of the camera; drawn when None.

    Returns:
        sRGB, uint8 [H, W, 3].
    """
    style = style or draw_style(rng)
    h, w = linear.shape[:2]
    scale = w / 320
    picture = np.nan_to_num(np.maximum(linear, 0).astype(np.float32), posinf=0.0)

    # The lens: glare, vignetting, blur.
    if style.glare > 0.005 and min(h, w) >= 32:
        limited = np.minimum(picture, 20 * np.float32(np.median(picture @ LUMA) + 1e-6))
        veil = _enlarge(_gaussian(_coarse(limited, 8), 3.0 * scale), (h, w))
        picture = picture + np.float32(style.glare) * (veil - picture)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    radius = ((x - (w - 1) / 2) ** 2 + (y - (h - 1) / 2) ** 2) / ((w / 2) ** 2 + (h / 2) ** 2)
    picture = picture * (1 - np.float32(style.vignetting) * radius)[..., None]
    # Highlights far over white are cut first, or a lamp would blur into a large disc.
    gain = meter(picture, style)
    picture = np.minimum(picture * np.float32(gain), 8)
    picture = _gaussian(picture, style.defocus * scale)
    if style.motion:
        picture = _motion(picture, style.motion * scale, style.direction)

    # White balance, then noise: in dim rooms the gain is high, and so is the noise.
    grey = np.array([np.mean(np.minimum(picture[..., k], 1)) for k in range(3)])
    light = grey / max(float(grey @ LUMA), 1e-6)
    balance = np.clip(light, 0.3, 3) ** -style.adaptation * np.asarray(style.cast)
    picture = picture * (balance / (balance @ LUMA)).astype(np.float32)
    dim = float(np.clip(gain, 0.5, 6)) ** 0.35
    deviation = np.sqrt(style.read**2 + style.shot**2 * np.minimum(picture, 1)) * np.float32(dim)
    fine = rng.standard_normal((h, w, 3), np.float32)
    grain = fine.mean(-1, keepdims=True) * np.float32(1.5)
    blotches = _enlarge(rng.standard_normal((h // 2 + 1, w // 2 + 1, 3), np.float32), (h, w))
    share = np.float32(style.chroma)
    picture = picture + deviation * ((1 - share) * grain + share * (0.5 * fine + 0.8 * blotches))

    # Development.
    display = tone(picture, style)
    luma = (display @ LUMA)[..., None]
    display = luma + (display - luma) * np.float32(style.saturation)
    if style.sharpening > 0.05:
        display = display + np.float32(style.sharpening) * (display - _gaussian(display, 1.0 * scale))
    return np.asarray(np.clip(display, 0, 1) * 255 + 0.5).astype(np.uint8)
