"""service/engine_cuda.py: what is refused and how it is named, what providers are told, and the calls of CUDA.

There is no GPU in these tests. The calls go to a small libcudart of our own, whose device is the host.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from service_onnx import write_model

from service import doctor, engine_cuda
from service.devices import load_engine
from service.engine import DeviceLost, OnnxEngine, open_session, session_options
from service.engine_bound import Device
from service.engine_cuda import CUDA, TENSORRT, CudaDevice, CudaError, CudaRuntime, GpuOptions, gpu_engine
from service.errors import StartupError
from service.settings import Settings

CUDART = r"""
#include <stdlib.h>
#include <string.h>
typedef void *P;
static int lost = 0, live = 0, device = -1, major = 9, minor = 0;
void fake_lose(int code) { lost = code; }
void fake_capability(int a, int b) { major = a; minor = b; }
int fake_live(void) { return live; }
int fake_device(void) { return device; }
const char *cudaGetErrorString(int code) { return code == 719 ? "unspecified launch failure" : "out of memory"; }
#define TRY if (lost) return lost
static int make(P *to, size_t n) { TRY; if (n > 1u << 30) return 2; *to = malloc(n); live++; return 0; }
static int drop(P p) { TRY; free(p); live--; return 0; }
int cudaGetDeviceCount(int *n) { TRY; *n = 2; return 0; }
int cudaDeviceGetAttribute(int *value, int which, int n)
{ TRY; if ((which != 75 && which != 76) || n > 1) return 1; *value = which == 75 ? major : minor; return 0; }
int cudaSetDevice(int n) { TRY; device = n; return 0; }
int cudaMalloc(P *p, size_t n) { return make(p, n); }
int cudaFree(P p) { return drop(p); }
int cudaHostAlloc(P *p, size_t n, unsigned flags) { return flags ? 1 : make(p, n); }
int cudaFreeHost(P p) { return drop(p); }
int cudaMemcpyAsync(P to, const P from, size_t n, int kind, P stream)
{ TRY; if ((kind != 1 && kind != 2) || !stream) return 1; memcpy(to, from, n); return 0; }
int cudaStreamCreateWithFlags(P *s, unsigned flags) { return flags == 1 ? make(s, 1) : 1; }
int cudaStreamDestroy(P s) { return drop(s); }
int cudaStreamSynchronize(P s) { TRY; return s ? 0 : 1; }
int cudaStreamWaitEvent(P s, P e, unsigned flags) { TRY; return s && e && !flags ? 0 : 1; }
int cudaEventCreateWithFlags(P *e, unsigned flags) { return flags == 3 ? make(e, 1) : 1; }
int cudaEventDestroy(P e) { return drop(e); }
int cudaEventRecord(P e, P s) { TRY; return s && e ? 0 : 1; }
int cudaEventSynchronize(P e) { TRY; return e ? 0 : 1; }
"""


@pytest.fixture(scope="module")
def cudart(tmp_path_factory: pytest.TempPathFactory) -> CudaRuntime:
    if (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
        pytest.skip("there is no C compiler to make a libcudart with")
    folder = tmp_path_factory.mktemp("cudart")
    (folder / "cudart.c").write_text(CUDART)
    command = [compiler, "-shared", "-fPIC", "-o", "libcudart.so", "cudart.c"]
    subprocess.run(command, cwd=folder, check=True)
    return CudaRuntime(str(folder / "libcudart.so"))


@pytest.fixture(autouse=True)
def _whole(request: pytest.FixtureRequest) -> Any:
    yield
    if "cudart" in request.fixturenames:
        library = request.getfixturevalue("cudart")._library
        library.fake_lose(0)
        library.fake_capability(9, 0)


# --- the device


def test_a_device_copies_and_gives_everything_back(cudart: CudaRuntime) -> None:
    before = cudart._library.fake_live()
    device: Device = CudaDevice(1, cudart)
    assert cudart._library.fake_device() == 1
    assert (device.memory, device.index) == ("cuda", 1)
    place = device.allocate(5000)
    there, back = device.allocate_host(5000), device.allocate_host(5000)
    there[:] = np.arange(5000) % 251
    device.upload(place, there)
    device.wait(device.download(back, place))
    device.drain()
    assert (back == np.arange(5000) % 251).all()
    assert cudart._library.fake_live() > before
    device.close()
    device.close()
    assert cudart._library.fake_live() == before


def test_what_fails_is_named(cudart: CudaRuntime) -> None:
    with pytest.raises(CudaError, match=r"there is no GPU 2, only 2 \(counted from 0\)"):
        CudaDevice(2, cudart)
    device = CudaDevice(0, cudart)
    with pytest.raises(CudaError, match=r"cudaMalloc: out of memory \(2\)"):
        device.allocate(1 << 40)
    cudart._library.fake_lose(719)
    with pytest.raises(CudaError, match=r"cudaStreamSynchronize: unspecified launch failure \(719\)"):
        device.drain()
    device.close()
    with pytest.raises(CudaError, match=r"libnotthere\.so"):
        CudaRuntime("libnotthere.so")


@pytest.mark.parametrize(
    ("machine", "capability", "served"),
    [
        *(("x86_64", one, True) for one in ((7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (12, 0), (12, 1))),
        *(("x86_64", one, False) for one in ((6, 1), (7, 0), (7, 2), (10, 0), (10, 3), (11, 0), (13, 0))),
        *(("aarch64", one, True) for one in ((8, 9), (9, 0), (12, 1))),
        *(("aarch64", one, False) for one in ((7, 5), (8, 0), (8, 7), (10, 0), (11, 0))),
        ("riscv64", (5, 0), True),  # Nothing is known of it.
    ],
)
def test_a_gpu_that_onnx_runtime_has_no_code_for_is_named(
    cudart: CudaRuntime, monkeypatch: pytest.MonkeyPatch, machine: str, capability: tuple[int, int], served: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(onnxruntime, "__version__", "1.31.1")
    cudart._library.fake_capability(*capability)
    before = cudart._library.fake_live()
    words = "{}.{}".format(*capability)
    if served:
        CudaDevice(1, cudart).close()
        assert engine_cuda.capability(cudart, 1) == words
        return
    with pytest.raises(
        CudaError, match=rf"^GPU 1 has compute capability {words}; onnxruntime 1\.31\.1 has code"
    ) as caught:
        CudaDevice(1, cudart)
    assert ("7.5, 8.0 to 8.9, 9.0 and 12.x" in str(caught.value)) == (machine == "x86_64")
    assert cudart._library.fake_live() == before


@pytest.mark.parametrize(
    ("version", "cuda", "checked"),
    [
        ("1.28.0", "13.0", True),
        ("1.31.1", "", True),
        ("1.26.0", "12.8", False),
        ("1.27.0", "13.0", False),
        ("1.32.0", "13.1", False),
        ("1.31.1", "12.9", False),
        ("1.31.0.dev20270101", "13.0", False),
        ("2.0.0", "", False),
    ],
)
def test_of_an_onnx_runtime_that_is_not_known_no_gpu_is_refused(
    cudart: CudaRuntime, monkeypatch: pytest.MonkeyPatch, version: str, cuda: str, checked: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(onnxruntime, "__version__", version)
    monkeypatch.setattr(onnxruntime, "cuda_version", cuda, raising=False)
    cudart._library.fake_capability(10, 0)
    if checked:
        with pytest.raises(CudaError, match=r"compute capability 10\.0"):
            engine_cuda.capability(cudart, 0)
    else:
        assert engine_cuda.capability(cudart, 0) == "10.0"


def test_the_pinned_onnx_runtime_is_a_known_one() -> None:
    pins = (Path(__file__).parent.parent / "constraints.txt").read_text()
    (line,) = re.findall(r"^onnxruntime-gpu==(\d+)\.(\d+)\.", pins, re.MULTILINE)
    # Another one has other code: `cuobjdump --list-elf libonnxruntime_providers_cuda.so`, and `CODE`.
    assert tuple(map(int, line)) == engine_cuda.KNOWN_LINES[1]


# --- the engine


class Session:
    """A real session on the CPU that says that it is another provider's."""

    def __init__(self, path: Path, providers: list[str], nodes: list[tuple[str, str]]) -> None:
        self._session = open_session(path, session_options(), ["CPUExecutionProvider"])
        self._providers, self._nodes = providers, nodes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return self._providers

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(
                ep_name=provider, get_nodes=lambda op=op, k=k: [SimpleNamespace(op_type=op, name=f"{op}_{k}")]
            )
            for k, (provider, op) in enumerate(self._nodes)
        ]


