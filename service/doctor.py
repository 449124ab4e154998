"""`segdepth doctor`: whether this machine can serve, line by line."""

from __future__ import annotations

import platform
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version

import numpy as np
import onnxruntime

from service import images, kernels, png
from service.auth import ApiKeys
from service.card import ModelCard
from service.cores import usable_cores
from service.devices import onnx_source
from service.engine import Engine, SharingEngine
from service.engine_cuda import (
    CUDA,
    INSTALL,
    TENSORRT,
    CudaError,
    CudaRuntime,
    capability,
    driver_version,
    libraries,
    missing,
    needs,
)
from service.errors import StartupError
from service.settings import Settings, kubernetes_variables
from service.tracing import trace_endpoint, tracing
from service.version import __version__

MIN_OPEN_FILES = 4096
GPU_QUERY_S = 30.0

Finding = tuple[str, str, str]
"""State (`ok`, `note` or `FAIL`), what was looked at, and what was found."""


def main(settings: Settings) -> int:
    """Print what was found; 0 if the service would start and answer."""
    failed = False
    for state, name, text in examine(settings):
        failed = failed or state == "FAIL"
        print(f"{state:4}  {name:10}  {text}", flush=True)
    return int(failed)


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, cheapest first."""
    yield "ok", "python", f"{platform.python_version()} on {platform.platform()}"
    yield "ok", "segdepth", f"{__version__}, {usable_cores()} cores"
    yield from _packages()
    yield "ok", "providers", ", ".join(onnxruntime.get_available_providers())
    for provider, kind in ((CUDA, "cuda"), (TENSORRT, "tensorrt")):
        if wanted := [int(device.partition(":")[2] or 0) for device in settings.devices if device.startswith(kind)]:
            yield from _gpu(provider, kind, wanted)
    yield "ok", "pictures", ", ".join(images.FORMATS)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    yield "ok" if files >= MIN_OPEN_FILES or files < 0 else "note", "limits", f"{files} open files at most"
    if ignored := kubernetes_variables():
        yield "note", "settings", f"ignored, of a Kubernetes Service: {', '.join(ignored)}"
    if path := settings.api_keys_file:
        yield _tried("api keys", lambda: ", ".join(ApiKeys(path).names))
    if endpoint := trace_endpoint():
        yield _traces(endpoint)
    try:
        card, loaders = onnx_source(settings)
    except StartupError as error:
        yield "FAIL", "model", error.reason
        return
    yield "ok", "model", _described(card)
    # One of those that share the cores.
    for device, load in dict(zip(settings.devices, loaders, strict=True)).items():
        yield _tried(device, partial(_trial, card, load))


def _packages() -> Iterator[Finding]:
    try:
        needed = [re.split(r"[^\w-]", line)[0] for line in requires("segdepth") or [] if ";" not in line]
    except PackageNotFoundError:
        yield "note", "packages", "segdepth is not installed, so what it needs is not known"
        return
    found = []
    for name in needed if png.isal_zlib is None else [*needed, "isal"]:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            yield "FAIL", "packages", f"{name} is not installed"
    if png.isal_zlib is None:  # There are no wheels for every machine.
        yield "note", "packages", "isal is not installed: zlib deflates the answers' PNGs, several times as slowly"
    if kernels.compiled is None:
        yield "note", "packages", f"loops over pixels are NumPy's, several times as slow: {kernels.why_not}"
    yield "ok", "packages", ", ".join([*found, f"onnxruntime {onnxruntime.__version__}"])


def _gpu(provider: str, kind: str, wanted: Sequence[int] = ()) -> Iterator[Finding]:
    if provider not in onnxruntime.get_available_providers():
        install = INSTALL if provider == CUDA else ""
        yield "FAIL", kind, f"this onnxruntime is built without {provider}{install}"
    yield "note", kind, f"onnxruntime {onnxruntime.__version__} needs {needs(provider)}"
    absent = missing(provider)
    for library in absent:
        yield "FAIL", "library", f"there is no {library}"
    if not absent:
        yield "ok", "library", ", ".join(libraries(provider))
        for index in dict.fromkeys(wanted):
            yield _capability(index)
    if version := driver_version():
        yield "ok", "driver", f"for CUDA {version:g} and older"
    if (command := shutil.which("nvidia-smi")) is None:
        yield "note", "gpu", "nvidia-smi is not here"
        return
    query = [command, "--query-gpu=index,name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=GPU_QUERY_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:  # It hangs where the driver does.
        yield "FAIL", "gpu", str(error)
        return
    for line in (done.stdout if done.returncode == 0 else "").splitlines():
        yield "ok", "gpu", line
    if done.returncode:
        yield "FAIL", "gpu", " ".join((done.stdout + done.stderr).split())[:200]


def _capability(index: int) -> Finding:
    try:
        return "ok", "gpu", f"GPU {index} has compute capability {capability(CudaRuntime(), index)}"
    except CudaError as error:
        return "FAIL", "gpu", str(error)


def _described(card: ModelCard) -> str:
    sizes = ", ".join(f"{width}x{height}" for height, width in card.input.sizes)
    return f"{card.name} {card.version}: {card.network} on {card.backbone}, {len(card.classes)} classes, {sizes}"


def _trial(card: ModelCard, load: Callable[[], Engine]) -> str:
    """Load an engine, warm it up and run it once."""
    height, width = card.input.sizes[0]
    engine = load()
    start = time.perf_counter()
    engine.warm_up(lambda done, total: None)
    warm_s = time.perf_counter() - start
    if isinstance(engine, SharingEngine):
        engine.share(1)
    start = time.perf_counter()
    engine.infer(np.zeros((1, height, width, 3), np.uint8))
    infer_s = time.perf_counter() - start
    nodes = ", ".join(f"{count} nodes on {provider}" for provider, count in engine.nodes.items())
    engine.close()
    at_once = f"{engine.max_batch} at once" if engine.max_batch > 1 else "one at a time"
    return f"{nodes}; warm after {warm_s:.1f} s, one picture in {infer_s * 1000:.0f} ms, best {at_once}"


def _traces(endpoint: str) -> Finding:
    try:
        traces = tracing()
    except StartupError as error:
        return "FAIL", "traces", error.reason
    if traces is None:
        return "note", "traces", f"none: {endpoint} is set, but segdepth[otel] is not installed"
    traces.close()
    return "ok", "traces", f"as {endpoint} says"


def _tried(name: str, attempt: Callable[[], str]) -> Finding:
    try:
        return "ok", name, attempt()
    except StartupError as error:
        return "FAIL", name, error.reason
    except Exception as error:
        return "FAIL", name, f"{type(error).__name__}: {error}"
