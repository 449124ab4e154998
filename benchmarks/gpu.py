"""One NVIDIA GPU, measured from its copies to the whole service; at most eight minutes.

python benchmarks/gpu.py --out benchmarks/gpu                      needs what docs/gpu.md installs
python benchmarks/gpu.py --out benchmarks/gpu --checkpoint runs/nyud/checkpoint.safetensors
python benchmarks/gpu.py --dry-run --out /tmp/gpu                  all stages on the CPU with small sizes: no figures

1. place      exports the networks in fp32 and fp16, loads each on each provider, and says which nodes run where.
2. ceiling    matrix products: what the GPU reaches in each precision at best.
3. copies     bytes and time of a batch to the GPU and back, from page-locked memory.
4. engines    our engine at batch 1 to 32: with copies, two batches under way, and without copies.
5. torch      the same networks, bytes in and maps out, in PyTorch: eager and torch.compile.
6. agreement  our engines against fp32 without TF32: labels, depth.
7. service    the server under load from this machine: pictures per second, latency, the GPU's utilisation.
8. training   pictures per second of train.py beside a bare loop.

Networks: MTL_SSW on ResNet-50 at 480x640 (untrained unless --checkpoint is given; its maps are then no measure of
agreement) and the bundled one. A stage has a time of its own: what is not measured by then is left out and listed, and
what a stage found before it failed is kept. OUT.json is written after every stage, OUT.md at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.metadata
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import train_speed
from benchmarks.common import ROOT, free_port, jpeg, machine, ms, picture, publish, serve_command, server, table
from benchmarks.load import Load, Request, run
from deploy.export import Deployable, ready_to_trace, to_onnx
from model.base import TASKS, Network
from model.blocks import conv_bn_relu
from model.checkpoint import load_checkpoint
from model.classes import NYU40
from model.heads import FCNHead
from model.networks import NetworkConfig
from service.arrays import Size, UInt8
from service.card import METADATA_KEY, ModelCard
from service.engine import Prediction, count_nodes, open_session, read_card, session_options
from service.engine_bound import BoundEngine, Device, HostDevice
from service.engine_cuda import CUDA, TENSORRT, CudaDevice, GpuOptions, driver_version, gpu_engine, missing
from service.errors import StartupError
from service.settings import BUNDLED_MODEL
from training.boxes import write_dataset

LARGE, BUNDLED = "mtl_ssw resnet50", "bundled"
STAGES = ("place", "ceiling", "copies", "engines", "torch", "agreement", "service", "training")
BUDGET_S = {
    **{"place": 70.0, "ceiling": 10.0, "copies": 10.0, "engines": 110.0},
    **{"torch": 100.0, "agreement": 20.0, "service": 60.0, "training": 90.0},
}
TARGETS = {"compile": 1.5, "ceiling": 0.45, "copies": 0.95, "labels": 0.995, "depth": 0.01, "training": 0.9}


class OutOfTime(BaseException):
    """A stage's time is over. Not an `Exception`, which some library would handle as its own."""


@dataclass
class Plan:
    """Sizes and times: those of a GPU, or small ones for the CPU."""

    dry: bool
    checkpoint: Path | None
    device: str = "cuda:0"
    backbone: str = "resnet50"
    large: Size = (480, 640)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    compiled_batches: tuple[int, ...] = (8, 32, 1)
    seconds: float = 0.7
    load_seconds: float = 4.0
    connections: tuple[int, ...] = (8, 32, 64)
    product: int = 8192
    training_size: Size = (480, 640)
    training_drawn: int = 64
    training_pictures: int = 400
    training_batch: int = 8
    budget: dict[str, float] = field(default_factory=lambda: dict(BUDGET_S))

    @classmethod
    def small(cls, checkpoint: Path | None) -> Plan:
        return cls(
            dry=True,
            checkpoint=checkpoint,
            device="cpu",
            backbone="resnet18",
            large=(32, 48),
            batches=(1, 2),
            compiled_batches=(),
            seconds=0.0,
            load_seconds=0.5,
            connections=(2,),
            product=64,
            training_size=(32, 48),
            training_drawn=20,
            training_pictures=44,
            training_batch=4,
            budget=dict.fromkeys(STAGES, 3600.0),  # a machine may be busy
        )

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)


