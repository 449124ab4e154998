"""The JSON answers, as pydantic models, and how `/predict`'s is put together."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from service import images
from service.card import Channel, ModelCard
from service.images import UInt8, UInt16


class ClassFound(BaseModel):
    """A class that is in the picture."""

    id: int
    name: str
    color: tuple[Channel, Channel, Channel]
    pixels: int
    fraction: Annotated[float, Field(description="Of all pixels.")]
    median_depth_m: Annotated[float | None, Field(description="Over pixels with valid depth; null without any.")]


class Segmentation(BaseModel):
    mask_png: Annotated[str, Field(description="Base64 of a palette PNG: pixel = class id, palette = class colours.")]
    classes: Annotated[list[ClassFound], Field(description="Those present, largest first.")]


class Depth(BaseModel):
    depth_png: Annotated[str, Field(description="Base64 of a 16-bit grey PNG in millimetres, 0 = invalid.")]
    color_png: Annotated[
        str,
        Field(
            description="Base64 of a palette PNG for people: the range of the model card in 255 steps, near is "
            "bright, invalid is black."
        ),
    ]
    unit: Literal["mm"] = "mm"
    invalid: Literal[0] = 0
    min_m: Annotated[float | None, Field(description="Over pixels with valid depth; null without any.")]
    max_m: Annotated[float | None, Field(description="Over pixels with valid depth; null without any.")]


class ModelUsed(BaseModel):
    name: str
    version: str
    network: str
    backbone: str
    provider: Annotated[str, Field(description="The ONNX Runtime execution provider.")]


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
    model: ModelUsed
    timing_ms: Timing


class Live(BaseModel):
    status: Literal["live"] = "live"


class Ready(BaseModel):
    status: Literal["ready"] = "ready"
    provider: str


def segmentation(labels: UInt8, depth: UInt16, card: ModelCard) -> Segmentation:
    """From labels and depth in mm, both [H, W] of the uploaded picture's size."""
    # Pillow counts bytes as they are; numpy's bincount would first make 8 bytes of each.
    counts = Image.fromarray(labels).histogram()
    found = []
    for info in card.classes:
        if pixels := counts[info.id]:
            of_class = depth[(labels == info.id) & (depth != images.INVALID_DEPTH)]
            median_m = round(float(np.median(of_class)) / 1000, 4) if of_class.size else None
            fraction = round(pixels / labels.size, 6)
            found.append(
                ClassFound(
                    id=info.id,
                    name=info.name,
                    color=info.color,
                    pixels=pixels,
                    fraction=fraction,
                    median_depth_m=median_m,
                )
            )
    found.sort(key=lambda c: -c.pixels)
    return Segmentation(mask_png=_base64(images.mask_png(labels, colors(card))), classes=found)


def depth_answer(depth: UInt16, card: ModelCard) -> Depth:
    """From depth in mm, [H, W]."""
    valid = depth[depth != images.INVALID_DEPTH]
    return Depth(
        depth_png=_base64(images.depth_png(depth)),
        color_png=_base64(images.depth_color_png(depth, card.depth.min_m, card.depth.max_m)),
        min_m=int(valid.min()) / 1000 if valid.size else None,
        max_m=int(valid.max()) / 1000 if valid.size else None,
    )


def model_used(card: ModelCard, provider: str) -> ModelUsed:
    return ModelUsed(
        name=card.name, version=card.version, network=card.network, backbone=card.backbone, provider=provider
    )


def colors(card: ModelCard) -> list[images.Color]:
    """The classes' colours, by id."""
    return [info.color for info in card.classes]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
