"""Engines on NVIDIA GPUs: the CUDA and TensorRT providers of ONNX Runtime, strictly, and the device beneath them.

ONNX Runtime would warn and go on without the GPU where a library is missing, or where a provider leaves a part of the
graph to the CPU. Here both end the start, and what is missing is named.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import io
import itertools
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from service.arrays import Size, UInt8
from service.card import ModelCard
from service.engine import assigned_nodes, check_contract, count_nodes, open_session, read_card, session_options
from service.engine_bound import BoundEngine
from service.errors import StartupError

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
INSTALL = ": `make serve RUNTIME=gpu` installs the one for CUDA (docs/gpu.md)"
"""Behind what an ONNX Runtime for CPUs lacks."""
PRODUCTS = ("Conv", "Gemm", "MatMul")
"""Parts of the names of those kinds of nodes in which the time goes; they run where it was asked for."""
WHOLE_MAPS = (
    *("Pool", "Resize", "Upsample", "Softmax", "ArgMax", "TopK"),
    *("Relu", "Clip", "Sigmoid", "Normalization", "ReduceMean"),
)
"""And of those that touch every pixel, and that nobody computes shapes with: the CUDA provider may run them for
TensorRT, but the CPU may not. Other kinds, such as Add and Concat, do both, and are no sign of anything."""
SHOWN = 5

CUDA_12 = "onnxruntime-gpu 1.26.0"
"""The last release for CUDA 12: for drivers from 525 on and GPUs from Pascal on."""
KNOWN_LINES = ((1, 28), (1, 31))
"""Of ONNX Runtime, the first and the last whose published packages have the code below (it was read from 1.31.1)."""
CODE: Mapping[str, tuple[Mapping[int, int], str]] = {
    "x86_64": ({7: 5, 8: 0, 9: 0, 12: 0}, "7.5, 8.0 to 8.9, 9.0 and 12.x"),
    "aarch64": ({8: 9, 9: 0, 12: 0}, "8.9, 9.0 and 12.x"),
}
"""By processor: for each major compute capability the least minor one that there is machine code for, and the same in
words. Machine code runs from its minor capability on; there is no PTX in these packages to serve others by."""


@dataclass(frozen=True)
class GpuOptions:
    """What may be chosen; the first three are settings.

    Attributes:
        graphs: capture CUDA graphs.
        memory: bytes that ONNX Runtime may take in each session, for weights, maps and workspaces; 0: all there are.
        cache_dir: where TensorRT's engines are kept; None: in the user's cache folder.
        provider: further options of the provider, for comparing.
    """

    graphs: bool = False
    memory: int = 0
    cache_dir: Path | None = None
    provider: Mapping[str, str] = field(default_factory=dict)


def gpu_engine(path: Path, kind: str, index: int, *, max_batch: int, options: GpuOptions) -> BoundEngine:
    """An engine on GPU `index` by the provider `cuda` or `tensorrt`; all calls come from the thread that calls this.

    Raises:
        StartupError: the file breaks the contract, the GPU or a library is not to be had, or the provider does not
            take every heavy node.
    """
    provider = TENSORRT if kind == "tensorrt" else CUDA
    name = f"{kind}:{index}"
    card = read_card(path)
    _require(provider, name)
    device: CudaDevice | None = None
    try:
        device = CudaDevice(index)
        sessions = _sessions(path, provider, card, device, max_batch, options)
        for session in sessions.values():
            require_placement(session, provider, name)
            if check_contract(session, path) != card:
                raise StartupError(f"{path} was changed while it was being loaded")
        nodes = count_nodes({id(session): session for session in sessions.values()}.values())
        return BoundEngine(card, sessions, provider, nodes, device, max_batch=max_batch, graphs=options.graphs)
    except BaseException as error:
        if device is not None:
            device.close()
        if isinstance(error, CudaError):
            raise StartupError(f"device {name} cannot be used: {error}") from None
        raise


# --- sessions -------------------------------------------------------------------------------------------------


def _sessions(
    path: Path, provider: str, card: ModelCard, device: CudaDevice, max_batch: int, options: GpuOptions
) -> dict[Size, Any]:
    cuda = {
        "device_id": str(device.index),
        "user_compute_stream": str(device.compute),
        # As much as is asked for: by default the arena doubles, and what was warmed up would take far more.
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if options.memory:
        cuda["gpu_mem_limit"] = str(options.memory)
    if provider == CUDA:
        cuda |= {"enable_cuda_graph": "1"} if options.graphs else {}
        session = open_session(path, session_options(), [(CUDA, cuda | dict(options.provider))])
        return dict.fromkeys(card.input.sizes, session)

    # A session for each size: TensorRT's provider knows one range of shapes.
    folder = engine_cache(path, max_batch, options.cache_dir)
    sessions = {}
    for size in card.input.sizes:
        tensorrt = {
            "device_id": str(device.index),
            "user_compute_stream": str(device.compute),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder / "{}x{}".format(*size)),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
            # A network that is not strongly typed: TensorRT may compute any layer in half precision then, also those
            # that a file in half precision keeps in full (the layer that gives depth, softmax). Of a file in full
            # precision none is.
            "trt_fp16_enable": "1" if card.precision == "fp16" else "0",
            "trt_cuda_graph_enable": "1" if options.graphs else "0",
            **profile(size, max_batch),
        }
        chain = [(TENSORRT, tensorrt | dict(options.provider)), (CUDA, cuda)]
        sessions[size] = open_session(path, session_options(), chain)
    return sessions


def profile(size: Size, max_batch: int) -> dict[str, str]:
    """TensorRT's range of shapes: one size, 1 to `max_batch` pictures, at its best with `max_batch`."""
    least, most = (f"image:{n}x{size[0]}x{size[1]}x3" for n in (1, max_batch))
    return {"trt_profile_min_shapes": least, "trt_profile_opt_shapes": most, "trt_profile_max_shapes": most}


