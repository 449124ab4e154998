"""service/images.py: exact values."""

from __future__ import annotations

import base64
import io
import random
import struct
import sys
import zlib
from contextlib import suppress
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from service_client import HEIC, encode, opened, quadrants

from model.backbones import LUMA
from service import images, rgb
from service.errors import BrokenImage, Problem, TooManyPixels, UnsupportedImage
from service.images import Letterbox
from service.rgb import to_rgb

LIMIT = 1_000_000
SIZES = [(48, 64), (64, 48)]
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"]


def decode(data: bytes) -> np.ndarray:
    return images.decode(data, LIMIT)


def png(width: int, height: int, *, depth: int = 8, kind: int = 0, data: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


# --- decode


@pytest.mark.parametrize("format", FORMATS)
def test_every_format(format: str) -> None:
    out = decode(encode(quadrants(), format))
    assert out.shape == (48, 64, 3)
    assert out.dtype == np.uint8
    assert np.abs(out.astype(int)[12::24, 16::32] - quadrants()[12::24, 16::32]).max() <= 24


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_stands_upright(orientation: int, format: str) -> None:
    upright = quadrants(40, 60)
    # How a camera held that way stores the scene: the inverse of the turn that the orientation asks for.
    inverse = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(turns[inverse[orientation]])
    assert stored.size == ((60, 40) if orientation < 5 else (40, 60))
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = decode(encode(stored, format, exif=exif))
    assert out.shape == (40, 60, 3)
    for y, x in [(10, 15), (10, 45), (30, 15), (30, 45)]:
        assert np.abs(out[y, x].astype(int) - upright[y, x]).max() < 40, (y, x)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_corrupt_exif_is_ignored(exif: bytes) -> None:
    assert decode(encode(quadrants(), "JPEG", exif=exif)).shape == (48, 64, 3)


def test_16_bit_grey_is_scaled() -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65279, 65535]], np.uint16)
    assert decode(encode(values))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 254, 255]


def test_16_bit_rgb_png() -> None:
    row = b"\0" + struct.pack(">6H", 65535, 0, 32768, 0, 65535, 256)
    out = decode(png(2, 1, depth=16, kind=2, data=row))
    assert out.tolist() == [[[255, 0, 128], [0, 255, 1]]]


def test_cmyk_jpeg() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(decode(encode(cmyk, "JPEG"))[8, 8].astype(int) - [255, 0, 0]).max() < 6


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("LA", (2, 1), (100, 255)), [100, 100, 100]),
        (Image.new("LA", (2, 1), (100, 0)), [255, 255, 255]),
        (Image.new("RGBA", (2, 1), (10, 20, 30, 255)), [10, 20, 30]),
        (Image.new("RGBA", (2, 1), (0, 0, 0, 51)), [204, 204, 204]),
        (Image.new("1", (2, 1), 1), [255, 255, 255]),
        (Image.new("L", (2, 1), 7), [7, 7, 7]),
    ],
)
def test_modes(image: Image.Image, expected: list[int]) -> None:
    assert decode(encode(image))[0, 0].tolist() == expected


def test_palette_with_transparency_is_put_on_white() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert decode(encode(image, transparency=1))[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]
    assert decode(encode(image, "GIF", transparency=1))[0, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("top", "expected"), [(1.0, 255), (200.0, 200), (65535.0, 255)])
def test_float_and_32_bit_tiff(top: float, expected: int) -> None:
    grey = np.array([[0.0, top]], np.float32)
    assert decode(encode(grey, "TIFF"))[0, :, 0].tolist() == [0, expected]
    assert decode(encode(Image.fromarray(grey.astype(np.int32)), "TIFF"))[0, 1, 0] == expected
    grey[0, 0] = np.nan
    assert decode(encode(grey, "TIFF"))[0, 0, 0] == 0


