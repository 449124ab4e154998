"""service/threads.py: what is waited for, and what is dropped."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import numpy as np
import pytest

from service.threads import Pending, in_thread


@pytest.mark.parametrize("own", [True, False])
def test_a_call_gives_its_result_or_its_error(own: bool) -> None:
    name = ContextVar("name", default="-")

    def fail() -> None:
        raise ValueError("no")

    async def test() -> None:
        name.set("request")
        with ThreadPoolExecutor(1) as threads:
            chosen = threads if own else None
            thread, found = await in_thread(lambda: (threading.current_thread(), name.get()), chosen)
            assert thread is not threading.current_thread() and found == "request"
            with pytest.raises(ValueError, match="no"):
                await in_thread(fail, chosen)

    asyncio.run(test())


def test_cancelled_before_its_turn_a_call_is_dropped_with_what_it_holds() -> None:
    async def test() -> None:
        busy, called = threading.Event(), []
        with ThreadPoolExecutor(1) as threads:
            first = asyncio.create_task(in_thread(lambda: busy.wait(20), threads))
            picture = np.zeros(10)
            kept = weakref.ref(picture)
            second = asyncio.create_task(in_thread(lambda held=picture: called.append(held), threads))
            await asyncio.sleep(0.01)
            del picture
            second.cancel()
            await asyncio.wait([second])
            assert second.cancelled()
            del second
            gc.collect()
            assert kept() is None  # While the thread has other work.
            busy.set()
            assert await first
            assert await in_thread(lambda: 3, threads) == 3
        assert not called

    asyncio.run(test())


def test_settled_after_it_was_cancelled_or_after_the_loop_was_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> Pending[int]:
        pending: Pending[int] = Pending()
        waiting = asyncio.ensure_future(pending)
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        assert pending.cancelled
        pending.set_result(1)
        pending.set_exception(ValueError("late"))
        await asyncio.sleep(0)

        once: Pending[int] = Pending()
        once.set_result(2)
        once.set_result(3)
        assert await once == 2 and not once.cancelled
        return pending

    with caplog.at_level(logging.WARNING):
        pending = asyncio.run(test(), debug=True)
        pending.set_exception(ValueError("too late"))
        gc.collect()
    assert not caplog.records
