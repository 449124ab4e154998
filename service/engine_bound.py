"""The engine for devices with memory of their own: ONNX Runtime with bound buffers, and copies beside the network.

A batch goes through three queues of the device, each of which works on by itself:

    upload    host A → device A    host B → device B    host A → ...
    compute                        run on A             run on B             run on A ...
    download                                            device A → host A    device B → host B

There are two sets of buffers, A and B, made once and page-locked on the host, so that batch n + 1 is uploaded while
batch n is computed. A set is used again only when its answer was taken out. Numbers of pictures are rounded up to
1, 2, 4, 8, ..., `max_batch`: of these shapes each is run ahead of time, and no other is ever run.

Which device it is, is behind the protocol `Device`: CUDA (`service/engine_cuda.py`), or the host itself.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.arrays import Size, UInt8
from service.card import ModelCard
from service.engine import DeviceLost, Prediction, Progress, buckets, check_run, warm_up

log = logging.getLogger("segdepth")

ALIGNMENT = 256
"""Of every map within a buffer; kernels may read and write many bytes at once."""
SETS = 2


class Device(Protocol):
    """Memory of a device, and the order of work on it. What fails raises an exception of any kind."""

    memory: str
    """ONNX Runtime's name of its memory: `cuda` or `cpu`."""
    index: int

    def allocate(self, nbytes: int) -> int:
        """Memory of the device; its address."""

    def allocate_host(self, nbytes: int) -> UInt8:
        """Memory of the host that the device copies from and to without the host's help."""

    def upload(self, to: int, source: UInt8) -> None:
        """Start a copy to the device. What is computed from now on waits for it, what is being computed does not."""

    def download(self, to: UInt8, source: int) -> object:
        """Start a copy to the host, after all that was computed so far; gives what `wait` takes."""

    def wait(self, copied: object) -> None:
        """Until this copy, and all before it, are done."""

    def drain(self) -> None:
        """Until all that was started is done. It fails if the device does not work any more."""

    def close(self) -> None:
        """Give all memory back. Never fails."""


class HostDevice:
    """The host in the place of a device: the tests and `benchmarks/gpu.py --dry-run` run the same code on it."""

    memory = "cpu"
    index = 0

    def __init__(self) -> None:
        self._held: dict[int, UInt8] = {}

    def allocate(self, nbytes: int) -> int:
        held = self.allocate_host(nbytes)
        self._held[held.ctypes.data] = held
        return held.ctypes.data

    def allocate_host(self, nbytes: int) -> UInt8:
        whole = np.zeros(nbytes + ALIGNMENT, np.uint8)
        start = -whole.ctypes.data % ALIGNMENT
        return whole[start : start + nbytes]

    def upload(self, to: int, source: UInt8) -> None:
        self._held[to][: source.size] = source

    def download(self, to: UInt8, source: int) -> object:
        to[:] = self._held[source][: to.size]
        return None

    def wait(self, copied: object) -> None:
        pass

    def drain(self) -> None:
        pass

    def close(self) -> None:
        self._held.clear()