def engine_cache(path: Path, max_batch: int, cache_dir: Path | None) -> Path:
    """The folder of a file's TensorRT engines; it is made.

    TensorRT's provider tells engines apart by the graph, not by the weights, so each file has a folder of its own.
    """
    digest = hashlib.sha256(f"{onnxruntime.__version__} {max_batch} ".encode())
    digest.update(path.read_bytes())
    base = cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segdepth"
    folder = base / "tensorrt" / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"TensorRT's engines cannot be kept in {folder}: {error.strerror}") from None
    return folder


def require_placement(session: Any, provider: str, name: str) -> None:
    """Raises StartupError if the provider is not there, or would not run heavy nodes; with their names."""
    if provider not in session.get_providers():
        raise StartupError(
            f"device {name} was asked for, but ONNX Runtime could not use it: {_provider_error(provider)}"
        )
    elsewhere = [
        (other, f"{node} ({op})")
        for other, op, node in assigned_nodes(session)
        if other != provider
        and (any(part in op for part in PRODUCTS) or (other != CUDA and any(part in op for part in WHOLE_MAPS)))
    ]
    if elsewhere:
        shown = ", ".join(f"{node} on {other}" for other, node in elsewhere[:SHOWN])
        more = f" and {len(elsewhere) - SHOWN} more" if len(elsewhere) > SHOWN else ""
        raise StartupError(f"device {name} was asked for, but it would not run these nodes: {shown}{more}")


# --- what has to be installed ---------------------------------------------------------------------------------


def _require(provider: str, name: str) -> None:
    if provider not in onnxruntime.get_available_providers():
        without = "TensorRT" if provider == TENSORRT and CUDA in onnxruntime.get_available_providers() else "CUDA"
        install = "" if without == "TensorRT" else INSTALL
        raise StartupError(f"device {name} was asked for, but this onnxruntime is built without {without}{install}")
    if absent := missing(provider):
        raise StartupError(
            f"device {name} was asked for, but there is no {', no '.join(absent)}; onnxruntime "
            f"{onnxruntime.__version__} needs {needs(provider)}. `segdepth doctor --device {name}` says more"
        )


def needs(provider: str = CUDA) -> str:
    """In words: what the installed ONNX Runtime was built for."""
    major = cuda_major()
    # From 11 on those packages have another libnvinfer.
    tensorrt = f" and TensorRT 10 (pip install 'tensorrt-cu{major}<11')" if provider == TENSORRT else ""
    package = "segdepth[gpu]" if major == "13" else "onnxruntime-gpu[cuda,cudnn]"
    return f"CUDA {major} and cuDNN 9 (both come with {package}), a driver for CUDA {major}{tensorrt}"


def cuda_major() -> str:
    """Of the CUDA that the installed ONNX Runtime was built with; the newest one known for a build without."""
    return str(getattr(onnxruntime, "cuda_version", "") or "13").partition(".")[0]


