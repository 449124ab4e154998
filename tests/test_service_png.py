"""service/png.py: every file is read back by Pillow and, chunk by chunk, by the few lines here."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from service_client import encode, opened

from service import png

SIZES = [(1, 1), (1, 17), (17, 1), (1, 3000), (3000, 1), (2, 3), (33, 47), (480, 640), (427, 641)]
KINDS = ["grey", "palette", "wide", "rgb"]


@pytest.fixture(params=["isal", "zlib"], autouse=True)
def _compressor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with ISA-L, and without it."""
    if request.param == "zlib":
        monkeypatch.setattr(png, "isal_zlib", None)
    elif png.isal_zlib is None:
        pytest.skip("isal is not installed")


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert data[at + 8 + length : at + 12 + length] == struct.pack(">I", zlib.crc32(name + body)), name
        found.append((name, body))
        at += 12 + length
    return found


def unfiltered(data: bytes) -> np.ndarray:
    """The bytes of the pixels, [H, bytes of a row]."""
    header, pixels = dict(chunks(data))[b"IHDR"], dict(chunks(data))[b"IDAT"]
    width, height, bits, kind, *rest = struct.unpack(">IIBBBBB", header)
    assert rest == [0, 0, 0]
    row_bytes = width * bits // 8 * (3 if kind == 2 else 1)
    # The whole stream, with its Adler-32, and nothing behind it.
    inflate = zlib.decompressobj()
    rows = np.frombuffer(inflate.decompress(pixels), np.uint8).reshape(height, 1 + row_bytes)
    assert inflate.eof and not inflate.unused_data
    assert (rows[:, 0] == 2).all()
    return np.cumsum(rows[:, 1:], axis=0, dtype=np.uint64).astype(np.uint8)


def pixels_of(kind: str, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "wide":
        return rng.integers(0, 65536, size, dtype=np.uint16)
    return rng.integers(0, 256, (*size, 3) if kind == "rgb" else size, dtype=np.uint8)


def colors(count: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, 3), dtype=np.uint8)


def check(pixels: np.ndarray, **options: Any) -> bytes:
    """Encode, and find every pixel again in both ways."""
    data = png.encode(pixels, **options)
    stored = np.ascontiguousarray(pixels.astype(">u2") if pixels.dtype == np.uint16 else pixels)
    assert np.array_equal(unfiltered(data), stored.view(np.uint8).reshape(len(pixels), -1))
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    image = opened(data)
    wide = pixels.dtype == np.uint16
    assert image.mode == ("I;16" if wide else "RGB" if pixels.ndim == 3 else "P" if "palette" in options else "L")
    assert np.array_equal(np.asarray(image), pixels)
    return data


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_random_pixels_are_exact(kind: str, size: tuple[int, int]) -> None:
    check(pixels_of(kind, size), **({"palette": colors(256)} if kind == "palette" else {}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("band", [1, 100, 1000, 4000])
def test_bands_join(kind: str, band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter at the top of each band subtracts the last row of the one before."""
    whole = png.encode(pixels_of(kind, (23, 31)))
    monkeypatch.setattr(png, "BAND_BYTES", band)
    data = check(pixels_of(kind, (23, 31)))
    assert np.array_equal(unfiltered(data), unfiltered(whole))


@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_any_layout(kind: str) -> None:
    pixels = pixels_of(kind, (40, 50))
    check(pixels[::2, ::3])
    check(pixels[::-1])
    check(pixels.swapaxes(0, 1))
    read_only = pixels.copy()
    read_only.flags.writeable = False
    check(read_only)


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 40, 255, 256])
def test_palettes(count: int) -> None:
    palette = colors(count)
    labels = (np.arange(600) % count).astype(np.uint8).reshape(20, 30)
    data = check(labels, palette=palette)
    assert [name for name, _ in chunks(data)] == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    assert dict(chunks(data))[b"PLTE"] == palette.tobytes()
    assert np.array_equal(np.asarray(opened(data).convert("RGB")), palette[labels])


def test_text_stands_before_the_pixels() -> None:
    text = {"unit": "mm", "Author": "J\xf6rg", "empty": ""}
    data = check(pixels_of("wide", (3, 4)), text=text)
    assert [name for name, _ in chunks(data)] == [b"IHDR", b"tEXt", b"tEXt", b"tEXt", b"IDAT", b"IEND"]
    assert opened(data).text == text
    with pytest.raises(ValueError, match="latin-1"):
        png.encode(pixels_of("wide", (3, 4)), text={"unit": "\N{GREEK SMALL LETTER MU}m"})


def room(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and depth as a model's are: computed on a quarter of the rows and columns, then enlarged."""
    y, x = np.mgrid[: height // 4, : width // 4]
    labels = (x // 23 + y // 17) % 7 + (np.hypot(x - 60, y - 50) < 30)
    noise = np.random.default_rng(0).normal(0, 4, labels.shape)
    depth = (1500 + 6 * x + 4 * y + 300 * labels + noise).astype(np.uint16)
    return (
        np.asarray(Image.fromarray(labels.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)),
        np.asarray(Image.fromarray(depth).resize((width, height), Image.Resampling.BILINEAR)),
    )


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920)])
def test_maps_of_rooms_take_no_more_bytes_than_pillow_needs(size: tuple[int, int]) -> None:
    labels, depth = room(*size)
    paletted = Image.fromarray(labels)
    paletted.putpalette(colors(40).tobytes())
    assert len(check(labels, palette=colors(40))) <= len(encode(paletted, compress_level=1))
    assert len(check(depth)) <= len(encode(depth, compress_level=1))


@pytest.mark.parametrize("value", [0, 255, 65535])
def test_one_value_everywhere(value: int) -> None:
    assert len(check(np.full((480, 640), value, np.uint16 if value > 255 else np.uint8))) < 6000


@pytest.mark.parametrize(
    ("pixels", "palette"),
    [
        (np.zeros((0, 4), np.uint8), None),
        (np.zeros((4, 0), np.uint16), None),
        (np.zeros((0, 4, 3), np.uint8), None),
        (np.zeros(4, np.uint8), None),
        (np.zeros((4, 4, 4), np.uint8), None),
        (np.zeros((4, 4, 3), np.uint16), None),
        (np.zeros((4, 4), np.float32), None),
        (np.zeros((4, 4), np.int16), None),
        (np.zeros((4, 4), ">u2"), None),
        (np.zeros((4, 4, 3), np.uint8), colors(4)),
        (np.zeros((4, 4), np.uint16), colors(4)),
        (np.zeros((4, 4), np.uint8), colors(0)),
        (np.zeros((4, 4), np.uint8), np.zeros((257, 3), np.uint8)),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 3), np.int64)),
        (np.full((4, 4), 4, np.uint8), colors(4)),
    ],
)
def test_what_is_not_written(pixels: np.ndarray, palette: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match=r"palette|no PNG"):
        png.encode(pixels, palette=palette)