def test_float_tiffs_are_scaled_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows are worked on at a time."""
    grey = np.random.default_rng(0).uniform(-10, 300, (70, 31)).astype(np.float32)
    grey[40, 7], grey[3, 3] = 60_000, np.inf
    expected = np.rint(np.where(np.isfinite(grey), grey, 0).clip(0, 65535) / 257)
    for pixels in (1, 300, 10**6):
        monkeypatch.setattr(rgb, "BAND_PIXELS", pixels)
        np.testing.assert_array_equal(decode(encode(grey, "TIFF"))[..., 0], expected)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(format: str) -> None:
    red, blue = Image.new("RGB", (32, 16), (255, 0, 0)), Image.new("RGB", (32, 16), (0, 0, 255))
    out = decode(encode(red, format, save_all=True, append_images=[blue]))
    assert out.shape == (16, 32, 3)
    assert out[8, 8, 0] > 240
    assert out[8, 8, 2] < 15


@pytest.mark.parametrize(
    "data",
    [
        b"hello, a text",
        b"BMW makes cars, and this is no bitmap at all",
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bytes(range(256)),
        b"\0\0\0\x18ftypmp42\0\0\0\0isommp42",
        b"RIFF\0\0\0\0WAVE",
        b"x",
    ],
)
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="WebP"):
        decode(data)


@pytest.mark.parametrize("brands", [b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heix"])
def test_heic_is_named_where_it_is_not_read(brands: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_HAS_HEIC", False)
    with pytest.raises(UnsupportedImage, match=r"HEIC is not read here, .* heic is not installed\. Send JPE"):
        decode((8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + bytes(40))


def test_without_the_extra_there_is_no_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    assert images._read_heic() is False


@pytest.mark.parametrize("lies", ["upright", "turned"])
def test_heic_stands_upright(lies: str) -> None:
    """As phones store them: turned by the container, and by EXIF that says so once more."""
    out = decode(HEIC[lies])
    assert out.shape == (48, 64, 3)
    assert np.abs(out.astype(int)[12::24, 16::32] - quadrants()[12::24, 16::32]).max() <= 3
    canvas, box = images.decode_to_canvas(HEIC[lies], LIMIT, SIZES)
    assert box.size == (48, 64) and np.abs(canvas.astype(int) - out).max() == 0


def test_damaged_heic_is_refused() -> None:
    data = HEIC["upright"]
    with pytest.raises(TooManyPixels):
        images.decode(data, 64 * 48 - 1)
    with pytest.raises(BrokenImage, match="The HEIF cannot be decoded: its header is damaged or cut off"):
        decode(data[:100])
    with pytest.raises(BrokenImage, match="The HEIF cannot be decoded: "):
        decode(data[:-20])


def test_heic_with_more_pixels_than_it_says_is_refused() -> None:
    """Large ones before they are decoded: libheif holds its decoder to what the header says, or to 16384 pixels."""
    data = HEIC["upright"]
    place = data.index(b"ispe") + 8  # Width and height, behind version and flags.
    with pytest.raises(BrokenImage, match=r"The HEIF cannot be decoded: .*size signaled in the file"):
        decode(data[:place] + struct.pack(">II", 8, 8) + data[place + 8 :])


def jpeg_of(parts: bytes, *, scans: int = 0) -> bytes:
    """A progressive JPEG with these segments at its beginning, and its last scan so often once more."""
    data = encode(np.zeros((64, 64, 3), np.uint8), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:2] + parts + data[2:-2] + scans * last + data[-2:]


def hidden_scans(count: int) -> bytes:
    """As those of `jpeg_of`, behind a marker without a length, which what follows it looks like."""
    data = encode(np.zeros((64, 64, 3), np.uint8), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + b"\xff\x01\xff" + count * last + data[-2:]


def rle_bmp(width: int, height: int) -> bytes:
    """One of which each row ends after a pixel."""
    pixels = height * b"\x01\x00\x00\x00" + b"\x00\x01"
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 1, 0) + bytes(4)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels


def test_bmps_with_run_lengths_are_bounded() -> None:
    assert decode(rle_bmp(100, 50)).shape == (50, 100, 3)
    with pytest.raises(BrokenImage, match="run lengths may have 1000000 pixels"):
        images.decode(rle_bmp(10_000, 5_000), 10**8)


def png_of(chunks: bytes) -> bytes:
    data = encode(quadrants())
    return data[:33] + chunks + data[33:]


def tiff_of(tiles: int, big: bool = False, order: str = "<") -> bytes:
    """A directory that says it has so many tiles, and nothing else."""
    mark, tag = (b"II" if order == "<" else b"MM"), (324, 4)
    if big:
        head = mark + struct.pack(order + "HHHQ", 43, 8, 0, 16)
        return head + struct.pack(order + "QHHQQ", 1, *tag, tiles, 0) + bytes(8)
    return mark + struct.pack(order + "HI", 42, 8) + struct.pack(order + "HHHII", 1, *tag, tiles, 0) + bytes(4)


EXIF_SEGMENT = b"\xff\xe1\x00\x0aExif\0\0\0\0"
CHUNK = bytes(4) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))


@pytest.mark.parametrize(
    "data",
    [
        jpeg_of(b"", scans=200),
        hidden_scans(200),
        jpeg_of(EXIF_SEGMENT * 200),
        jpeg_of(b"\xff\xe5\x00\x02" * 20_000),
        png_of(CHUNK * 60_000),
        tiff_of(10**6),
        tiff_of(10**6, order=">"),
        tiff_of(10**6, big=True),
        tiff_of(10**6, big=True, order=">"),
        tiff_of(10**6)[:8] + b"\xff" + tiff_of(10**6)[9:],  # A directory that is cut off.
    ],
    ids=["scans", "hidden", "exif", "segments", "chunks", "tiff", "tiff-mm", "bigtiff", "bigtiff-mm", "tiff-cut"],
)
def test_files_that_would_take_minutes_are_refused_at_once(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(Image, "open", opened)
    with pytest.raises(BrokenImage, match="more parts than any camera writes"):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        jpeg_of(b"", scans=50),
        hidden_scans(50),
        jpeg_of(EXIF_SEGMENT + b"\xff\xe5\x00\x02" * 2000),
        # Phones put films behind photos, in which any byte may follow any other.
        encode(quadrants(), "JPEG") + random.Random(0).randbytes(10**7),
        encode(quadrants(), "JPEG") + b"\xff\xda" * 10**6,
        png_of(CHUNK * 10_000),
        encode(quadrants()) + bytes(10**6),
    ],
    ids=["scans", "hidden", "segments", "film", "markers", "chunks", "zeros"],
)
def test_files_with_many_parts_are_read(data: bytes) -> None:
    assert decode(data).shape[2] == 3


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated(format: str, keep: float) -> None:
    rng = np.random.default_rng(0)
    data = encode(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), format)
    with pytest.raises(BrokenImage):
        decode(data[: max(20, int(len(data) * keep))])


def test_one_wrong_byte_in_a_png() -> None:
    data = bytearray(encode(quadrants()))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(BrokenImage):
        decode(bytes(data))


def test_nothing_a_damaged_file_does_is_an_error_of_ours() -> None:
    rng = random.Random(0)
    statuses = set()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    files = [encode(picture, format) for format in FORMATS]
    files.append(encode(picture, "TIFF", compression="tiff_lzw"))
    files.append(encode(picture.convert("P"), "GIF", save_all=True, append_images=[picture]))
    for data in files:
        for _ in range(60):
            damaged = bytearray(data)
            for _ in range(rng.randint(1, 8)):
                # Headers are where the traps are.
                damaged[rng.randrange(min(len(data), rng.choice([64, 200, len(data)])))] = rng.randrange(256)
            damaged = damaged[: rng.choice([len(data), rng.randrange(len(data))])]
            try:
                out = decode(bytes(damaged))
            except Problem as problem:
                statuses.add(problem.status)
            else:
                assert out.ndim == 3
            with suppress(Problem):
                canvas, _ = images.decode_to_canvas(bytes(damaged), LIMIT, [(2, 3)])
                assert canvas.shape == (2, 3, 3)
    assert statuses == {413, 415, 422}


def test_pixel_limit_is_read_from_the_header() -> None:
    with pytest.raises(TooManyPixels, match="50000000 pixels"):
        images.decode(png(20000, 20000, data=bytes(1000)), 50_000_000)
    picture = encode(np.zeros((100, 100), np.uint8))
    assert images.decode(picture, 10_000).shape == (100, 100, 3)
    with pytest.raises(TooManyPixels):
        images.decode(picture, 9_999)
    with pytest.raises(TooManyPixels):
        images.decode(picture, 100)


@pytest.mark.parametrize("format", ["WEBP", "GIF", "TIFF", "BMP", "JPEG", "AVIF"])
def test_pixel_limit_for_every_format(format: str) -> None:
    picture = encode(np.zeros((100, 100, 3), np.uint8), format)
    for limit in (9_999, 5_001, 100):
        with pytest.raises(TooManyPixels):
            images.decode(picture, limit)


# --- decode to canvas

PHOTO = Path(find_spec("sklearn").submodule_search_locations[0]) / "datasets" / "images" / "china.jpg"

# Levels of 255. The photo is shrunk, and sharper than cameras' are: another resampling filter makes 2 to 3 there.
BOUND = 3.0
ENLARGED_BOUND = 3.5
"""Where it is decoded a little smaller than the canvas, which is then softer."""


def photo(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    """A real photo of buildings, as JPEG of any size."""
    with Image.open(PHOTO) as image:
        return encode(image.resize((width, height), Image.Resampling.LANCZOS).convert(mode), "JPEG", **options)


def swapped_profile() -> bytes:
    """An RGB colour profile whose red is sRGB's green, and the other way round."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, green = (data.index(name) for name in (b"rXYZ", b"gXYZ"))  # In the table, with offset and size.
    table = bytearray(data)
    table[red + 4 : red + 12], table[green + 4 : green + 12] = data[green + 4 : green + 12], data[red + 4 : red + 12]
    return bytes(table).replace("sRGB".encode("utf-16-be"), "sGRB".encode("utf-16-be"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP", "TIFF"])
def test_colours_are_those_of_the_profile(format: str) -> None:
    picture = np.full((480, 640, 3), (200, 40, 90), np.uint8)
    data = encode(picture, format, icc_profile=swapped_profile(), **({"quality": 100} if format == "WebP" else {}))
    for pixels in (images.decode(data, LIMIT), images.decode_to_canvas(data, LIMIT, SIZES)[0]):
        assert np.abs(pixels.reshape(-1, 3).astype(int) - (40, 200, 90)).max() <= 3


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "I;16"])
def test_a_profile_for_other_pixels_is_no_problem(mode: str) -> None:
    image = Image.new(mode, (8, 6), 60)
    image.info["icc_profile"] = swapped_profile()
    assert to_rgb(image).mode == "RGB"


