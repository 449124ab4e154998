"""Loops over pixels: in C where the project's build found a compiler (`kernels.c`), else in NumPy, which is slower.

Both give the same, to the bit, and refuse the same. In C nothing holds Python's lock, so that others go on meanwhile.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.ctypeslib import ndpointer
from numpy.typing import NDArray

from service.arrays import Size, UInt8, UInt16

SOURCE = Path(__file__).with_suffix(".c")
LIBRARY = Path(__file__).with_name("_kernels.so")
"""Made of it by `hatch_build.py`."""
BAND_PIXELS = 64 * 1024
"""Worked on at a time in NumPy: so few stay in a core's cache."""
UP = 2
"""The number of PNG's filter that subtracts the byte above."""
IDS = np.arange(256, dtype=np.uint32)


def _load() -> tuple[Any, str]:
    """The compiled loops; or None, and why they are not there."""

    # They check type, contiguity, and that what is written to is writable. Sizes are for the functions below.
    def read(dtype: Any) -> Any:
        return ndpointer(dtype, flags="C_CONTIGUOUS")

    def write(dtype: Any) -> Any:
        return ndpointer(dtype, flags=("C_CONTIGUOUS", "WRITEABLE"))

    size, u8, u16, f32, index = ctypes.c_ssize_t, read(np.uint8), read(np.uint16), read(np.float32), read(np.intp)
    to_u8, to_u16, to_index, to_i64 = write(np.uint8), write(np.uint16), write(np.intp), write(np.int64)
    if not LIBRARY.exists():
        return None, "there was no C compiler when segdepth was installed"
    try:
        library = ctypes.CDLL(str(LIBRARY))
        digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest().encode()
        if (ctypes.c_char * len(digest)).in_dll(library, "segdepth_source").raw != digest:
            return None, "service/kernels.c has changed since segdepth was installed"
        for name, arguments in {
            "bilinear": (u16, size, size, index, f32, size, index, f32, size, to_u16),
            "steps": (u16, size, ctypes.c_float, ctypes.c_float, to_u8),
            "filter_up": (u8, u8, size, size, ctypes.c_int, to_u8),
            "summarize": (u8, u16, size, to_index, to_i64),
            "counts": (u8, index, size, index, size, to_i64),
        }.items():
            function = getattr(library, f"segdepth_{name}")
            function.argtypes = arguments
            function.restype = ctypes.c_int if name == "bilinear" else None
    except (OSError, ValueError, AttributeError) as error:
        return None, f"{LIBRARY.name} cannot be loaded: {error}"
    return library, ""


compiled, why_not = _load()


def _require(fits: bool) -> None:
    """Raises ValueError. The compiled loops would read or write elsewhere, and NumPy broadcast or convert."""
    if not fits:
        raise ValueError("the shapes or types do not fit each other")


def bilinear_mm(plane: UInt16, size: Size) -> UInt16:
    """Millimetres, uint16 [h, w] -> [H, W].

    Columns come first, while there are few rows, and are rounded to whole millimetres; then each row is a mix of two,
    rounded too. Halves must all go up: rounded to even ones they are noise between rows, for which a PNG is a quarter
    larger.

    Raises:
        MemoryError: there is none for two rows.
    """
    _require(plane.ndim == 2 and plane.dtype == np.uint16 and plane.size > 0 and min(size) > 0)
    out = np.empty(size, np.uint16)
    if compiled:
        (height, width), (rows, columns) = size, plane.shape
        above, down = _neighbours(height, rows)
        left, across = _neighbours(width, columns)
        plane = np.ascontiguousarray(plane)
        if compiled.segdepth_bilinear(plane, rows, columns, above, down, height, left, across, width, out):
            raise MemoryError
        return out
    for part, millimetres in bilinear(plane, size, whole=True):
        out[part] = millimetres
    return out


