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

from service.card import ModelCard
from service.engine import OnnxEngine, Prediction, Progress, SharingEngine, check_run, warm_up
from service.images import UInt8


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
        self._running = 0
        # Whether the one that runs has all cores.
        self._taken = False
        self._loaded = 0
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
            self._loaded += 1
        return _Stream(self, whole, own)

    def _engine(self, threads: int) -> OnnxEngine:
        return OnnxEngine(self._path, threads=threads, max_batch=self._max_batch)

    def share(self, waiting: int) -> tuple[int, bool]:
        """How many of the waiting pictures a free stream should take, and whether with all cores."""
        with self._lock:
            if waiting >= self._loaded > 1:
                return math.ceil(waiting / self._loaded), False
            if self._taken:
                return 0, False
            return (1, False) if self._running else (waiting, True)

    def enter(self, all_cores: bool) -> bool:
        """Begin a batch: whether with all cores, which only the first one gets."""
        with self._lock:
            self._running += 1
            all_cores = all_cores and self._running == 1
            self._taken = self._taken or all_cores
            return all_cores

    def leave(self, all_cores: bool) -> None:
        """End a batch that was begun with `all_cores` or without."""
        with self._lock:
            self._running -= 1
            if all_cores:
                self._taken = False

    def close(self) -> None:
        """A stream is not needed any more; the last one takes the shared sessions with it."""
        with self._lock:
            self._loaded -= 1
            if not self._loaded:
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
        all_cores = self._streams.enter(self._all_cores)
        try:
            return (self._whole if all_cores else self._own).infer(batch)
        finally:
            self._streams.leave(all_cores)

    def close(self) -> None:
        del self._whole, self._own
        self._streams.close()
