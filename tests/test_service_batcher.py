"""service/batcher.py"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from service_client import FakeEngine, ask, encode, fake_app, quadrants, until
from service_process import start
from starlette.requests import Request

from service import app, models
from service.batcher import Batcher
from service.context import RequestContext, begin
from service.deadline import within
from service.engine import DeviceLost, Prediction
from service.errors import (
    BrokenImage,
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
from service.metrics import Metrics
from service.settings import Settings


@asynccontextmanager
async def running(*engines: FakeEngine, metrics: Metrics | None = None, **limits: Any) -> AsyncIterator[Batcher]:
    limits = {"max_batch": 4, "queue_size": 64, "queue_bytes": 1 << 20, **limits}
    failures: list[StartupError] = []
    loaders = [lambda engine=engine: engine for engine in engines]
    batcher = Batcher(loaders, failures.append, metrics or Metrics(), **limits)
    batcher.start()
    await until(lambda: batcher.ready)
    try:
        yield batcher
    finally:
        for engine in engines:
            engine.gate.set()
        await asyncio.to_thread(batcher.close)
        assert all(engine.closed for engine in engines)
        assert not failures


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time goes on only where a test moves `now`."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("service.batcher.time.perf_counter", lambda: clock.now)
    return clock


def canvas(value: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


async def fill(engine: FakeEngine, batcher: Batcher, canvases: list[np.ndarray]) -> list[asyncio.Task[Any]]:
    """Keep the engine busy with one picture and let the others wait."""
    engine.gate.clear()
    tasks = [asyncio.create_task(batcher.infer(canvas(0)))]
    await until(lambda: engine.batches)
    for one in canvases:
        tasks.append(asyncio.create_task(batcher.infer(one)))
        await asyncio.sleep(0)
    return tasks


def test_greedy_and_never_more_than_max_batch() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as batcher:
            tasks = await fill(engine, batcher, [canvas(10 + k) for k in range(9)])
            engine.gate.set()
            results = await asyncio.gather(*tasks)
            assert [len(batch) for batch in engine.batches] == [1, 4, 4, 1]
            # Result k belongs to picture k.
            assert [int(r.prediction.confidence[0, 0]) for r in results] == [0, *range(10, 19)]
            assert all(r.prediction.labels.shape == (4, 6) for r in results)
            assert all(r.queue_s >= 0 and r.infer_s >= 0 for r in results)

    asyncio.run(test())


def test_one_size_per_batch_in_order() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as batcher:
            mixed = [canvas(1), canvas(2, 6, 4), canvas(3), canvas(4, 6, 4), canvas(5)]
            tasks = await fill(engine, batcher, mixed)
            engine.gate.set()
            await asyncio.gather(*tasks)
            assert [batch[:, 0, 0, 0].tolist() for batch in engine.batches] == [[0], [1, 3, 5], [2, 4]]

    asyncio.run(test())


def test_cancelled_is_dropped() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as batcher:
            tasks = await fill(engine, batcher, [canvas(1), canvas(2), canvas(3)])
            tasks[2].cancel()
            tasks[0].cancel()  # Its client goes while the engine runs it.
            await asyncio.sleep(0.01)
            engine.gate.set()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert [batch[:, 0, 0, 0].tolist() for batch in engine.batches] == [[0], [1, 3]]
            assert int((await batcher.infer(canvas(9))).prediction.confidence[0, 0]) == 9

    asyncio.run(test())


def test_cancelled_ones_leave_nothing_behind_while_the_engine_is_busy() -> None:
    async def test() -> None:
        engine, metrics = FakeEngine(), Metrics()
        async with running(engine, metrics=metrics) as batcher:
            canvases = [canvas(k) for k in range(3)]
            kept = [weakref.ref(one) for one in canvases]
            tasks = await fill(engine, batcher, canvases)
            del canvases
            for task in (tasks[1], tasks[3]):
                task.cancel()
            await asyncio.wait([tasks[1], tasks[3]])
            del task
            assert batcher.serving().waiting == 1
            assert 'segdepth_dropped_total{reason="cancelled"} 2.0' in metrics.text().decode()
            del tasks[3], tasks[1]
            gc.collect()
            assert [ref() is None for ref in kept] == [True, False, True]
            engine.gate.set()
            await asyncio.gather(*tasks)
        assert 'segdepth_dropped_total{reason="cancelled"} 2.0' in metrics.text().decode()

    asyncio.run(test())


def test_too_few_maps_are_a_failure_of_the_engine() -> None:
    class Short(FakeEngine):
        def infer(self, batch: np.ndarray) -> Prediction:
            return super().infer(batch) if len(batch) == 1 else super().infer(batch[1:])

    async def test() -> None:
        engine = Short()
        async with running(engine) as batcher:
            tasks = await fill(engine, batcher, [canvas(1), canvas(2)])
            engine.gate.set()
            first, *others = await asyncio.gather(*tasks, return_exceptions=True)
            assert not isinstance(first, BaseException)
            assert [type(other) for other in others] == [InferenceFailed] * 2
            assert int((await batcher.infer(canvas(9))).prediction.confidence[0, 0]) == 9

    asyncio.run(test())


def test_an_engine_exception_does_not_end_the_thread() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as batcher:
            engine.fail = True
            with pytest.raises(InferenceFailed) as caught:
                await batcher.infer(canvas(1))
            assert "secret" not in caught.value.detail
            engine.fail = False
            assert (await batcher.infer(canvas(1))).prediction.labels.shape == (4, 6)

    asyncio.run(test())


def test_places_are_bounded_in_requests_and_bytes() -> None:
    async def test() -> None:
        async with running(FakeEngine(), queue_size=2, queue_bytes=100) as batcher:
            batcher._gaps.extend([1.5, 1.9])
            with batcher.place(10):
                with batcher.place(10):
                    with pytest.raises(Overloaded) as caught, batcher.place(1):
                        pass
                    assert caught.value.headers == {"Retry-After": "4"}  # 2 x 1.7 s
                with pytest.raises(Overloaded), batcher.place(91):
                    pass
                with pytest.raises(Overloaded), batcher.place(1, pictures=2):
                    pass
                with batcher.place(90):
                    pass
            # Alone, it may be larger than the bounds: it could never be let in otherwise.
            with batcher.place(1000, pictures=5):
                pass

    asyncio.run(test())


def test_retry_after_is_the_time_in_which_all_places_get_free(clock: SimpleNamespace) -> None:
    async def test() -> None:
        async with running(FakeEngine(), queue_size=4) as batcher:
            places = [batcher.place(1, pictures=n) for n in (1, 1, 2)]
            for place in places:
                place.__enter__()
            with pytest.raises(Overloaded) as caught, batcher.place(1):
                pass
            assert caught.value.headers == {"Retry-After": "1"}  # 4 x 0.1 s, a guess
            for place, seconds in zip(places, (3.0, 1.0, 4.0), strict=True):
                clock.now += seconds
                place.__exit__(None, None, None)
            clock.now += 1000.0  # Nothing to do: this does not count.
            with batcher.place(1, pictures=4), pytest.raises(Overloaded) as caught, batcher.place(1):
                pass
            assert caught.value.headers == {"Retry-After": "8"}  # 4 x (3 + 1 + 2 + 2) / 4 s

    asyncio.run(test())


def test_what_would_come_too_late_is_refused(clock: SimpleNamespace) -> None:
    async def test() -> None:
        async with running(FakeEngine()) as batcher:
            begin(RequestContext(deadline=clock.now + 1.0))
            with batcher.place(1, pictures=39):
                with batcher.place(1):
                    pass  # Nothing is measured yet, and a guess is no reason.
                batcher._gaps.clear()
                batcher._gaps.extend([0.02, 0.03])
                with batcher.place(1):  # 40 x 25 ms with its own
                    with pytest.raises(Overloaded) as caught, batcher.place(1):
                        pass
                    assert caught.value.headers == {"Retry-After": "1"}  # 40 x 25 ms
                    assert "in 1.0 s" in caught.value.detail
                    begin(RequestContext(deadline=clock.now + 1.1))
                    with batcher.place(1):
                        pass
            begin(RequestContext(deadline=clock.now - 1.0))
            with batcher.place(1):  # The first one shows how long it takes.
                pass

    asyncio.run(test())


def test_only_answers_are_the_pace(clock: SimpleNamespace) -> None:
    async def test() -> None:
        async with running(FakeEngine()) as batcher:
            begin(RequestContext(deadline=clock.now + 60.0))
            with batcher.place(1):
                with batcher.place(1):
                    clock.now += 0.5
                assert batcher._seconds_each() == 0.5
                for error in (BrokenImage("x"), ClientGone("x"), DeadlineExceeded("x")):
                    clock.now += 0.01
                    with pytest.raises(type(error)), batcher.place(1):
                        raise error
                assert batcher._seconds_each() == 0.5
                # Nothing is answered for a while: the second answer is at least so far from the first.
                clock.now += 0.97
                # The gap is from what was refused as broken, 10 ms after the first answer.
                assert batcher._seconds_each() == pytest.approx((0.5 + 0.99) / 2)
            assert list(batcher._gaps) == pytest.approx([0.5, 0.99])

    asyncio.run(test())


def test_broken_pictures_do_not_make_the_server_look_slow(clock: SimpleNamespace) -> None:
    async def test() -> None:
        async with running(FakeEngine()) as batcher:
            with ExitStack() as others:
                for _ in range(7):  # There is always something to work on.
                    others.enter_context(batcher.place(1))
                for _ in range(10):
                    begin(RequestContext(deadline=clock.now + 60.0))
                    with batcher.place(1):
                        clock.now += 0.01
                    for _ in range(20):  # A second of refusals, and then the next good one.
                        clock.now += 0.05
                        with pytest.raises(BrokenImage), batcher.place(1):
                            raise BrokenImage("x")
                    begin(RequestContext(deadline=clock.now + 1.0))
                    batcher.require_place(1)
                assert batcher._seconds_each() == pytest.approx(0.01)

    asyncio.run(test())


def test_short_deadlines_under_overload_are_kept_and_not_missed() -> None:
    """Four times as many requests as can be answered, with time for ten of them: what is let in is answered in time."""

    class Slow(FakeEngine):
        def infer(self, batch: np.ndarray) -> Prediction:
            time.sleep(0.05)
            return super().infer(batch)

    async def one(batcher: Batcher) -> str:
        async def stay() -> Any:
            await asyncio.Event().wait()

        async def work() -> None:
            with batcher.place(1):
                await batcher.infer(canvas(1))

        begin(RequestContext())
        try:
            await within(Request({"type": "http"}, stay), 0.5, work())
        except Problem as problem:
            return problem.kind
        return "ok"

    async def test() -> Counter[str]:
        async with running(Slow(), max_batch=1) as batcher:
            tasks = []
            for _ in range(240):
                tasks.append(asyncio.create_task(one(batcher)))
                await asyncio.sleep(0.0125)
            return Counter(await asyncio.gather(*tasks))

    ended = asyncio.run(test())
    assert set(ended) <= {"ok", "overloaded", "deadline-exceeded"}
    assert ended["ok"] > 2 * ended["deadline-exceeded"], ended


def test_an_engine_that_hangs_is_lost() -> None:
    hanging = FakeEngine()

    async def test() -> None:
        metrics = Metrics()
        batcher = Batcher([lambda: hanging], print, metrics, max_batch=1, queue_size=8, queue_bytes=1 << 20, hang_s=0.3)
        batcher.start()
        await until(lambda: batcher.ready)
        await batcher.infer(canvas(1))
        hanging.gate.clear()
        first, second = (asyncio.create_task(batcher.infer(canvas(k))) for k in range(2))
        with pytest.raises(EnginesLost):
            await second  # It would have waited for ever.
        assert batcher.lost
        assert 'segdepth_engine_failures_total{engine="0"} 1.0' in metrics.text().decode()
        with pytest.raises(EnginesLost), batcher.place(1):
            pass
        assert not first.done()  # Its deadline ends it.
        await asyncio.to_thread(batcher.close)  # Without it.
        hanging.gate.set()
        await first
        await until(lambda: hanging.closed)
        assert batcher.lost

    asyncio.run(test())


def test_an_engine_that_hangs_is_counted_once() -> None:
    """Also where its call ends at last, with an error."""

    class Late(FakeEngine):
        def infer(self, batch: np.ndarray) -> Prediction:
            super().infer(batch)
            raise DeviceLost("gone")

    hanging = Late()

    async def test() -> None:
        metrics = Metrics()
        async with running(hanging, metrics=metrics, hang_s=0.3) as batcher:
            hanging.gate.clear()
            first = asyncio.create_task(batcher.infer(canvas(1)))
            await until(lambda: batcher.lost)
            hanging.gate.set()
            with pytest.raises(InferenceFailed):
                await first
            await until(lambda: hanging.closed)
            assert 'segdepth_engine_failures_total{engine="0"} 1.0' in metrics.text().decode()

    asyncio.run(test())


def test_an_engine_that_is_always_busy_does_not_hang() -> None:
    async def test() -> None:
        engine = FakeEngine()
        batcher = Batcher(
            [lambda: engine], print, Metrics(), max_batch=1, queue_size=99, queue_bytes=1 << 20, hang_s=0.2
        )
        batcher.start()
        await until(lambda: batcher.ready)
        infer, slow = engine.infer, 0.05
        engine.infer = lambda batch: (time.sleep(slow), infer(batch))[1]  # type: ignore[method-assign]
        await asyncio.gather(*(batcher.infer(canvas(k)) for k in range(16)))
        await asyncio.sleep(0.4)  # And one that has nothing to do does not either.
        assert batcher.ready
        batcher.close()

    asyncio.run(test())


def test_not_ready_until_warm() -> None:
    async def test() -> None:
        engine = FakeEngine()
        engine.warm_gate.clear()
        batcher = Batcher([lambda: engine], print, Metrics(), max_batch=1, queue_size=1, queue_bytes=1)
        batcher.start()
        await until(lambda: batcher.progress == (1, 3))
        with pytest.raises(NotReady) as caught, batcher.place(1):
            pass
        assert caught.value.members == {"progress": {"done": 1, "total": 3}}
        engine.warm_gate.set()
        await until(lambda: batcher.ready)
        with batcher.place(1):
            pass
        batcher.close()
        with pytest.raises(Stopping):
            await batcher.infer(canvas(1))

    asyncio.run(test())


def test_stopped_while_warming_up() -> None:
    engine = FakeEngine()
    engine.warm_gate.clear()
    batcher = Batcher([lambda: engine], print, Metrics(), max_batch=1, queue_size=1, queue_bytes=1)
    batcher._stopping = True
    batcher.start()
    batcher.close()
    assert not batcher.ready


def test_what_waits_is_finished_on_close() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as batcher:
            tasks = await fill(engine, batcher, [canvas(1), canvas(2)])
            closing = asyncio.create_task(asyncio.to_thread(batcher.close))
            engine.gate.set()
            results = await asyncio.gather(*tasks)
            await closing
            assert len(results) == 3

    asyncio.run(test())


@pytest.mark.parametrize("error", [StartupError("no such file"), ValueError("two\nlines")])
def test_a_failed_load_is_reported_once(error: BaseException) -> None:
    def load() -> FakeEngine:
        raise error

    failures: list[StartupError] = []
    batcher = Batcher([load, load], failures.append, Metrics(), max_batch=1, queue_size=1, queue_bytes=1)
    batcher.start()
    batcher.close()
    assert len(failures) == 1
    assert "\n" not in str(failures[0])
    assert not batcher.ready


@pytest.mark.parametrize("stopped", [False, True])
def test_an_engine_that_does_not_get_warm_is_closed(stopped: bool) -> None:
    engine = FakeEngine()
    failures: list[StartupError] = []
    batcher = Batcher([lambda: engine], failures.append, Metrics(), max_batch=1, queue_size=1, queue_bytes=1)

    def warm_up(progress: Callable[[int, int], None]) -> None:
        if stopped:
            threading.Thread(target=batcher.close).start()
            while True:  # Ends as the progress is told.
                progress(1, 3)
        raise StartupError("it gives class 7")

    engine.warm_up = warm_up  # type: ignore[method-assign]
    batcher.start()
    batcher.close()
    assert engine.closed and len(failures) == (0 if stopped else 1)


# --- deadlines


def test_an_expired_picture_never_reaches_the_engine() -> None:
    """Also when the event loop had no time to cancel it: only the deadline says so."""

    async def test() -> None:
        engine = FakeEngine()
        metrics = Metrics()
        async with running(engine, metrics=metrics) as batcher:
            tasks = await fill(engine, batcher, [canvas(1)])
            begin(RequestContext(deadline=time.perf_counter() + 0.01))
            late = asyncio.create_task(batcher.infer(canvas(2)))
            begin(RequestContext(deadline=time.perf_counter() + 60))
            tasks.append(asyncio.create_task(batcher.infer(canvas(3))))
            await asyncio.sleep(0.02)
            engine.gate.set()
            with pytest.raises(DeadlineExceeded):
                await late
            await asyncio.gather(*tasks)
            assert [batch[:, 0, 0, 0].tolist() for batch in engine.batches] == [[0], [1, 3]]
            assert b'segdepth_dropped_total{reason="deadline"} 1.0' in metrics.text()

    asyncio.run(test())


# --- order


def test_a_stream_of_one_size_does_not_starve_the_other() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine, max_batch=2) as batcher:
            wide, tall = [canvas(k) for k in range(1, 7)], canvas(99, 6, 4)
            tasks = await fill(engine, batcher, [*wide[:3], tall, *wide[3:]])
            engine.gate.set()
            await asyncio.gather(*tasks)
            # 99 is next as soon as it is the oldest, though more of the other size wait.
            order = [batch[:, 0, 0, 0].tolist() for batch in engine.batches]
            assert order == [[0], [1, 2], [3, 4], [99], [5, 6]]

    asyncio.run(test())


def test_no_more_at_once_than_the_engine_gains_from() -> None:
    class Small(FakeEngine):
        max_batch = 2

    async def test() -> None:
        engine = Small()
        async with running(engine, max_batch=4) as batcher:
            tasks = await fill(engine, batcher, [canvas(k) for k in range(6)])
            engine.gate.set()
            await asyncio.gather(*tasks)
        assert [len(batch) for batch in engine.batches] == [1, 2, 2, 2]

    asyncio.run(test())


def test_why_batches_were_released() -> None:
    async def test() -> None:
        engine = FakeEngine()
        metrics = Metrics()
        async with running(engine, metrics=metrics, max_batch=2) as batcher:
            tasks = await fill(engine, batcher, [canvas(1), canvas(2), canvas(3), canvas(4, 6, 4)])
            engine.gate.set()
            await asyncio.gather(*tasks)
        text = metrics.text().decode()
        assert [len(batch) for batch in engine.batches] == [1, 2, 1, 1]
        assert 'segdepth_batches_total{engine="0",released="full"} 1.0' in text
        assert 'segdepth_batches_total{engine="0",released="size"} 1.0' in text
        assert 'segdepth_batches_total{engine="0",released="empty"} 2.0' in text

    asyncio.run(test())


# --- several engines


def test_engines_share_one_queue() -> None:
    async def test() -> None:
        engines = [FakeEngine(), FakeEngine()]
        async with running(*engines, max_batch=2) as batcher:
            for engine in engines:
                engine.gate.clear()
            tasks = [asyncio.create_task(batcher.infer(canvas(0)))]
            await until(lambda: engines[0].batches or engines[1].batches)
            tasks.append(asyncio.create_task(batcher.infer(canvas(1))))
            await until(lambda: engines[0].batches and engines[1].batches)
            tasks += [asyncio.create_task(batcher.infer(canvas(k))) for k in range(2, 6)]
            await asyncio.sleep(0)
            assert (batcher.serving().waiting, batcher.serving().oldest_s > 0) == (4, True)
            engines[0].gate.set()  # The other one stays busy with its first batch.
            await until(lambda: not batcher.serving().waiting)
            assert batcher.serving().oldest_s == 0
            engines[1].gate.set()
            results = await asyncio.gather(*tasks)
            assert [int(r.prediction.confidence[0, 0]) for r in results] == list(range(6))
            assert [len(batch) for batch in engines[0].batches] == [1, 2, 2]
            assert [len(batch) for batch in engines[1].batches] == [1]

    asyncio.run(test())


def test_ready_when_every_engine_is_warm() -> None:
    async def test() -> None:
        engines = [FakeEngine(), FakeEngine()]
        engines[1].warm_gate.clear()
        loaders = [lambda engine=engine: engine for engine in engines]
        batcher = Batcher(loaders, print, Metrics(), max_batch=1, queue_size=1, queue_bytes=1)
        batcher.start()
        await until(lambda: batcher.progress == (4, 6))
        assert not batcher.ready
        assert batcher.serving().engines == {"loading": 1, "ready": 1, "lost": 0}
        engines[1].warm_gate.set()
        await until(lambda: batcher.ready)
        assert batcher.provider == "FakeExecutionProvider"
        batcher.close()
        assert engines[0].closed and engines[1].closed

    asyncio.run(test())


def test_a_lost_engine_takes_itself_out_and_the_last_one_ends_readiness() -> None:
    async def test() -> None:
        good, bad = FakeEngine(), FakeEngine()
        metrics = Metrics()
        async with running(good, bad, metrics=metrics, max_batch=1) as batcher:
            bad.fail = True
            good.gate.clear()
            held: list[asyncio.Task[Any]] = []
            while not good.batches:  # Until the good one is busy; a picture that the bad one took has failed.
                held.append(asyncio.create_task(batcher.infer(canvas(0))))
                await until(lambda: good.batches or held[-1].done())
            for _ in range(3 - (len(held) - 1)):  # What comes now goes to the bad one.
                with pytest.raises(InferenceFailed):
                    await batcher.infer(canvas(1))
            assert all(isinstance(task.exception(), InferenceFailed) for task in held[:-1])
            await until(lambda: bad.closed)
            assert batcher.ready
            assert not batcher.lost
            good.gate.set()
            assert (await held[-1]).prediction.labels.shape == (4, 6)
            assert (await batcher.infer(canvas(1))).prediction.labels.shape == (4, 6)

            good.fail = True
            tasks = await fill_more(good, batcher, 5)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(r) for r in results] == [InferenceFailed] * 3 + [EnginesLost] * 2
            assert batcher.lost
            assert not batcher.ready
            with pytest.raises(EnginesLost):
                batcher.require_ready()
            with pytest.raises(EnginesLost) as caught:
                await batcher.infer(canvas(1))
            assert int(caught.value.headers["Retry-After"]) >= 1
            now = batcher.serving()
            assert (now.ready, now.engines) == (False, {"loading": 0, "ready": 0, "lost": 2})
            assert batcher.provider == "FakeExecutionProvider"  # Of answers that are still on their way.
            assert 'segdepth_engine_failures_total{engine="1"} 3.0' in metrics.text().decode()

    asyncio.run(test())


async def fill_more(engine: FakeEngine, batcher: Batcher, count: int) -> list[asyncio.Task[Any]]:
    engine.gate.clear()
    tasks = []
    for k in range(count):
        tasks.append(asyncio.create_task(batcher.infer(canvas(k))))
        await asyncio.sleep(0)
    engine.gate.set()
    return tasks


def test_the_loss_of_the_last_engine_is_told_when_what_waited_is_answered() -> None:
    told: list[list[bool]] = []

    async def test() -> None:
        engines = [FakeEngine(), FakeEngine()]
        waiting: list[asyncio.Task[Any]] = []
        async with running(*engines, max_batch=1, on_lost=lambda: told.append([batcher.lost])) as batcher:
            for engine in engines:
                engine.gate.clear()
                engine.fail = True
            waiting.extend(asyncio.create_task(batcher.infer(canvas(k))) for k in range(9))
            await until(lambda: all(engine.batches for engine in engines))
            engines[0].gate.set()
            await until(lambda: engines[0].closed)
            assert not told
            engines[1].gate.set()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert Counter(map(type, results)) == {InferenceFailed: 6, EnginesLost: 3}
            await until(lambda: told)
        assert told == [[True]]

    asyncio.run(test())


@pytest.mark.parametrize("chosen", [True, False])
def test_a_process_without_engines_ends_where_it_is_to(monkeypatch: pytest.MonkeyPatch, chosen: bool) -> None:
    monkeypatch.setattr(models, "LOST_S", 0.05)
    ended: list[StartupError] = []
    monkeypatch.setattr(app, "_end_process", ended.append)

    async def test(client: httpx.AsyncClient) -> None:
        while (await client.post("/predict", content=encode(quadrants()))).status_code == 500:
            pass
        if chosen:
            await until(lambda: ended)
        else:
            await asyncio.sleep(0.2)

    engine = FakeEngine()
    engine.fail = True
    ask(test, fake_app(engine, exit_when_lost=chosen))
    assert [error.reason for error in ended] == [
        "every engine is lost; this process ends, to be started again"
    ] * chosen


@pytest.mark.parametrize("why", ["reloaded", "draining"])
def test_an_end_that_is_not_wanted_any_more(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setattr(models, "LOST_S", 0.3)
    ended: list[StartupError] = []
    engines = [FakeEngine(), FakeEngine()]
    engines[0].fail = True
    loaded = iter(engines)

    async def test() -> None:
        owner = models.Models(
            Settings(exit_when_lost=True), lambda: (engines[0].card, [lambda: next(loaded)]), Metrics(), ended.append
        )
        owner.start()
        await until(lambda: owner.current.batcher.ready)
        for _ in range(3):
            with pytest.raises(InferenceFailed):
                await owner.current.batcher.infer(canvas(1, 48, 64))
        assert owner.current.batcher.lost
        if why == "reloaded":
            await owner.reload()
        else:
            owner.draining = True
        await asyncio.sleep(0.5)
        await owner.close()

    asyncio.run(test())
    assert not ended


def test_a_server_without_engines_ends_with_1() -> None:
    script = Path(__file__).parent / "obedient_server.py"  # A black picture fails.
    with start(command=[sys.executable, str(script)], SEGDEPTH_EXIT_WHEN_LOST="true") as server:
        server.wait_ready()
        for _ in range(3):
            assert httpx.post(f"{server.url}/predict", content=encode(quadrants() * 0)).status_code == 500
        code, printed = server.ended(20)
    assert code == 1
    assert "engine 0 is lost, 0 are left" in printed
    assert printed.splitlines()[-1] == "segdepth: every engine is lost; this process ends, to be started again"


def test_a_failure_now_and_then_is_no_loss() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as batcher:
            for _ in range(3):
                engine.fail = True
                for _ in range(2):
                    with pytest.raises(InferenceFailed):
                        await batcher.infer(canvas(1))
                engine.fail = False
                await batcher.infer(canvas(1))
            assert batcher.ready

    asyncio.run(test())


# --- engines that share a device


class SharingFake(FakeEngine):
    def __init__(self, share: Callable[[int], int]) -> None:
        super().__init__()
        self.share = share
        self.abandoned = 0

    def abandon(self) -> None:
        self.abandoned += 1


def test_engines_that_share_a_device_are_asked_how_many_they_want() -> None:
    async def test() -> None:
        asked = []

        def share(waiting: int) -> int:
            asked.append(waiting)
            return (waiting + 1) // 2

        engine, metrics = SharingFake(share), Metrics()
        async with running(engine, metrics=metrics, max_batch=2) as batcher:
            engine.gate.clear()
            tasks = [asyncio.create_task(batcher.infer(canvas(0)))]
            await until(lambda: engine.batches)
            tasks += [asyncio.create_task(batcher.infer(canvas(k))) for k in range(1, 7)]
            await asyncio.sleep(0.01)
            engine.gate.set()
            await asyncio.gather(*tasks)
            # Never more than `max_batch`, whatever it wants.
            assert [len(batch) for batch in engine.batches] == [1, 2, 2, 1, 1]
            assert asked == [1, 6, 4, 2, 1]
        text = metrics.text().decode()
        for reason, batches in (("full", 2), ("shared", 1), ("empty", 2)):
            assert f'segdepth_batches_total{{engine="0",released="{reason}"}} {batches}.0' in text

    asyncio.run(test())


def test_an_engine_that_hangs_leaves_the_device_to_the_others() -> None:
    hanging = SharingFake(lambda waiting: 1)
    good = SharingFake(lambda waiting: waiting if hanging.abandoned else 0)

    async def test() -> None:
        loaders: list[Callable[[], Any]] = [lambda: hanging, lambda: good]
        batcher = Batcher(loaders, print, Metrics(), max_batch=1, queue_size=8, queue_bytes=1 << 20, hang_s=0.3)
        batcher.start()
        await until(lambda: batcher.ready)
        hanging.gate.clear()
        first = asyncio.create_task(batcher.infer(canvas(1)))
        await until(lambda: hanging.batches)
        assert int((await batcher.infer(canvas(2))).prediction.confidence[0, 0]) == 2
        assert hanging.abandoned == 1 and not good.abandoned
        hanging.gate.set()
        await first
        await asyncio.to_thread(batcher.close)

    asyncio.run(test())


def test_at_the_end_what_was_left_to_an_engine_that_is_lost_is_answered() -> None:
    class Lost(SharingFake):
        def infer(self, batch: np.ndarray) -> Prediction:
            super().infer(batch)
            raise DeviceLost("gone")

    first = Lost(lambda waiting: 1)
    # It leaves the device to the other as long as that works.
    second = SharingFake(lambda waiting: waiting if first.gate.is_set() else 0)

    async def test() -> None:
        async with running(first, second, max_batch=1) as batcher:
            first.gate.clear()
            under_way = asyncio.create_task(batcher.infer(canvas(1)))
            await until(lambda: first.batches)
            left = asyncio.create_task(batcher.infer(canvas(2)))
            gone = asyncio.create_task(batcher.infer(canvas(3)))
            await asyncio.sleep(0.01)
            closing = asyncio.create_task(asyncio.to_thread(batcher.close))
            await asyncio.sleep(0.05)
            gone.cancel()
            first.gate.set()
            with pytest.raises(InferenceFailed):
                await under_way
            assert int((await left).prediction.confidence[0, 0]) == 2
            await asyncio.wait_for(closing, 10)

    asyncio.run(test())


def test_what_was_left_to_an_engine_that_is_lost_is_taken_by_another() -> None:
    class Lost(FakeEngine):
        def infer(self, batch: np.ndarray) -> Prediction:
            super().infer(batch)
            raise DeviceLost("gone")

    async def test() -> None:
        bad = Lost()
        good = SharingFake(lambda waiting: waiting if bad.gate.is_set() else 0)
        async with running(bad, good) as batcher:
            bad.gate.clear()
            lost = asyncio.create_task(batcher.infer(canvas(1)))
            await until(lambda: bad.batches)
            left = asyncio.create_task(batcher.infer(canvas(2)))
            await asyncio.sleep(0.01)
            assert not good.batches
            bad.gate.set()
            with pytest.raises(InferenceFailed):
                await lost
            assert int((await left).prediction.confidence[0, 0]) == 2

    asyncio.run(test())


# --- engines whose device works by itself


class OverlappingFake(FakeEngine):
    """Computes a batch when it is collected, which waits for `gate`; `under_way` are those submitted before."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted: list[list[int]] = []
        self.under_way: list[int] = []
        self.most = 0
        self.refuse: Exception | None = None
        self.lost = False
        self.collecting = threading.Event()

    def submit(self, pictures: Sequence[np.ndarray]) -> tuple[int, np.ndarray]:
        if self.refuse:
            raise self.refuse
        self.submitted.append([int(one[0, 0, 0]) for one in pictures])
        number = len(self.submitted)
        self.under_way.append(number)
        self.most = max(self.most, len(self.under_way))
        return number, np.stack(pictures)

    def collect(self, ticket: tuple[int, np.ndarray]) -> Prediction:
        self.collecting.set()
        self.gate.wait(20)
        assert self.under_way.pop(0) == ticket[0]  # In order.
        if self.lost:
            raise DeviceLost("an uncorrectable ECC error")
        return self.infer(ticket[1])


