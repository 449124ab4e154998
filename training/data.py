"""The one data set format, the one class that reads it, and how several folders become one.

DIR/dataset.json        name, licence, classes, splits, intrinsics
DIR/images/NAME.jpg     (or .jpeg, .png, in capitals too) the photo, read as the service reads it
DIR/labels/NAME.png     uint8: class id, 255 = ignore
DIR/depth/NAME.png      uint16: millimetres along the optical axis, 0 = invalid
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from model.classes import IGNORE, ClassInfo, ClassSet, same_classes
from service.rgb import upright_rgb
from training.augment import Augmentation, Picture, nearest
from training.folder import FORMAT
from training.targets import boundary_edges, edges_bridge, normals_radius, surface_normals

PHOTO_ENDINGS = (".jpg", ".png", ".jpeg", ".JPG", ".JPEG", ".PNG")


class DataError(Exception):
    """A data set that cannot be used; the message is one line with the file and what was expected."""


class Sample(TypedDict):
    """image: sRGB in 0..1, float32 [3, H, W]; label: int64 [H, W]; depth: metres, float32 [H, W], 0 = invalid.

    Only where auxiliary tasks are asked for: normals: unit vectors, float32 [3, H, W], (0, 0, 0) = invalid; edges:
    uint8 [H, W], 1 = edge, 255 = ignore.
    """

    image: Tensor
    label: Tensor
    depth: Tensor
    normals: NotRequired[Tensor]
    edges: NotRequired[Tensor]
    name: str


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says.

    Attributes:
        splits: Picture names by split (`train`, `val`, `test`).
        intrinsics: fx, fy, cx, cy in pixels by picture name; may be empty.
        cameras: Name of the camera by picture name, where figures per camera make sense; may be empty.
        depth_kind: "raw" (as the sensor gave it), "filled" (holes inpainted), or "" where nothing is said.
        attribution: What the licences of what the pictures show ask to be said of a model trained on them; may be "".
        homes: Where the pictures of several folders lie that are `joined`, by picture name: the folder, and the name
            there. Empty for one folder.
    """

    root: Path
    name: str
    license: str
    classes: ClassSet
    splits: dict[str, list[str]]
    intrinsics: dict[str, tuple[float, float, float, float]]
    cameras: dict[str, str] = field(default_factory=dict)
    depth_kind: str = ""
    attribution: str = ""
    homes: dict[str, tuple[Path, str]] = field(default_factory=dict)


