"""The engine of each device that the setting `device` can name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from service.engine import Engine, OnnxEngine
from service.engine_cuda import GpuOptions, gpu_engine
from service.engine_openvino import OpenVinoEngine


def load_engine(
    path: Path,
    device: str,
    *,
    threads: int = 0,
    max_batch: int = 1,
    cuda_graphs: bool = False,
    gpu_memory: int = 0,
    cache_dir: Path | None = None,
) -> Engine:
    """The engine of a device: `cpu`, `cuda`, `cuda:N`, `tensorrt`, `tensorrt:N`, `openvino` or `openvino-bf16`.

    The last three arguments are settings of the same names; they are for `cuda` and `tensorrt`.

    Raises:
        StartupError: the file breaks the contract, or the device is not to be had; it says what is missing.
    """
    kind, _, index = device.partition(":")
    if kind in ("cuda", "tensorrt"):
        gpu = GpuOptions(graphs=cuda_graphs, memory=gpu_memory, cache_dir=cache_dir)
        return gpu_engine(path, kind, int(index or 0), max_batch=max_batch, options=gpu)
    if kind == "cpu":
        return OnnxEngine(path, threads=threads, max_batch=max_batch)
    precision: Literal["f32", "bf16"] = "bf16" if kind == "openvino-bf16" else "f32"
    return OpenVinoEngine(path, precision=precision, threads=threads, max_batch=max_batch)
