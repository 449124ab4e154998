"""Remakes the pictures of README.md and docs/api.md from examples/, with a running service.

segdepth serve &
python docs/pictures.py --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import colorsys
import io
import json
import math
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as runs

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples" / "images"
SIZE = (320, 240)
"""Width and height of the photos that are sent, and so of the pictures."""
POINT = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3), ("label", "u1")])
"""A vertex of `output=ply`."""


def photo(name: str) -> bytes:
    out = io.BytesIO()
    with Image.open(EXAMPLES / f"{name}.jpg") as picture:
        picture.resize(SIZE, Image.Resampling.LANCZOS).save(out, "JPEG", quality=92)
    return out.getvalue()


def post(url: str, query: str, body: bytes) -> bytes:
    request = urllib.request.Request(f"{url}/predict?{query}", body, {"Content-Type": "image/jpeg"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: bytes = response.read()
    return answer


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def cloud(ply: bytes, turn: float = 28.0, tilt: float = 16.0) -> Image.Image:
    """A point cloud, seen from `turn` degrees to the right and `tilt` degrees above where the photo was taken."""
    points = np.frombuffer(ply.partition(b"end_header\n")[2], POINT)
    middle = np.median(points["xyz"], axis=0)
    a, b = math.radians(turn), math.radians(tilt)
    about_y = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    x, y, z = (about_x @ about_y @ (points["xyz"] - middle).T) + [[0], [0], [1.35 * middle[2]]]
    width, height = SIZE
    seen = z > 0.1
    u = np.rint(0.85 * width * x[seen] / z[seen] + width / 2).astype(int)
    v = np.rint(0.85 * width * y[seen] / z[seen] + height / 2).astype(int)
    picture = np.full((height + 1, width + 1, 3), 255, np.uint8)
    far_first = np.argsort(-z[seen])
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        inside = far_first[((u >= 0) & (u < width) & (v >= 0) & (v < height))[far_first]]
        picture[v[inside] + down, u[inside] + right] = points["rgb"][seen][inside]
    return Image.fromarray(picture[:height, :width])


def boxes(coco: dict[str, Any], body: bytes) -> Image.Image:
    """The five largest classes of a COCO document on its photo: their masks' outlines and their boxes, named."""
    names = {one["id"]: one["name"] for one in coco["categories"]}
    picture = np.array(opened(body))
    found = sorted(coco["annotations"], key=lambda one: -one["area"])[:5]
    hues = [tuple(round(255 * part) for part in colorsys.hsv_to_rgb(k / 5, 0.85, 1)) for k in range(5)]
    for one, hue in zip(found, hues, strict=False):
        inside: NDArray[np.bool_] = runs.decode(one["segmentation"]).astype(bool)
        inner = inside.copy()
        inner[1:] &= inside[:-1]
        inner[:-1] &= inside[1:]
        inner[:, 1:] &= inside[:, :-1]
        inner[:, :-1] &= inside[:, 1:]
        picture[inside & ~inner] = hue
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for one, hue in zip(found, hues, strict=False):
        x, y, width, height = one["bbox"]
        draw.rectangle((x, y, x + width - 1, y + height - 1), outline=hue)
        rows, columns = np.nonzero(runs.decode(one["segmentation"]))
        middle = float(np.median(columns)), float(np.median(rows))
        name = names[one["category_id"]]
        draw.text(middle, name, fill=hue, anchor="mm", stroke_width=1, stroke_fill="black")
    return image


def beside(rows: list[list[Image.Image]], gap: int = 4) -> Image.Image:
    width, height = SIZE
    sheet = Image.new("RGB", (len(rows[0]) * (width + gap) - gap, len(rows) * (height + gap) - gap), (255, 255, 255))
    for i, row in enumerate(rows):
        for k, picture in enumerate(row):
            sheet.paste(picture.convert("RGB"), (k * (width + gap), i * (height + gap)))
    return sheet


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Remakes the pictures of README.md and docs/api.md.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service (%(default)s)")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder to write into (docs)")
    args = parser.parse_args(argv)
    pictures = args.out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)

    body = photo("kitchen")
    for output in ("mask", "depth_color", "confidence", "unreliable"):
        query = f"output={output}" + ("&min_confidence=0.5" if output == "unreliable" else "")
        (pictures / f"{output}.png").write_bytes(post(args.url, query, body))  # as the service makes them
    # 16 bits of millimetres are nearly black on a screen: here 6 m is white.
    metres = np.asarray(opened(post(args.url, "output=depth", body))) / 1000
    Image.fromarray(np.rint(255 * np.clip(metres / 6, 0, 1)).astype(np.uint8)).save(pictures / "depth.png")
    for name, picture in {
        "photo": opened(body),
        "overlay": opened(post(args.url, "output=overlay", body)),
        "ply": cloud(post(args.url, "output=ply&color=class", body)),
        "glb": cloud(post(args.url, "output=ply", body)),
        "coco": boxes(json.loads(post(args.url, "output=coco", body)), body),
    }.items():
        picture.convert("RGB").save(pictures / f"{name}.jpg", quality=85)

    rows = []
    for room in ("kitchen", "living_room"):
        body = photo(room)
        maps = [opened(post(args.url, f"output={output}", body)) for output in ("overlay", "depth_color")]
        rows.append([opened(body), *maps, cloud(post(args.url, "output=ply", body))])
    beside(rows).save(args.out / "example.jpg", quality=85)


if __name__ == "__main__":
    main()
