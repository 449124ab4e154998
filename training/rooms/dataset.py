"""The data set of rooms: which room becomes which picture, and the folder, written by any number of processes.

Besides what every data set folder has (`training/data.py`) there are

DIR/rooms.json          the settings; there from the start on
DIR/rooms/NUMBER.json   kind, light, cameras and models of one room; there once its pictures are
DIR/ATTRIBUTION.txt     the furniture models of the rooms, with authors and licences

Every room is drawn from (seed, number of the room) alone. A run that was stopped goes on where it was, and a data set
that is complete can be made larger.
"""

from __future__ import annotations

import io
import json
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from model.classes import IGNORE, NYU40
from training.folder import (
    Split,
    atomic,
    clear_temporary,
    dataset_head,
    files_of,
    in_processes,
    is_there,
    read_settings,
    split_of,
    write_json,
)
from training.rooms.catalogue import LIBRARIES, LICENSES, Catalogue

VERSION = 3
"""Raised whenever a change makes other pictures, so that no folder is continued with other rooms than it began with."""
NAME = "rooms"
LICENSE = "CC-BY-3.0 (furniture models by others are seen in the pictures; see ATTRIBUTION.txt)"
DESCRIPTION = (
    "Procedural furnished rooms, path-traced, with exact labels and depth. Val and test rooms have furniture models "
    "that no training room has."
)
ATTEMPTS = 30
LEAST_SHARE = 0.0005
"""Of all pixels, what every class should have."""


class RoomError(Exception):
    """Pictures cannot be made; the message is one line."""


@dataclass(frozen=True)
class Shot:
    """A picture of a room and what is true in it.

    Attributes:
        image: sRGB, uint8 [H, W, 3].
        quality: Of its JPEG file.
        label: Class ids of NYU-40, uint8 [H, W]; 255 where nothing is seen.
        depth: Millimetres along the optical axis, uint16 [H, W]; 0 where nothing is seen.
        intrinsics: fx, fy, cx, cy in pixels.
        about: For people: kind of room, light, camera. JSON.
        models: Keys of the furniture models in the room, seen or not.
    """

    image: NDArray[np.uint8]
    quality: int
    label: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    intrinsics: tuple[float, float, float, float]
    about: dict[str, Any]
    models: tuple[str, ...]


class Maker(Protocol):
    """Makes the pictures of a room: here with the path tracer, in tests with something quicker.

    Attributes:
        settings: Everything that the pictures depend on besides the seed and the number of the room. JSON.
        views: Pictures per room.
    """

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def views(self) -> int: ...

    def __call__(self, seed: int, room: int, split: Split) -> list[Shot]: ...


# -------------------------------------------------------------------------------------------------------- the pictures


@lru_cache(1)
def _catalogue(cache: Path) -> Catalogue:
    return Catalogue(cache)


@dataclass(frozen=True)
class RoomMaker:
    """Plans, renders and develops rooms.

    Attributes:
        cache: Folder of the prepared furniture.
        size: Width and height in pixels.
        samples: Paths per pixel.
    """

    cache: Path
    size: tuple[int, int] = (320, 240)
    views: int = 2
    samples: int = 8

    @property
    def settings(self) -> dict[str, Any]:
        furniture = _catalogue(self.cache).fingerprint
        return {"size": list(self.size), "views": self.views, "samples": self.samples, "furniture": furniture}

    def __call__(self, seed: int, room: int, split: Split) -> list[Shot]:
        """The pictures of one room; of the next one drawn for this number, where it has too few good views."""
        from training.rooms import camera, develop, plan, render

        catalogue = _catalogue(self.cache)
        shots: list[Shot] = []
        for attempt in range(ATTEMPTS):
            furnished = plan.make_room(np.random.default_rng([seed, room, attempt, 0]), catalogue, split)
            scene = render.load(furnished)
            where = np.random.default_rng([seed, room, attempt, 1])
            for view in camera.views(where, furnished, scene, self.views - len(shots), self.size):
                number = len(shots)
                linear = render.render(scene, view, self.size, self.samples, seed=1000 * attempt + number)
                label, depth = render.labels_and_depth(scene, view, self.size)
                rng = np.random.default_rng([seed, room, number, 2])
                image = develop.develop(linear, rng)
                fx, fy, cx, cy = (round(float(x), 4) for x in view.resized(self.size).intrinsics)
                forward = view.axes[2]
                about = {
                    "kind": furnished.kind,
                    "lighting": furnished.lighting,
                    "position": [round(float(x), 3) for x in view.position],
                    "forward": [round(float(x), 4) for x in forward],
                }
                models = sorted({thing.model for thing in furnished.objects if thing.model})
                quality = develop.jpeg_quality(rng)
                shots.append(Shot(image, quality, label, depth, (fx, fy, cx, cy), about, tuple(models)))
            if len(shots) == self.views:
                return shots
        raise RoomError(f"no good views in {ATTEMPTS} rooms (seed {seed}, room {room}, size {self.size})")


