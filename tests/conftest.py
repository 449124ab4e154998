"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from service_onnx import write_model
from service_process import Server, start

import service  # noqa: F401  # Before any test imports ONNX Runtime, whose telemetry it turns off.

# The tests' networks are tiny, and OpenMP threads that spin for each other on a busy machine take minutes instead of
# seconds. Set before anything imports torch, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell ignores SIGINT for what it starts in the background; the servers that tests start there would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

SLOWEST = ("every_network", "train", "export", "docs", "parallel", "ray", "alerts", "benchmark_gpu", "benchmarks")
"""Files of tests that take half a minute and more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first: one that begins last would keep one process at work while the others have none."""
    first = {f"test_{name}.py": place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: first.get(item.path.name, len(first)))


@pytest.fixture(autouse=True)
def _process_wide_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep settings of the environment out, and put back the pixel limit that decoding sets in Pillow."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    for name in os.environ:
        if name.upper().startswith("SEGDEPTH_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ONNX file that keeps the contract."""
    return write_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="session")
def server(tiny_model: Path) -> Iterator[Server]:
    """A real server process with the tiny model and small limits, ready."""
    with start("--model", str(tiny_model), SEGDEPTH_MAX_BYTES="3000000", SEGDEPTH_MAX_PIXELS="2000000") as running:
        running.wait_ready()
        yield running
