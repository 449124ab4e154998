"""Our encoders and decoders beside those of Pillow, OpenCV and imagecodecs: time, and bytes.

python benchmarks/codecs.py --out benchmarks/codecs
python benchmarks/codecs.py --quick

OpenCV and imagecodecs are no dependencies of the service; the command makes an environment for them on first use
(`build/benchmarks/codecs`) and runs in it. All are measured in turn in one run, on one thread, so that a change of the
machine's load meets all; times are medians, and ratios are to Pillow as it is when nothing is set. Every PNG is read
back and compared before it counts.

Where a library writes no palettes, its mask is a grey PNG, which is less: its pixels are the ids, without colours.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import ROOT, environment, jpeg, machine, maps, picture, publish, table
from service import images

PACKAGES = ["opencv-python-headless", "imagecodecs"]
CANVAS = [(240, 320), (320, 240)]  # of the bundled model
CLASSES = 40
MIN_M, MAX_M = 0.5, 10.0
COLORS = [tuple(int(c) for c in color) for color in np.random.default_rng(0).integers(0, 256, (CLASSES, 3))]

Jobs = dict[str, dict[str, Callable[[], Any]]]
"""What is done -> by what -> how. The first of each is Pillow as it is when nothing is set."""


def _saved(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def jobs(width: int, height: int) -> Jobs:
    import cv2
    import imagecodecs

    cv2.setNumThreads(1)
    pixels = picture(width, height)
    file = jpeg(pixels)
    buffer = np.frombuffer(file, np.uint8)
    labels, depth = maps(width, height)
    overlay = np.asarray(_opened(images.overlay_png(pixels, labels, COLORS)))
    place = images.letterbox((height, width), CANVAS)
    small = (place.width, place.height)
    every_depth = np.arange(65536, dtype=np.uint16)[None]
    ramp = np.asarray(_opened(images.depth_color_png(every_depth, MIN_M, MAX_M)))[0]

    def paletted() -> Image.Image:
        image = Image.fromarray(labels)
        image.putpalette([channel for color in COLORS for channel in color])
        return image

    def cv_read() -> Any:
        return cv2.cvtColor(cv2.imdecode(buffer, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def cv_png(pixels: Any, *options: int) -> bytes:
        return bytes(cv2.imencode(".png", pixels, list(options))[1])

    def writers(pixels: Any) -> dict[str, Callable[[], bytes]]:
        as_bgr = pixels[..., ::-1] if pixels.ndim == 3 else pixels
        fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
        return {
            "OpenCV": lambda: cv_png(as_bgr),
            "OpenCV level 1": lambda: cv_png(as_bgr, *fast),
            "imagecodecs level 1": lambda: bytes(imagecodecs.png_encode(pixels, level=1)),
        }

    return {
        "JPEG to canvas": {
            "Pillow": lambda: np.asarray(_opened(file).resize(small, Image.Resampling.BILINEAR)),
            "ours": lambda: images.decode_to_canvas(file, 10**8, [(place.height, place.width)])[0],
            "OpenCV": lambda: cv2.resize(cv_read(), small, interpolation=cv2.INTER_AREA),
            "imagecodecs, OpenCV": lambda: cv2.resize(
                imagecodecs.jpeg8_decode(file), small, interpolation=cv2.INTER_AREA
            ),
        },
        "JPEG to pixels": {
            "Pillow": lambda: np.asarray(_opened(file)),
            "ours": lambda: images.decode(file, 10**8),
            "OpenCV": cv_read,
            "imagecodecs": lambda: imagecodecs.jpeg8_decode(file),
        },
        "mask PNG": {
            "Pillow": lambda: _saved(paletted()),
            "Pillow level 1": lambda: _saved(paletted(), compress_level=1),
            "ours": lambda: images.mask_png(labels, COLORS),
            **writers(labels),
        },
        "depth PNG": {
            "Pillow": lambda: _saved(Image.fromarray(depth)),
            "Pillow level 1": lambda: _saved(Image.fromarray(depth), compress_level=1),
            "ours": lambda: images.depth_png(depth),
            **writers(depth),
        },
        "coloured depth PNG": {
            "Pillow": lambda: _saved(Image.fromarray(ramp[depth])),
            "Pillow level 1": lambda: _saved(Image.fromarray(ramp[depth]), compress_level=1),
            "ours": lambda: images.depth_color_png(depth, MIN_M, MAX_M),
            "OpenCV level 1": lambda: cv_png(ramp[depth][..., ::-1], cv2.IMWRITE_PNG_COMPRESSION, 1),
        },
        "overlay PNG": {
            "Pillow": lambda: _saved(Image.blend(Image.fromarray(pixels), paletted().convert("RGB"), 0.5)),
            "Pillow level 1": lambda: _saved(
                Image.blend(Image.fromarray(pixels), paletted().convert("RGB"), 0.5), compress_level=1
            ),
            "ours": lambda: images.overlay_png(pixels, labels, COLORS),
            **writers(overlay),
        },
    }


def check(name: str, by: str, result: Any, expected: Any) -> None:
    """PNGs are lossless, and canvases are close to each other.

    Raises:
        SystemExit: this one is not.
    """
    if isinstance(result, bytes):
        with Image.open(io.BytesIO(result)) as image, Image.open(io.BytesIO(expected)) as wanted:
            # A mask has ids, whether it is grey or has a palette; the coloured ones have colours.
            in_color = name.startswith(("coloured", "overlay"))
            pair = [i.convert("RGB") if in_color else i for i in (image, wanted)]
            same = np.array_equal(np.asarray(pair[0]), np.asarray(pair[1]))
        if not same:
            raise SystemExit(f"{name} by {by} is not what Pillow's is")
    else:
        if result.shape != expected.shape:
            raise SystemExit(f"{name} by {by} has the shape {result.shape}, not {expected.shape}")
        difference = float(np.abs(result.astype(int) - expected).mean())
        if difference > 6:
            raise SystemExit(f"{name} by {by} differs by {difference:.1f} levels in the mean")


def measure(jobs: Jobs, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Job -> by what -> milliseconds, bytes (0 of pixels), and how many times as fast as the first."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, ways in jobs.items():
        first = next(iter(ways.values()))()
        sizes, times = {}, {by: [] for by in ways}  # type: ignore[var-annotated]
        for by, way in ways.items():
            got = way()
            check(name, by, got, first)
            sizes[by] = len(got) if isinstance(got, bytes) else 0
        for _ in range(rounds):
            for by, way in ways.items():
                since = time.perf_counter()
                way()
                times[by].append(time.perf_counter() - since)
        middle = {by: statistics.median(taken) for by, taken in times.items()}
        slowest = next(iter(middle.values()))
        results[name] = {
            by: {"ms": middle[by] * 1000, "bytes": sizes[by], "times_as_fast": slowest / middle[by]} for by in ways
        }
    return results


def inside(args: argparse.Namespace) -> None:
    on, results, rows = machine(), {}, []
    for width, height in [(640, 480)] if args.quick else [(640, 480), (1920, 1080), (4032, 3024)]:
        rounds = 3 if args.quick else max(3, args.rounds * 640 * 480 // (width * height))
        size = f"{width}x{height}"
        results[size] = measure(jobs(width, height), rounds)
        for name, ways in results[size].items():
            for by, got in ways.items():
                kilobytes = got["bytes"] / 1000 if got["bytes"] else "-"
                rows.append([size, name, by, got["ms"], kilobytes, got["times_as_fast"]])
        print(f"{size} done", file=sys.stderr)
    versions = {name: version(name) for name in ("pillow", "numpy", "isal", *PACKAGES)}
    markdown = table(["size", "job", "by", "ms", "kB", "times as fast as Pillow"], rows)
    note = ", ".join(f"{name} {number}" for name, number in versions.items()) + "\n\n"
    publish(args.out, {"machine": on, "versions": versions, "results": results}, note + markdown)


def main() -> None:
    parser = argparse.ArgumentParser(description="Encoders and decoders beside each other.")
    add = parser.add_argument
    add("--rounds", type=int, default=50, help="of 640x480; fewer of larger pictures (default: 50)")
    add("--quick", action="store_true", help="one size and three rounds: shows that it runs, no figures")
    add("--out", type=Path, help="write OUT.json and OUT.md")
    add("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args)
        return
    python = environment("codecs", PACKAGES)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, __file__, *sys.argv[1:], "--inside"], env=variables, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