def bucket_of(pictures: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes` (ascending) that holds so many pictures.

    Raises:
        ValueError: there is none.
    """
    place = bisect_left(sizes, pictures)
    if not 1 <= pictures <= sizes[-1]:
        raise ValueError(f"{pictures} pictures at once; this engine takes 1 to {sizes[-1]}")
    return sizes[place]


class Layout(NamedTuple):
    """Where the maps of a batch lie in one buffer, so that they come back in one copy."""

    labels: int
    depth: int
    confidence: int
    nbytes: int

    @classmethod
    def of(cls, pixels: int) -> Layout:
        """For so many pixels in the whole batch. Depth, which takes two bytes each, is first."""
        labels = _aligned(2 * pixels)
        confidence = labels + _aligned(pixels)
        return cls(labels, 0, confidence, confidence + _aligned(pixels))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class _Set:
    """One set of buffers, as large as the largest batch, and what is bound to it by size and bucket."""

    def __init__(self, device: Device, in_bytes: int, out_bytes: int) -> None:
        self.host_in = device.allocate_host(in_bytes)
        self.host_out = device.allocate_host(out_bytes)
        self.device_in = device.allocate(in_bytes)
        self.device_out = device.allocate(out_bytes)
        self.bound: dict[tuple[Size, int], tuple[Any, Any]] = {}
        self.ticket: Ticket | None = None
        """Of the batch that is in it, until its answer was taken out."""


class Ticket(NamedTuple):
    """A batch that was submitted."""

    number: int
    pictures: int
    bucket: int
    size: Size
    copied: object


class BoundEngine:
    """An `OverlappingEngine` on sessions of ONNX Runtime whose inputs and outputs stay where they are.

    Args:
        sessions: for each size of the card; it may be the same one.
        device: where the sessions compute.
        max_batch: the most pictures at once.
        graphs: capture each shape as a CUDA graph when it is run first, and only replay it from then on.
    """

    def __init__(
        self,
        card: ModelCard,
        sessions: Mapping[Size, Any],
        provider: str,
        nodes: dict[str, int],
        device: Device,
        *,
        max_batch: int,
        graphs: bool = False,
    ) -> None:
        self.card = card
        self.provider = provider
        self.nodes = nodes
        self.max_batch = max_batch
        self.buckets = buckets(max_batch)
        self._device = device
        self._sessions = dict(sessions)
        self._graphs = graphs
        self._submitted = 0
        pixels = max_batch * max(height * width for height, width in sessions)
        self._sets = [_Set(device, 3 * pixels, Layout.of(pixels).nbytes) for _ in range(SETS)]
        shapes = [(size, bucket) for size in self._sessions for bucket in self.buckets]
        for number, (k, (size, bucket)) in enumerate((k, shape) for k in range(SETS) for shape in shapes):
            self._sets[k].bound[size, bucket] = self._bind(self._sets[k], size, bucket, graph=number + 1)

    def warm_up(self, progress: Progress) -> None:
        """Run every size of the card with every bucket, in both sets of buffers, check the answers' shapes, and find
        `max_batch`."""
        # The largest first: ONNX Runtime keeps the memory of every batch, and what small ones left cannot hold large
        # ones. Each bucket for all sets, or those of one after the other would all be in turn in one set of the two.
        self.max_batch = warm_up(self, [bucket for bucket in reversed(self.buckets) for _ in self._sets], progress)
        if self.max_batch < self.buckets[-1] and not self._graphs:  # A captured graph needs the memory it was given.
            self._settle()

    def _settle(self) -> None:
        """Give back the memory of larger batches that were tried, and take what is needed."""
        device = self._device
        release = onnxruntime.RunOptions()
        arena = f"{'gpu' if device.memory == 'cuda' else device.memory}:{device.index}"
        release.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)
        try:
            for size, session in {id(session): (size, session) for size, session in self._sessions.items()}.values():
                session.run_with_iobinding(self._sets[0].bound[size, 1][0], release)
            device.drain()
        except Exception as error:  # It costs memory; a device that is lost says so again below.
            log.warning("the memory of larger batches is kept: %s", error)
        for size in self._sessions:
            for bucket in reversed(self.buckets[: self.buckets.index(self.max_batch) + 1]):
                check_run(self, (bucket, *size))

    def infer(self, batch: UInt8) -> Prediction:
        return self.collect(self.submit(list(batch)))

    def submit(self, pictures: Sequence[UInt8]) -> Ticket:
        """Start a batch of pictures [H, W, 3] of one of the card's sizes, and do not wait for it.

        Raises:
            DeviceLost: the device does not work any more.
            RuntimeError: the batches under way hold all sets of buffers; or ONNX Runtime failed.
        """
        height, width, _ = pictures[0].shape
        bucket = bucket_of(len(pictures), self.buckets)
        buffers = self._sets[self._submitted % SETS]
        if buffers.ticket is not None:
            raise RuntimeError(f"{SETS} batches are under way, collect one first")
        nbytes = 3 * bucket * height * width
        for picture, place in zip(pictures, buffers.host_in[:nbytes].reshape(bucket, height, width, 3), strict=False):
            # Places beyond the last picture keep what was in them; their maps are thrown away.
            place[...] = picture
        binding, options = buffers.bound[(height, width), bucket]
        try:
            self._device.upload(buffers.device_in, buffers.host_in[:nbytes])
            self._sessions[height, width].run_with_iobinding(binding, options)
            out_bytes = Layout.of(bucket * height * width).nbytes
            copied = self._device.download(buffers.host_out[:out_bytes], buffers.device_out)
        except Exception:
            self._recover()
            raise
        ticket = Ticket(self._submitted, len(pictures), bucket, (height, width), copied)
        self._submitted += 1
        buffers.ticket = ticket
        return ticket

    def collect(self, ticket: Ticket) -> Prediction:
        """Wait for a batch and take its answer out. Batches are collected in the order they were submitted in.

        Raises:
            DeviceLost: the device does not work any more.
        """
        buffers = self._sets[ticket.number % SETS]
        if buffers.ticket is not ticket:
            raise RuntimeError("this batch was collected before")
        buffers.ticket = None
        try:
            self._device.wait(ticket.copied)
        except Exception:
            self._recover()
            raise
        layout = Layout.of(ticket.bucket * ticket.size[0] * ticket.size[1])

        def plane(start: int, dtype: type[np.generic]) -> NDArray[Any]:
            shape = (ticket.pictures, *ticket.size)
            nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            # A copy: the next batch but one is written here.
            return buffers.host_out[start : start + nbytes].view(dtype).reshape(shape).copy()

        return Prediction(
            plane(layout.labels, np.uint8), plane(layout.depth, np.uint16), plane(layout.confidence, np.uint8)
        )

    def close(self) -> None:
        # Sessions and what is bound first: they use the device's memory and streams.
        self._sets.clear()
        self._sessions.clear()
        self._device.close()

    def _bind(self, buffers: _Set, size: Size, bucket: int, graph: int) -> tuple[Any, Any]:
        """What `run_with_iobinding` takes. Nothing is ever bound anew: a captured graph knows addresses only."""
        device, shape = self._device, (bucket, *size)
        layout = Layout.of(bucket * size[0] * size[1])
        binding = self._sessions[size].io_binding()
        binding.bind_input("image", device.memory, device.index, np.uint8, (*shape, 3), buffers.device_in)
        for name, dtype in (("labels", np.uint8), ("depth", np.uint16), ("confidence", np.uint8)):
            address = buffers.device_out + getattr(layout, name)
            binding.bind_output(name, device.memory, device.index, dtype, shape, address)
        options = onnxruntime.RunOptions()
        # The order of work is that of the device's queues; a run need not end before the next one is prepared.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(graph))
        return binding, options

    def _recover(self) -> None:
        """After a failure: no copy may be under way to a buffer that is used again. It may raise DeviceLost."""
        try:
            self._device.drain()
        except Exception as error:
            raise DeviceLost(f"{self._device.memory}:{self._device.index} does not work any more: {error}") from error
