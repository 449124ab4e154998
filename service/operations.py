"""What an operator does to a running service: reload its model, by `POST /model/reload` or SIGHUP."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import APIRouter, Request
from pydantic import BaseModel

from service.errors import Forbidden, Problem, ReloadFailed
from service.models import Models
from service.routes import describe_problems

log = logging.getLogger("segdepth")

router = APIRouter()


class Reloaded(BaseModel):
    """The model that serves now."""

    name: str
    version: str


@router.post("/model/reload", responses=describe_problems(401, 403, 409, 503))
async def reload(request: Request) -> Reloaded:
    """Load the model file again and switch to it when it is warm; no request is lost. Needs an API key."""
    if not request.app.state.has_keys:
        raise Forbidden("This needs API keys (SEGDEPTH_API_KEYS_FILE). Without them, send the process SIGHUP.")
    card = await request.app.state.models.reload()
    return Reloaded(name=card.name, version=card.version)


@contextmanager
def reload_on_sighup(models: Models) -> Iterator[None]:
    """Inside, SIGHUP reloads the model. Not where the event loop may not handle signals (outside the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    def on_signal() -> None:
        task = loop.create_task(_reload(models))
        running.add(task)
        task.add_done_callback(running.discard)

    before = signal.getsignal(signal.SIGHUP)
    loop.add_signal_handler(signal.SIGHUP, on_signal)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, before)  # asyncio leaves the default, by which a late one would end the process.
        for task in running:
            task.cancel()


async def _reload(models: Models) -> None:
    try:
        await models.reload()
    except ReloadFailed:
        pass  # Its reason has been logged.
    except Problem as problem:
        log.error("SIGHUP: %s", problem.detail)