class Tiny(Network):
    """In a dry run in the place of the large network: it is exported in seconds."""

    tasks = TASKS

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 16, 3)
        self.heads = torch.nn.ModuleDict({"segmentation": FCNHead(16, classes), "depth": FCNHead(16, 1)})

    def forward(self, image: torch.Tensor) -> dict[str, Any]:
        x = self.stem(image)
        return {task: self.upsample(head(x), image) for task, head in self.heads.items()}


@dataclass
class Model:
    """A network in PyTorch, its files, and what one picture takes."""

    network: torch.nn.Module
    size: Size
    files: dict[str, Path]
    flops: int
    trained: bool


@dataclass
class Bench:
    """What stages hand on: the plan, the models, and the results so far."""

    plan: Plan
    folder: Path
    results: dict[str, Any]
    models: dict[str, Model] = field(default_factory=dict)


# --- engines --------------------------------------------------------------------------------------------------

VARIANTS: dict[str, tuple[str, str, GpuOptions]] = {
    "cuda fp32 (TF32)": ("cuda", "fp32", GpuOptions()),
    "cuda fp16": ("cuda", "fp16", GpuOptions()),
    "cuda fp16 graphs": ("cuda", "fp16", GpuOptions(graphs=True)),
    "cuda fp16 nhwc": ("cuda", "fp16", GpuOptions(provider={"prefer_nhwc": "1"})),
    "cuda fp16 exhaustive": ("cuda", "fp16", GpuOptions(provider={"cudnn_conv_algo_search": "EXHAUSTIVE"})),
    "tensorrt fp16": ("tensorrt", "fp16", GpuOptions()),
}
"""Provider, precision of the file, and options. The first ones are most wanted."""
REFERENCE = ("cuda", "fp32", GpuOptions(provider={"use_tf32": "0"}))


def engine(bench: Bench, name: str, kind: str, precision: str, options: GpuOptions) -> BoundEngine:
    """Our engine: on the GPU, or in a dry run the same class on the host.

    Raises:
        StartupError: it is not to be had.
    """
    path, most = bench.models[name].files[precision], max(bench.plan.batches)
    if not bench.plan.dry:
        options = GpuOptions(options.graphs, options.memory, bench.folder / "cache", options.provider)
        return gpu_engine(path, kind, 0, max_batch=most, options=options)
    if kind == "tensorrt" or options.graphs or options.provider:
        raise StartupError("not in a dry run")
    session = open_session(path, session_options(), ["CPUExecutionProvider"])
    card = read_card(path)
    sessions = dict.fromkeys(card.input.sizes, session)
    return BoundEngine(card, sessions, "CPUExecutionProvider", count_nodes([session]), HostDevice(), max_batch=most)