def test_a_second_batch_is_under_way_and_never_a_third() -> None:
    async def test() -> None:
        engine = OverlappingFake()
        async with running(engine, max_batch=2) as batcher:
            engine.gate.clear()
            tasks = [asyncio.create_task(batcher.infer(canvas(0)))]
            await until(lambda: engine.collecting.is_set())
            # What comes while the thread waits for the first batch is taken when that is done: two together.
            tasks += [asyncio.create_task(batcher.infer(canvas(k))) for k in range(1, 8)]
            await asyncio.sleep(0)
            engine.gate.set()
            results = await asyncio.gather(*tasks)
            assert engine.submitted == [[0], [1, 2], [3, 4], [5, 6], [7]]
            assert engine.most == 2
            assert [int(r.prediction.confidence[0, 0]) for r in results] == list(range(8))
            assert all(r.infer_s >= 0 and r.queue_s >= 0 for r in results)

    asyncio.run(test())


def test_an_idle_engine_goes_before_a_second_batch_for_a_busy_one() -> None:
    async def test() -> None:
        engines = [OverlappingFake(), OverlappingFake()]
        async with running(*engines, max_batch=1) as batcher:
            await until(lambda: batcher._idle == 2)
            for engine in engines:
                engine.gate.clear()
            tasks = [asyncio.create_task(batcher.infer(canvas(k))) for k in range(2)]
            await until(lambda: sum(len(engine.submitted) for engine in engines) == 2)
            assert [len(engine.submitted) for engine in engines] == [1, 1]
            for engine in engines:
                engine.gate.set()
            await asyncio.gather(*tasks)

    asyncio.run(test())


