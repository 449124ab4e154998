"""The batcher: one thread owns the engine and gives it what waits.

Greedy: whenever the engine is free it takes what waits, up to `max_batch` pictures of one size, without waiting for
more. The same thread loads the engine and warms it up, so that the server is alive meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from service.engine import Engine, Prediction
from service.errors import InferenceFailed, NotReady, Overloaded, StartupError, Stopping
from service.images import UInt8
from service.metrics import Metrics

log = logging.getLogger("segdepth")

LOADING_RETRY_S = 2.0


class Result(NamedTuple):
    """What the engine gives for one picture: maps [H, W], and seconds."""

    prediction: Prediction
    queue_s: float
    infer_s: float


@dataclass(frozen=True)
class _Item:
    canvas: UInt8
    future: Future[Result] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class _StopError(Exception):
    """Ends a warm-up when the server is stopped in the middle of it."""


class Batcher:
    """Queue and owner thread of one engine. `place` and `infer` belong to the event loop.

    Args:
        load: makes the engine; called in the owner thread.
        on_failure: told, in the owner thread, why the engine cannot be had.
        max_batch: the most pictures at once.
        queue_size: the most requests that hold a place.
        queue_bytes: the most bytes that they take together.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        on_failure: Callable[[StartupError], None],
        metrics: Metrics,
        *,
        max_batch: int,
        queue_size: int,
        queue_bytes: int,
    ) -> None:
        self._load = load
        self._on_failure = on_failure
        self._metrics = metrics
        self._max_batch = max_batch
        self._queue_size = queue_size
        self._queue_bytes = queue_bytes
        self._places = 0
        self._bytes = 0
        self._waiting: deque[_Item] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._seconds_per_picture = 0.1  # Until it is measured.
        self._thread = threading.Thread(target=self._run, name="segdepth-engine", daemon=True)
        self.progress = (0, 1)
        """Warm-up steps: done, in all."""
        self.provider: str | None = None
        """What runs the model, once it is ready."""
        metrics.watch_queue(lambda: len(self._waiting))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Finish what waits, then end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def ready(self) -> bool:
        return self.provider is not None

    def require_ready(self) -> None:
        """Raises NotReady, with the progress, until the model is loaded and warm."""
        if not self.ready:
            done, total = self.progress
            raise NotReady(
                f"The model is being loaded and warmed up: step {done} of {total} is done.",
                LOADING_RETRY_S,
                progress={"done": done, "total": total},
            )

    @contextmanager
    def place(self, nbytes: int) -> Iterator[None]:
        """Hold a place for one request of `nbytes` bytes, from its decoding to its answer.

        Raises:
            NotReady: the model is still being loaded.
            Overloaded: all places or bytes are taken.
        """
        self.require_ready()
        # An upload larger than `queue_bytes` must not wait for ever: alone it is let in.
        if self._places >= self._queue_size or (self._places and self._bytes + nbytes > self._queue_bytes):
            raise Overloaded(
                f"{self._places} requests are being worked on. Try again later.",
                self._places * self._seconds_per_picture,
            )
        self._places += 1
        self._bytes += nbytes
        try:
            yield
        finally:
            self._places -= 1
            self._bytes -= nbytes

    async def infer(self, canvas: UInt8) -> Result:
        """Run one canvas, uint8 [H, W, 3]. Cancelled while it waits, it is dropped when its turn comes.

        Raises:
            InferenceFailed: the engine raised an exception on the batch.
            Stopping: the server shuts down.
        """
        item = _Item(canvas)
        with self._wake:
            if self._stopping:
                raise Stopping("The server is shutting down.", LOADING_RETRY_S)
            self._waiting.append(item)
            self._wake.notify()
        return await asyncio.wrap_future(item.future)

    # --- the owner thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        start = time.perf_counter()
        try:
            engine = self._load()
            engine.warm_up(self._on_progress)
        except _StopError:
            return
        except StartupError as error:
            self._on_failure(error)
            return
        except Exception as error:
            log.debug("loading failed", exc_info=True)
            self._on_failure(StartupError(f"the model cannot be loaded: {type(error).__name__}: {error}"))
            return
        card = engine.card
        self._metrics.set_model(card, engine.provider)
        self.provider = engine.provider
        log.info(
            "model %s %s is ready on %s after %.1f s",
            card.name,
            card.version,
            engine.provider,
            time.perf_counter() - start,
        )
        while batch := self._take():
            self._infer(engine, batch)
        engine.close()

    def _on_progress(self, done: int, total: int) -> None:
        self.progress = (done, total)
        if self._stopping:
            raise _StopError

    def _take(self) -> list[_Item]:
        """What to run next: the oldest picture and those of its size, in order. Empty when all is done."""
        with self._wake:
            while True:
                while not self._waiting and not self._stopping:
                    self._wake.wait()
                batch: list[_Item] = []
                others: deque[_Item] = deque()
                while self._waiting and len(batch) < self._max_batch:
                    item = self._waiting.popleft()
                    if batch and item.canvas.shape != batch[0].canvas.shape:
                        others.append(item)
                    # Cancelled: the client has gone, or the request is past its deadline.
                    elif item.future.set_running_or_notify_cancel():
                        batch.append(item)
                others.extend(self._waiting)
                self._waiting = others
                if batch or self._stopping:
                    return batch

    def _infer(self, engine: Engine, batch: list[_Item]) -> None:
        start = time.perf_counter()
        try:
            prediction = engine.infer(np.stack([item.canvas for item in batch]))
        except Exception:
            log.exception("the engine failed on a batch of %d", len(batch))
            for item in batch:
                item.future.set_exception(InferenceFailed("The model failed; the server's log has the details."))
            return
        seconds = time.perf_counter() - start
        self._metrics.batch_size.observe(len(batch))
        self._seconds_per_picture += 0.2 * (seconds / len(batch) - self._seconds_per_picture)
        for k, item in enumerate(batch):
            own = Prediction(prediction.labels[k], prediction.depth[k], prediction.confidence[k])
            item.future.set_result(Result(own, start - item.since, seconds))