# ---------------------------------------------------------------------------------------------------------- the folder


def room_file(out: Path, room: int) -> Path:
    return out / "rooms" / f"{room:06d}.json"


def is_done(out: Path, room: int, views: int, count: int) -> bool:
    """Whether all files of a room are there that a data set of `count` pictures has."""
    numbers = range(room * views, min((room + 1) * views, count))
    if not (is_there(room_file(out, room)) and all(is_there(path) for n in numbers for path in files_of(out, n))):
        return False
    try:
        return bool(_room(out, room))
    except ValueError:
        return False


def encode(shot: Shot) -> tuple[bytes, bytes, bytes]:
    """The files of a picture: JPEG, labels and depth as PNG."""
    image, label, depth = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(shot.image).save(image, "JPEG", quality=shot.quality, subsampling=0 if shot.quality > 85 else 2)
    Image.fromarray(shot.label).save(label, "PNG")
    Image.fromarray(shot.depth).save(depth, "PNG")
    return image.getvalue(), label.getvalue(), depth.getvalue()


def write_room(room: int, out: Path, seed: int, count: int, maker: Maker) -> int:
    """Makes a room and writes its pictures, every file under a temporary name first; how many were written."""
    shots = maker(seed, room, split_of(room))
    first = room * maker.views
    shots = shots[: count - first]
    pictures = {}
    for number, shot in enumerate(shots, first):
        for path, content in zip(files_of(out, number), encode(shot), strict=True):
            with atomic(path) as temporary:
                temporary.write_bytes(content)
        pixels = np.bincount(shot.label.ravel(), minlength=IGNORE + 1)
        pictures[f"{number:06d}"] = {
            "intrinsics": list(shot.intrinsics),
            **shot.about,
            "models": list(shot.models),
            "pixels": {c.name: int(pixels[c.id]) for c in NYU40 if pixels[c.id]},
            "median_depth_mm": int(np.median(shot.depth[shot.depth > 0])) if shot.depth.any() else 0,
        }
    write_json(room_file(out, room), pictures)
    return len(shots)