def test_a_profile_that_cannot_be_used_is_as_none() -> None:
    good = swapped_profile()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (b"", b"rubbish", good[:200], good[:128] + b"\xff" * 99, lab, srgb, good + bytes(9 << 20)):
        image = Image.new("RGB", (8, 6), (200, 40, 90))
        image.info["icc_profile"] = profile
        assert to_rgb(image).getpixel((0, 0)) == (200, 40, 90)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def reduced_size(data: bytes, sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Width and height in which the pixels are decoded."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        images._load_reduced(image, sizes, 1.0, False)
        return image.size


def check_canvas(data: bytes, sizes: list[tuple[int, int]], bound: float) -> float:
    """The canvas and its place are those of full decoding, up to a mean difference; which is returned."""
    canvas, box = images.decode_to_canvas(data, 10 * LIMIT, sizes)
    expected, expected_box = images.fit(images.decode(data, 10 * LIMIT), sizes)
    assert box == expected_box
    assert canvas.shape == expected.shape and canvas.dtype == np.uint8
    difference = float(np.abs(canvas.astype(int) - expected).mean())
    assert difference <= bound
    return difference


@pytest.mark.parametrize("format", FORMATS)
def test_canvas_is_that_of_decoding_and_fitting(format: str) -> None:
    check_canvas(encode(quadrants(), format), SIZES, 0)
    if format != "JPEG":
        check_canvas(encode(quadrants(480, 640), format), SIZES, 0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((95, 71), (95, 71)),
        ((117, 87), (117, 87)),  # a half would be 58.5 x 43.5, which 1.1 times are less than 64 x 48
        ((118, 89), (59, 45)),
        ((192, 144), (96, 72)),
        ((193, 145), (97, 73)),  # rounded up
        ((471, 353), (118, 89)),  # an eighth would be 58.9 x 44.1
        ((512, 384), (64, 48)),
        ((1000, 750), (125, 94)),
        ((2048, 1536), (256, 192)),  # 1/8 is the least
        ((3000, 1), (3000, 1)),
        ((900, 80), (113, 10)),  # 64 x 6
    ],
)
def test_a_jpeg_is_decoded_at_the_least_scale_that_is_enough(size: tuple[int, int], expected: tuple[int, int]) -> None:
    data = photo(*size)
    assert reduced_size(data, SIZES) == expected
    enlarged = expected[0] < 64
    check_canvas(data, SIZES, 0 if size == expected else ENLARGED_BOUND if enlarged else BOUND)


