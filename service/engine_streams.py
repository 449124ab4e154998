"""Engines that share the cores of a CPU.

Threads that share a picture wait for each other at every node of the network, and whenever a core decodes another
picture, all of them wait for the one that it was taken from. So where there are pictures for all engines they are
computed side by side, each on cores of its own; where there are fewer, one after the other on all cores, and answered
sooner. OpenVINO calls these engines streams.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path

from service.arrays import UInt8
from service.card import ModelCard
from service.engine import OnnxEngine, Prediction, Progress, SharingEngine, check_run, warm_up
from service.errors import StartupError


class Streams:
    """Makes the engines that share a CPU.

    Args:
        number: how many there are.
        threads: of each, side by side.
        all_threads: of one that has all cores.
        max_batch: the most pictures that each takes at once.
    """

    def __init__(self, path: Path, number: int, *, threads: int, all_threads: int, max_batch: int) -> None:
        self._path = path
        self._number = number
        self._threads = threads
        self._all_threads = all_threads
        self._max_batch = max_batch
        self._lock = threading.Lock()
        self._streams: set[_Stream] = set()
        # Those that run, and whether with all cores.
        self._running: dict[_Stream, bool] = {}
        self._whole: OnnxEngine | None = None
        self._single: OnnxEngine | None = None

    def load(self) -> SharingEngine:
        """The next one; may be called in several threads."""
        with self._lock:
            if self._whole is None:
                self._whole = self._engine(self._all_threads)
            whole = own = self._whole
            if self._number > 1 and self._threads > 1:
                own = self._engine(self._threads)
            elif self._number > 1:
                # Without threads of its own a session computes in those that call it, any number at a time.
                own = self._single = self._single or self._engine(1)
            if own.card != whole.card:
                raise StartupError("the model file was changed while it was being loaded")
            stream = _Stream(self, whole, own)
            self._streams.add(stream)
        return stream

    def _engine(self, threads: int) -> OnnxEngine:
        return OnnxEngine(self._path, threads=threads, max_batch=self._max_batch)

    def share(self, waiting: int) -> tuple[int, bool]:
        """How many of the waiting pictures a free stream should take, and whether with all cores."""
        with self._lock:
            if waiting >= len(self._streams) > 1:
                return math.ceil(waiting / len(self._streams)), False
            if any(self._running.values()):
                return 0, False
            return (1, False) if self._running else (waiting, True)

    def enter(self, stream: _Stream, all_cores: bool) -> bool:
        """Begin a batch: whether with all cores, which only the first one gets."""
        with self._lock:
            self._running[stream] = all_cores and not self._running
            return self._running[stream]

    def leave(self, stream: _Stream) -> None:
        """End a batch, also one that is not waited for any more."""
        with self._lock:
            self._running.pop(stream, None)

    def close(self, stream: _Stream) -> None:
        """A stream is not needed any more; the last one takes the shared sessions with it."""
        with self._lock:
            self._streams.discard(stream)
            if not self._streams:
                self._whole = self._single = None


class _Stream:
    """A `SharingEngine`. Who does not ask for its share gets it with its own threads.

    Args:
        whole: has all threads.
        own: has this stream's.
    """

    def __init__(self, streams: Streams, whole: OnnxEngine, own: OnnxEngine) -> None:
        self._streams = streams
        self._whole = whole
        self._own = own
        self._all_cores = False
        self.card: ModelCard = whole.card
        self.provider = whole.provider
        self.nodes = whole.nodes
        self.max_batch = own.max_batch

    def warm_up(self, progress: Progress) -> None:
        """Run every size of the card on all threads and on this stream's, check the answers' shapes, and find
        `max_batch` of the stream: batches are for when many pictures wait."""
        if self._whole is not self._own:
            for size in self.card.input.sizes:
                check_run(self._whole, (1, *size))
        self.max_batch = warm_up(self._own, [1], progress)
        self._own.settle(self.max_batch)

    def share(self, waiting: int) -> int:
        pictures, self._all_cores = self._streams.share(waiting)
        return pictures

    def infer(self, batch: UInt8) -> Prediction:
        all_cores = self._streams.enter(self, self._all_cores)
        try:
            return (self._whole if all_cores else self._own).infer(batch)
        finally:
            self._streams.leave(self)

    def abandon(self) -> None:
        self._streams.leave(self)
        self._streams.close(self)

    def close(self) -> None:
        del self._whole, self._own
        self._streams.close(self)