def pictures(size: Size, count: int) -> UInt8:
    return np.stack([picture(size[1], size[0], seed) for seed in range(min(count, 4))] * -(-count // 4))[:count]


def per_second(
    work: Callable[[], object], each: int, seconds: float, finish: Callable[[], object], ahead: int = 16
) -> float:
    """`each` times the calls of `work` per second, over at least `seconds`.

    `finish` waits for what was started; at the end, and after every `ahead` calls, so that no backlog grows.
    """
    work()
    finish()
    calls, began = 0, time.perf_counter()
    while True:
        work()
        calls += 1
        done = time.perf_counter() - began >= seconds
        if done or calls % ahead == 0:
            finish()
        if done:
            return each * calls / (time.perf_counter() - began)


def with_copies(running: BoundEngine, batch: UInt8, seconds: float) -> float:
    """Pictures per second, from pictures in ordinary memory to maps in ordinary memory, two batches under way."""
    given = list(batch)
    tickets: list[Any] = []

    def work() -> None:
        tickets.append(running.submit(given))
        if len(tickets) == 2:
            running.collect(tickets.pop(0))

    def finish() -> None:
        while tickets:
            running.collect(tickets.pop(0))

    return per_second(work, len(batch), seconds, finish, ahead=1 << 30)  # Two are the most there are.


def without_copies(running: BoundEngine, batch: UInt8, seconds: float) -> float:
    """Pictures per second of the device alone: the same bound run again and again, nothing copied."""
    size = (batch.shape[1], batch.shape[2])
    running.infer(batch)
    bound = running._sets[0].bound[size, len(batch)]
    session, device = running._sessions[size], running._device
    return per_second(lambda: session.run_with_iobinding(*bound), len(batch), seconds, device.drain)


# --- stages ---------------------------------------------------------------------------------------------------


def place(bench: Bench, found: dict[str, Any]) -> None:
    plan = bench.plan
    if not plan.dry:
        found["missing"] = missing(CUDA)
        found["driver_for_cuda"] = driver_version()
    torch.manual_seed(0)
    untrained = NetworkConfig("mtl_ssw", plan.backbone, NYU40)
    given = load_checkpoint(plan.checkpoint) if plan.checkpoint else None
    bundled = load_checkpoint(next((ROOT / "checkpoints").glob("*.safetensors")))
    large = given.network() if given else (Tiny(len(NYU40)) if plan.dry else untrained.build()).eval()
    sources = {
        LARGE: (large, given.config if given else untrained, plan.large),
        BUNDLED: (bundled.network(), bundled.config, read_card(BUNDLED_MODEL).input.sizes[0]),
    }
    for name, (network, config, size) in sources.items():
        is_trained = config is not untrained
        files = {}
        for precision, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
            if name == BUNDLED and (precision == "fp32" or plan.dry):
                files["fp32"] = BUNDLED_MODEL
                continue
            files[precision] = bench.folder / f"{name.replace(' ', '-')}-{precision}.onnx"
            proto = to_onnx(Deployable(ready_to_trace(copy.deepcopy(network)), dtype))
            onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(card_of(name, size, precision, config))})
            onnx.save(proto, files[precision])
        bench.models[name] = Model(network, size, files, flops(network, size), is_trained)
        found[name] = {"gflop": bench.models[name].flops / 1e9, "size": list(size), "trained": is_trained}
    found["nodes"] = {}
    for name in bench.models:
        for variant in ("cuda fp32 (TF32)", "cuda fp16"):
            if VARIANTS[variant][1] in bench.models[name].files:
                began = time.perf_counter()
                running = engine(bench, name, *VARIANTS[variant])  # Raises where heavy nodes would run elsewhere.
                loaded_s = time.perf_counter() - began
                found["nodes"][f"{name}, {variant}"] = {"nodes": running.nodes, "loaded_s": loaded_s}
                running.close()


def exported(bench: Bench) -> dict[str, Model]:
    """What `place` exported. Raises RuntimeError if it did not come to that."""
    if not bench.models:
        raise RuntimeError("no network was exported")
    return bench.models


def card_of(name: str, size: Size, precision: str, config: NetworkConfig) -> dict[str, Any]:
    card = ModelCard.model_validate(
        {
            **{"format": 1, "name": name, "version": "0", "parameters": 0, "precision": precision},
            **{"network": config.network, "backbone": config.backbone},
            "classes": [asdict(c) for c in config.classes],
            "input": {"sizes": [size], "fit": "letterbox", "color_space": "sRGB"},
            "depth": {"unit": "mm", "invalid": 0, "min_m": 0.0, "max_m": 10.0},
            "training": {"data": "", "license": "", "pictures": 0},
        }
    )
    dumped: dict[str, Any] = card.model_dump(mode="json", exclude_none=True)
    return dumped


