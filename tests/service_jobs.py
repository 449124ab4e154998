"""Jobs for `service.pixels`, in a module that its processes can import quickly."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from service.errors import Overloaded


def pid(_fixed: object) -> int:
    return os.getpid()


def die(_fixed: object, *_args: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(20)


def sleep(_fixed: object, seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def slow(_fixed: object, *_args: object) -> Any:
    time.sleep(0.3)


def touch(_fixed: object, path: Path) -> None:
    path.touch()


def fail(_fixed: object) -> None:
    raise LookupError("secret insides")


def refuse(_fixed: object) -> None:
    raise Overloaded("Too much.", 7.2, places=3)


def page_faults(_fixed: object, sizes: list[int]) -> list[int]:
    """Of maps of so many bytes that are made and freed one after the other."""
    found = []
    for size in sizes:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(size, np.uint8)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return found
