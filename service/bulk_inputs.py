"""What `segdepth predict` is to work on: files, folders, globs and videos, and the names that their answers get.

    PATH                    its answers
    a file                  DIR/STEM.SUFFIX
    a folder                DIR/ and the path inside the folder, for every picture and video in it
    a glob, in quotes       DIR/ and the path from the first folder on that has a `*`, `?` or `[` in its name
    a video, in any of them NAME/FRAME.SUFFIX, such as clip.mp4/000120.json, and NAME/frames.csv

Nothing of the pictures is kept, and of each name eight bytes, so that any number of them needs no more memory; of a
video, until its end, the times of its frames, about 17 bytes each.
"""

from __future__ import annotations

import glob
import io
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIC = (".heic", ".heif")
"""Where they are not read, it is said of each."""
PICTURES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".avif", *HEIC]
)
VIDEOS = frozenset([".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts"])
PIXEL_ASPECTS = (0.25, 4.0)
"""Width to height of a video's pixels; what is beyond them is a mistake, and could make a frame of any size."""
NO_DECODER = "videos need a decoder: install the extra segdepth[video], or PyAV (av)"


class UsageError(Exception):
    """Why nothing is started, in one line."""


@dataclass(frozen=True)
class Job:
    """One picture, or one frame of a video."""

    name: str
    """What it is called in messages."""
    target: Path
    read: Callable[[], bytes]
    """Its file. Raises OSError."""


class _Found(NamedTuple):
    source: Path
    target: Path
    """Without suffix; of a video the folder of its frames."""
    is_video: bool