def flops(network: torch.nn.Module, size: Size) -> int:
    """Floating point operations of one picture, a multiplication and an addition being two."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        copy.deepcopy(network).to("meta")(torch.zeros(1, 3, *size, device="meta"))
    return counter.get_total_flops()


def ceiling(bench: Bench, found: dict[str, Any]) -> None:
    plan, n = bench.plan, bench.plan.product
    kinds = [("fp32", torch.float32, False), ("tf32", torch.float32, True)]
    kinds += [("bf16", torch.bfloat16, True), ("fp16", torch.float16, True)]
    allowed = torch.backends.cuda.matmul.allow_tf32
    try:
        for name, dtype, tf32 in kinds:
            torch.backends.cuda.matmul.allow_tf32 = tf32
            a, b = (torch.randn(n, n, device=plan.torch_device).to(dtype) for _ in range(2))
            out = torch.empty_like(a)
            rate = per_second(lambda: torch.mm(a, b, out=out), 1, plan.seconds, synchronise(plan))  # noqa: B023
            found[name] = {"tflops": 2 * n**3 * rate / 1e12, "matrix": n}
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def synchronise(plan: Plan) -> Callable[[], None]:
    return torch.cuda.synchronize if plan.torch_device.type == "cuda" else lambda: None


def copies(bench: Bench, found: dict[str, Any]) -> None:
    plan = bench.plan
    height, width = plan.large
    device: Device = HostDevice() if plan.dry else CudaDevice(0)
    try:
        for batch in plan.batches:
            for way, nbytes in (("to", 3 * batch * height * width), ("from", 4 * batch * height * width)):
                there, host = device.allocate(nbytes), device.allocate_host(nbytes)
                if way == "to":
                    rate = per_second(lambda: device.upload(there, host), 1, plan.seconds / 4, device.drain)  # noqa: B023
                else:
                    rate = per_second(lambda: device.download(host, there), 1, plan.seconds / 4, device.drain)  # noqa: B023
                found[f"{way} the device, batch {batch}"] = {
                    "bytes": nbytes,
                    "ms": 1000 / rate,
                    "gb_per_s": nbytes * rate / 1e9,
                }
    finally:
        device.close()


def engines(bench: Bench, found: dict[str, Any]) -> None:
    import onnxruntime  # Late, when the service has turned off its telemetry.

    for name, model in exported(bench).items():
        for variant, (kind, precision, options) in VARIANTS.items():
            if precision not in model.files:
                continue
            rows = found.setdefault(name, {}).setdefault(variant, {})
            if kind == "tensorrt" and TENSORRT not in onnxruntime.get_available_providers():
                rows["not measured"] = "this onnxruntime is built without TensorRT"
                continue
            try:
                running = engine(bench, name, kind, precision, options)
            except StartupError as error:
                rows["not measured"] = error.reason
                continue
            try:
                for batch in bench.plan.batches:
                    images = pictures(model.size, batch)
                    alone = without_copies(running, images, bench.plan.seconds)
                    rows[str(batch)] = {
                        "pictures_per_s": with_copies(running, images, bench.plan.seconds),
                        "device_alone_per_s": alone,
                        "tflops": alone * model.flops / 1e12,
                    }
            except Exception as error:  # This variant cannot do it; the others are still wanted.
                rows["failed"] = f"{type(error).__name__}: {error}"[:300]
            finally:
                running.close()


def in_torch(bench: Bench, found: dict[str, Any]) -> None:
    plan = bench.plan
    kinds = [("eager fp16", torch.float16, False), ("compile fp16", torch.float16, True)]
    kinds += [("compile bf16", torch.bfloat16, True), ("eager bf16", torch.bfloat16, False)]
    kinds += [("eager fp32 (TF32)", torch.float32, False)]
    torch.backends.cudnn.benchmark = True
    try:
        for name, model in exported(bench).items():
            for kind, dtype, compiled in kinds if not plan.dry else kinds[-1:]:
                rows = found.setdefault(name, {}).setdefault(kind, {})
                module = Deployable(ready_to_trace(copy.deepcopy(model.network)), dtype).eval().to(plan.torch_device)
                module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                call = torch.compile(module) if compiled else module
                for batch in plan.compiled_batches if compiled else plan.batches:
                    images = torch.from_numpy(pictures(model.size, batch)).to(plan.torch_device)
                    with torch.inference_mode():
                        began = time.perf_counter()
                        call(images)
                        synchronise(plan)()
                        first_s = time.perf_counter() - began
                        rate = per_second(lambda: call(images), batch, plan.seconds, synchronise(plan))  # noqa: B023
                    rows[str(batch)] = {"pictures_per_s": rate, "tflops": rate * model.flops / 1e12, "first_s": first_s}
    finally:
        torch.backends.cudnn.benchmark = False
        torch.compiler.reset()


def agreement(bench: Bench, found: dict[str, Any]) -> None:
    reference = VARIANTS["cuda fp32 (TF32)"] if bench.plan.dry else REFERENCE
    for name, model in exported(bench).items():
        images = pictures(model.size, min(4, max(bench.plan.batches)))
        running = engine(bench, name, *reference)
        expected = running.infer(images)
        running.close()
        for variant, (kind, precision, options) in VARIANTS.items():
            if precision not in model.files:
                continue
            try:
                running = engine(bench, name, kind, precision, options)
            except StartupError:
                continue  # `engines` says why.
            try:
                found.setdefault(name, {})[variant] = {
                    **compare(expected, running.infer(images)),
                    "trained": model.trained,
                }
            finally:
                running.close()


def compare(expected: Prediction, got: Prediction) -> dict[str, float]:
    """Share of equal labels; mean and 99th percentile of the relative difference of depth, where there is depth."""
    valid = expected.depth > 0
    apart = np.abs(got.depth[valid].astype(np.float64) / expected.depth[valid] - 1) if valid.any() else np.zeros(1)
    return {
        "equal_labels": float((got.labels == expected.labels).mean()),
        "depth_mean": float(apart.mean()),
        "depth_p99": float(np.quantile(apart, 0.99)),
    }


def service(bench: Bench, found: dict[str, Any]) -> None:
    plan = bench.plan
    for name, model in exported(bench).items():
        path = model.files.get("fp16", model.files["fp32"])
        requests = []
        for seed in range(4):
            file = bench.folder / f"{name.replace(' ', '-')}-{seed}.jpg"
            file.write_bytes(jpeg(picture(model.size[1], model.size[0], seed)))
            requests.append(Request("/predict?pictures=false", str(file)))
        port = free_port()
        command = serve_command(port, path)
        variables = {"SEGDEPTH_DEVICE": plan.device, "SEGDEPTH_LOG_LEVEL": "warning", "SEGDEPTH_QUEUE_SIZE": "128"}
        rows = found.setdefault(name, {})
        with server(command, port, "/health/ready", **variables):
            for connections in plan.connections:
                load = Load("127.0.0.1", port, requests, plan.load_seconds, connections, warmup_s=plan.load_seconds / 4)
                with utilisation() as used:
                    got = run(load)
                rows[str(connections)] = {**asdict(got), "gpu_utilisation": statistics.mean(used) if used else None}


@contextlib.contextmanager
def utilisation() -> Iterator[list[float]]:
    """Per cent of the time in which the GPU worked, as nvidia-smi says it, once in a while; empty without it."""
    seen: list[float] = []
    command = shutil.which("nvidia-smi")
    if command is None:
        yield seen
        return
    query = [command, "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=250"]
    process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                seen.append(float(line))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        process.terminate()
        process.wait()
        reader.join()
        if process.stdout:
            process.stdout.close()


def training(bench: Bench, found: dict[str, Any]) -> None:
    plan = bench.plan
    data = bench.folder / "boxes"
    workers = 1 if plan.dry else 8
    height, width = plan.training_size
    write_dataset(data, count=plan.training_drawn, seed=0, size=(width, height), workers=workers)
    # Drawing takes longer than training: each is read, decoded and augmented several times an epoch.
    description = json.loads((data / "dataset.json").read_text())
    names = description["splits"]["train"]
    description["splits"]["train"] = (names * plan.training_pictures)[: plan.training_pictures]
    (data / "dataset.json").write_text(json.dumps(description))
    args = SimpleNamespace(
        **{"data": data, "network": "mtl_ssw", "backbone": plan.backbone, "size": plan.training_size},
        **{"batch_size": plan.training_batch, "split": "train", "workers": workers, "device": plan.torch_device.type},
        precision="fp32" if plan.dry else "bf16",
    )
    rate, seconds = train_speed.train(args)
    found["train.py"] = {"pictures_per_s": rate}
    found["bare"] = {"pictures_per_s": train_speed.bare(args, min(seconds, 20.0))}
    found["ratio"] = rate / found["bare"]["pictures_per_s"]


WORK: dict[str, Callable[[Bench, dict[str, Any]], None]] = {
    **{"place": place, "ceiling": ceiling, "copies": copies, "engines": engines},
    **{"torch": in_torch, "agreement": agreement, "service": service, "training": training},
}


# --- all of it ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the block when so many seconds are over."""

    def over(signum: int, frame: object) -> None:
        raise OutOfTime

    former = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def stages(bench: Bench, save: Callable[[], None]) -> None:
    """Run them; each has its time, and leaves what it found, however it ends."""
    for name in STAGES:
        found: dict[str, Any] = {}
        state: dict[str, Any] = {"ended": "complete", "found": found}
        bench.results["stages"][name] = state
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.perf_counter()
        try:
            with within(bench.plan.budget[name]):
                WORK[name](bench, found)
        except (Exception, SystemExit, OutOfTime) as error:
            budget = bench.plan.budget[name]
            # Libraries wrap what comes through them, so the clock says which of the two it is.
            late = time.perf_counter() - began >= budget
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            state["ended"] = f"cut off after {budget:g} s" if late else f"failed: {reason}"
        state["seconds"] = time.perf_counter() - began
        save()


