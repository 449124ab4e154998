"""The model that serves, and its replacement while the server runs."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from service.batcher import LOADING_RETRY_S, Batcher
from service.card import ModelCard
from service.engine import Engine
from service.errors import ReloadFailed, ReloadRunning, StartupError, Stopping
from service.metrics import Metrics
from service.pipeline import Pipeline
from service.pixels import Fixed, Pixels, workers_of
from service.sending import Sending
from service.settings import Settings

log = logging.getLogger("segdepth")

Source = Callable[[], tuple[ModelCard, Sequence[Callable[[], Engine]]]]
"""Reads the card of the model file as it is now, and gives what loads its engines. Raises StartupError."""

POLL_S = 0.05
LOST_S = 1.0
"""From the loss of the last engine to the end of the process: so long what waited may take to be answered."""


class _Generation:
    """One loaded model, and how many requests use it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.users = 0


class Models:
    """Owns the pipelines: one, and during a reload the next one beside it.

    Args:
        on_failure: ends the process: the first model cannot be had, or every engine is lost where the settings say so.

    Raises:
        StartupError: the model file is not right.
    """

    def __init__(
        self, settings: Settings, source: Source, metrics: Metrics, on_failure: Callable[[StartupError], None]
    ) -> None:
        self._settings = settings
        self._source = source
        self._metrics = metrics
        self._on_failure = on_failure
        self._sending = Sending(settings.queue_bytes)
        self._generation = _Generation(self._pipeline(*source(), on_failure))
        self._reloading = False
        self.draining = False
        """Set on SIGTERM: what comes is still answered, but nothing more should be sent here."""
        self._retiring: set[asyncio.Task[None]] = set()
        metrics.watch(lambda: self.current.batcher.serving())

    @property
    def current(self) -> Pipeline:
        return self._generation.pipeline

    def require_ready(self) -> None:
        """What a load balancer asks. Raises NotReady, EnginesLost, or Stopping from SIGTERM on."""
        if self.draining:
            raise Stopping("The server is shutting down.", LOADING_RETRY_S)
        self.current.batcher.require_ready()

    def require_live(self) -> None:
        """What decides on a restart. Raises EnginesLost: a process does not get a lost device back."""
        if self.current.batcher.lost:
            self.current.batcher.require_ready()

    @contextmanager
    def use(self) -> Iterator[Pipeline]:
        """The pipeline that serves now. It is not closed before the last user has left."""
        generation = self._generation
        generation.users += 1
        try:
            yield generation.pipeline
        finally:
            generation.users -= 1

    def start(self) -> None:
        self.current.start()

    async def close(self) -> None:
        """Finish what was accepted."""
        for task in list(self._retiring):
            await task
        await asyncio.to_thread(self.current.close)

    async def reload(self) -> ModelCard:
        """Load and warm the model file as it is now, then switch to it. Until then, or if it fails, the old one serves.

        Raises:
            NotReady: the first model is still being loaded.
            ReloadRunning: another reload has not ended.
            ReloadFailed: the new model cannot be had; the detail says why.
        """
        if not self.current.batcher.lost:
            self.current.batcher.require_ready()
        if self._reloading:
            raise ReloadRunning("A reload is running; wait until it has ended.")
        self._reloading = True
        start = time.perf_counter()
        try:
            new = await self._loaded()
        except StartupError as error:
            self._metrics.reloads.labels("failed").inc()
            log.error("reload failed, the old model stays: %s", error.reason)
            raise ReloadFailed(f"The old model stays: {error.reason}.") from None
        except Exception:
            self._metrics.reloads.labels("failed").inc()
            log.exception("reload failed, the old model stays")
            raise ReloadFailed("The old model stays; the server's log has the details.") from None
        finally:
            self._reloading = False
        old, self._generation = self._generation, _Generation(new)
        self._metrics.reloads.labels("ok").inc()
        log.info("switched to model %s %s after %.1f s", new.card.name, new.card.version, time.perf_counter() - start)
        retiring = asyncio.create_task(_retire(old))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        return new.card

    async def _loaded(self) -> Pipeline:
        card, loaders = await asyncio.to_thread(self._source)
        failures: list[StartupError] = []
        pipeline = self._pipeline(card, loaders, failures.append)
        pipeline.start()
        try:
            await until_ready(pipeline.batcher, failures)
        except BaseException:
            await asyncio.to_thread(pipeline.close)
            raise
        return pipeline

    def _pipeline(
        self,
        card: ModelCard,
        loaders: Sequence[Callable[[], Engine]],
        on_failure: Callable[[StartupError], None],
    ) -> Pipeline:
        pixels = Pixels(Fixed(card, self._settings.max_pixels), workers_of(self._settings), self._metrics)

        def loaded(load: Callable[[], Engine]) -> Engine:
            # In the engine's thread: ready is what can work on pictures, too.
            pixels.wait_ready()
            engine = load()
            if engine.card != card:
                engine.close()
                raise StartupError("the model file was changed while it was being loaded")
            return engine

        batcher = Batcher(
            [partial(loaded, load) for load in loaders],
            on_failure,
            self._metrics,
            max_batch=self._settings.max_batch,
            queue_size=self._settings.queue_size,
            queue_bytes=self._settings.queue_bytes,
            hang_s=self._settings.max_timeout_s,
            on_lost=self._on_lost,
        )
        return Pipeline(self._settings, card, batcher, pixels, self._metrics, self._sending)

    def _on_lost(self) -> None:
        if self._settings.exit_when_lost:
            timer = threading.Timer(LOST_S, self._end_if_lost)
            timer.daemon = True
            timer.start()

    def _end_if_lost(self) -> None:
        # Not for a model that is not the current one any more, nor in the middle of an orderly end.
        if self.current.batcher.lost and not self.draining:
            reason = StartupError("every engine is lost; this process ends, to be started again")
            log.error("%s", reason.reason)
            self._on_failure(reason)


async def until_ready(batcher: Batcher, failures: Sequence[StartupError] = ()) -> None:
    """Wait until the model is loaded and warm. Raises the first of `failures` when there is one."""
    while not batcher.ready:
        if failures:
            raise failures[0]
        await asyncio.sleep(POLL_S)


async def _retire(generation: _Generation) -> None:
    while generation.users:
        await asyncio.sleep(POLL_S)
    await asyncio.to_thread(generation.pipeline.close)