def bilinear(plane: NDArray[Any], size: Size, *, whole: bool = False) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """[h, w] -> float32 [H, W] in NumPy, some rows at a time, which are good until the next are asked for.

    Args:
        whole: as `bilinear_mm` has it; a half is added to what is given, for whoever cuts that off.
    """
    (height, width), (rows, columns) = size, plane.shape
    left, across = _neighbours(width, columns)
    above, down = _neighbours(height, rows)
    down = down[:, None]
    # The last row and column are repeated, so that each pixel has one before and one behind it.
    source = np.pad(plane, ((0, 1), (0, 1)), mode="edge").astype(np.float32)
    wide = np.diff(source, axis=1).take(left, axis=1)
    wide *= across
    wide += source.take(left, axis=1)
    if whole:
        wide += np.float32(0.5)
        np.floor(wide, out=wide)
    step = np.diff(wide, axis=0)
    if whole:
        wide += np.float32(0.5)
    many = max(1, BAND_PIXELS // width)
    out, slope = np.empty((2, many, width), np.float32)
    for top in range(0, height, many):
        part = slice(top, min(top + many, height))
        n = part.stop - top
        # `mode`: the others check every index first, in a copy.
        wide.take(above[part], axis=0, out=out[:n], mode="clip")
        step.take(above[part], axis=0, out=slope[:n], mode="clip")
        slope[:n] *= down[part]
        out[:n] += slope[:n]
        yield part, out[:n]


def _neighbours(size: int, before: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Of each of `size` pixels, whose middles lie evenly in `before` ones: the one before it, and how far it is on the
    way to the next, 0 to 1."""
    middle = ((2 * np.arange(size) + 1) * before / (2 * size) - 0.5).clip(0, before - 1)
    first = middle.astype(np.intp)
    return first, (middle - first).astype(np.float32)


def steps(depth: UInt16, per_mm: float, offset: float) -> UInt8:
    """The step of every depth above 0, uint8 of the same shape [H, W]: depth * per_mm + offset in float32, rounded
    down, at least 1 and at most 255. 0 stays 0."""
    _require(depth.ndim == 2 and depth.dtype == np.uint16 and depth.size > 0)
    found = np.empty(depth.shape, np.uint8)
    if compiled:
        compiled.segdepth_steps(np.ascontiguousarray(depth), depth.size, per_mm, offset, found)
        return found
    # Looked up in a table they would take twice as long, since NumPy first makes 8 bytes of every index.
    many = max(1, BAND_PIXELS // depth.shape[1])
    for top in range(0, len(depth), many):
        band = depth[top : top + many]
        here = np.multiply(band, np.float32(per_mm), dtype=np.float32)
        here += np.float32(offset)
        np.copyto(found[top : top + many], here.clip(1, 255, out=here), casting="unsafe")
        found[top : top + many] *= band != 0
    return found


def filter_up(rows: UInt8, above: UInt8, out: UInt8, *, swap: bool) -> None:
    """Put PNG's filter Up of rows of bytes, [N, B], into `out`, [N, 1 + B], each behind the filter's number.

    Args:
        above: the row before them, [B].
        swap: samples are two bytes, of which the second is to be first.
    """
    _require(len(rows) > 0 and rows.shape == (len(rows), len(above)) and out.shape == (len(rows), 1 + len(above)))
    _require(not swap or len(above) % 2 == 0)
    if compiled:
        compiled.segdepth_filter_up(above, rows, *rows.shape, swap, out)
        return
    if swap:
        rows = rows.view(np.uint16).byteswap().view(np.uint8)
        above = above.view(np.uint16).byteswap().view(np.uint8)
    out[:, 0] = UP
    np.subtract(rows[0], above, out=out[0, 1:])
    np.subtract(rows[1:], rows[:-1], out=out[1:, 1:])


class ByClass(NamedTuple):
    """The depths of every class, by its id."""

    depths: UInt16
    """Ordered by class, and of each from the least to the greatest."""
    first: NDArray[np.intp]
    """[256]: where those of a class that are above 0 begin."""
    end: NDArray[np.intp]
    """[256]: where those of a class end."""
    nearest: NDArray[np.intp]
    """[256]: the first pixel with the least depth above 0; 0 where there is none."""
    squares: NDArray[np.int64]
    """[256]: the sum of the depths' squares."""


def by_class(labels: UInt8, depth: UInt16) -> ByClass:
    """Order the depths of a picture, both [h, w], by class."""
    _require(labels.shape == depth.shape and labels.dtype == np.uint8 and depth.dtype == np.uint16)
    # NumPy sorts 32 bits with vector instructions, as fast as anything counts them.
    ordered = np.sort(np.left_shift(labels, 16, dtype=np.uint32) | depth, axis=None)
    depths = ordered.astype(np.uint16)
    first, end = ordered.searchsorted(IDS << 16 | 1), ordered.searchsorted(IDS + 1 << 16)
    if compiled:
        nearest, squares = np.empty(256, np.intp), np.empty(256, np.int64)
        labels, depth = np.ascontiguousarray(labels), np.ascontiguousarray(depth)
        compiled.segdepth_summarize(labels, depth, depth.size, nearest, squares)
        return ByClass(depths, first, end, nearest, squares)
    # Of every class, the first pixel that is as near as its nearest.
    nearest = np.zeros(256, np.intp)
    least = np.zeros(256, np.uint16)
    ids = np.flatnonzero(first < end)
    least[ids] = depths[first[ids]]
    places = np.flatnonzero((least.take(labels) == depth) & (depth > 0))
    found, firsts = np.unique(labels.ravel()[places], return_index=True)
    nearest[found] = places[firsts]
    sums = np.concatenate([[0], np.cumsum(depths.astype(np.int64) ** 2)])
    return ByClass(depths, first, end, nearest, sums[end] - sums[first])


def counts(values: UInt8, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.int64]:
    """[256]: how often each value occurs in [h, w], where a pixel counts as often as its row, of [h], times its column,
    of [w], do."""
    _require(values.dtype == np.uint8 and values.shape == (*rows.shape, *columns.shape))
    if compiled:
        found = np.empty(256, np.int64)
        compiled.segdepth_counts(np.ascontiguousarray(values), rows, len(rows), columns, len(columns), found)
        return found
    # Runs of one value within a row are many times fewer than pixels.
    before = np.concatenate([[0], np.cumsum(columns)])
    begins = np.ones(values.shape, bool)
    np.not_equal(values[:, 1:], values[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    y, x = np.divmod(starts, len(columns))
    ends = np.append(x[1:], len(columns))
    ends[ends == 0] = len(columns)
    weights = (before[ends] - before[x]) * rows[y]
    return np.bincount(values.ravel()[starts], weights=weights, minlength=256).astype(np.int64)