@pytest.fixture
def gpu(cudart: CudaRuntime, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with GPUs whose memory is the host's; `nodes` and `providers` are what ONNX Runtime says, `opened`
    what it was told."""
    seen = SimpleNamespace(nodes=[(CUDA, "Conv")], providers=[TENSORRT, CUDA], opened=[], cudart=cudart)

    class HostGpu(CudaDevice):
        memory = "cpu"

        def __init__(self, index: int) -> None:
            super().__init__(index, cudart)

    def open_it(path: Path, options: Any, providers: list[Any]) -> Session:
        seen.opened.append(providers)
        return Session(path, seen.providers, seen.nodes)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(engine_cuda, "missing", lambda provider: [])
    monkeypatch.setattr(engine_cuda, "CudaDevice", HostGpu)
    monkeypatch.setattr(engine_cuda, "open_session", open_it)
    return seen


def test_an_engine_on_cuda(tiny_model: Path, gpu: Any) -> None:
    before = gpu.cudart._library.fake_live()
    engine = load_engine(tiny_model, "cuda:0", max_batch=3, gpu_memory=1 << 30)
    assert (engine.provider, engine.nodes) == (CUDA, {CUDA: 1})
    ((name, options),) = gpu.opened[0]
    assert (name, options["device_id"], options["gpu_mem_limit"]) == (CUDA, "0", str(1 << 30))
    assert int(options["user_compute_stream"]) > 0 and options["arena_extend_strategy"] == "kSameAsRequested"
    assert "enable_cuda_graph" not in options
    engine.warm_up(lambda done, total: None)
    plain = OnnxEngine(tiny_model, threads=1)
    for n in (1, 2, 3):
        batch = np.random.default_rng(n).integers(0, 256, (n, 48, 64, 3), dtype=np.uint8)
        for got, wanted in zip(engine.infer(batch), plain.infer(batch), strict=True):
            np.testing.assert_array_equal(got, wanted)
    gpu.cudart._library.fake_lose(719)
    with pytest.raises(DeviceLost, match="unspecified launch failure"):
        engine.infer(batch)
    gpu.cudart._library.fake_lose(0)
    engine.close()
    assert gpu.cudart._library.fake_live() == before


def test_graphs_and_further_options(tiny_model: Path, gpu: Any) -> None:
    options = GpuOptions(graphs=True, provider={"prefer_nhwc": "1"})
    gpu_engine(tiny_model, "cuda", 0, max_batch=1, options=options).close()
    ((_, told),) = gpu.opened[0]
    assert (told["enable_cuda_graph"], told["prefer_nhwc"]) == ("1", "1")
    assert "gpu_mem_limit" not in told


def test_an_engine_on_tensorrt_has_a_session_and_a_cache_for_each_size(
    tiny_model: Path, tmp_path: Path, gpu: Any
) -> None:
    gpu.nodes = [(TENSORRT, "Conv"), (CUDA, "ArgMax"), ("CPUExecutionProvider", "Shape")]
    engine = load_engine(tiny_model, "tensorrt", max_batch=4, cache_dir=tmp_path)
    assert (engine.provider, engine.nodes) == (TENSORRT, {TENSORRT: 2, CUDA: 2, "CPUExecutionProvider": 2})
    assert len(gpu.opened) == 2
    folders = []
    for (height, width), chain in zip([(48, 64), (64, 48)], gpu.opened, strict=True):
        assert [name for name, _ in chain] == [TENSORRT, CUDA]
        told = chain[0][1]
        assert told["trt_profile_min_shapes"] == f"image:1x{height}x{width}x3"
        assert told["trt_profile_max_shapes"] == told["trt_profile_opt_shapes"] == f"image:4x{height}x{width}x3"
        assert (told["trt_fp16_enable"], told["trt_engine_cache_enable"]) == ("0", "1")
        assert told["user_compute_stream"] == chain[1][1]["user_compute_stream"]
        folders.append(Path(told["trt_engine_cache_path"]))
    assert [folder.name for folder in folders] == ["48x64", "64x48"]
    (parent,) = {folder.parent for folder in folders}
    assert parent.parent == tmp_path / "tensorrt" and parent.is_dir()
    engine.infer(np.zeros((1, 64, 48, 3), np.uint8))
    engine.close()


def test_another_file_or_batch_has_another_cache(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_model(tmp_path / "other.onnx")
    other.write_bytes(tiny_model.read_bytes()[:-1])
    folders = [
        engine_cuda.engine_cache(path, n, tmp_path)
        for path, n in ((tiny_model, 4), (tiny_model, 8), (other, 4), (tiny_model, 4))
    ]
    assert len(set(folders)) == 3 and folders[0] == folders[3]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert engine_cuda.engine_cache(tiny_model, 4, None).parent == tmp_path / "xdg" / "segdepth" / "tensorrt"
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=r"engines cannot be kept in .*: Not a directory"):
        engine_cuda.engine_cache(tiny_model, 4, tmp_path / "file")


@pytest.mark.parametrize(
    ("kind", "nodes", "named"),
    [
        ("cuda", [(CUDA, "Conv"), ("CPUExecutionProvider", "FusedConv")], "FusedConv_1 (FusedConv) on CPUExecution"),
        ("cuda", [("CPUExecutionProvider", "QLinearConv")] * 7, "QLinearConv_4 (QLinearConv) on CPUExecutionProvider"),
        ("cuda", [("CPUExecutionProvider", "Resize")], "Resize_0 (Resize)"),
        ("cuda", [("CPUExecutionProvider", "BatchNormalization")], "BatchNormalization_0 (BatchNormalization)"),
        ("tensorrt", [(TENSORRT, "Conv"), (CUDA, "Conv")], "Conv_1 (Conv) on CUDAExecutionProvider"),
        ("tensorrt", [(TENSORRT, "Conv"), ("CPUExecutionProvider", "ArgMax")], "ArgMax_1 (ArgMax)"),
    ],
)
def test_heavy_nodes_elsewhere_are_named(
    tiny_model: Path, tmp_path: Path, gpu: Any, kind: str, nodes: list[tuple[str, str]], named: str
) -> None:
    before = gpu.cudart._library.fake_live()
    gpu.nodes = nodes
    with pytest.raises(StartupError, match=f"device {kind}:1 was asked for") as caught:
        load_engine(tiny_model, f"{kind}:1", cache_dir=tmp_path)
    assert named in caught.value.reason
    assert ("and 2 more" in caught.value.reason) == (len(nodes) == 7)
    assert gpu.cudart._library.fake_live() == before


def test_a_provider_that_is_not_there_after_all(tiny_model: Path, gpu: Any) -> None:
    gpu.providers = ["CPUExecutionProvider"]
    with pytest.raises(StartupError, match=r"ONNX Runtime could not use it: .*libonnxruntime_providers_cuda") as caught:
        load_engine(tiny_model, "cuda")
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there_or_does_not_work(tiny_model: Path, gpu: Any) -> None:
    with pytest.raises(StartupError, match="device cuda:7 cannot be used: there is no GPU 7, only 2"):
        load_engine(tiny_model, "cuda:7")
    gpu.cudart._library.fake_capability(5, 2)
    with pytest.raises(StartupError, match=r"device cuda:0 cannot be used: GPU 0 has compute capability 5\.2; onnxr"):
        load_engine(tiny_model, "cuda")
    assert not gpu.opened
    gpu.cudart._library.fake_lose(719)
    with pytest.raises(StartupError, match="device cuda:0 cannot be used: cudaGetDeviceCount: unspecified launch"):
        load_engine(tiny_model, "cuda")


# --- what has to be installed


@pytest.mark.parametrize(
    ("device", "providers", "reason"),
    [
        ("cuda", ["CPUExecutionProvider"], "built without CUDA: `make serve RUNTIME=gpu` installs"),
        ("tensorrt:1", ["CPUExecutionProvider"], r"device tensorrt:1 .* built without CUDA: `make"),
        ("tensorrt", [CUDA, "CPUExecutionProvider"], "built without TensorRT$"),
    ],
)
def test_never_silently_another_provider(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, device: str, providers: list[str], reason: str
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    with pytest.raises(StartupError, match=reason):
        load_engine(tiny_model, device)


def test_libraries_that_are_not_there_are_named(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    wanted = {"libc.so.6": "the system", "libnotcudnn.so.9": "cuDNN 9", "libnotcublas.so.13": "CUDA 13"}
    monkeypatch.setattr(engine_cuda, "libraries", lambda provider: wanted)
    with pytest.raises(StartupError) as caught:
        load_engine(tiny_model, "cuda:0")
    assert "there is no libnotcudnn.so.9 (cuDNN 9), no libnotcublas.so.13 (CUDA 13)" in caught.value.reason
    assert "libc.so" not in caught.value.reason
    assert f"onnxruntime {onnxruntime.__version__} needs CUDA 13 and cuDNN 9" in caught.value.reason


def test_a_driver_that_is_too_old(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    monkeypatch.setattr(engine_cuda, "libraries", lambda provider: {})
    monkeypatch.setattr(engine_cuda, "driver_version", lambda: 12.4)
    with pytest.raises(
        StartupError,
        match=r"no driver for CUDA 13 \(the installed one is for CUDA 12\.4; onnxruntime-gpu 1\.26\.0 is for that one",
    ):
        load_engine(tiny_model, "cuda")
    monkeypatch.setattr(engine_cuda, "driver_version", lambda: 11.8)
    assert engine_cuda.missing() == ["driver for CUDA 13 (the installed one is for CUDA 11.8)"]
    monkeypatch.setattr(engine_cuda, "driver_version", lambda: 13.0)
    assert engine_cuda.missing() == []


def test_the_libraries_are_those_of_the_installed_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "cuda_version", "12.8", raising=False)
    both = {"libcuda.so.1", "libcudnn.so.9", "libcurand.so.10"}
    of_12 = {"libcublas.so.12", "libcublasLt.so.12", "libcudart.so.12", "libcufft.so.11"}
    assert set(engine_cuda.libraries()) == both | of_12
    assert "both come with onnxruntime-gpu[cuda,cudnn]" in engine_cuda.needs()
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
    of_13 = {"libcublas.so.13", "libcublasLt.so.13", "libcudart.so.13"}
    assert set(engine_cuda.libraries()) == both | of_13
    assert of_13 <= set(engine_cuda.libraries(TENSORRT))
    assert "pip install 'tensorrt-cu13<11'" in engine_cuda.needs(TENSORRT)
    assert "both come with segdepth[gpu]" in engine_cuda.needs()
    assert engine_cuda.libraries(TENSORRT)["libnvinfer.so.10"] == "TensorRT 10"


def test_the_doctor_names_them(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    wanted = {"libc.so.6": "the system", "libnotcudnn.so.9": "cuDNN 9"}
    monkeypatch.setattr(engine_cuda, "libraries", lambda provider: wanted)
    findings = list(doctor.examine(Settings(model=tiny_model, device="cuda,tensorrt")))
    assert ("FAIL", "library", "there is no libnotcudnn.so.9 (cuDNN 9)") in findings
    assert ("FAIL", "tensorrt", f"this onnxruntime is built without {TENSORRT}") in findings
    states = {name: state for state, name, _ in findings}
    assert states["cuda"] == states["tensorrt"] == "FAIL"  # The trial at the end says so, too.


def test_the_doctor_tells_the_compute_capability(
    tiny_model: Path, cudart: CudaRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    monkeypatch.setattr(doctor, "missing", lambda provider: [])
    monkeypatch.setattr(doctor, "CudaRuntime", lambda: cudart)
    cudart._library.fake_capability(8, 9)
    findings = list(doctor.examine(Settings(model=tiny_model, device="cuda,cuda:2,cuda:0")))
    assert [finding for finding in findings if finding[1] == "gpu" and "GPU" in finding[2]] == [
        ("ok", "gpu", "GPU 0 has compute capability 8.9"),
        ("FAIL", "gpu", "there is no GPU 2, only 2 (counted from 0)"),
    ]