def verdicts(stages_: dict[str, Any]) -> list[list[str]]:
    """What was aimed at, what came out, and whether that is enough; of the large network where it is of one."""

    def found(stage: str) -> dict[str, Any]:
        got: dict[str, Any] = stages_.get(stage, {}).get("found", {})
        return got

    rows: list[list[str]] = []

    def row(what: str, value: float | None, enough: bool, text: str) -> None:
        rows.append(
            [what, "not measured" if value is None else text, "-" if value is None else "yes" if enough else "no"]
        )

    halves = [
        one
        for variant, by_batch in found("engines").get(LARGE, {}).items()
        if "fp16" in variant
        for one in by_batch.values()
        if isinstance(one, dict)
    ]
    best = max(halves, key=lambda one: one["pictures_per_s"], default=None)
    compiled = [one["pictures_per_s"] for one in found("torch").get(LARGE, {}).get("compile fp16", {}).values()]
    ratio = best["pictures_per_s"] / max(compiled) if best and compiled else None
    row(
        "engine fp16 / torch.compile fp16, each at its best batch",
        ratio,
        (ratio or 0) >= TARGETS["compile"],
        f"{ratio or 0:.2f}",
    )
    most = found("ceiling").get("fp16", {}).get("tflops")
    share = best["tflops"] / most if best and most else None
    row("engine fp16, of the matrix products' rate", share, (share or 0) >= TARGETS["ceiling"], f"{share or 0:.1%}")
    hidden = best["pictures_per_s"] / best["device_alone_per_s"] if best else None
    row("with copies / the device alone", hidden, (hidden or 0) >= TARGETS["copies"], f"{hidden or 0:.3f}")
    same = [v for by in found("agreement").values() for k, v in by.items() if "fp16" in k and v["trained"]]
    labels = min((one["equal_labels"] for one in same), default=None)
    row("labels equal to fp32, trained networks", labels, (labels or 0) >= TARGETS["labels"], f"{labels or 0:.2%}")
    depth = max((one["depth_p99"] for one in same), default=None)
    row("depth apart from fp32, 99th percentile", depth, (depth or 0) <= TARGETS["depth"], f"{depth or 0:.2%}")
    train = found("training").get("ratio")
    row("train.py / bare loop", train, (train or 0) >= TARGETS["training"], f"{train or 0:.3f}")
    return rows