@pytest.mark.parametrize("size", [(515, 387), (640, 427), (1001, 667), (1600, 1200), (1200, 1600)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}, {"quality": 40}])
def test_canvas_of_a_photo(size: tuple[int, int], options: dict[str, Any]) -> None:
    data = photo(*size, **options)
    sizes = [(96, 128), (128, 96)]
    assert reduced_size(data, sizes)[0] < size[0]
    assert check_canvas(data, sizes, BOUND) > 0


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_canvas_of_a_grey_and_of_a_cmyk_photo(mode: str) -> None:
    data = photo(800, 600, mode)
    assert opened(data).mode == mode
    assert reduced_size(data, SIZES) == (100, 75)
    check_canvas(data, SIZES, BOUND)


def luma(canvas: np.ndarray) -> np.ndarray:
    return canvas @ np.array(LUMA)


@pytest.mark.parametrize("size", [(60, 44), (118, 89), (471, 353), (640, 200)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": 0, "quality": 95},
        {"keep_rgb": True},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"exif": exif(6)},
        {"icc_profile": swapped_profile()},
    ],
    ids=["photo", "fine", "stored as RGB", "grey", "CMYK", "turned", "other colours"],
)
def test_a_grey_canvas_is_the_luma_of_the_coloured_one(size: tuple[int, int], options: dict[str, Any]) -> None:
    data = photo(*size, **options)
    coloured, box = images.decode_to_canvas(data, LIMIT, SIZES)
    grey, same_box = images.decode_to_canvas(data, LIMIT, SIZES, grey=True)
    assert same_box == box and grey.shape == coloured.shape
    assert (grey == grey[..., :1]).all()
    difference = np.abs(grey[..., 0] - luma(coloured))
    assert difference.mean() < 0.5 and difference.max() < 6  # More where a colour was cut off at 0 or 255.
    assert not (coloured == coloured[..., :1]).all() or options.get("mode") == "L"