def write_dataset(
    out: Path,
    count: int,
    seed: int,
    maker: Maker,
    catalogue: Catalogue,
    workers: int = 1,
    progress: bool = False,
) -> dict[str, Any]:
    """Writes the data set, or what is missing of it, and its `dataset.json` last, which is also returned.

    Raises:
        FileExistsError: the folder holds something else, rooms of other settings, or more pictures than `count`.
        RoomError: pictures could not be made.
    """
    settings = {"seed": seed, **maker.settings, "version": VERSION}
    marker, dataset_file = out / "rooms.json", out / "dataset.json"
    if marker.exists():
        if (found := read_settings(marker)) != settings:
            differ = ", ".join(sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key)))
            raise FileExistsError(f"{out} was made with other settings ({differ}); choose another folder")
        if files_of(out, count)[0].exists():
            raise FileExistsError(f"{out} has more than {count} pictures already; choose another folder")
    elif out.exists() and any(path.suffix != ".tmp" for path in out.iterdir()):
        raise FileExistsError(f"{out} is not empty and was not made by training.rooms")
    for folder in ("images", "labels", "depth", "rooms"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    if not marker.exists():
        write_json(marker, settings)
    clear_temporary(out)

    rooms = range(-(-count // maker.views))
    missing = [room for room in rooms if not is_done(out, room, maker.views, count)]
    if missing:
        dataset_file.unlink(missing_ok=True)
    done = count - sum(min(maker.views, count - room * maker.views) for room in missing)
    task = partial(write_room, out=out, seed=seed, count=count, maker=maker)
    with tqdm(total=count, initial=done, unit="picture", disable=not progress, smoothing=0.05) as bar:
        try:
            for written in in_processes(task, missing, workers):
                bar.update(written)
        except BrokenProcessPool:
            killed = "a worker process was killed (out of memory?); run again to go on where it stopped"
            raise RoomError(killed) from None

    used = {key for room in rooms for picture in _room(out, room).values() for key in picture["models"]}
    dataset = describe(out, count, maker.views, settings) | {"attribution": credit(catalogue, used)}
    with atomic(out / "ATTRIBUTION.txt") as temporary:
        temporary.write_text(attribution(catalogue, used), encoding="utf-8")
    write_json(dataset_file, dataset)
    return dataset


def _room(out: Path, room: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(room_file(out, room).read_text(encoding="utf-8"))
    return content


def describe(out: Path, count: int, views: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The content of `dataset.json`, from the files of the rooms."""
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    intrinsics: dict[str, list[float]] = {}
    pixels = dict.fromkeys((c.name for c in NYU40), 0)
    medians = []
    for room in range(-(-count // views)):
        for name, picture in _room(out, room).items():
            splits[split_of(room)].append(name)
            intrinsics[name] = picture["intrinsics"]
            medians.append(picture["median_depth_mm"])
            for class_name, n in picture["pixels"].items():
                pixels[class_name] += n
    total = max(sum(pixels.values()), 1)
    return {
        **dataset_head(NAME, LICENSE, DESCRIPTION, NYU40),
        "depth": {"unit": "mm", "invalid": 0},
        "splits": splits,
        "intrinsics": intrinsics,
        "class_share": {name: round(n / total, 6) for name, n in pixels.items()},
        "median_depth_m": round(float(np.median(medians)) / 1000, 3) if medians else 0.0,
        "generator": {**settings, "count": count},
    }


def rare_classes(dataset: dict[str, Any]) -> list[str]:
    """The classes with less than LEAST_SHARE of all pixels."""
    return [name for name, share in dataset["class_share"].items() if share < LEAST_SHARE]


def credit(catalogue: Catalogue, used: set[str]) -> str:
    """What `attribution` says, in one sentence, for a model card: the authors whose licences ask to be named."""
    authors = sorted({m.author for m in catalogue.models if m.key in used and m.license.startswith("CC-BY")})
    return (
        "Trained on pictures that show furniture models of Sweet Home 3D's libraries, under CC-BY 3.0 by "
        f"{'; '.join(authors)}; and under CC0 1.0 by others. ATTRIBUTION.txt of the data set names every model."
    )


def attribution(catalogue: Catalogue, used: set[str]) -> str:
    """What the licences of furniture models ask to be said: title, author, source, licence, and the changes made."""
    by_library: dict[str, list[str]] = {}
    for model in catalogue.models:
        if model.key in used:
            line = (
                f'- "{model.name}" ({model.key}) by {model.author}, {model.license}, {catalogue.addresses[model.key]}'
            )
            by_library.setdefault(model.key.partition("/")[0], []).append(line)
    lines = [
        "The pictures of this data set show furniture models by the authors below.",
        "",
        "The models come from the furniture libraries of Sweet Home 3D (https://www.sweethome3d.com/importModels.jsp),",
        "converted to OBJ by Emmanuel Puybaret / eTeks. Changes made: scaled to the sizes that the libraries give,",
        "turned, textures reduced, materials replaced by simpler ones, parts such as panes left out; placed in rooms,",
        "lit, rendered and developed like photographs. The authors do not endorse this data set or its use.",
        "",
        "Licences:",
        *(f"- {name}: {address}" for name, address in LICENSES.items()),
    ]
    for library, models in sorted(by_library.items()):
        info = LIBRARIES[library]
        by = f", by {info.author}" if info.author else ""
        lines += ["", f"{info.title}{by} ({info.address}):", *models]
    return "\n".join(lines) + "\n"
