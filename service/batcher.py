"""The batcher: one queue, and for each engine a thread that owns it and gives it what waits.

Greedy: whenever an engine is free it takes what waits, up to `max_batch` pictures of one size, the oldest first,
without waiting for more. Engines that share a device are asked first how many they want. One whose device works by
itself is given a second batch while the first is computed, so that the device need not wait for copies. The same thread
loads its engine and warms it up, so that the server is alive meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from service.arrays import UInt8
from service.context import current
from service.engine import DeviceLost, Engine, OverlappingEngine, Prediction, SharingEngine
from service.errors import (
    ClientGone,
    DeadlineExceeded,
    EnginesLost,
    InferenceFailed,
    NotReady,
    Overloaded,
    Problem,
    StartupError,
    Stopping,
)
from service.metrics import Metrics, Serving
from service.threads import Pending

log = logging.getLogger("segdepth")

LOADING_RETRY_S = 2.0
MAX_FAILURES = 3
"""An engine that fails on so many batches one after the other is lost."""
FIRST_GUESS_S = 0.1
"""Seconds per request until they are measured."""
HANG_S = 120.0
"""An engine that is busy with one batch for so long is lost, where nothing else is said."""
JOIN_S = 1.0
"""So often the end looks whether an engine hangs."""
LOOKS = 12
"""So often an engine is looked at in that time."""


class Result(NamedTuple):
    """What the engine gives for one picture: maps [H, W], and seconds."""

    prediction: Prediction
    queue_s: float
    infer_s: float


@dataclass(frozen=True, eq=False)
class _Item:
    canvas: UInt8
    deadline: float
    result: Pending[Result] = field(default_factory=Pending)
    since: float = field(default_factory=time.perf_counter)


class _Running(NamedTuple):
    """A batch under way, since when, and what waits for its maps."""

    batch: list[_Item]
    start: float
    collect: Callable[[], Prediction]


class _StopError(Exception):
    """Ends a warm-up when the server is stopped in the middle of it."""


class _Owner:
    """One engine, seen from outside its thread."""

    def __init__(self, number: int, load: Callable[[], Engine]) -> None:
        self.name = str(number)
        self.load = load
        self.engine: Engine | None = None
        self.state: Literal["loading", "ready", "lost"] = "loading"
        self.progress = (0, 1)
        self.max_batch = 1
        self.share: Callable[[int], int] = lambda waiting: waiting
        self.failures = 0
        self.thread: threading.Thread | None = None
        self.call: object = None
        """Of the engine, that is under way."""
        self.hangs = False
        """Its thread is not waited for."""

    def wants(self, waiting: int) -> int:
        """How many of the waiting pictures the engine is to be given now."""
        return min(self.share(waiting), self.max_batch) if waiting else 0

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Around every call of the engine once it is warm."""
        self.call = object()
        try:
            yield
        finally:
            self.call = None


