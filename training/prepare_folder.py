"""What both official data sets share: the folder that is written, depth in whole millimetres, and the `val` split."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.classes import ClassSet
from training.data import DataError
from training.folder import atomic, clear_temporary, dataset_head, write_json

VERSION = 1
"""Raised when the same official files give other pictures, so that no folder is half of one and half of the other."""
MARKER = "prepare.json"  # there from the first picture on; dataset.json only once all are there


class FolderWriter:
    """Writes a data set folder picture by picture; what is there already is kept.

    Args:
        out: The folder: new, empty, or of a former run with the same settings.
        settings: All that decides what is written, JSON-able.
        suffix: Of the pictures, ".png" or ".jpg".

    Raises:
        DataError: the folder holds something else, or was made with other settings.
    """

    def __init__(self, out: Path, settings: dict[str, Any], suffix: str) -> None:
        self.out = out
        self.settings = {"version": VERSION, **settings}
        self.suffix = suffix
        marker = out / MARKER
        if out.exists() and not out.is_dir():
            raise DataError(f"{out} is not a folder")
        if marker.exists():
            try:
                former = json.loads(marker.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise DataError(f"{marker}: cannot be read ({error})") from None
            for key in sorted(former.keys() | self.settings.keys()):
                if former.get(key) != self.settings.get(key):
                    change = f"{key} {former.get(key)!r}, not {self.settings.get(key)!r}"
                    raise DataError(f"{out} was begun with {change}; give another --out")
        elif out.exists() and any(not path.name.endswith(".tmp") for path in out.iterdir()):
            raise DataError(f"{out} is not empty and was not made by training.prepare; give another --out")
        with named(out):
            for folder in ("images", "labels", "depth"):
                (out / folder).mkdir(parents=True, exist_ok=True)
            clear_temporary(out)
        with named(marker):
            write_json(marker, self.settings)

    def files(self, name: str) -> tuple[Path, Path, Path]:
        """Where picture, labels and depth go."""
        image = self.out / "images" / f"{name}{self.suffix}"
        return image, self.out / "labels" / f"{name}.png", self.out / "depth" / f"{name}.png"

    def has(self, name: str) -> bool:
        return all(path.exists() for path in self.files(name))

    def write(
        self,
        name: str,
        image: NDArray[np.uint8] | bytes,
        label: NDArray[np.uint8],
        depth: NDArray[np.uint16],
    ) -> None:
        """One picture, each file whole or not at all. An image given as bytes is an encoded file, kept as it is."""
        image_path, label_path, depth_path = self.files(name)
        with named(image_path), atomic(image_path) as path:
            if isinstance(image, bytes):
                path.write_bytes(image)
            elif self.suffix == ".jpg":
                Image.fromarray(image).save(path, "JPEG", quality=95, subsampling=0)
            else:
                Image.fromarray(image).save(path, "PNG", compress_level=3)  # a third of the time of 6, 10 % larger
        for path_, values in ((label_path, label), (depth_path, depth)):
            with named(path_), atomic(path_) as path:
                Image.fromarray(values).save(path, "PNG")

    def finish(
        self,
        *,
        name: str,
        license: str,
        description: str,
        classes: ClassSet,
        splits: dict[str, list[str]],
        intrinsics: dict[str, tuple[float, float, float, float]],
        cameras: dict[str, str] | None = None,
    ) -> None:
        """Writes dataset.json, which makes the folder a data set."""
        content = {
            **dataset_head(name, license, description, classes),
            "depth": {"unit": "mm", "invalid": 0, "kind": self.settings["depth"]},
            "splits": splits,
            "intrinsics": intrinsics,
            **({"cameras": cameras} if cameras else {}),
            "prepared": self.settings,
        }
        with named(self.out / "dataset.json"):
            write_json(self.out / "dataset.json", content)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Names the file that could not be written in the error."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error})") from None


# ------------------------------------------------------------------------------------------------------------ splits


def make_splits(
    train: Sequence[str], test: Sequence[str], groups: Sequence[Hashable], val: float, seed: int
) -> dict[str, list[str]]:
    """`train`, `val`, `trainval` and `test`; only `train` and `test` for `val` = 0.

    Groups (scenes) are drawn whole, so that no room is on both sides: two pictures of one room are nearly the
    same. They are drawn in random order until another would lead farther from the fraction asked for than it helps.

    Args:
        groups: The group of each picture of `train`.
    """
    if not val:
        return {"train": list(train), "test": list(test)}
    members: dict[Hashable, list[str]] = {}
    for name, group in zip(train, groups, strict=True):
        members.setdefault(group, []).append(name)
    wanted = val * len(train)
    chosen: set[str] = set()
    keys = list(members)
    for i in np.random.default_rng(seed).permutation(len(keys)):
        group_members = members[keys[i]]
        if abs(len(chosen) + len(group_members) - wanted) < abs(len(chosen) - wanted):
            chosen.update(group_members)
    if not 0 < len(chosen) < len(train):
        raise DataError(f"--val {val}: of {len(train)} training pictures that would hold out {len(chosen)}")
    return {
        "train": [name for name in train if name not in chosen],
        "val": [name for name in train if name in chosen],
        "trainval": list(train),
        "test": list(test),
    }


def announce(splits: dict[str, list[str]], val: float, seed: int, unit: str) -> str:
    """One line on what the splits are."""
    counts = ", ".join(f"{split} {len(names)}" for split, names in splits.items())
    if "val" not in splits:
        return f"splits: {counts}; no val (--val 0)"
    return (
        f"splits: {counts}; val is --val {val} of the official training pictures, whole {unit} drawn with seed {seed}"
    )


def to_millimetres(metres: NDArray[np.floating[Any]], where: str) -> NDArray[np.uint16]:
    """Metres to whole millimetres; what is not a number or not positive becomes 0 = invalid.

    Raises:
        DataError: beyond the 65.535 m that fit, so it was not metres.
    """
    values = np.where(np.isfinite(metres) & (metres > 0), metres, 0).astype(np.float64)
    if values.max(initial=0) > 65.535:
        raise DataError(f"{where}: depth {values.max():.1f} where metres were expected")
    return np.round(values * 1000).astype(np.uint16)
