"""What the writers of data set folders share: the head of dataset.json, whole files or none, file names, splits,
processes, a contact sheet.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.classes import NYU40, ClassSet

FORMAT = 1
"""Of `dataset.json`, as `training/data.py` reads it."""

Split = Literal["train", "val", "test"]
T = TypeVar("T")
R = TypeVar("R")


def dataset_head(name: str, license: str, description: str, classes: ClassSet) -> dict[str, Any]:
    """What `dataset.json` begins with."""
    return {
        "format": FORMAT,
        "name": name,
        "license": license,
        "description": description,
        "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in classes],
    }


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` if the block ends well, and vanishes otherwise."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def clear_temporary(out: Path) -> None:
    """Removes what killed processes left of `atomic` in a data set folder."""
    for left in (*out.glob("*.tmp"), *out.glob("*/*.tmp")):
        left.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that the file is either the old one or the new one, never half."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_settings(marker: Path) -> dict[str, Any]:
    """What `write_json` wrote about the making of a data set.

    Raises:
        FileExistsError: it is damaged.
    """
    try:
        settings: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileExistsError(f"{marker} is damaged ({error}); choose another folder") from None
    return settings


def is_there(path: Path) -> bool:
    """Whether a file is there and not empty, as a power failure may leave one."""
    return path.is_file() and path.stat().st_size > 0


def files_of(out: Path, index: int) -> tuple[Path, Path, Path]:
    """Where picture `index` is kept: image, labels, depth."""
    name = f"{index:06d}"
    return out / "images" / f"{name}.jpg", out / "labels" / f"{name}.png", out / "depth" / f"{name}.png"


def split_of(room: int) -> Split:
    """Of ten rooms eight are for training, one for validation and one for the test."""
    return "val" if room % 10 == 8 else "test" if room % 10 == 9 else "train"


def in_processes(task: Callable[[T], R], items: Sequence[T], workers: int, chunksize: int = 1) -> Iterator[R]:
    """The task on every item, here or in worker processes of one thread each, which end when this one is killed.

    Raises:
        BrokenProcessPool: a worker was killed.
    """
    if workers <= 1 or len(items) < 2:
        yield from map(task, items)
        return
    # Spawned, not forked: the caller may hold threads, which do not survive a fork. NumPy reads the number of threads
    # when it is imported, before any initialiser runs, so it is set here, for the workers to inherit.
    kept = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(items)), context, _start_worker) as pool:
            yield from pool.map(task, items, chunksize=chunksize)
    finally:
        if kept is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = kept


def _start_worker() -> None:
    """For worker processes: an end when the parent is killed. Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def contact_sheet(out: Path, count: int, columns: int = 4) -> Image.Image:
    """The first pictures of a data set, each as image, labels in class colours, and depth (near is bright)."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(NYU40)] = [c.color for c in NYU40]
    rows: list[NDArray[np.uint8]] = []
    for i in range(count):
        image, label, depth = (np.asarray(Image.open(path)) for path in files_of(out, i))
        near = (255 * np.clip(1 - depth / 8000.0, 0, 1)).astype(np.uint8)
        rows.append(np.concatenate([image, colors[label], np.repeat(near[..., None], 3, 2)], 1))
    rows += [np.zeros_like(rows[0])] * (-len(rows) % columns)
    return Image.fromarray(np.concatenate([np.concatenate(rows[i::columns], 0) for i in range(columns)], 1))
