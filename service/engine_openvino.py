"""The engine on OpenVINO: the same ONNX file, quicker on CPUs.

OpenVINO is slow where the shape is open, so each size of the card is compiled for exactly one picture, in two ways:
all threads on one picture, for a picture that comes alone; and several pictures side by side, each by a part of the
threads (a "stream"), which wastes less time on threads that wait for each other. A batch needs no padding then, no
graph of its own, and no picture's maps depend on those it came with. Streams share the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from service.arrays import Size, UInt8
from service.cores import usable_cores
from service.engine import OUTPUTS, Prediction, Progress, read_card, warm_up
from service.errors import StartupError

PRECISIONS = {"f32": "OpenVINO", "bf16": "OpenVINO-bf16"}


class OpenVinoEngine:
    """An `Engine` on OpenVINO's CPU device.

    Args:
        precision: of layers that the file has in full precision. `bf16` keeps 8 bits of every number: quicker on CPUs
            that calculate with it, and not what the file's card was measured with.
        threads: of the network; 0 takes one per core.
        max_batch: the most pictures at once.

    Raises:
        StartupError: the file breaks the contract, OpenVINO is not installed or cannot run the file, or the CPU does
            not calculate in bf16.
    """

    def __init__(
        self, path: Path, *, precision: Literal["f32", "bf16"] = "f32", threads: int = 0, max_batch: int = 1
    ) -> None:
        self.card = read_card(path)
        self.provider = PRECISIONS[precision]
        try:
            import openvino
        except ImportError as error:
            raise StartupError(
                "device openvino was asked for, but the package openvino cannot be imported "
                f"({str(error)[:200]}): install segdepth[openvino]"
            ) from None
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise StartupError("device openvino-bf16 was asked for, but this CPU does not calculate in bf16")
        common = {
            # Without it, CPUs that have bf16 would use it, and the answers would differ from machine to machine.
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
            # A pinned thread waits for its core while a picture is decoded there, and the others wait for it.
            "ENABLE_CPU_PINNING": False,
        }
        together = common | {"PERFORMANCE_HINT": "THROUGHPUT", "PERFORMANCE_HINT_NUM_REQUESTS": max_batch}
        self._alone: dict[Size, list[Any]] = {}
        self._together: dict[Size, list[Any]] = {}
        self._streams = 1
        try:
            model = core.read_model(path)
            for size in self.card.input.sizes:
                own = model.clone()  # which shares the weights
                own.reshape([1, *size, 3])
                compiled = core.compile_model(own, "CPU", common | {"PERFORMANCE_HINT": "LATENCY"})
                self._alone[size] = [compiled.create_infer_request()]
                if max_batch > 1:
                    compiled = core.compile_model(own, "CPU", together)
                    self._together[size] = [compiled.create_infer_request() for _ in range(max_batch)]
                    self._streams = compiled.get_property("NUM_STREAMS")
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise StartupError(f"{path} is not an ONNX file that OpenVINO can run: {reason}") from None
        self.nodes: dict[str, int] = {self.provider: len(model.get_ops())}
        self.max_batch = max_batch

    def warm_up(self, progress: Progress) -> None:
        """Run every size of the card with one picture and with `max_batch`, check the answers' shapes, and find
        `max_batch`."""
        self.max_batch = warm_up(self, sorted({1, self.max_batch}), progress)

    def infer(self, batch: UInt8) -> Prediction:
        n, size = len(batch), (batch.shape[1], batch.shape[2])
        # With more than half of the streams idle, one picture after the other on all threads is quicker.
        together = n > 1 and 2 * n >= self._streams > 1
        requests = (self._together if together else self._alone)[size]
        planes = {name: np.empty((n, *size), np.uint16 if name == "depth" else np.uint8) for name in OUTPUTS}
        for start in range(0, n, len(requests)):
            running = list(zip(range(start, n), requests, strict=False))
            for k, request in running:
                request.start_async({"image": batch[k : k + 1]})
            for k, request in running:
                request.wait()
                for name, plane in planes.items():
                    plane[k] = request.get_tensor(name).data[0]
        return Prediction(**planes)

    def close(self) -> None:
        del self._alone, self._together