def libraries(provider: str = CUDA) -> dict[str, str]:
    """The libraries that the provider loads, and what they belong to."""
    major = cuda_major()
    cuda = [f"libcublasLt.so.{major}", f"libcublas.so.{major}", "libcurand.so.10", f"libcudart.so.{major}"]
    if major == "12":  # Those for CUDA 13 (1.31.1) do not ask for it any more.
        cuda.append("libcufft.so.11")
    found = {"libcuda.so.1": "the NVIDIA driver"} | dict.fromkeys(cuda, f"CUDA {major}")
    found["libcudnn.so.9"] = "cuDNN 9"
    if provider == TENSORRT:
        found |= dict.fromkeys(["libnvinfer.so.10", "libnvonnxparser.so.10"], "TensorRT 10")
    return found


def missing(provider: str = CUDA) -> list[str]:
    """Those libraries that cannot be loaded, with what they belong to; and the driver, where it is too old."""
    preload()
    absent = [f"{library} ({owner})" for library, owner in libraries(provider).items() if not _loads(library)]
    major = int(cuda_major())
    if not absent and (version := driver_version()) < major:
        older = f"; {CUDA_12} is for that one, see docs/gpu.md" if 12 <= version < 13 <= major else ""
        absent.append(f"driver for CUDA {major} (the installed one is for CUDA {version:g}{older})")
    return absent


def preload() -> None:
    """Load the libraries that came as packages, which the system does not find by itself."""
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # It prints what it did not find; we say it in our own words.
            onnxruntime.preload_dlls()
    if (found := importlib.util.find_spec("tensorrt_libs")) and found.submodule_search_locations:
        for folder in found.submodule_search_locations:
            for library in ("libnvinfer.so.10", "libnvonnxparser.so.10"):
                _loads(str(Path(folder) / library))


def driver_version() -> float:
    """The CUDA version that the driver is for, such as 13.0; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0.0
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000 + version.value % 1000 // 10 / 10


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _provider_error(provider: str) -> str:
    """Why a provider that is there does not work: what loading it says, or that the GPU is the reason."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    library = "tensorrt" if provider == TENSORRT else "cuda"
    _loads(str(folder / "libonnxruntime_providers_shared.so"))
    try:
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{library}.so"))
    except OSError as error:
        return str(error)[:300]
    return "its libraries are there, so check that `nvidia-smi` shows the GPU; ONNX Runtime's log above may say more"


# --- the device -----------------------------------------------------------------------------------------------


class CudaError(Exception):
    """A call of the CUDA runtime failed; the message has its name and CUDA's words for what happened."""


class CudaRuntime:
    """Those functions of libcudart that are needed, which CUDA keeps as they are; each raises CudaError if it fails."""

    SIGNATURES: Mapping[str, tuple[Any, ...]] = {
        "cudaSetDevice": (ctypes.c_int,),
        "cudaGetDeviceCount": (ctypes.c_void_p,),
        "cudaDeviceGetAttribute": (ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
        "cudaMalloc": (ctypes.c_void_p, ctypes.c_size_t),
        "cudaFree": (ctypes.c_void_p,),
        "cudaHostAlloc": (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint),
        "cudaFreeHost": (ctypes.c_void_p,),
        "cudaMemcpyAsync": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p),
        "cudaStreamCreateWithFlags": (ctypes.c_void_p, ctypes.c_uint),
        "cudaStreamDestroy": (ctypes.c_void_p,),
        "cudaStreamSynchronize": (ctypes.c_void_p,),
        "cudaStreamWaitEvent": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint),
        "cudaEventCreateWithFlags": (ctypes.c_void_p, ctypes.c_uint),
        "cudaEventDestroy": (ctypes.c_void_p,),
        "cudaEventRecord": (ctypes.c_void_p, ctypes.c_void_p),
        "cudaEventSynchronize": (ctypes.c_void_p,),
    }

    def __init__(self, library: str | None = None) -> None:
        try:
            self._library = ctypes.CDLL(library or f"libcudart.so.{cuda_major()}")
        except OSError as error:
            raise CudaError(str(error)) from None
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        for name, types in self.SIGNATURES.items():
            getattr(self._library, name).argtypes = types

    def __call__(self, name: str, *arguments: Any) -> None:
        # ctypes lets other threads run meanwhile.
        if code := getattr(self._library, name)(*arguments):
            text = self._library.cudaGetErrorString(code) or b"unknown error"
            raise CudaError(f"{name}: {text.decode()} ({code})")

    def new(self, name: str, *arguments: Any) -> int:
        """A call whose first argument is where to put an address or number; gives that."""
        place = ctypes.c_void_p()
        self(name, ctypes.byref(place), *arguments)
        return place.value or 0

    def number(self, name: str, *arguments: Any) -> int:
        """The same for an int."""
        return self.new(name, *arguments) & 0xFFFFFFFF  # The upper half is not written.


_MAJOR, _MINOR = 75, 76
"""cudaDevAttrComputeCapabilityMajor and Minor."""