class Batcher:
    """Queue and owner threads of the engines of one model. `place` and `infer` belong to the event loop.

    Args:
        loaders: each makes one engine; called in the thread that owns it.
        on_failure: told, in such a thread and of the first one only, why an engine cannot be had.
        max_batch: the most pictures at once, also where an engine would take more.
        queue_size: the most requests that hold a place.
        queue_bytes: the most bytes that they take together.
        hang_s: an engine is lost after so many seconds in one call. A GPU may hang without a word; a call that outlasts
            every deadline is of no use to anybody.
        on_lost: told, in some thread, when the last engine is lost and what waited was answered.
    """

    def __init__(
        self,
        loaders: Sequence[Callable[[], Engine]],
        on_failure: Callable[[StartupError], None],
        metrics: Metrics,
        *,
        max_batch: int,
        queue_size: int,
        queue_bytes: int,
        hang_s: float = HANG_S,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._owners = [_Owner(number, load) for number, load in enumerate(loaders)]
        self._on_failure = on_failure
        self._on_lost = on_lost
        self._metrics = metrics
        self._max_batch = max_batch
        self._queue_size = queue_size
        self._queue_bytes = queue_bytes
        self._places = 0
        self._bytes = 0
        self._waiting: deque[_Item] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._closed = threading.Event()
        self._hang_s = hang_s
        self._failed = False
        # Engines whose threads wait for a picture.
        self._idle = 0
        # Seconds between the last answers, while there was always another picture to work on.
        self._gaps: deque[float] = deque(maxlen=64)
        self._busy_since = 0.0

    def start(self) -> None:
        for owner in self._owners:
            # A daemon, so that a process which may not wait any longer can end.
            owner.thread = threading.Thread(
                target=self._run, args=(owner,), name=f"segdepth-engine-{owner.name}", daemon=True
            )
            owner.thread.start()
        threading.Thread(target=self._watch, name="segdepth-watch", daemon=True).start()

    def close(self) -> None:
        """Finish what waits, then end the threads."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        for owner in self._owners:
            while owner.thread is not None and owner.thread.is_alive() and not owner.hangs:
                owner.thread.join(JOIN_S)
        self._closed.set()

    @property
    def progress(self) -> tuple[int, int]:
        """Warm-up steps of all engines: done, in all."""
        steps = [owner.progress for owner in self._owners]
        return sum(done for done, _ in steps), sum(total for _, total in steps)

    @property
    def provider(self) -> str:
        """What runs the model, as far as it is loaded."""
        names = [owner.engine.provider for owner in self._owners if owner.engine is not None]
        return ", ".join(dict.fromkeys(names))

    @property
    def ready(self) -> bool:
        states = {owner.state for owner in self._owners}
        return "ready" in states and "loading" not in states

    @property
    def lost(self) -> bool:
        """Every engine has failed."""
        return all(owner.state == "lost" for owner in self._owners)

    def require_ready(self) -> None:
        """Until pictures can be answered, raises why not.

        Raises:
            NotReady: the model is being loaded or warmed up; with the progress.
            EnginesLost: every engine has failed.
        """
        if self.ready:
            return
        if self.lost:
            raise _engines_lost()
        done, total = self.progress
        raise NotReady(
            f"The model is being loaded and warmed up: step {done} of {total} is done.",
            LOADING_RETRY_S,
            progress={"done": done, "total": total},
        )

    def serving(self) -> Serving:
        """What the metrics show of this moment."""
        with self._wake:
            waiting = len(self._waiting)
            oldest_s = time.perf_counter() - self._waiting[0].since if waiting else 0.0
        engine = next((owner.engine for owner in self._owners if owner.engine is not None), None)
        states = Counter(owner.state for owner in self._owners)
        return Serving(
            ready=self.ready,
            waiting=waiting,
            oldest_s=oldest_s,
            engines={state: states[state] for state in ("loading", "ready", "lost")},
            card=engine.card if engine else None,
            provider=engine.provider if engine else "",
            nodes=engine.nodes if engine else {},
        )

    def require_place(self, nbytes: int = 0, pictures: int = 1) -> None:
        """Raises what `place` would raise now, and takes none."""
        self.require_ready()
        # A request larger than the bounds must not wait for ever: alone it is let in.
        if not self._places:
            return
        each_s = self._seconds_each()
        wait_s = self._places * each_s
        if self._places + pictures > self._queue_size or self._bytes + nbytes > self._queue_bytes:
            raise Overloaded(f"{self._places} pictures are being worked on. Try again later.", wait_s)
        # Its work would be for nothing. A guess is no reason to refuse, so nothing is said before it is measured.
        done_s = wait_s + pictures * each_s
        if self._gaps and time.perf_counter() + done_s > current().deadline:
            raise Overloaded(
                f"{self._places} pictures are being worked on. This one would be answered in {done_s:.1f} s, which is "
                "later than it may be. Try again later.",
                wait_s,
            )

    @contextmanager
    def place(self, nbytes: int, pictures: int = 1) -> Iterator[None]:
        """Hold a place per picture for a request of `nbytes` bytes, from its decoding to its answer.

        Raises:
            NotReady: the model is still being loaded.
            EnginesLost: every engine has failed.
            Overloaded: all places or bytes are taken, or the deadline will have passed when it could be answered.
        """
        self.require_place(nbytes, pictures)
        if not self._places:
            self._busy_since = time.perf_counter()
        self._places += pictures
        self._bytes += nbytes
        try:
            yield
            # Answers alone are the pace: a broken picture is refused sooner, and one that was dropped took no time.
            now = time.perf_counter()
            self._gaps.extend([(now - self._busy_since) / pictures] * pictures)
            self._busy_since = now
        except Problem as problem:
            # The gap until the next answer begins anew, or broken pictures would make it look like a slow server's.
            if problem.status < 500 and not isinstance(problem, ClientGone):
                self._busy_since = time.perf_counter()
            raise
        finally:
            self._places -= pictures
            self._bytes -= nbytes

    def _seconds_each(self) -> float:
        """Seconds from one answer to the next, while there is work. Whatever limits it is in it: decoding, the engines,
        encoding."""
        if not self._gaps:
            return FIRST_GUESS_S
        known_s, count = sum(self._gaps), len(self._gaps)
        # The gap that has not ended counts where it is longer than others: nothing may be answered at all any more.
        return max(known_s / count, (known_s + time.perf_counter() - self._busy_since) / (count + 1))

    async def infer(self, canvas: UInt8) -> Result:
        """Run one canvas, uint8 [H, W, 3]. Cancelled, it is dropped; late, when its turn comes.

        Raises:
            DeadlineExceeded: the request's deadline passed while the picture waited.
            InferenceFailed: the engine raised an exception on the batch.
            EnginesLost: the last engine failed.
            Stopping: the server shuts down.
        """
        item = _Item(canvas, current().deadline)
        with self._wake:
            if self._stopping:
                raise Stopping("The server is shutting down.", LOADING_RETRY_S)
            if self.lost:
                raise _engines_lost()
            self._waiting.append(item)
            self._wake.notify_all()  # Not every engine may want it.
        try:
            return await item.result
        except asyncio.CancelledError:
            self._forget(item)
            raise

    def _forget(self, item: _Item) -> None:
        """Take out what nobody waits for any more, with its memory, if no engine has it."""
        with self._wake:
            try:
                self._waiting.remove(item)
            except ValueError:
                return
            self._wake.notify_all()  # At the end an engine waits until nothing does.
        self._metrics.dropped.labels("cancelled").inc()

    # --- the owner threads --------------------------------------------------------------------------------------

    def _run(self, owner: _Owner) -> None:
        start = time.perf_counter()
        try:
            engine = self._warm(owner)
        except _StopError:
            return
        except StartupError as error:
            self._refuse(error)
            return
        except Exception as error:
            log.debug("loading failed", exc_info=True)
            self._refuse(StartupError(f"the model cannot be loaded: {type(error).__name__}: {error}"))
            return
        owner.max_batch = min(self._max_batch, engine.max_batch)
        if isinstance(engine, SharingEngine):
            owner.share = engine.share
        owner.engine = engine
        owner.state = "ready"
        log.info(
            "model %s %s is ready on %s after %.1f s, for %d picture(s) at once%s",
            engine.card.name,
            engine.card.version,
            engine.provider,
            time.perf_counter() - start,
            owner.max_batch,
            f", as engine {owner.name}" if len(self._owners) > 1 else "",
        )
        running: deque[_Running] = deque()
        at_once = 2 if isinstance(engine, OverlappingEngine) else 1
        while owner.failures < MAX_FAILURES:
            if len(running) < at_once and (batch := self._take(owner, wait=not running)):
                if started := self._start(owner, engine, batch):
                    running.append(started)
            elif running:
                self._finish(owner, running.popleft())
            else:
                break
        for left in running:
            self._finish(owner, left)
        if owner.failures >= MAX_FAILURES and not owner.hangs:
            self._lose(owner)
        engine.close()

    def _refuse(self, reason: StartupError) -> None:
        """An engine cannot be had. Engines of one file fail for one reason, and often at the same moment."""
        with self._wake:
            first, self._failed = not self._failed, True
        if first:
            self._on_failure(reason)

    def _warm(self, owner: _Owner) -> Engine:
        """Load an engine and warm it up; one that does not get warm is closed."""
        engine = owner.load()
        try:
            engine.warm_up(lambda done, total: self._on_progress(owner, done, total))
        except BaseException:
            engine.close()
            raise
        return engine

    def _on_progress(self, owner: _Owner, done: int, total: int) -> None:
        owner.progress = (done, total)
        if self._stopping:
            raise _StopError

    def _take(self, owner: _Owner, *, wait: bool) -> list[_Item]:
        """What to run next: the oldest picture and those of its size, in order.

        Empty when all is done, or is for the others; without `wait`, also when nothing waits that is for this engine.
        What an idle engine can take is for that one.
        """
        with self._wake:
            if not wait and self._idle:
                return []
            while True:
                while not (wanted := owner.wants(len(self._waiting))) and wait and not self._done():
                    self._idle += 1
                    self._wake.wait()
                    self._idle -= 1
                batch: list[_Item] = []
                others: deque[_Item] = deque()
                while self._waiting and len(batch) < wanted:
                    item = self._waiting.popleft()
                    if batch and item.canvas.shape != batch[0].canvas.shape:
                        others.append(item)
                    elif self._is_wanted(item):
                        batch.append(item)
                full = len(batch) == owner.max_batch
                released = "full" if full else "shared" if self._waiting else "size" if others else "empty"
                others.extend(self._waiting)
                self._waiting = others
                if batch:
                    self._metrics.batches.labels(owner.name, released).inc()
                if self._done():
                    self._wake.notify_all()
                if batch or not wait or self._done():
                    return batch

    def _done(self) -> bool:
        """Nothing is to be run any more. While pictures wait every engine stays, for another one may be lost."""
        return self._stopping and not self._waiting

    def _is_wanted(self, item: _Item) -> bool:
        """Whether somebody still waits for it."""
        if item.result.cancelled:
            self._metrics.dropped.labels("cancelled").inc()
            return False
        if time.perf_counter() >= item.deadline:
            # The event loop tells the client; it may be busy and have no time yet to cancel.
            self._metrics.dropped.labels("deadline").inc()
            item.result.set_exception(DeadlineExceeded("The deadline passed while the picture waited for the model."))
            return False
        return True

    def _start(self, owner: _Owner, engine: Engine, batch: list[_Item]) -> _Running | None:
        """Give an engine a batch; None if that failed. An engine that does not overlap runs it in `_finish`."""
        start = time.perf_counter()
        pictures = [item.canvas for item in batch]
        if not isinstance(engine, OverlappingEngine):
            return _Running(batch, start, lambda: engine.infer(np.stack(pictures)))
        try:
            with owner.calling():
                return _Running(batch, start, partial(engine.collect, engine.submit(pictures)))
        except Exception as error:
            self._fail(owner, batch, error)
            return None

    def _finish(self, owner: _Owner, running: _Running) -> None:
        """Wait for a batch, and hand out its maps."""
        try:
            with owner.calling():
                maps = running.collect()
            predictions = [
                Prediction(maps.labels[k], maps.depth[k], maps.confidence[k]) for k in range(len(running.batch))
            ]
        except Exception as error:
            self._fail(owner, running.batch, error)
            return
        seconds = time.perf_counter() - running.start
        if owner.failures < MAX_FAILURES:  # Lost stays lost, whatever was under way.
            owner.failures = 0
        self._metrics.batch_size.observe(len(running.batch))
        for item, prediction in zip(running.batch, predictions, strict=True):
            item.result.set_result(Result(prediction, running.start - item.since, seconds))

    def _fail(self, owner: _Owner, batch: list[_Item], error: Exception) -> None:
        """Tell those who wait for a batch; called where the exception is handled."""
        owner.failures = MAX_FAILURES if isinstance(error, DeviceLost) else owner.failures + 1
        if owner.failures >= MAX_FAILURES:
            owner.state = "lost"  # Who asks after one of these answers is told so.
        if not owner.hangs:  # Or it is counted already.
            self._metrics.failures.labels(owner.name).inc()
        log.exception("engine %s failed on a batch of %d", owner.name, len(batch))
        for item in batch:
            item.result.set_exception(InferenceFailed("The model failed; the server's log has the details."))

    def _watch(self) -> None:
        """Take out engines that hang. What they have is ended by its deadline.

        It counts its looks at a call and not the seconds, which go on while the process is stopped.
        """
        looks: dict[str, tuple[object, int]] = {}
        while not self._closed.wait(self._hang_s / LOOKS):
            for owner in self._owners:
                call, seen = looks.get(owner.name, (None, 0))
                seen = seen + 1 if owner.call is not None and owner.call is call else 0
                looks[owner.name] = owner.call, seen
                if seen >= LOOKS and not owner.hangs:
                    owner.hangs = True
                    owner.failures = MAX_FAILURES
                    owner.state = "lost"
                    self._metrics.failures.labels(owner.name).inc()
                    log.error("engine %s has been busy with one batch for %g s", owner.name, self._hang_s)
                    if isinstance(owner.engine, SharingEngine):
                        owner.engine.abandon()
                    self._lose(owner)

    def _lose(self, owner: _Owner) -> None:
        """Take an engine out; with the last one, nothing that waits can be answered."""
        with self._wake:
            left = sum(other.state != "lost" for other in self._owners)
            waiting = list(self._waiting) if not left else []
            if not left:
                self._waiting.clear()
            self._wake.notify_all()  # Engines that left the cores to this one.
        log.error("engine %s is lost, %d are left", owner.name, left)
        for item in waiting:
            item.result.set_exception(_engines_lost())
        if not left:
            self._on_lost()


def _engines_lost() -> Problem:
    return EnginesLost("Every engine has failed; the server's log says why. Reload or restart it.", 30.0)
