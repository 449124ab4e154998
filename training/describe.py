"""What a training says of its data, and learns from it before it begins: names, licences, depth ranges, frequencies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import Checkpoint, sets_of
from model.classes import IGNORE
from training.augment import Picture
from training.data import DatasetInfo, FolderDataset, joined


def digest_of(info: DatasetInfo, split: str) -> str:
    """What tells a data set from another of its name: the split's pictures, their cameras, and the kind of depth."""
    names = info.splits[split]
    content = [info.depth_kind, names, [info.intrinsics.get(name) for name in names]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def describe_data(infos: list[DatasetInfo], split: str, former: Checkpoint | None) -> dict[str, Any]:
    """What a checkpoint says of the data: of one data set; of several, what they are together, and each in `sets`.

    The depth ranges are those that a former run measured, where there is one.
    """

    def describe(info: DatasetInfo, then: dict[str, Any] | None) -> dict[str, Any]:
        low, high = (
            (then["min_depth_m"], then["max_depth_m"]) if then else measure_depth_range(FolderDataset(info, split))
        )
        return {
            "name": info.name,
            "license": info.license,
            "attribution": info.attribution,
            "pictures": len(info.splits[split]),
            "min_depth_m": low,
            "max_depth_m": high,
        }

    then = former.info["data"] if former else None
    data = describe(joined(infos), then)
    if len(infos) == 1:
        return data | {"digest": digest_of(infos[0], split)}
    sets = sets_of(then) if then else [None] * len(infos)
    data["sets"] = [
        describe(info, one) | {"digest": digest_of(info, split)} for info, one in zip(infos, sets, strict=True)
    ]
    return data


def some_pictures(dataset: FolderDataset, pictures: int) -> Iterator[Picture]:
    """Up to so many pictures of a split, spread evenly, as they are on disk."""
    for i in np.linspace(0, len(dataset) - 1, min(pictures, len(dataset))).astype(int):
        yield dataset.read(dataset.names[i])


def measure_depth_range(dataset: FolderDataset, pictures: int = 200) -> tuple[float, float]:
    """1st and 99th percentile, in metres, of the valid depth in a sample of the split: for display, not for losses."""
    values = []
    for picture in some_pictures(dataset, pictures):
        depth = picture.depth[::8, ::8]
        values.append(depth[depth > 0])
    pooled = np.concatenate(values)
    if not pooled.size:
        return 0.0, 10.0
    low, high = (round(float(value), 2) for value in np.percentile(pooled, (1, 99)) / 1000)
    # Never empty, as of a wall that is filmed from the front, and within what 16 bits can say.
    return min(low, 65.52), min(max(high, low + 0.01), 65.53)


def class_weights(dataset: FolderDataset, power: float, pictures: int = 500) -> Tensor:
    """Weights of the classes: (1 / frequency)^power in a sample of the split, 1 on average over its pixels.

    A class that hardly occurs counts as one in 10,000 pixels: beyond that, a weight would only be noise.
    """
    classes = len(dataset.info.classes)
    counts = np.zeros(classes)
    for picture in some_pictures(dataset, pictures):
        label = picture.label
        counts += np.bincount(label[label != IGNORE], minlength=classes)
    frequency = counts / max(1.0, counts.sum())
    weights = frequency.clip(1e-4) ** -power
    return torch.from_numpy(weights / max((weights * frequency).sum(), 1e-12)).float()