class Inputs:
    """The pictures of `paths`, found anew at each iteration.

    Args:
        out: the folder that answers go to; where it lies inside an input folder, it is left out.
        suffix: of the answers' names.
        every: of a video, every so manieth frame.
        max_bytes: of a file.
    """

    def __init__(self, paths: Sequence[str], out: Path, suffix: str, every: int, max_bytes: int) -> None:
        self._paths = paths
        self._out = out
        self._suffix = suffix
        self._every = every
        self._max_bytes = max_bytes
        self._av = _decoder()
        self.videos_left_out = 0
        """For want of a decoder; known after `check`."""

    def check(self) -> int | None:
        """The number of pictures; None where a video does not tell how many it has.

        Raises:
            UsageError: there is no such file, there are no pictures, two would have answers of the same name, or a
                video was named and there is no decoder.
        """
        total: int | None = 0
        hashes = array("q")
        self.videos_left_out = 0
        try:
            for found in self._found():
                hashes.append(hash(found.target))
                count = self._count(found)
                total = None if total is None or count is None else total + count
        except OSError as error:
            raise UsageError(f"cannot read {error.filename}: {error.strerror}") from None
        if not hashes and not self.videos_left_out:
            raise UsageError(f"there are no pictures in {', '.join(self._paths)}")
        values, counts = np.unique(np.frombuffer(hashes, np.int64), return_counts=True)
        self._refuse_twins(set(values[counts > 1].tolist()))
        return total

    def _refuse_twins(self, hashes: set[int]) -> None:
        """Of those, which may be equal by chance, find two that are."""
        if not hashes:
            return
        seen: dict[Path, Path] = {}
        for found in self._found():
            if hash(found.target) in hashes:
                twin = seen.setdefault(found.target, found.source)
                if twin is not found.source:
                    raise UsageError(
                        f"{twin} and {found.source} would both be answered in {found.target}{self._suffix}; "
                        "rename one, or call the command for each with an --out of its own"
                    )

    def __iter__(self) -> Iterator[Job | Failure | Times]:
        """Raises OSError where a folder cannot be read any more."""
        for found in self._found():
            if found.is_video:
                yield from self._frames(found)
            else:
                yield Job(str(found.source), self._named(found.target), partial(self._read, found.source))

    def _named(self, target: Path) -> Path:
        return target.with_name(target.name + self._suffix)

    def _read(self, path: Path) -> bytes:
        with path.open("rb") as file:
            # One byte more tells whether there are more, without reading all of them.
            data = file.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise OSError(None, f"it has more than {self._max_bytes} bytes (SEGDEPTH_MAX_BYTES)")
        return data

    # --- files

    def _found(self) -> Iterator[_Found]:
        for text in self._paths:
            path = Path(text)
            if path.is_dir():
                self._require_other(path)
                yield from self._in_folder(path, path)
            elif path.exists():
                yield from self._one(path, Path(path.name), named=True)
            elif glob.has_magic(text):
                yield from self._matching(text)
            else:
                raise UsageError(f"there is no {path}")

    def _require_other(self, folder: Path) -> None:
        if self._out.exists() and folder.exists() and folder.samefile(self._out):
            raise UsageError(f"--out {self._out} is the folder of the pictures; choose another one")

    def _matching(self, pattern: str) -> Iterator[_Found]:
        fixed = []
        for part in Path(pattern).parts[:-1]:
            if glob.has_magic(part):
                break
            fixed.append(part)
        root = Path(*fixed)
        self._require_other(root)
        answers = self._out.resolve()
        # Of a run before. Where the pictures are themselves beneath it, all would seem to be answers.
        beneath = root.resolve() in answers.parents
        some = False
        for match in glob.iglob(pattern, recursive=True):
            some = True
            path = Path(match)
            inside = path.relative_to(root)
            linked = any((root / parent).is_symlink() for parent in inside.parents[:-1])
            if path.is_file() and not linked and not (beneath and answers in path.resolve().parents):
                yield from self._one(path, inside)
        if not some:
            raise UsageError(f"nothing is named like {pattern}")

    def _in_folder(self, folder: Path, root: Path) -> Iterator[_Found]:
        files: list[str] = []
        folders: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
        for name in sorted(files):
            yield from self._one(folder / name, (folder / name).relative_to(root))
        for name in sorted(folders):
            if not (self._out.exists() and (folder / name).samefile(self._out)):
                yield from self._in_folder(folder / name, root)

    def _one(self, path: Path, inside: Path, named: bool = False) -> Iterator[_Found]:
        """A file. One that is named is taken whatever its suffix: the service tells pictures by their first bytes."""
        suffix = path.suffix.lower()
        if suffix in VIDEOS:
            if self._av is not None:
                yield _Found(path, self._out / inside, is_video=True)
            elif named:
                raise UsageError(f"{path}: {NO_DECODER}")
            else:
                self.videos_left_out += 1
        elif named or suffix in PICTURES:
            stem = inside.with_suffix("") if suffix in PICTURES else inside
            yield _Found(path, self._out / stem, is_video=False)

    # --- videos

    def _open(self, found: _Found) -> Any:
        assert self._av
        # Titles and such are not used, and need not be what they claim to be.
        return self._av.open(str(found.source), metadata_errors="replace")

    def _count(self, found: _Found) -> int | None:
        if not found.is_video:
            return 1
        assert self._av
        try:
            with self._open(found) as container:
                return -(-container.streams.video[0].frames // self._every) or None
        except (self._av.FFmpegError, IndexError):
            return 1  # It will be a failure.

    def _frames(self, found: _Found) -> Iterator[Job | Failure | Times]:
        assert self._av
        rows = bytearray()
        try:
            with self._open(found) as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                aspect = _pixel_aspect(stream)
                for number, frame in enumerate(container.decode(stream)):
                    seconds = "" if frame.time is None else f"{frame.time:.6f}"
                    rows += f"{number:06},{seconds}\n".encode()
                    if number % self._every == 0:
                        target = self._named(found.target / f"{number:06}")
                        read = partial(_frame_file, frame, aspect, self._max_bytes)
                        yield Job(f"{found.source}, frame {number}", target, read)
        except IndexError:
            yield Failure(str(found.source), "it has no pictures")
        except (OSError, ValueError, self._av.FFmpegError) as error:
            yield Failure(str(found.source), f"the video cannot be decoded: {getattr(error, 'strerror', error)}")
        if rows:
            yield Times(found.target / "frames.csv", b"frame,seconds\n" + rows)


class Failure(NamedTuple):
    """What could not be answered, and why."""

    name: str
    reason: str


class Times(NamedTuple):
    """When the frames of a video are shown, as a CSV file: all that were decoded, so that it is the same whichever of
    them are answered, and whenever the work was interrupted."""

    target: Path
    content: bytes


def _decoder() -> ModuleType | None:
    try:
        return import_module("av")
    except ImportError:
        return None


def _pixel_aspect(stream: Any) -> float:
    """Width to height of its pixels; 1 where it does not say."""
    ratio = float(stream.sample_aspect_ratio or 1)
    return ratio if PIXEL_ASPECTS[0] <= ratio <= PIXEL_ASPECTS[1] else 1.0


def _frame_file(frame: Any, aspect: float, max_bytes: int) -> bytes:
    """A frame as a BMP, which takes no time, or as a PNG where that would be too large a file. Neither loses anything.
    Pixels that are not square are made so, and it is turned as the video's display matrix says: in this order, for the
    aspect is that of the frame as stored."""
    width = max(1, round(frame.width * aspect))
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", width=width)
    out = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(_upright(pixels, frame.side_data.get("DISPLAYMATRIX"))))
    picture.save(out, "BMP")
    if out.tell() > max_bytes:
        out = io.BytesIO()
        picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _upright(pixels: NDArray[np.uint8], matrix: Any) -> NDArray[np.uint8]:
    """Turned and mirrored as a display matrix says, [[a, b, u], [c, d, v], [x, y, w]] in fixed point: what is at column
    i and row j is shown at a i + c j + x and b i + d j + y."""
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(matrix, np.int32, 5).tolist()
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