@pytest.mark.parametrize("format", FORMATS)
def test_a_grey_canvas_of_every_format_and_of_pixels(format: str) -> None:
    data = encode(quadrants(90, 70), format)
    pixels = decode(data)
    coloured, box = images.fit(pixels, SIZES)
    for grey, same_box in (
        images.decode_to_canvas(data, LIMIT, SIZES, grey=True),
        images.fit(pixels, SIZES, grey=True),
    ):
        assert same_box == box and (grey == grey[..., :1]).all()
        difference = np.abs(grey[..., 0] - luma(coloured))
        # Where colours meet, a JPEG has some that are cut off at 0 and 255; its luma is not.
        assert difference.mean() < 1 and (difference.max() <= 1.5 or format == "JPEG")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_canvas_of_a_photo_stands_upright(orientation: int) -> None:
    data = photo(810, 540, exif=exif(orientation))
    sizes = [(48, 64), (64, 48)]
    check_canvas(data, sizes, BOUND)
    _, box = images.decode_to_canvas(data, LIMIT, sizes)
    assert box.size == ((540, 810) if orientation < 5 else (810, 540))
    assert box.canvas == (sizes[0] if orientation < 5 else sizes[1])
    assert sorted(reduced_size(data, sizes)) == [68, 102]


def test_canvas_of_a_phone_file_with_several_pictures() -> None:
    red, blue = Image.new("RGB", (320, 240), (255, 0, 0)), Image.new("RGB", (320, 240), (0, 0, 255))
    data = encode(red, "MPO", save_all=True, append_images=[blue])
    assert reduced_size(data, SIZES) == (80, 60)
    canvas, _ = images.decode_to_canvas(data, LIMIT, SIZES)
    assert (canvas == [254, 0, 0]).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("keep", [0.02, 0.1, 0.5, 0.9])
