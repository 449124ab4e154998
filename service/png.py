"""PNG files of maps, many times as fast as a general writer.

A general writer tries all five row filters and deflates with zlib. The maps here are upsampled from a smaller canvas,
so that a row is nearly the row above it: the filter Up alone leaves mostly zeros. ISA-L then deflates them (the package
`isal`); without it zlib does, more slowly.

W3C, Portable Network Graphics, third edition: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import kernels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3
"""Colour types."""
BAND_BYTES = 512 * 1024
"""Filtered at a time: so little stays in a core's cache, and a large picture takes no second copy of itself."""


def _fast_zlib() -> ModuleType | None:
    try:
        return import_module("isal.isal_zlib")
    except ImportError:  # There are no wheels for every machine.
        return None


isal_zlib = _fast_zlib()
crc32 = (isal_zlib or zlib).crc32


def encode(
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    *,
    palette: NDArray[np.uint8] | None = None,
    text: Mapping[str, str] | None = None,
) -> bytes:
    """A PNG file, lossless.

    Args:
        pixels: uint8 [H, W] (grey, or with `palette` its indices), uint16 [H, W] (grey) or uint8 [H, W, 3] (RGB).
        palette: the colours of the indices, uint8 [N, 3] with N from 1 to 256.
        text: Latin-1 keywords and texts, as tEXt chunks.

    Raises:
        ValueError: no such pixels or palette, or an index that the palette does not have.
    """
    color_type, depth = _kind(pixels, palette)
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    if palette is not None:
        chunks.append(_chunk(b"PLTE", palette.tobytes()))
    for keyword, value in (text or {}).items():
        chunks.append(_chunk(b"tEXt", keyword.encode("latin-1") + b"\0" + value.encode("latin-1")))
    chunks += [_chunk(b"IDAT", _deflated(pixels)), _chunk(b"IEND", b"")]
    return b"".join([SIGNATURE, *chunks])


def _kind(pixels: NDArray[np.uint8] | NDArray[np.uint16], palette: NDArray[np.uint8] | None) -> tuple[int, int]:
    """Colour type and bits per sample."""
    if pixels.size and pixels.dtype == np.uint8:
        if pixels.ndim == 3 and pixels.shape[2] == 3 and palette is None:
            return RGB, 8
        if pixels.ndim == 2 and palette is None:
            return GREY, 8
        if pixels.ndim == 2 and palette is not None:
            if palette.dtype != np.uint8 or palette.shape[1:] != (3,) or not 1 <= len(palette) <= 256:
                raise ValueError(f"a palette is uint8 [1..256, 3], not {palette.dtype} {list(palette.shape)}")
            if int(pixels.max()) >= len(palette):
                raise ValueError(f"index {pixels.max()} is not in a palette of {len(palette)} colours")
            return PALETTE, 8
    if pixels.size and pixels.dtype == np.uint16 and pixels.ndim == 2 and palette is None:
        return GREY, 16
    indices = " with a palette" if palette is not None else ""
    raise ValueError(f"no PNG of {pixels.dtype} {list(pixels.shape)}{indices} is written")


def _chunk(name: bytes, body: bytes) -> bytes:
    return b"".join([struct.pack(">I", len(body)), name, body, struct.pack(">I", crc32(body, crc32(name)))])


def _deflated(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """The pixels' rows, filtered and compressed."""
    height = len(pixels)
    row_bytes = pixels[0].nbytes
    wide = pixels.itemsize == 2
    compressor: Any
    if isal_zlib is not None:
        compressor = isal_zlib.compressobj(level=1)
    else:
        # In bytes that are mostly zero, run lengths are nearly all there is to find; in those of depth they are not.
        compressor = zlib.compressobj(level=1, strategy=zlib.Z_DEFAULT_STRATEGY if wide else zlib.Z_RLE)
    band = max(1, BAND_BYTES // row_bytes)
    # Each row begins with the number of its filter.
    filtered = np.empty((min(band, height), 1 + row_bytes), np.uint8)
    above = np.zeros(row_bytes, np.uint8)
    out = []
    for top in range(0, height, band):
        rows = np.ascontiguousarray(pixels[top : top + band]).view(np.uint8).reshape(-1, row_bytes)
        here = filtered[: len(rows)]
        kernels.filter_up(rows, above, here, swap=wide and sys.byteorder == "little")
        above = rows[-1]
        out.append(compressor.compress(here))
    out.append(compressor.flush())
    return b"".join(out)