def read_info(root: Path) -> DatasetInfo:
    """Reads and checks `root/dataset.json`.

    Raises:
        DataError: it is missing, of another format, or incomplete.
    """
    path = root / "dataset.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; a data set folder has dataset.json, images, labels, depth") from None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    try:
        if raw["format"] != FORMAT:
            raise DataError(f"{path}: format {raw['format']}, this version reads {FORMAT}")
        classes = tuple(ClassInfo(int(c["id"]), str(c["name"]), tuple(c["color"])) for c in raw["classes"])
        info = DatasetInfo(
            root=root,
            name=str(raw["name"]),
            license=str(raw["license"]),
            classes=classes,
            splits={str(k): [str(name) for name in v] for k, v in raw["splits"].items()},
            intrinsics={str(k): tuple(v) for k, v in raw.get("intrinsics", {}).items()},
            cameras={str(k): str(v) for k, v in raw.get("cameras", {}).items()},
            depth_kind=str(raw.get("depth", {}).get("kind", "")),
            attribution=str(raw.get("attribution", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: incomplete or wrong: {type(error).__name__}: {error}") from None
    for one in classes:
        if len(one.color) != 3 or any(type(v) is not int or not 0 <= v <= 255 for v in one.color):
            raise DataError(f"{path}: the colour of class '{one.name}' is not three numbers from 0 to 255")
    if wrong := next((name for name, values in info.intrinsics.items() if not _are_intrinsics(values)), None):
        raise DataError(
            f"{path}: the intrinsics of '{wrong}' are not fx, fy, cx, cy: finite numbers, fx and fy above 0"
        )
    if [c.id for c in classes] != list(range(len(classes))) or not 1 <= len(classes) <= IGNORE:
        raise DataError(f"{path}: class ids must count up from 0, and there may be 1 to {IGNORE}")
    if nameless := next((one for one in classes if not one.name.strip()), None):
        raise DataError(f"{path}: class {nameless.id} has no name")
    # Figures of classes are by their names.
    if twice := next((name for name, n in Counter(c.name for c in classes).items() if n > 1), None):
        raise DataError(f"{path}: two classes are called '{twice}'")
    return info


def _are_intrinsics(values: tuple[Any, ...]) -> bool:
    numbers = len(values) == 4 and all(type(v) in (int, float) and math.isfinite(v) for v in values)
    return numbers and min(values[:2]) > 0


def read_infos(roots: Sequence[Path]) -> list[DatasetInfo]:
    """Reads and checks folders that are to be trained on together.

    Raises:
        DataError: as `read_info`; a folder that is given twice, or has other classes than the first.
    """
    infos: list[DatasetInfo] = []
    for root in roots:
        if any(root.resolve() == other.root.resolve() for other in infos):
            raise DataError(f"{root}: this data set folder is given twice")
        infos.append(read_info(root))
        if not same_classes(infos[-1].classes, infos[0].classes):
            raise DataError(f"{root}: its classes are not those of {infos[0].root}")
    return infos


def joined(infos: Sequence[DatasetInfo]) -> DatasetInfo:
    """Folders of the same classes as one data set that has their pictures one after the other, called ROOT/NAME.

    What is said of all of them is said once; `depth_kind` only where they agree; colours are those of the first. One
    folder stays as it is.
    """
    first = infos[0]
    if len(infos) == 1:
        return first
    splits: dict[str, list[str]] = {}
    for info in infos:
        for split, names in info.splits.items():
            splits.setdefault(split, []).extend(f"{info.root}/{name}" for name in names)
    return DatasetInfo(
        root=first.root,
        name=_each_once(info.name for info in infos),
        license=_each_once(info.license for info in infos),
        classes=first.classes,
        splits=splits,
        intrinsics={f"{info.root}/{name}": values for info in infos for name, values in info.intrinsics.items()},
        cameras={f"{info.root}/{name}": camera for info in infos for name, camera in info.cameras.items()},
        depth_kind=first.depth_kind if all(info.depth_kind == first.depth_kind for info in infos) else "",
        attribution=_each_once(info.attribution for info in infos),
        homes={
            f"{info.root}/{name}": (info.root, name)
            for info in infos
            for names in info.splits.values()
            for name in names
        },
    )


def _each_once(texts: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(text for text in texts if text))


class FolderDataset(Dataset[Sample]):
    """One split of a data set folder, or of several that are `joined`.

    Indexed by (epoch, index), so that what augmentation draws depends on the seed, the epoch and the picture
    alone: not on the number of workers, nor on whether training was interrupted. Plain evaluation has epoch 0.

    Args:
        info: The data set.
        split: Key of `info.splits`.
        augmentation: Applied to every picture; None leaves the picture as it is on disk.
        seed: Of the augmentation.
        focal: If not 0, the depth of augmented pictures is what a camera of this focal length (in longer sides of
            the training size) would have to see to take the same picture; see `relative_focal`.
        auxiliary_tasks: Of `normals` and `edges` those to make targets for. Edges are made from the augmented labels.
            Normals are made from the depth as it is on disk and then augmented: how far a sensor's noise must be
            smoothed is a number of its own pixels. Zooming leaves them as they are, as of a longer lens before the
            same room, while depth becomes that of the same lens, nearer; mirroring negates their x.

    Raises:
        DataError: an unknown or empty split; normals of pictures without intrinsics; when reading, a missing, damaged
            or ill-fitting file.
    """

    def __init__(
        self,
        info: DatasetInfo,
        split: str,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        auxiliary_tasks: Sequence[str] = (),
        focal: float = 0.0,
    ) -> None:
        if not info.splits.get(split):
            have = ", ".join(f"{k} ({len(v)})" for k, v in info.splits.items())
            raise DataError(f"{info.root / 'dataset.json'}: split '{split}' is missing or empty; there are: {have}")
        self.info = info
        self.split = split
        self.names = info.splits[split]
        self.augmentation = augmentation
        self.seed = seed
        self.auxiliary_tasks = tuple(auxiliary_tasks)
        self.focal = focal
        if focal:
            self._refuse_without_intrinsics("--focal needs", "train without --focal, for the depth of one camera")
        if "normals" in self.auxiliary_tasks:
            self._refuse_without_intrinsics(
                "normals need", 'train without normals: --options \'{"auxiliary_tasks": ["edges"]}\''
            )

    def _refuse_without_intrinsics(self, who: str, instead: str) -> None:
        without = next((name for name in self.names if name not in self.info.intrinsics), None)
        if without is not None:
            raise DataError(
                f"{self.info.root / 'dataset.json'}: no intrinsics for '{without}', which {who}; add them, or {instead}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        name = self.names[index]
        picture = self.read(name)
        intrinsics = self.info.intrinsics.get(name)
        nearer = 1.0
        normals: NDArray[np.float32] | None = None
        if "normals" in self.auxiliary_tasks:
            assert intrinsics is not None
            normals = surface_normals(picture.depth, intrinsics, normals_radius(picture.label.shape[1]))
        if self.augmentation is not None:
            rng = np.random.default_rng([self.seed, epoch, index])
            view = self.augmentation.view(picture, rng)
            picture = self.augmentation.show(picture, view, rng)
            size = self.augmentation.size
            if self.focal and intrinsics is not None:
                # `show` has divided by the zoom, and the focal length of what is seen has the zoom in it.
                fx = intrinsics[0] * (size[1] / (view.box.right - view.box.left))
                nearer = relative_focal(fx, size) / view.zoom / self.focal
            if normals is not None:
                normals = nearest(normals, view.box, size, 0)
                if view.flip:
                    normals = normals[:, ::-1] * np.array([-1, 1, 1], np.float32)
        sample: Sample = {
            "image": torch.from_numpy(picture.image.transpose(2, 0, 1).astype(np.float32) / 255),
            "label": torch.from_numpy(picture.label.astype(np.int64)),
            "depth": torch.from_numpy(picture.depth.astype(np.float32) / np.float32(1000 * nearer)),
            "name": name,
        }
        if normals is not None:
            sample["normals"] = torch.from_numpy(np.ascontiguousarray(normals.transpose(2, 0, 1)))
        if "edges" in self.auxiliary_tasks:
            sample["edges"] = torch.from_numpy(boundary_edges(picture.label, edges_bridge(picture.label.shape[1])))
        return sample

    def read(self, name: str) -> Picture:
        """The picture as it is on disk, upright and in sRGB, checked."""
        root, name = self.info.homes.get(name, (self.info.root, name))
        image = _read(_photo(root / "images", name), "RGB", np.uint8)
        label = _read(root / "labels" / f"{name}.png", "L", np.uint8)
        depth = _read(root / "depth" / f"{name}.png", "I;16", np.uint16)
        for folder, values in (("labels", label), ("depth", depth)):
            if values.shape != image.shape[:2]:
                raise DataError(
                    f"{root / folder / name}.png: {values.shape[1]}x{values.shape[0]} pixels, "
                    f"its picture has {image.shape[1]}x{image.shape[0]}"
                )
        outside = label[(label >= len(self.info.classes)) & (label != IGNORE)]
        if outside.size:
            raise DataError(
                f"{root / 'labels' / name}.png: label {outside[0]} is outside the class set of {len(self.info.classes)}"
            )
        return Picture(image, label, depth)


def relative_focal(fx: float, size: tuple[int, int]) -> float:
    """Focal length `fx` (pixels) in longer sides of what a network is given, `size` (height, width): 0.81 for NYUD-v2.

    One picture fits a small room and a short lens as well as a large room and a long lens; depth over focal length is
    what can be seen in it (Facil et al., "CAM-Convs", CVPR 2019; Yin et al., "Metric3D", ICCV 2023).
    """
    return fx / max(size)


def _photo(folder: Path, name: str) -> Path:
    """Where the photo of that name is; where there is none, NAME.jpg."""
    paths = [folder / f"{name}{ending}" for ending in PHOTO_ENDINGS]
    # `os.path`, since pathlib raises on a name that is too long.
    return next((path for path in paths if os.path.isfile(path)), paths[0])


def _read(path: Path, mode: str, dtype: type[np.generic]) -> NDArray[Any]:
    try:
        with Image.open(path) as picture:
            # Colour is converted; the values of labels and depth mean something, so their mode must be right.
            if mode != "RGB" and picture.mode != mode and not (mode == "L" and picture.mode == "P"):
                raise DataError(f"{path}: pixel mode {picture.mode}, expected {mode}")
            if mode == picture.mode == "L" and picture.tile and str(picture.tile[0].args).startswith("L;"):
                raise DataError(f"{path}: grey of less than 8 bits, which readers scale to 8; save ids in 8 bits")
            if mode == "RGB":
                return np.asarray(upright_rgb(picture), dtype=dtype)
            return np.asarray(picture, dtype=dtype)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def ignore_signals(worker: int) -> None:
    """For data loader workers: a signal to the process group (Ctrl-C, a stopping container) is the main process's
    to answer; it ends its workers when it has saved its checkpoint."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def batches(loader: DataLoader[Sample]) -> Generator[Sample]:
    """What a loader gives. To be closed: at the end, whatever it is, no worker process is left.

    One that is left ignores SIGTERM, and Python would wait for it for ever when it exits.

    Raises:
        DataError: as in a worker, but in its one line: torch puts the worker's traceback before it.
    """
    iterator: Any = iter(loader)
    try:
        yield from iterator
    except DataError as error:
        raise DataError(
            str(error).strip().splitlines()[-1].removeprefix(f"{DataError.__module__}.DataError: ")
        ) from None
    finally:
        if loader.num_workers:
            try:
                # First torch's own end, after which it no longer takes a killed worker for a fault.
                iterator._shutdown_workers()
            finally:
                for worker in iterator._workers:
                    worker.kill()


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for the steps `start` to `epochs · steps_per_epoch`.

    Every epoch is a permutation drawn from (seed, epoch); a last, incomplete batch is dropped, because batch
    normalisation over 1×1 maps needs more than one picture. Starting at any step gives the very batches that an
    uninterrupted run would have seen from there. Of each of the `parts` of a batch, process `rank` of `processes` gets
    its slice, so that a part, over which batch normalisation goes, has the same pictures with any number of processes.
    """

    def __init__(
        self,
        pictures: int,
        batch_size: int,
        epochs: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        processes: int = 1,
        parts: int = 1,
    ) -> None:
        self.pictures, self.batch_size, self.epochs, self.seed, self.start = pictures, batch_size, epochs, seed, start
        self.steps_per_epoch = pictures // batch_size
        self.own = np.arange(batch_size).reshape(parts, processes, -1)[:, rank].ravel()

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first_epoch, skipped = divmod(self.start, self.steps_per_epoch)
        for epoch in range(first_epoch, self.epochs):
            order = np.random.default_rng([self.seed, epoch]).permutation(self.pictures)
            for step in range(skipped if epoch == first_epoch else 0, self.steps_per_epoch):
                batch = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(epoch, int(index)) for index in batch[self.own]]
