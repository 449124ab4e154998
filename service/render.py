"""The last step of a request: its maps as what it wants to have."""

from __future__ import annotations

from typing import get_args

import numpy as np

from service import answers, coco, containers, images, png, points
from service.answers import Trace
from service.arrays import UInt8
from service.containers import Part
from service.maps import Maps
from service.outputs import JSON, MEDIA_TYPES, PNG, Options, Output, Picture, Rendered

# Without the overlay, for which the upload would be decoded once more; it is easily made of the picture and the mask.
COLLECTED: tuple[Picture, ...] = ("mask", "depth", "depth_color", "confidence")


def render(maps: Maps, output: Output, options: Options, trace: Trace) -> Rendered:
    """Make the answer. Not on the event loop: it may take as long as the network."""
    if output in get_args(Picture):
        return Rendered(picture(maps, output, options), PNG)
    match output:
        case "multipart":
            return containers.multipart(_collection(maps, options, trace))
        case "zip":
            body = containers.archive(_collection(maps, options, trace))
        case "npz":
            body = containers.npz(maps)
        case "ply":
            body = points.ply(points.cloud(maps, options), maps)
        case "glb":
            body = points.glb(points.cloud(maps, options), maps)
        case "coco":
            body = coco.document(maps).model_dump_json().encode()
        case _:
            body = _json(maps, options, trace)
    return Rendered(body, MEDIA_TYPES[output])


def picture(maps: Maps, output: Output, options: Options) -> bytes:
    """One PNG of the uploaded picture's size."""
    match output:
        case "mask":
            return images.mask_png(maps.labels, maps.colors)
        case "depth":
            return images.depth_png(maps.depth, maps.camera.as_text())
        case "depth_color":
            return images.depth_color_png(maps.depth, maps.card.depth.min_m, maps.card.depth.max_m)
        case "confidence":
            return png.encode(maps.confidence)
        case "unreliable":
            return png.encode(_unreliable(maps, options))
        case _:
            return images.overlay_png(maps.picture, maps.labels, maps.colors)


def _unreliable(maps: Maps, options: Options) -> UInt8:
    """uint8 [H, W]: 255 where the confidence is too low, else 0."""
    value = np.where(np.arange(256) < options.least_confidence, 255, 0).astype(np.uint8)
    return value[maps.confidence]


def _collection(maps: Maps, options: Options, trace: Trace) -> list[Part]:
    """metadata.json, the JSON answer without pictures, and the pictures."""
    names = COLLECTED if options.min_confidence is None else (*COLLECTED, "unreliable")
    pngs = [Part(f"{name}.png", PNG, picture(maps, name, options)) for name in names]
    metadata = answers.answer(maps, options, trace)
    return [Part("metadata.json", JSON, metadata.model_dump_json().encode()), *pngs]


def _json(maps: Maps, options: Options, trace: Trace) -> bytes:
    pngs = {name: picture(maps, name, options) for name in answers.PICTURES if options.pictures}
    answer = answers.answer(maps, options, trace).model_dump_json().encode()
    return answers.with_pictures(answer, pngs) if pngs else answer
