"""Engines that share the cores of a CPU.

Threads that share a picture wait for each other at every node of the network, and whenever a core decodes another
picture, all of them wait for the one that it was taken from. So batches that come together are computed side by side,
each on cores of its own; one that comes alone gets all of them, and is answered sooner. OpenVINO calls these streams.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from service.card import ModelCard
from service.engine import Engine, OnnxEngine, Prediction, Progress, check_run, warm_up
from service.images import UInt8

BETWEEN_S = 0.005
"""A busy stream begins its next batch in less. What begins sooner after another batch has ended is not alone."""


class Streams:
    """Makes the engines that share a CPU.

    Args:
        number: how many there are.
        threads: of each, while others are busy.
        all_threads: of one that is alone.
        max_batch: the most pictures that each takes at once.
    """

    def __init__(self, path: Path, number: int, *, threads: int, all_threads: int, max_batch: int) -> None:
        self._path = path
        self._number = number
        self._threads = threads
        self._all_threads = all_threads
        self._max_batch = max_batch
        self._lock = threading.Lock()
        self._running = 0
        self._ended = 0.0
        self._loaded = 0
        self._whole: OnnxEngine | None = None
        self._single: OnnxEngine | None = None

    def load(self) -> Engine:
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
            self._loaded += 1
        return _Stream(self, whole, own)

    def _engine(self, threads: int) -> OnnxEngine:
        return OnnxEngine(self._path, threads=threads, max_batch=self._max_batch)

    def enter(self) -> bool:
        """Begin a batch: whether it is alone."""
        with self._lock:
            self._running += 1
            return self._running == 1 and time.perf_counter() - self._ended > BETWEEN_S

    def leave(self) -> None:
        """End a batch."""
        with self._lock:
            self._running -= 1
            self._ended = time.perf_counter()

    def close(self) -> None:
        """A stream is not needed any more; the last one takes the shared sessions with it."""
        with self._lock:
            self._loaded -= 1
            if not self._loaded:
                self._whole = self._single = None


class _Stream:
    """An `Engine`.

    Args:
        whole: has all threads.
        own: has this stream's.
    """

    def __init__(self, streams: Streams, whole: OnnxEngine, own: OnnxEngine) -> None:
        self._streams = streams
        self._whole = whole
        self._own = own
        self.card: ModelCard = whole.card
        self.provider = whole.provider
        self.nodes = whole.nodes
        self.max_batch = own.max_batch

    def warm_up(self, progress: Progress) -> None:
        """Run every size of the card on all threads and on this stream's, check the answers' shapes, and find
        `max_batch` of the stream: it is busy streams that get batches."""
        if self._whole is not self._own:
            for size in self.card.input.sizes:
                check_run(self._whole, (1, *size))
        self.max_batch = warm_up(self._own, [1], progress)

    def infer(self, batch: UInt8) -> Prediction:
        alone = self._streams.enter()
        try:
            return (self._whole if alone else self._own).infer(batch)
        finally:
            self._streams.leave()

    def close(self) -> None:
        del self._whole, self._own
        self._streams.close()
