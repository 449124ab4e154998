"""Reads every file of a data set folder: what is wrong with it, what is odd, and what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model.classes import IGNORE
from training.data import PHOTO_ENDINGS, DataError, DatasetInfo, FolderDataset, read_info

PLAUSIBLE_M = (0.3, 15.0)
"""Where the median of the depth of rooms may lie; outside, the unit is probably not millimetres."""
SQUARE = 0.02
"""By how much fx and fy may differ; the service's bound is the same."""
MANY = 0.001
APART = (("train", "val"), ("train", "test"), ("val", "test"), ("trainval", "test"))
"""Splits that are to have nothing in common."""
MAX_ERRORS = 20


@dataclass
class Report:
    """What a check found; lines for people. With errors the folder cannot be used; warnings may be as intended."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)


def check_folder(root: Path, progress: bool = False) -> Report:
    """Checks the folder `root`.

    Raises:
        DataError: there is no `dataset.json`, or it cannot be used.
    """
    info = read_info(root)
    report = Report()
    names = sorted({name for split in info.splits.values() for name in split})
    _check_splits(info, report)
    _check_maps(info, names, report)
    if not names:
        return report

    dataset = FolderDataset(DatasetInfo(root, info.name, info.license, info.classes, {"all": names}, {}), "all")
    labels = np.zeros(256, np.int64)
    pictures_with = np.zeros(256, np.int64)
    depths = np.zeros(65536, np.int64)
    sizes: dict[tuple[int, int], int] = {}
    bad = squeezed = 0
    copies: dict[bytes, list[str]] = {}
    for name in tqdm(names, unit="picture", desc="check", disable=not progress, leave=False):
        try:
            picture = dataset.read(name)
        except DataError as error:
            bad += 1
            if bad <= MAX_ERRORS:
                report.errors.append(str(error))
            continue
        copies.setdefault(hashlib.sha256(picture.image.tobytes()).digest(), []).append(name)
        counts = np.bincount(picture.label.reshape(-1), minlength=256)
        labels += counts
        pictures_with += counts > 0
        depths += np.bincount(picture.depth.reshape(-1), minlength=65536)
        height, width = picture.label.shape
        sizes[width, height] = sizes.get((width, height), 0) + 1
        if not picture.depth.any():
            report.warnings.append(f"{name}: no valid depth at all")
        if (picture.label == IGNORE).all():
            report.warnings.append(f"{name}: no label at all")
        if name in info.intrinsics:
            fx, fy, cx, cy = info.intrinsics[name]
            if not (0 < cx < width and 0 < cy < height and width / 5 < fx < width * 5 and width / 5 < fy < width * 5):
                report.warnings.append(
                    f"{name}: intrinsics {info.intrinsics[name]} do not suit {width}x{height} pixels"
                )
            squeezed += abs(fy / fx - 1) > SQUARE
    _check_copies(info, copies.values(), report)
    if squeezed:
        report.warnings.append(
            f"the pixels of {squeezed} pictures are not square (fx and fy differ); the service makes them square, and "
            "training does not: give their photos, labels and depth their true proportions"
        )
    if bad > MAX_ERRORS:
        report.errors.append(f"... and {bad - MAX_ERRORS} more pictures")
    if sizes:
        _sum_up(info, report, sizes, labels, pictures_with, depths)
    if len(report.warnings) > MAX_ERRORS:
        more = len(report.warnings) - MAX_ERRORS
        report.warnings = [*report.warnings[:MAX_ERRORS], f"... and {more} more"]
    return report


def _check_splits(info: DatasetInfo, report: Report) -> None:
    path = info.root / "dataset.json"
    for split in ("train", "val", "test"):
        if not info.splits.get(split):
            report.warnings.append(
                f"split '{split}' is missing or empty; train.py needs train and val, evaluate.py test"
            )
    for split, names in info.splits.items():
        if len(set(names)) != len(names):
            report.errors.append(f"{path}: a picture is in split '{split}' twice")
    for first, second in APART:
        if both := set(info.splits.get(first, ())) & set(info.splits.get(second, ())):
            report.errors.append(f"{path}: {len(both)} pictures, as '{min(both)}', are in '{first}' and '{second}'")


def _check_copies(info: DatasetInfo, copies: Collection[list[str]], report: Report) -> None:
    """Warns of photos that are in several splits under different names."""
    members = {split: set(names) for split, names in info.splits.items()}
    for first, second in APART:
        found: dict[str, str] = {}
        for names in copies:
            if originals := members.get(first, set()).intersection(names):
                found |= dict.fromkeys(members.get(second, set()).intersection(names) - originals, min(originals))
        if found:
            copy = min(found)
            report.warnings.append(
                f"{len(found)} photos of '{second}' are, pixel for pixel, photos of '{first}': '{copy}' is "
                f"'{found[copy]}'"
            )


def _check_maps(info: DatasetInfo, names: list[str], report: Report) -> None:
    known = set(names)
    if not known:
        report.errors.append(f"{info.root / 'dataset.json'}: no split has a picture")
    without = len(known - info.intrinsics.keys())
    if without:
        report.warnings.append(
            f"{without} of {len(known)} pictures have no intrinsics: no normals, no --focal, no metric 3-D of them"
        )
    for key, values in (("intrinsics", info.intrinsics), ("cameras", info.cameras)):
        if unknown := values.keys() - known:
            report.warnings.append(f"'{key}' names {len(unknown)} pictures that no split has, as '{min(unknown)}'")
    files = {path.stem for path in (info.root / "images").glob("*") if path.suffix in PHOTO_ENDINGS}
    if unused := files - known:
        report.warnings.append(f"{len(unused)} pictures in images/ are in no split, as '{min(unused)}'")


def _sum_up(
    info: DatasetInfo,
    report: Report,
    sizes: dict[tuple[int, int], int],
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    pictures_with: np.ndarray[tuple[int], np.dtype[np.int64]],
    depths: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> None:
    add = report.summary.append
    add(f"{info.name} ({info.license})")
    add("splits: " + ", ".join(f"{split} {len(names)}" for split, names in info.splits.items()))
    most = sorted(sizes.items(), key=lambda item: -item[1])
    add("sizes: " + ", ".join(f"{w}x{h} {n}" for (w, h), n in most[:5]) + (", ..." if len(most) > 5 else ""))
    pixels = int(labels.sum())
    add(f"labels: {labels[IGNORE] / pixels:.1%} void; share of the labelled pixels, and pictures that have the class:")
    labelled = max(1, pixels - int(labels[IGNORE]))
    for c in sorted(info.classes, key=lambda c: -int(labels[c.id])):
        add(f"  {c.id:3} {c.name:20} {labels[c.id] / labelled:8.3%} {pictures_with[c.id]:6}")
    absent = [c.name for c in info.classes if not labels[c.id]]
    if absent:
        listed = ", ".join(absent[:10]) + ", ..." * (len(absent) > 10)
        report.warnings.append(f"no pixel of {len(absent)} classes: {listed}")
    valid = int(depths[1:].sum())
    if not valid:
        report.errors.append(f"{info.root / 'depth'}: not one valid value; 0 means invalid")
        return
    if depths[-1] > MANY * valid:
        report.warnings.append(
            f"{depths[-1] / valid:.1%} of the valid depths are 65535, which some tools write where nothing was "
            "measured; here that is 0"
        )
    cumulated = depths[1:].cumsum()
    percents = (1, 5, 25, 50, 75, 95, 99)
    metres = [(int(np.searchsorted(cumulated, p / 100 * valid)) + 1) / 1000 for p in percents]
    add(f"depth: {depths[0] / pixels:.1%} invalid; metres at the percentiles:")
    add("  " + "  ".join(f"{p}%: {m:.2f}" for p, m in zip(percents, metres, strict=True)))
    median = metres[3]
    if not PLAUSIBLE_M[0] <= median <= PLAUSIBLE_M[1]:
        report.errors.append(
            f"{info.root / 'depth'}: the median is {median:.3f} m, implausible for rooms ({PLAUSIBLE_M[0]} to "
            f"{PLAUSIBLE_M[1]} m): values must be millimetres in 16 bits, see docs/your-own-data.md"
        )