def test_a_lost_device_is_out_at_once_and_the_others_go_on() -> None:
    async def test() -> None:
        good, bad = OverlappingFake(), OverlappingFake()
        metrics = Metrics()
        async with running(good, bad, metrics=metrics, max_batch=1) as batcher:
            metrics.watch(batcher.serving)
            bad.lost = True
            failed = 0
            for k in range(100):
                tasks = [asyncio.create_task(batcher.infer(canvas(k))) for _ in range(2)]
                results = await asyncio.gather(*tasks, return_exceptions=True)
                failed += sum(isinstance(r, InferenceFailed) for r in results)
                if bad.closed:
                    break
            assert bad.closed and 1 <= failed <= 2  # No third try; at most the second batch that was under way.
            assert not bad.under_way
            for k in range(3):
                assert int((await batcher.infer(canvas(k))).prediction.confidence[0, 0]) == k
            assert batcher.ready and batcher.serving().engines == {"loading": 0, "ready": 1, "lost": 1}
            assert b'segdepth_engines{state="lost"} 1.0' in metrics.text()

    asyncio.run(test())


def test_a_lost_device_answers_for_every_batch_that_was_under_way() -> None:
    class LostAfterOne(OverlappingFake):
        def collect(self, ticket: tuple[int, np.ndarray]) -> Prediction:
            prediction = super().collect(ticket)
            self.lost = True
            return prediction

    async def test() -> None:
        engine = LostAfterOne()
        async with running(engine, max_batch=1) as batcher:
            engine.gate.clear()
            first = asyncio.create_task(batcher.infer(canvas(0)))
            await until(lambda: engine.collecting.is_set())
            both = [asyncio.create_task(batcher.infer(canvas(k))) for k in (1, 2)]
            await asyncio.sleep(0)
            engine.gate.set()
            assert int((await first).prediction.confidence[0, 0]) == 0
            done, _ = await asyncio.wait(both, timeout=10)
            assert [type(task.exception()) for task in both if task in done] == [InferenceFailed] * 2
            await until(lambda: engine.closed)
            # Both were under way when the device was lost.
            assert engine.submitted == [[0], [1], [2]] and engine.most == 2 and not engine.under_way
            assert batcher.lost

    asyncio.run(test())


