"""How long a request's work may take: until its deadline, and no longer than its client waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from service.context import current
from service.errors import ClientGone, DeadlineExceeded, InvalidRequest
from service.settings import Settings

T = TypeVar("T")


def timeout_of(asked_ms: int | None, settings: Settings) -> float:
    """Seconds that a request has, given its header `X-Request-Timeout-Ms`.

    Raises:
        InvalidRequest: more than the server allows.
    """
    if asked_ms is None:
        return settings.timeout_s
    if asked_ms > settings.max_timeout_s * 1000:
        raise InvalidRequest(f"X-Request-Timeout-Ms: at most {settings.max_timeout_s * 1000:g} is allowed.")
    return asked_ms / 1000


async def within(request: Request, timeout_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Do the work of a request whose body is read. It is cancelled at the deadline, and when the client goes.

    Raises:
        DeadlineExceeded: it took longer than `timeout_s`.
        ClientGone: the client closed the connection.
    """
    # What waits for an engine is dropped by this, even if the event loop is too busy to cancel it in time.
    current().deadline = time.perf_counter() + timeout_s
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientGone("The client closed the connection before the answer.")
        raise DeadlineExceeded(f"The answer took longer than {timeout_s:g} s.")
    finally:
        task.cancel()
        gone.cancel()


async def together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Like `asyncio.gather`, but when one fails the others do not go on."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
