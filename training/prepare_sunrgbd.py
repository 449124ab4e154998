"""SUN RGB-D (Song et al., CVPR 2015): `SUNRGBD/` and `SUNRGBDtoolbox/` to a data set folder.

    SUNRGBD/{kv1,kv2,realsense,xtion}/.../SAMPLE/{image,depth,depth_bfx,intrinsics.txt}
    SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat        alltrain, alltest: the samples' paths
    SUNRGBDtoolbox/Metadata/SUNRGBDMeta.mat             rgbpath: the samples in the order of the labels
    SUNRGBDtoolbox/Metadata/SUNRGBD2Dseg.mat            7.3: SUNRGBD2Dseg/seglabel, references to uint8 (width, height)

The JPEG files are copied as they are. A depth value is `(d >> 3) | (d << 13)` in 16 bits, which is millimetres; beyond
8 m the toolbox clips, and so does this.
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from model.classes import IGNORE, SUN37
from training.data import DataError
from training.prepare_folder import FolderWriter, announce, make_splits
from training.prepare_matlab import load_old_mat, open_mat73, read_hdf

CAMERAS = ("kv1", "kv2", "realsense", "xtion")
META_NAMES = ("SUNRGBDMeta.mat", "SUNRGBDMeta2DBB_v2.mat", "SUNRGBDMeta3DBB_v2.mat")
MAX_DEPTH_MM = 8000
BLOCK = 20
"""`val` is drawn in blocks of so many neighbours in the order of paths: neighbours are often of one room."""

LABEL_TO_CLASS = np.array([IGNORE, *range(len(SUN37))], np.uint8)


def decode_depth(stored: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The stored 16 bits, rotated by 3, are millimetres; 0 = invalid; clipped at 8 m."""
    millimetres: NDArray[np.uint16] = np.minimum((stored >> 3) | (stored << 13), np.uint16(MAX_DEPTH_MM))
    return millimetres


def sample_path(official: str) -> str:
    """`/n/fs/sun3d/data/SUNRGBD/kv2/x/y/` to `SUNRGBD/kv2/x/y`."""
    parts = PurePosixPath(official.strip()).parts
    return "/".join(parts[parts.index("SUNRGBD") :]) if "SUNRGBD" in parts else "/".join(parts)


def strings(values: Any) -> list[str]:
    """The strings of a MATLAB cell array, however deep scipy has wrapped them."""
    flat = np.asarray(values, dtype=object).reshape(-1)
    return [value if isinstance(value, str) else str(np.asarray(value).reshape(-1)[0]) for value in flat]


def read_meta(root: Path) -> list[tuple[str, str]]:
    """The sample and the file name of its picture, in the order of the labels."""
    folder = root / "SUNRGBDtoolbox" / "Metadata"
    path = next((folder / name for name in META_NAMES if (folder / name).is_file()), folder / META_NAMES[0])
    meta = np.asarray(load_old_mat(path, ("SUNRGBDMeta",))["SUNRGBDMeta"]).reshape(-1)
    if meta.dtype.names is None or "rgbpath" not in meta.dtype.names:
        raise DataError(f"{path}: 'SUNRGBDMeta' has no field 'rgbpath'")
    paths = [PurePosixPath(text) for text in strings(meta["rgbpath"])]
    return [(sample_path(str(p.parent.parent)), p.name) for p in paths]


def read_split(root: Path) -> tuple[list[str], list[str]]:
    """The samples of the official training and test split."""
    path = root / "SUNRGBDtoolbox" / "traintestSUNRGBD" / "allsplit.mat"
    content = load_old_mat(path, ("alltrain", "alltest"))
    train, test = ([sample_path(p) for p in strings(content[name])] for name in ("alltrain", "alltest"))
    for name, samples in (("alltrain", train), ("alltest", test)):
        if not samples:
            raise DataError(f"{path}: '{name}' is empty")
    if len(set(train + test)) != len(train) + len(test):
        raise DataError(f"{path}: a sample is in the splits twice")
    return train, test


def only_file(folder: Path, preferred: str, suffixes: tuple[str, ...]) -> Path:
    """The preferred file of a folder, or the one that it holds."""
    if (folder / preferred).is_file():
        return folder / preferred
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in suffixes)
    if len(found) != 1:
        raise DataError(f"{folder}: {len(found)} files {' or '.join(suffixes)}, expected one")
    return found[0]


