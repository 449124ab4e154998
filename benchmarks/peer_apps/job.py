"""The job that every peer does, in two ways.

A picture comes in, and JSON goes out: the mask as a palette PNG, the depth as a 16-bit PNG and as a coloured PNG, all
of the picture's size and in base64, and for each class its pixels and its median depth.

`PillowCodecs` does it as a tutorial would, `OurCodecs` with the functions of `service/images.py`, and takes the figures
of classes at the size of the canvas, as the service does. The environment chooses: `PEER_CODECS` is `pillow` or `ours`,
`PEER_MODEL` is an ONNX file, or `free` for answers that cost nothing, `PEER_THREADS` are those of the network,
`PEER_WORKERS` the processes that have one, where a server has such, and `PEER_BATCH` is the most pictures at once.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import maps
from service import images
from service.card import METADATA_KEY
from service.engine import read_card
from service.measures import pixels_of
from service.settings import BUNDLED_MODEL

BATCH = int(os.environ.get("PEER_BATCH", "8"))
WORKERS = int(os.environ.get("PEER_WORKERS", "1"))
CLASSES = 40
Canvas = NDArray[np.uint8]
Maps = tuple[NDArray[np.uint8], NDArray[np.uint16]]
"""Labels and depth in mm."""


class Model:
    """Gives labels and depth of pictures, uint8 [N, h, w, 3]."""

    sizes: list[tuple[int, int]]

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("PEER_THREADS", "0"))
        self._session = onnxruntime.InferenceSession(
            os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        card = json.loads(self._session.get_modelmeta().custom_metadata_map[METADATA_KEY])
        self.sizes = [(height, width) for height, width in card["input"]["sizes"]]

    def __call__(self, pictures: Canvas) -> list[Maps]:
        labels, depth = self._session.run(["labels", "depth"], {"image": pictures})
        return list(zip(labels, depth, strict=True))


class FreeModel:
    """Always the same maps, already made, of the sizes that the bundled model has."""

    def __init__(self) -> None:
        self.sizes = read_card(BUNDLED_MODEL).input.sizes
        self._maps = {size: maps(size[1], size[0]) for size in self.sizes}

    def __call__(self, pictures: Canvas) -> list[Maps]:
        return [self._maps[pictures.shape[1:3]]] * len(pictures)  # type: ignore[index]


def load_model() -> Any:
    return FreeModel() if os.environ["PEER_MODEL"] == "free" else Model()


def run_batch(model: Any, decoded: list[Any]) -> list[Any]:
    """The maps of decoded pictures, (canvas, place) each, with their places: an array holds one size, here are two."""
    outputs: list[Any] = [None] * len(decoded)
    for shape in {canvas.shape for canvas, _ in decoded}:
        which = [i for i, (canvas, _) in enumerate(decoded) if canvas.shape == shape]
        for i, maps_of_one in zip(which, model(np.stack([decoded[i][0] for i in which])), strict=True):
            outputs[i] = (maps_of_one, decoded[i][1])
    return outputs


class PillowCodecs:
    """Open, convert, resize, save: each picture is stretched to the size whose orientation it has."""

    def decode(self, data: bytes, sizes: Any) -> tuple[Canvas, Any]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        height, width = max(sizes, key=lambda size: (size[0] > size[1]) == (image.height > image.width))
        return np.asarray(image.resize((width, height))), image.size

    def encode(self, maps: Maps, size: Any) -> dict[str, Any]:
        labels = np.asarray(Image.fromarray(maps[0]).resize(size, Image.Resampling.NEAREST))
        depth = np.asarray(Image.fromarray(maps[1]).resize(size, Image.Resampling.BILINEAR))
        mask = Image.fromarray(labels)
        mask.putpalette([channel for color in COLORS for channel in color])
        classes = classes_of(labels, depth, np.bincount(labels.ravel(), minlength=256))
        return answer(
            size, classes, _saved(mask), _saved(Image.fromarray(depth)), _saved(Image.fromarray(_RAMP[depth]))
        )


class OurCodecs:
    """The functions of `service/images.py`."""

    def __init__(self) -> None:
        model = os.environ["PEER_MODEL"]
        self._grey = read_card(BUNDLED_MODEL if model == "free" else Path(model)).input.grey

    def decode(self, data: bytes, sizes: Any) -> tuple[Canvas, Any]:
        return images.decode_to_canvas(data, 50_000_000, sizes, grey=self._grey)

    def encode(self, maps: Maps, box: Any) -> dict[str, Any]:
        labels, depth = images.unfit_nearest(maps[0], box), images.unfit_depth(maps[1], box)
        classes = classes_of(images.inside(maps[0], box), images.inside(maps[1], box), pixels_of(maps[0], box))
        color = images.depth_color_png(depth, 0.5, 10.0)
        return answer(box.size[::-1], classes, images.mask_png(labels, COLORS), images.depth_png(depth), color)


def load_codecs() -> Any:
    return OurCodecs() if os.environ["PEER_CODECS"] == "ours" else PillowCodecs()


def classes_of(labels: Canvas, depth: NDArray[np.uint16], pixels: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "id": int(id_),
            "pixels": int(pixels[id_]),
            "median_depth_m": float(np.median(depth[labels == id_])) / 1000,
        }
        for id_ in np.unique(labels)
    ]


def answer(size: tuple[int, int], classes: list[Any], mask: bytes, depth: bytes, color: bytes) -> dict[str, Any]:
    """Of a size (width, height)."""
    files = {"mask_png": mask, "depth_png": depth, "color_png": color}
    return {
        "width": size[0],
        "height": size[1],
        "classes": classes,
        **{name: base64.b64encode(data).decode() for name, data in files.items()},
    }


def _saved(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


COLORS = [tuple(int(c) for c in color) for color in np.random.default_rng(0).integers(0, 256, (CLASSES, 3))]
_NEAR = 1 - (np.arange(65536) / 10_000).clip(0, 1)
_RAMP = np.stack([255 * _NEAR, 255 * np.sin(np.pi * _NEAR), 255 * (1 - _NEAR)], 1).astype(np.uint8)