def markdown(results: dict[str, Any]) -> str:
    parts = ["**A dry run on the CPU: these are no figures of anything.**"] if results["dry_run"] else []
    by_name = results["stages"]
    parts.append(f"{results['gpu']}; " + ", ".join(f"{k} {v}" for k, v in results["versions"].items()) + ".")
    parts.append(table(["aim", "found", "met"], verdicts(by_name)))
    parts.append(table(["stage", "ended", "s"], [[n, s["ended"], f"{s['seconds']:.0f}"] for n, s in by_name.items()]))
    products = by_name.get("ceiling", {}).get("found", {})
    if products:
        parts.append(table(["matrix products", "TFLOP/s"], [[k, v["tflops"]] for k, v in products.items()]))
    moved = by_name.get("copies", {}).get("found", {})
    if moved:
        rows = [[k, v["bytes"], v["ms"], v["gb_per_s"]] for k, v in moved.items()]
        parts.append(table(["copy", "bytes", "ms", "GB/s"], rows))
    for name in (LARGE, BUNDLED):
        rows = []
        for stage in ("engines", "torch"):
            for variant, by_batch in by_name.get(stage, {}).get("found", {}).get(name, {}).items():
                for batch, one in by_batch.items():
                    if isinstance(one, dict):
                        alone = one.get("device_alone_per_s")
                        rows.append([variant, batch, one["pictures_per_s"], alone or "-", one["tflops"]])
                    else:
                        rows.append([variant, batch, one, "-", "-"])
        if rows:
            heads = [name, "batch", "pictures/s", "device alone", "TFLOP/s"]
            parts.append(table(heads, rows))
    agreed = [
        [
            name,
            variant,
            f"{one['equal_labels']:.3%}",
            f"{one['depth_mean']:.3%}",
            f"{one['depth_p99']:.3%}",
            one["trained"],
        ]
        for name, by_variant in by_name.get("agreement", {}).get("found", {}).items()
        for variant, one in by_variant.items()
    ]
    if agreed:
        heads = ["network", "against fp32 without TF32", "equal labels", "depth apart, mean", "p99", "trained"]
        parts.append(table(heads, agreed))
    served = [
        [name, n, got["ok_per_s"], ms(got["ok"]["p50"]), ms(got["ok"]["p99"]), got["gpu_utilisation"] or "-"]
        for name, rows_ in by_name.get("service", {}).get("found", {}).items()
        for n, got in rows_.items()
    ]
    if served:
        parts.append(table(["service", "connections", "pictures/s", "p50 ms", "p99 ms", "GPU busy %"], served))
    trained = by_name.get("training", {}).get("found", {})
    if trained:
        rows = [[k, v["pictures_per_s"] if isinstance(v, dict) else v] for k, v in trained.items()]
        parts.append(table(["training", "pictures/s"], rows))
    return "\n\n".join(parts)


