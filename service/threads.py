"""What other threads do for the event loop.

An asyncio future that is chained to one of `concurrent.futures`, as `run_in_executor` and `wrap_future` make it, takes
the event loop four times as long as a future that the thread itself settles. A prediction waits three times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Pending(Generic[T]):
    """What a thread will have some time. Made and awaited on the event loop, settled once by any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[T] = self._loop.create_future()

    def __await__(self) -> Generator[Any, None, T]:
        return self._future.__await__()

    @property
    def cancelled(self) -> bool:
        """Nobody waits for it any more. A thread may learn of it a little late, and does its work in vain."""
        return self._future.cancelled()

    def set_result(self, result: T) -> None:
        self._settle(self._future.set_result, result)

    def set_exception(self, error: BaseException) -> None:
        self._settle(self._future.set_exception, error)

    def _settle(self, settle: Callable[[Any], None], value: object) -> None:
        def unless_cancelled() -> None:
            if not self._future.done():
                settle(value)

        with suppress(RuntimeError):  # The event loop is closed, and nobody waits.
            self._loop.call_soon_threadsafe(unless_cancelled)


async def in_thread(call: Callable[[], T], threads: ThreadPoolExecutor | None = None) -> T:
    """`call()` in one of the threads, by default asyncio's. Cancelled before its turn, it is dropped."""
    pending: Pending[T] = Pending()
    inside = copy_context()  # So that what is logged has the request's id.
    work: list[tuple[Callable[[], T], Pending[T]]] = [(partial(inside.run, call), pending)]
    if threads is None:
        asyncio.get_running_loop().run_in_executor(None, _do, work)
    else:
        threads.submit(_do, work)
    try:
        return await pending
    finally:
        work.clear()  # The executor keeps what was cancelled until its turn, which must not keep the picture.


def _do(work: list[tuple[Callable[[], T], Pending[T]]]) -> None:
    try:
        call, pending = work.pop()
    except IndexError:  # It was cancelled.
        return
    try:
        result = call()
    except BaseException as error:
        pending.set_exception(error)
    else:
        pending.set_result(result)