def capability(cuda: CudaRuntime, index: int) -> str:
    """The compute capability of a GPU, such as 9.0.

    Raises:
        CudaError: there is no such GPU, or the installed ONNX Runtime is known to have no code for it. It would load
            the model and fail at the first kernel.
    """
    count = cuda.number("cudaGetDeviceCount")
    if index >= count:
        raise CudaError(f"there is no GPU {index}, only {count} (counted from 0)")
    major, minor = (cuda.number("cudaDeviceGetAttribute", which, index) for which in (_MAJOR, _MINOR))
    if (code := _code()) and minor < code[0].get(major, minor + 1):
        raise CudaError(
            f"GPU {index} has compute capability {major}.{minor}; onnxruntime {onnxruntime.__version__} has code for "
            f"{code[1]}, see docs/gpu.md"
        )
    return f"{major}.{minor}"


def _code() -> tuple[Mapping[int, int], str] | None:
    """What the installed ONNX Runtime has machine code for; None where that is not known."""
    # A plain number: nightly and own builds, which may have any code, mostly have a suffix.
    version = re.fullmatch(r"(\d+)\.(\d+)\.\d+", onnxruntime.__version__)
    if version is None or not KNOWN_LINES[0] <= (int(version[1]), int(version[2])) <= KNOWN_LINES[1]:
        return None
    return CODE.get(platform.machine()) if cuda_major() == "13" else None


class CudaDevice:
    """A `Device`: one GPU, with a stream each for uploads, for computing and for downloads.

    Raises:
        CudaError: no such GPU, none that ONNX Runtime has code for, or it does not work.
    """

    memory = "cuda"

    _TO_DEVICE, _TO_HOST = 1, 2
    # Streams that do not wait for the default one; events without a time, whose waiting thread sleeps: its core is
    # better used for decoding pictures.
    _NON_BLOCKING, _SLEEP_NO_TIME = 1, 1 | 2
    _WAITED_FOR = 4
    """Downloads that may be waited for at a time; a set of buffers has one."""

    def __init__(self, index: int, runtime: CudaRuntime | None = None) -> None:
        self.index = index
        self._cuda = cuda = runtime or CudaRuntime()
        self._memory: list[int] = []
        self._host_memory: list[int] = []
        capability(cuda, index)
        cuda("cudaSetDevice", index)  # of this thread
        self._streams = [cuda.new("cudaStreamCreateWithFlags", self._NON_BLOCKING) for _ in range(3)]
        self._in, self.compute, self._out = self._streams
        self._events = [cuda.new("cudaEventCreateWithFlags", self._SLEEP_NO_TIME) for _ in range(2 + self._WAITED_FOR)]
        self._uploaded, self._computed, *copied = self._events
        self._copied = itertools.cycle(copied)

    def allocate(self, nbytes: int) -> int:
        self._memory.append(self._cuda.new("cudaMalloc", nbytes))
        return self._memory[-1]

    def allocate_host(self, nbytes: int) -> UInt8:
        self._host_memory.append(self._cuda.new("cudaHostAlloc", nbytes, 0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self._host_memory[-1]))

    def upload(self, to: int, source: UInt8) -> None:
        self._cuda("cudaMemcpyAsync", to, source.ctypes.data, source.nbytes, self._TO_DEVICE, self._in)
        self._cuda("cudaEventRecord", self._uploaded, self._in)
        self._cuda("cudaStreamWaitEvent", self.compute, self._uploaded, 0)

    def download(self, to: UInt8, source: int) -> object:
        self._cuda("cudaEventRecord", self._computed, self.compute)
        self._cuda("cudaStreamWaitEvent", self._out, self._computed, 0)
        self._cuda("cudaMemcpyAsync", to.ctypes.data, source, to.nbytes, self._TO_HOST, self._out)
        copied = next(self._copied)
        self._cuda("cudaEventRecord", copied, self._out)
        return copied

    def wait(self, copied: object) -> None:
        self._cuda("cudaEventSynchronize", copied)

    def drain(self) -> None:
        for stream in self._streams:
            self._cuda("cudaStreamSynchronize", stream)

    def close(self) -> None:
        with contextlib.suppress(CudaError):
            self.drain()
        for name, held in (
            ("cudaFree", self._memory),
            ("cudaFreeHost", self._host_memory),
            ("cudaEventDestroy", self._events),
            ("cudaStreamDestroy", self._streams),
        ):
            for address in held:
                # A device that is lost cannot give anything back.
                with contextlib.suppress(CudaError):
                    self._cuda(name, address)
            held.clear()
