"""NYUD-v2 (Silberman et al., ECCV 2012): `nyu_depth_v2_labeled.mat` to a data set folder.

The file is MATLAB 7.3, so through HDF5 the axes are reversed: images (1449, 3, 640, 480), depths, rawDepths and labels
(1449, 640, 480). It is read a few pictures at a time, as its chunks lie, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.classes import IGNORE, NYU40
from training.data import DataError
from training.prepare_folder import FolderWriter, announce, make_splits, to_millimetres
from training.prepare_matlab import load_old_mat, open_mat73, read_hdf

INTRINSICS = (518.8579, 519.4696, 325.5824, 253.7362)
"""fx, fy, cx, cy of the colour camera, from the data set's toolbox; depth is registered to it."""
INTRINSICS_SIZE = (480, 640)

MAX_SLAB_BYTES = 64 * 2**20
MAX_CHUNK_BYTES = 256 * 2**20


class PictureReader:
    """Pictures of one variable, in order, from slabs that match the file's chunks.

    A chunk that spans several pictures would be decompressed anew for each of them; so as many are read at once,
    up to MAX_SLAB_BYTES. A chunk is decompressed whole, whatever is read of it: one beyond MAX_CHUNK_BYTES is refused.
    """

    def __init__(self, path: Path, name: str, data: Any) -> None:
        self.path, self.name, self.data = path, name, data
        chunk_bytes = int(np.prod(data.chunks)) * data.dtype.itemsize if data.chunks else 0
        if chunk_bytes > MAX_CHUNK_BYTES:
            raise DataError(
                f"{path}: '{name}' is stored in chunks of {chunk_bytes / 2**20:.0f} MiB; "
                "bring them down with: h5repack -l CHUNK=1x640x480 (or 1x3x640x480)"
            )
        picture_bytes = max(1, int(np.prod(data.shape[1:])) * data.dtype.itemsize)
        self.step = max(1, min(data.chunks[0] if data.chunks else 1, MAX_SLAB_BYTES // picture_bytes))
        self.first = 0
        self.slab: NDArray[Any] = np.empty((0, *data.shape[1:]), data.dtype)

    def __getitem__(self, index: int) -> NDArray[Any]:
        if not self.first <= index < self.first + len(self.slab):
            first = index - index % self.step
            self.slab = read_hdf(
                self.path, f"'{self.name}', picture {index + 1}", lambda: self.data[first : first + self.step]
            )
            self.first = first
        picture: NDArray[Any] = self.slab[index - self.first]
        return picture


def read_splits(path: Path, pictures: int) -> tuple[list[int], list[int]]:
    """Training and test pictures, counted from 1, in the order of the file."""
    content = load_old_mat(path, ("trainNdxs", "testNdxs"))
    parts = []
    for name in ("trainNdxs", "testNdxs"):
        numbers = np.asarray(content[name]).reshape(-1)
        if not numbers.size:
            raise DataError(f"{path}: '{name}' is empty")
        if numbers.min() < 1 or numbers.max() > pictures:
            raise DataError(
                f"{path}: '{name}' goes from {numbers.min()} to {numbers.max()}, the pictures from 1 to {pictures}"
            )
        parts.append([int(n) for n in numbers])
    train, test = parts
    if len(set(train + test)) != len(train) + len(test):
        raise DataError(f"{path}: a picture is in the splits twice")
    return train, test


def read_mapping(path: Path) -> NDArray[np.uint8]:
    """Class id by the label of the .mat (0 = void), from `classMapping40.mat`."""
    content = load_old_mat(path, ("mapClass", "className"))
    mapping = np.asarray(content["mapClass"]).reshape(-1)
    names = [str(np.asarray(name).reshape(-1)[0]) for name in np.asarray(content["className"]).reshape(-1)]
    names = ["refrigerator" if name == "refridgerator" else name for name in names]  # the file's own spelling
    if names != [c.name for c in NYU40]:
        different = next((f"'{a}' for '{b.name}'" for a, b in zip(names, NYU40, strict=False) if a != b.name), "")
        raise DataError(f"{path}: 'className' has {len(names)} names, not NYU's 40 in their order {different}".rstrip())
    if not mapping.size or mapping.min() < 1 or mapping.max() > len(NYU40):
        raise DataError(f"{path}: 'mapClass' must hold values from 1 to {len(NYU40)}")
    return np.concatenate([[IGNORE], mapping.astype(np.int64) - 1]).astype(np.uint8)


def read_scenes(path: Path, file: Any, pictures: int) -> list[str]:
    """The scene of each picture, as `kitchen_0004`."""
    if "scenes" not in file:
        raise DataError(f"{path}: variable 'scenes' is missing, by which --val is drawn; give --val 0")

    def read() -> list[str]:
        return ["".join(map(chr, file[ref][()].reshape(-1))) for ref in file["scenes"][()].reshape(-1)]

    scenes: list[str] = read_hdf(path, "'scenes'", read)
    if len(scenes) != pictures:
        raise DataError(f"{path}: 'scenes' has {len(scenes)} entries for {pictures} pictures")
    return scenes


def check_variables(path: Path, file: Any, depth_name: str) -> tuple[int, int, int]:
    """The number of pictures, their height and width, if the variables are there and fit together."""
    for name in ("images", depth_name, "labels"):
        if name not in file or not hasattr(file[name], "shape"):
            raise DataError(f"{path}: variable '{name}' is missing")
    shape = file["images"].shape
    if len(shape) != 4 or shape[1] != 3 or not all(shape):
        raise DataError(f"{path}: 'images' has shape {shape}, expected (pictures, 3, width, height)")
    count, _, width, height = shape
    for name in (depth_name, "labels"):
        if file[name].shape != (count, width, height):
            raise DataError(f"{path}: '{name}' has shape {file[name].shape}, expected {(count, width, height)}")
    kinds = {"images": "u", depth_name: "f", "labels": "u"}
    for name, kind in kinds.items():
        if file[name].dtype.kind != kind or (name == "images" and file[name].dtype.itemsize != 1):
            expected = {"images": "uint8", depth_name: "floating point"}.get(name, "unsigned integer")
            raise DataError(f"{path}: '{name}' is {file[name].dtype}, expected {expected}")
    return count, height, width


def prepare_nyud(
    mat: Path,
    splits: Path,
    classes: Path,
    out: Path,
    depth: str = "filled",
    pictures: str = "png",
    val: float = 0.05,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Writes the folder, or what is missing of it. Arguments as on the command line (`training/prepare.py`).

    Raises:
        DataError: official files that are missing, damaged or not what they should be; a folder of other settings.
    """
    depth_name = {"filled": "depths", "raw": "rawDepths"}[depth]
    mapping = read_mapping(classes)
    with open_mat73(mat) as file:
        count, height, width = check_variables(mat, file, depth_name)
        train, test = read_splits(splits, count)
        names = {number: f"{number:04d}" for number in sorted(train + test)}
        scenes = read_scenes(mat, file, count) if val else [""] * count
        parts = make_splits(
            [names[n] for n in train], [names[n] for n in test], [scenes[n - 1] for n in train], val, seed
        )
        readers = {name: PictureReader(mat, name, file[name]) for name in ("images", depth_name, "labels")}

        settings = {"source": "nyud", "depth": depth, "pictures": pictures, "val": val, "seed": seed}
        settings |= {"mat_bytes": mat.stat().st_size, "count": count, "size": [height, width]}
        writer = FolderWriter(out, settings, f".{pictures}")
        if progress:
            print(announce(parts, val, seed, "scenes"))
        for number in _bar(names, progress):
            if writer.has(names[number]):
                continue
            image = readers["images"][number - 1].transpose(2, 1, 0)
            label = readers["labels"][number - 1].T
            if label.max() >= len(mapping):
                largest = len(mapping) - 1
                raise DataError(f"{mat}: label {label.max()} in picture {number}, {classes} maps 1 to {largest}")
            metres = readers[depth_name][number - 1].T
            millimetres = to_millimetres(metres, f"{mat}: '{depth_name}', picture {number}")
            writer.write(names[number], np.ascontiguousarray(image), mapping[label], millimetres)
    writer.finish(
        name="NYUD-v2",
        license="research only (NYU Depth Dataset V2, Silberman et al., ECCV 2012)",
        description=f"{len(train)} training and {len(test)} test pictures, 40 classes, {depth} depth.",
        classes=NYU40,
        splits=parts,
        intrinsics=dict.fromkeys(names.values(), INTRINSICS) if (height, width) == INTRINSICS_SIZE else {},
    )


def _bar(names: dict[int, str], progress: bool) -> Iterator[int]:
    yield from tqdm(names, unit="picture", disable=not progress, dynamic_ncols=True)