def test_a_batch_that_cannot_be_started_fails_alone() -> None:
    async def test() -> None:
        engine = OverlappingFake()
        async with running(engine) as batcher:
            engine.refuse = RuntimeError("secret insides")
            with pytest.raises(InferenceFailed) as caught:
                await batcher.infer(canvas(1))
            assert "secret" not in caught.value.detail
            engine.refuse = None
            assert int((await batcher.infer(canvas(2))).prediction.confidence[0, 0]) == 2
            engine.refuse = DeviceLost("gone")
            with pytest.raises(InferenceFailed):
                await batcher.infer(canvas(3))
            await until(lambda: engine.closed)
            assert batcher.lost
            with pytest.raises(EnginesLost):
                batcher.require_ready()

    asyncio.run(test())


def test_what_is_under_way_is_finished_on_close() -> None:
    async def test() -> None:
        engine = OverlappingFake()
        async with running(engine, max_batch=1) as batcher:
            engine.gate.clear()
            tasks = [asyncio.create_task(batcher.infer(canvas(k))) for k in range(4)]
            await until(lambda: engine.collecting.is_set())
            closing = asyncio.create_task(asyncio.to_thread(batcher.close))
            engine.gate.set()
            results = await asyncio.gather(*tasks)
            await closing
            assert [int(r.prediction.confidence[0, 0]) for r in results] == [0, 1, 2, 3]
            assert not engine.under_way

    asyncio.run(test())
