"""Masks as COCO's run lengths (Lin et al., "Microsoft COCO", ECCV 2014), with the depth of every class.

`counts` is COCO's compressed string, which `pycocotools.mask.decode` reads as it is: run lengths of 0 and 1 in turn,
down the columns from the left, beginning with 0; from the fourth on as the difference to the one before the last; in
groups of 5 bits, lowest first, with a sixth bit for "more follows", plus 48.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from service import measures
from service.answers import CameraUsed, camera_used
from service.arrays import UInt8
from service.maps import Maps

Int64 = NDArray[np.int64]


class Rle(BaseModel):
    """A mask in COCO's compressed run lengths."""

    size: Annotated[tuple[int, int], Field(description="Height and width.")]
    counts: Annotated[str, Field(description="COCO's compressed string.")]


class Info(BaseModel):
    description: Annotated[str, Field(description="`segdepth`, and the model's name and version.")]


class Annotation(BaseModel):
    """One class that is in the picture."""

    id: int
    image_id: int = 1
    category_id: Annotated[int, Field(description="The class id, as in masks; it counts from 0.")]
    segmentation: Rle
    bbox: Annotated[tuple[int, int, int, int], Field(description="x, y, width and height in pixels.")]
    area: Annotated[int, Field(description="In pixels.")]
    iscrowd: int = 0
    median_depth_m: Annotated[float | None, Field(description="Null without valid depth.")]


class Image(BaseModel):
    id: int = 1
    width: int
    height: int
    camera: Annotated[CameraUsed, Field(description="What its depths are for.")]


class Category(BaseModel):
    id: int
    name: str


class Coco(BaseModel):
    """A COCO document of one picture: one annotation for each class that is in it, largest first."""

    info: Info
    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]


class Mask(NamedTuple):
    """The mask of one class: COCO's string, x, y, width and height of its box, and its number of pixels."""

    counts: str
    bbox: tuple[int, int, int, int]
    area: int


def document(maps: Maps) -> Coco:
    """The document of one picture. Without `file_name`, which only the caller knows."""
    height, width = maps.box.size
    measured = measures.measure(maps).classes
    found = sorted(masks(maps.labels).items(), key=lambda item: -item[1].area)
    return Coco(
        info=Info(description=f"segdepth {maps.card.name} {maps.card.version}"),
        images=[Image(width=width, height=height, camera=camera_used(maps))],
        annotations=[
            Annotation(
                id=k,
                category_id=id_,
                segmentation=Rle(size=maps.box.size, counts=mask.counts),
                bbox=mask.bbox,
                area=mask.area,
                median_depth_m=round(measured[id_].median_m, 4) if id_ in measured else None,
            )
            for k, (id_, mask) in enumerate(found, start=1)
        ],
        categories=[Category(id=info.id, name=info.name) for info in maps.card.classes],
    )


def masks(labels: UInt8) -> dict[int, Mask]:
    """The masks of all classes in uint8 [H, W], by id."""
    height = labels.shape[0]
    pixels = labels.T.ravel()
    cuts = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    starts, ends = np.concatenate(([0], cuts)), np.concatenate((cuts, [pixels.size]))
    ids = pixels[starts]
    found = {}
    for id_ in np.unique(ids):
        own = ids == id_
        found[int(id_)] = _mask(starts[own], ends[own], height, pixels.size)
    return found


def _mask(starts: Int64, ends: Int64, height: int, size: int) -> Mask:
    """From the runs of a class, [start, end), in a picture that is read down its columns."""
    counts = np.empty(2 * len(starts), np.int64)
    counts[0::2] = starts - np.concatenate(([0], ends[:-1]))
    counts[1::2] = ends - starts
    if ends[-1] < size:
        counts = np.append(counts, size - ends[-1])
    last = ends - 1
    left, right = int(starts[0]) // height, int(last[-1]) // height
    # A run over the end of a column has the bottom and the top pixel.
    one_column = starts // height == last // height
    top = int(np.where(one_column, starts % height, 0).min())
    bottom = int(np.where(one_column, last % height, height - 1).max())
    box = (left, top, right - left + 1, bottom - top + 1)
    return Mask(compress(counts), box, int((ends - starts).sum()))


def compress(counts: Int64) -> str:
    """Run lengths as COCO's string."""
    values = counts.copy()
    values[3:] -= counts[1:-2]
    groups = []
    alive = np.ones(len(values), bool)
    while alive.any():
        low = values & 31
        values = values >> 5
        # Bit 4 is the sign of what is left out.
        more = np.where(low & 16, values != -1, values != 0)
        groups.append(np.where(alive, low + 32 * more + 48, 0))
        alive &= more
    characters: UInt8 = np.stack(groups, axis=1).astype(np.uint8)
    return bytes(characters[characters != 0]).decode("ascii")