def gpu_name(dry: bool) -> str:
    if dry:
        return "no GPU"
    return f"{torch.cuda.get_device_name(0)}, driver for CUDA {driver_version():g}"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run all stages, write OUT.json and OUT.md, and give the results."""
    parser = argparse.ArgumentParser(description="One NVIDIA GPU, from its copies to the whole service.")
    parser.add_argument("--out", type=Path, required=True, help="without suffix: OUT.json and OUT.md are written")
    parser.add_argument("--checkpoint", type=Path, help="of MTL_SSW on ResNet-50, in place of an untrained one")
    parser.add_argument("--dry-run", action="store_true", help="all stages on the CPU, small: shows that they run")
    args = parser.parse_args(argv)
    plan = Plan.small(args.checkpoint) if args.dry_run else Plan(dry=False, checkpoint=args.checkpoint)
    if not plan.dry and not torch.cuda.is_available():
        sys.exit("gpu: PyTorch sees no GPU; --dry-run needs none")
    packages = ("torch", "onnxruntime-gpu", "onnxruntime")
    installed = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    results: dict[str, Any] = {
        "machine": machine(),
        "dry_run": plan.dry,
        "gpu": gpu_name(plan.dry),
        "versions": {name: importlib.metadata.version(name) for name in packages if name in installed},
        "targets": TARGETS,
        "stages": {},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        args.out.with_name(args.out.name + ".json").write_text(json.dumps(results, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        stages(Bench(plan, Path(folder), results), save)
    publish(args.out, results, markdown(results))
    return results


if __name__ == "__main__":
    main()
