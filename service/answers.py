"""The JSON answers, as pydantic models, and how `/predict`'s is put together."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pybase64
from pydantic import BaseModel, Field

from service import measures
from service.cameras import Source
from service.card import Channel
from service.maps import Maps
from service.measures import Measure, Measures
from service.outputs import Options, Picture

PICTURES: dict[Picture, str] = {"mask": "mask_png", "depth": "depth_png", "depth_color": "color_png"}
"""Those in the JSON answer, and where: fields, in their order there."""


class NearestPoint(BaseModel):
    """A pixel of the picture, from its left and its top edge, and how far away it is."""

    u: int
    v: int
    depth_m: float


class ClassFound(BaseModel):
    """A class that is in the picture."""

    id: int
    name: str
    color: tuple[Channel, Channel, Channel]
    pixels: int
    fraction: Annotated[float, Field(description="Of all pixels.")]
    median_depth_m: Annotated[
        float | None,
        Field(
            description="Over pixels with valid depth, null without any; like the figures below, taken at the size at "
            "which the network saw the picture."
        ),
    ]
    p5_depth_m: Annotated[float | None, Field(description="5 of 100 pixels are nearer.")]
    p95_depth_m: Annotated[float | None, Field(description="5 of 100 pixels are farther away.")]
    nearest: NearestPoint | None
    area_m2: Annotated[
        float,
        Field(
            description="What is visible, as an area that faces the camera: the sum of depth^2 / (fx fy) over pixels "
            "with valid depth. A surface seen at a slant is larger."
        ),
    ]


class Segmentation(BaseModel):
    mask_png: Annotated[
        str | None,
        Field(
            description="Base64 of a palette PNG: pixel = class id, palette = class colours. Null with pictures=false."
        ),
    ]
    classes: Annotated[list[ClassFound], Field(description="Those present, largest first.")]
    unreliable_fraction: Annotated[
        float | None, Field(description="Of all pixels, those below min_confidence; null where that is not given.")
    ]


class Depth(BaseModel):
    depth_png: Annotated[
        str | None,
        Field(description="Base64 of a 16-bit grey PNG in millimetres, 0 = invalid. Null with pictures=false."),
    ]
    color_png: Annotated[
        str | None,
        Field(
            description="Base64 of a palette PNG for people: the range of the model card in 255 steps, near is "
            "bright, invalid is black. Null with pictures=false."
        ),
    ]
    unit: Literal["mm"] = "mm"
    invalid: Literal[0] = 0
    min_m: Annotated[float | None, Field(description="Over pixels with valid depth; null without any.")]
    max_m: Annotated[float | None, Field(description="Over pixels with valid depth; null without any.")]


class CameraUsed(BaseModel):
    """The intrinsics that depth is for, in pixels of the picture; pixel centres have whole coordinates."""

    fx: float
    fy: float
    cx: float
    cy: float
    hfov_deg: Annotated[float, Field(description="Degrees between the left and the right edge.")]
    source: Annotated[
        Source, Field(description="The request, the picture's EXIF, or neither: a focal length of 0.85 longer sides.")
    ]


class ModelUsed(BaseModel):
    name: str
    version: str
    network: str
    backbone: str
    provider: Annotated[
        str,
        Field(description="What the network ran on: ONNX Runtime's execution provider, or OpenVINO and its precision."),
    ]


class Timing(BaseModel):
    """Milliseconds. `total` counts from the complete upload, and includes waiting for a thread."""

    decode: float
    queue: float
    infer: float
    encode: float
    total: float


class Answer(BaseModel):
    """Masks and depth of the size of the uploaded picture, as seen upright."""

    width: int
    height: int
    segmentation: Segmentation
    depth: Depth
    camera: CameraUsed
    model: ModelUsed
    timing_ms: Timing


class Live(BaseModel):
    status: Literal["live"] = "live"


class Ready(BaseModel):
    status: Literal["ready"] = "ready"
    provider: str
    engines: dict[str, int] = Field(description="How many there are, by state: `loading`, `ready` or `lost`.")


@dataclass(frozen=True)
class Trace:
    """What happened to a request before its answer is made: times of `time.perf_counter`, and seconds."""

    start: float
    decode_s: float
    queue_s: float
    infer_s: float
    encode_start: float
    provider: str

    def timing(self) -> Timing:
        """Until now."""
        now = time.perf_counter()
        seconds = (self.decode_s, self.queue_s, self.infer_s, now - self.encode_start, now - self.start)
        decode, queue, infer, encode, total = (round(1000 * value, 3) for value in seconds)
        return Timing(decode=decode, queue=queue, infer=infer, encode=encode, total=total)


def answer(maps: Maps, options: Options, trace: Trace) -> Answer:
    """The JSON answer without pictures."""
    measured = measures.measure(maps)
    return Answer(
        width=maps.box.size[1],
        height=maps.box.size[0],
        segmentation=Segmentation(
            mask_png=None,
            classes=_classes(maps, measured),
            unreliable_fraction=_unreliable_fraction(maps, options),
        ),
        depth=Depth(
            depth_png=None,
            color_png=None,
            min_m=measured.min_m,
            max_m=measured.max_m,
        ),
        camera=camera_used(maps),
        model=ModelUsed(
            name=maps.card.name,
            version=maps.card.version,
            network=maps.card.network,
            backbone=maps.card.backbone,
            provider=trace.provider,
        ),
        timing_ms=trace.timing(),
    )


def with_pictures(answer: bytes, pngs: Mapping[Picture, bytes]) -> bytes:
    """An `Answer` as JSON, with all of `PICTURES` in it. In its model they would be copied and searched for characters
    to escape, time and again, which took longer than to deflate the mask."""
    parts = []
    for name, field in PICTURES.items():
        # No name of a class can look like this: in it the quotation marks are escaped.
        before, _, answer = answer.partition(b'"%s":null' % field.encode())
        parts += [before, b'"%s":"' % field.encode(), pybase64.b64encode(pngs[name]), b'"']
    return b"".join([*parts, answer])


def _classes(maps: Maps, measured: Measures) -> list[ClassFound]:
    counts = measures.pixels_of(maps.canvas.labels, maps.box)
    found = []
    for info in maps.card.classes:
        if pixels := counts[info.id]:
            own: Measure | None = measured.classes.get(info.id)
            found.append(
                ClassFound(
                    id=info.id,
                    name=info.name,
                    color=info.color,
                    pixels=pixels,
                    fraction=round(pixels / math.prod(maps.box.size), 6),
                    median_depth_m=round(own.median_m, 4) if own else None,
                    p5_depth_m=round(own.p5_m, 4) if own else None,
                    p95_depth_m=round(own.p95_m, 4) if own else None,
                    nearest=NearestPoint(**own.nearest._asdict()) if own else None,
                    area_m2=round(own.area_m2, 4) if own else 0.0,
                )
            )
    return sorted(found, key=lambda one: -one.pixels)


def _unreliable_fraction(maps: Maps, options: Options) -> float | None:
    if options.min_confidence is None:
        return None
    _, unreliable, *_ = measures.pixels_of((maps.canvas.confidence < options.least_confidence).view(np.uint8), maps.box)
    return round(unreliable / math.prod(maps.box.size), 6)


def camera_used(maps: Maps) -> CameraUsed:
    """As an answer has it."""
    camera = maps.camera
    return CameraUsed(
        fx=round(camera.fx, 4),
        fy=round(camera.fy, 4),
        cx=round(camera.cx, 4),
        cy=round(camera.cy, 4),
        hfov_deg=round(camera.hfov_deg(maps.box.size[1]), 4),
        source=camera.source,
    )