def test_a_reduced_jpeg_must_be_whole_too(options: dict[str, Any], keep: float) -> None:
    data = photo(800, 600, **options)
    for part in (data[: int(len(data) * keep)], data[: int(len(data) * keep)] + b"\xff\xd9"):
        try:
            images.decode(part, LIMIT)
        except BrokenImage:
            with pytest.raises(BrokenImage):
                images.decode_to_canvas(part, LIMIT, SIZES)
        else:
            # A file that only ends too early by its own word is grey there, and libjpeg does not mind.
            assert part.endswith(b"\xff\xd9")
            images.decode_to_canvas(part, LIMIT, SIZES)


def test_what_went_wrong_on_the_way_is_said() -> None:
    data = photo(800, 600)
    with pytest.raises(BrokenImage, match="--data-binary"):
        images.decode(data.translate(None, b"\0\r\n"), LIMIT)
    with pytest.raises(BrokenImage) as caught:
        images.decode(data[:300], LIMIT)
    assert "curl" not in caught.value.detail
    for text in (base64.b64encode(data), b"data:image/jpeg;base64," + base64.b64encode(data)):
        with pytest.raises(UnsupportedImage, match="base64"):
            images.decode(text, LIMIT)


def test_problems_of_the_canvas_are_those_of_decoding() -> None:
    with pytest.raises(TooManyPixels):
        images.decode_to_canvas(photo(800, 600), 800 * 600 - 1, SIZES)
    with pytest.raises(UnsupportedImage):
        images.decode_to_canvas(b"hello", LIMIT, SIZES)
    with pytest.raises(BrokenImage):
        images.decode_to_canvas(encode(quadrants())[:100], LIMIT, SIZES)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_canvas_with_corrupt_exif() -> None:
    data = photo(800, 600, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert reduced_size(data, SIZES) == (100, 75)
    check_canvas(data, SIZES, BOUND)


# --- fit and unfit


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((48, 64), Letterbox((48, 64), (48, 64), 0, 0, 48, 64)),
        ((64, 48), Letterbox((64, 48), (64, 48), 0, 0, 64, 48)),
        ((480, 640), Letterbox((480, 640), (48, 64), 0, 0, 48, 64)),
        ((100, 400), Letterbox((100, 400), (48, 64), 16, 0, 16, 64)),
        ((4000, 3000), Letterbox((4000, 3000), (64, 48), 0, 0, 64, 48)),
        ((3000, 1), Letterbox((3000, 1), (64, 48), 0, 23, 64, 1)),
        ((1, 3000), Letterbox((1, 3000), (48, 64), 23, 0, 1, 64)),
        ((1, 1), Letterbox((1, 1), (48, 64), 0, 8, 48, 48)),
    ],
)
def test_letterbox(size: tuple[int, int], expected: Letterbox) -> None:
    assert images.letterbox(size, SIZES) == expected


def test_letterbox_keeps_most_pixels_of_many_sizes() -> None:
    sizes = [(24, 32), (48, 64), (64, 48)]
    assert images.letterbox((480, 640), sizes).canvas == (48, 64)
    assert images.letterbox((24, 32), sizes).canvas == (48, 64)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (96, 128), (30, 90), (300, 100), (1, 1), (1, 3000), (3000, 1)])