def read_intrinsics(path: Path) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy from the nine numbers of a 3x3 matrix."""
    try:
        numbers = [float(word) for word in path.read_text(encoding="utf-8").split()]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a 3x3 matrix ({error})") from None
    if len(numbers) != 9 or not (numbers[0] > 0 and numbers[4] > 0):
        raise DataError(f"{path}: not a camera's 3x3 matrix")
    return numbers[0], numbers[4], numbers[2], numbers[5]


def read_sample(folder: Path, picture_name: str, depth: str) -> tuple[bytes, tuple[int, int], NDArray[np.uint16]]:
    """The encoded picture, its height and width, and its depth in millimetres."""
    image_path = only_file(folder / "image", picture_name, (".jpg",))
    depth_path = only_file(folder / {"filled": "depth_bfx", "raw": "depth"}[depth], "", (".png",))
    path = image_path
    try:
        encoded = image_path.read_bytes()
        with Image.open(io.BytesIO(encoded)) as picture:
            picture.load()  # a truncated file shows here
            size = picture.height, picture.width
            if picture.format != "JPEG" or picture.mode != "RGB":
                raise DataError(f"{path}: {picture.format} {picture.mode}, expected JPEG RGB")
        path = depth_path
        with Image.open(path) as picture:
            if picture.mode != "I;16":
                raise DataError(f"{path}: pixel mode {picture.mode}, expected 16 bits (I;16)")
            stored = np.asarray(picture, dtype=np.uint16)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if stored.shape != size:
        raise DataError(
            f"{depth_path}: {stored.shape[1]}x{stored.shape[0]} pixels, its picture has {size[1]}x{size[0]}"
        )
    return encoded, size, decode_depth(stored)


def _transposed(file: Any, reference: Any) -> NDArray[Any]:
    return np.asarray(file[reference]).T


def prepare_sunrgbd(
    root: Path, out: Path, depth: str = "filled", val: float = 0.05, seed: int = 0, progress: bool = False
) -> None:
    """Writes the folder, or what is missing of it. Arguments as on the command line (`training/prepare.py`).

    Raises:
        DataError: official files that are missing, damaged or not what they should be; a folder of other settings.
    """
    if not (root / "SUNRGBD").is_dir():
        raise DataError(f"{root}: has no folder SUNRGBD; give the folder that holds SUNRGBD and SUNRGBDtoolbox")
    train, test = read_split(root)
    meta = read_meta(root)
    index_of = {sample: i for i, (sample, _) in enumerate(meta)}
    names: dict[str, str] = {}
    for sample in sorted(train + test):
        if sample not in index_of:
            raise DataError(f"{root}: {sample} is in allsplit.mat, not in SUNRGBDMeta.mat")
        camera = sample.split("/")[1] if "/" in sample else ""
        if camera not in CAMERAS:
            raise DataError(f"{root}: {sample}: '{camera}' is none of the cameras {', '.join(CAMERAS)}")
        if not (root / sample).is_dir():
            raise DataError(f"{root / sample}: no such folder")
        names[sample] = "_".join(sample.split("/")[1:])
    if len(set(names.values())) != len(names):
        raise DataError(f"{root}: two samples would get one name")
    in_order = sorted(train)
    blocks = {sample: i // BLOCK for i, sample in enumerate(in_order)}
    intrinsics = {names[sample]: read_intrinsics(root / sample / "intrinsics.txt") for sample in names}
    parts = make_splits(
        [names[s] for s in in_order], [names[s] for s in sorted(test)], [blocks[s] for s in in_order], val, seed
    )

    seg_path = root / "SUNRGBDtoolbox" / "Metadata" / "SUNRGBD2Dseg.mat"
    with open_mat73(seg_path) as file:
        if "SUNRGBD2Dseg" not in file or "seglabel" not in file["SUNRGBD2Dseg"]:
            raise DataError(f"{seg_path}: variable 'SUNRGBD2Dseg/seglabel' is missing")
        references = read_hdf(seg_path, "'seglabel'", lambda: file["SUNRGBD2Dseg"]["seglabel"][()].reshape(-1))
        if len(references) != len(meta):
            raise DataError(f"{seg_path}: {len(references)} label maps, SUNRGBDMeta.mat has {len(meta)} samples")
        settings = {"source": "sunrgbd", "depth": depth, "val": val, "seed": seed}
        settings |= {"seg_bytes": seg_path.stat().st_size, "count": len(names)}
        writer = FolderWriter(out, settings, ".jpg")
        if progress:
            print(announce(parts, val, seed, f"blocks of {BLOCK}"))
        for sample, name in tqdm(names.items(), unit="picture", disable=not progress, dynamic_ncols=True):
            if writer.has(name):
                continue
            index = index_of[sample]
            encoded, size, millimetres = read_sample(root / sample, meta[index][1], depth)
            where = f"label map {index + 1} ({sample})"
            reference = references[index]
            stored = read_hdf(seg_path, where, partial(_transposed, file, reference))
            if stored.shape != size:
                raise DataError(f"{seg_path}: {where} has shape {stored.shape}, its picture {size}")
            if stored.dtype.kind != "u" or stored.max(initial=0) >= len(LABEL_TO_CLASS):
                held = f"holds {stored.max(initial=0)} ({stored.dtype})"
                raise DataError(f"{seg_path}: {where} {held}, expected 0 to {len(SUN37)}")
            writer.write(name, encoded, LABEL_TO_CLASS[stored], millimetres)
    writer.finish(
        name="SUN RGB-D",
        license="research only (SUN RGB-D, Song et al., CVPR 2015)",
        description=f"{len(train)} training and {len(test)} test pictures, 37 classes, {depth} depth.",
        classes=SUN37,
        splits=parts,
        intrinsics=intrinsics,
        cameras={name: sample.split("/")[1] for sample, name in names.items()},
    )
