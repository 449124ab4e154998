"""The engines of the devices that the setting `device` can name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from service.card import ModelCard
from service.cores import usable_cores
from service.engine import Engine, OnnxEngine, read_card
from service.engine_cuda import GpuOptions, gpu_engine
from service.engine_openvino import OpenVinoEngine
from service.engine_streams import Streams
from service.settings import Settings


def onnx_source(settings: Settings) -> tuple[ModelCard, Sequence[Callable[[], Engine]]]:
    """The file `settings.model`, with an engine for each device."""
    card = read_card(settings.model)
    on_cores = len(settings.devices) - len(settings.gpus)
    cores = usable_cores()
    threads = settings.threads or max(1, cores // max(1, on_cores))
    number = settings.devices.count("cpu")
    # Of three cores, two engines have one each, and one that is alone all three.
    together = number * threads if settings.threads else max(number * threads, cores * number // max(1, on_cores))
    streams = Streams(settings.model, number, threads=threads, all_threads=together, max_batch=settings.max_batch)

    def load(device: str) -> Engine:
        if device == "cpu":
            return streams.load()
        return load_engine(
            settings.model,
            device,
            threads=threads,
            max_batch=settings.max_batch,
            cuda_graphs=settings.cuda_graphs,
            gpu_memory=settings.gpu_memory,
            cache_dir=settings.cache_dir,
        )

    return card, [partial(load, device) for device in settings.devices]


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
