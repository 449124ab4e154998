"""service/batcher.py"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from service_client import FakeEngine

from service.batcher import Batcher
from service.errors import InferenceFailed, NotReady, Overloaded, StartupError, Stopping
from service.metrics import Metrics


@asynccontextmanager
async def running(engine: FakeEngine, **limits: Any) -> AsyncIterator[Batcher]:
    limits = {"max_batch": 4, "queue_size": 64, "queue_bytes": 1 << 20, **limits}
    failures: list[StartupError] = []
    batcher = Batcher(lambda: engine, failures.append, Metrics(), **limits)
    batcher.start()
    await until(lambda: batcher.ready)
    try:
        yield batcher
    finally:
        engine.gate.set()
        await asyncio.to_thread(batcher.close)
        assert engine.closed
        assert not failures


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


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
            batcher._seconds_per_picture = 1.7
            with batcher.place(10):
                with batcher.place(10):
                    with pytest.raises(Overloaded) as caught, batcher.place(1):
                        pass
                    assert caught.value.headers == {"Retry-After": "4"}  # 2 x 1.7 s
                with pytest.raises(Overloaded), batcher.place(91):
                    pass
                with batcher.place(90):
                    pass
            # Alone, it may be larger than the bound: it could never be let in otherwise.
            with batcher.place(1000):
                pass

    asyncio.run(test())


def test_service_time_is_measured() -> None:
    async def test() -> None:
        async with running(FakeEngine()) as batcher:
            for _ in range(40):
                await batcher.infer(canvas(1))
            assert batcher._seconds_per_picture < 0.05

    asyncio.run(test())


def test_not_ready_until_warm() -> None:
    async def test() -> None:
        engine = FakeEngine()
        engine.warm_gate.clear()
        batcher = Batcher(lambda: engine, print, Metrics(), max_batch=1, queue_size=1, queue_bytes=1)
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
    batcher = Batcher(lambda: engine, print, Metrics(), max_batch=1, queue_size=1, queue_bytes=1)
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
def test_a_failed_load_is_reported(error: BaseException) -> None:
    def load() -> FakeEngine:
        raise error

    failures: list[StartupError] = []
    batcher = Batcher(load, failures.append, Metrics(), max_batch=1, queue_size=1, queue_bytes=1)
    batcher.start()
    batcher.close()
    assert len(failures) == 1
    assert "\n" not in str(failures[0])
    assert not batcher.ready