def test_fit_and_back(size: tuple[int, int]) -> None:
    picture = quadrants(*size)
    canvas, box = images.fit(picture, SIZES)
    assert canvas.shape == (*box.canvas, 3)
    back = images.unfit_nearest(np.ascontiguousarray(canvas[..., 0]), box)
    assert back.shape == size
    height, width = size
    for y, x in [(height // 4, width // 4), (height // 4, width * 3 // 4), (height * 3 // 4, width // 4)]:
        assert back[y, x] == picture[y, x, 0]


def test_padding_is_cut_off() -> None:
    canvas, box = images.fit(np.zeros((10, 64, 3), np.uint8), SIZES)
    assert canvas[0, 0].tolist() == list(images.PADDING)
    depth = np.where(canvas[..., 0] == 0, 1234, 9999).astype(np.uint16)
    assert (images.unfit_depth(depth, box) == 1234).all()


def box_of(size: tuple[int, int], content: tuple[int, int]) -> Letterbox:
    return Letterbox(size, content, 0, 0, *content)


def test_depth_is_bilinear() -> None:
    depth = np.array([[1000, 2000]], np.uint16)
    assert images.unfit_depth(depth, box_of((1, 4), (1, 2))).tolist() == [[1000, 1250, 1750, 2000]]


@pytest.mark.parametrize("size", [(48, 64), (97, 131), (700, 33), (2000, 1500)])
def test_depth_is_bilinear_as_elsewhere(size: tuple[int, int]) -> None:
    """As Pillow has it, whose weights are rounded to fixed point: up to a millimetre, and that seldom."""
    depth = np.random.default_rng(0).integers(1, 65536, (24, 32)).astype(np.uint16)
    expected = np.asarray(Image.fromarray(depth).resize(size[::-1], Image.Resampling.BILINEAR))
    difference = np.abs(images.unfit_depth(depth, box_of(size, (24, 32))).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.03


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (24, 31)])
def test_depth_of_a_picture_smaller_than_the_canvas(size: tuple[int, int]) -> None:
    depth = np.full((24, 32), 1234, np.uint16)
    assert (images.unfit_depth(depth, box_of(size, (24, 32))) == np.full(size, 1234)).all()
    depth[12:] = 0
    assert set(np.unique(images.unfit_depth(depth, box_of(size, (24, 32))))) <= {0, 1234}


def test_depth_does_not_mix_with_invalid() -> None:
    depth = np.array([[1000, 0, 3000]], np.uint16)
    out = images.unfit_depth(depth, box_of((1, 6), (1, 3)))
    assert out.tolist() == [[1000, 1000, 0, 0, 3000, 3000]]


def test_depth_downscaled_averages_valid_pixels_only() -> None:
    depth = np.array([[0, 2000, 2000, 0]], np.uint16)
    out = images.unfit_depth(depth, box_of((1, 2), (1, 4)))
    assert set(out.ravel().tolist()) <= {0, 2000}
    assert (images.unfit_depth(np.zeros((4, 4), np.uint16), box_of((9, 7), (4, 4))) == 0).all()


def test_depth_of_the_same_size_is_unchanged() -> None:
    depth = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    assert np.array_equal(images.unfit_depth(depth, box_of((3, 4), (3, 4))), depth)
    assert images.unfit_depth(np.full((3, 4), 65535, np.uint16), box_of((6, 8), (3, 4))).tolist() == [[65535] * 8] * 6


# --- encode


@pytest.mark.parametrize("classes", [2, 13, 40, 255])
def test_mask_png_values_are_ids(classes: int) -> None:
    colors = [(i, 255 - i, i // 2) for i in range(classes)]
    labels = (np.arange(600).reshape(20, 30) % classes).astype(np.uint8)
    mask = opened(images.mask_png(labels, colors))
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), labels)
    assert mask.getpalette()[: 3 * classes] == [channel for color in colors for channel in color]


def test_depth_png_is_exact_and_describes_itself() -> None:
    depth = np.array([[0, 1, 255, 256], [1234, 32768, 65534, 65535]], np.uint16)
    data = images.depth_png(depth)
    assert (data[24], data[25]) == (16, 0)  # IHDR: 16 bits, grey
    image = opened(data)
    assert np.array_equal(np.asarray(image), depth)
    assert image.text == {"unit": "mm", "scale": "0.001", "invalid": "0"}


def test_depth_colors_are_fixed_by_the_range() -> None:
    depth = np.array([[0, 500, 1000, 2500, 4000, 60000]], np.uint16)
    row = np.asarray(opened(images.depth_color_png(depth, 1.0, 4.0)).convert("RGB"))[0].astype(int)
    assert row[0].tolist() == [0, 0, 0]
    assert row[1].tolist() == row[2].tolist()  # nearer than the range
    assert row[4].tolist() == row[5].tolist()  # farther
    brightness = row @ [299, 587, 114]
    assert brightness[2] > brightness[3] > brightness[4] > 0
    assert np.abs(row[2] - [253, 231, 37]).max() <= 6  # the ends of viridis
    assert np.abs(row[4] - [68, 1, 84]).max() <= 6
    # Never stretched per picture: the same depth has the same colour alone.
    alone = np.asarray(opened(images.depth_color_png(depth[:, 3:4], 1.0, 4.0)).convert("RGB"))[0, 0]
    assert alone.tolist() == row[3].tolist()


def test_depth_colors_are_255_even_steps() -> None:
    depth = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = opened(images.depth_color_png(depth, 1.0, 3.54))  # 10 mm each
    steps = np.asarray(image).ravel().astype(int)
    assert steps[0] == 0 and (steps[1:1005] == 1).all() and (steps[3536:] == 255).all()
    assert np.unique(steps).size == 256
    assert np.abs(steps[1000:3541] - (1 + (np.arange(1000, 3541) - 1000) / 10)).max() <= 0.501
    palette = np.array(image.getpalette()).reshape(256, 3)
    assert palette[0].tolist() == [0, 0, 0]
    assert np.abs(np.diff(palette[1:], axis=0)).max() <= 6
    assert len({tuple(color) for color in palette.tolist()}) >= 255


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 5), (48, 64), (100, 133), (97, 129), (3024, 4032)])
@pytest.mark.parametrize("canvas", [(48, 64), (480, 640), (1, 1), (5, 3)])
def test_nearest_takes_the_pixel_under_the_middle(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    plane = np.random.default_rng(0).integers(0, 256, canvas, dtype=np.uint8)
    out = images.unfit_nearest(plane, box_of(size, canvas))
    assert out.shape == size and out.dtype == np.uint8 and out.flags.c_contiguous
    rng = random.Random(0)
    for y, x in [
        (0, 0),
        (size[0] - 1, size[1] - 1),
        *((rng.randrange(size[0]), rng.randrange(size[1])) for _ in "x" * 99),
    ]:
        row, column = (
            Fraction(2 * at + 1, 2) * inner / outer for at, inner, outer in zip((y, x), canvas, size, strict=True)
        )
        assert out[y, x] == plane[int(row), int(column)]


def test_nearest_is_pillows_for_usual_sizes() -> None:
    plane = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    for width, height in [(64, 48), (640, 480), (1920, 1440)]:
        pillow = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.NEAREST))
        assert np.array_equal(images.unfit_nearest(plane, box_of((height, width), (48, 64))), pillow)


def test_overlay() -> None:
    picture = np.full((2, 2, 3), 100, np.uint8)
    labels = np.array([[0, 1], [1, 0]], np.uint8)
    out = np.asarray(opened(images.overlay_png(picture, labels, [(0, 0, 0), (200, 50, 0)])))
    assert out[0, 0].tolist() == [50, 50, 50]
    assert out[0, 1].tolist() == [150, 75, 50]


def test_pillow_agrees_about_upright() -> None:
    """Our turn by orientation is Pillow's, for each of them."""
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(quadrants(20, 30), exif=exif)
        pillow = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert np.array_equal(decode(data), np.asarray(pillow))
