"""The app factory: `uvicorn --factory service.app:create_app`, or `segdepth serve`."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service import errors
from service.batcher import Batcher
from service.engine import Engine, OnnxEngine, read_card
from service.errors import StartupError
from service.metrics import CountRequests, Metrics
from service.pipeline import Pipeline
from service.routes import router
from service.settings import Settings
from service.site import site_router
from service.version import __version__


def create_app(settings: Settings | None = None, engine: Engine | None = None) -> FastAPI:
    """The service as an ASGI app.

    Args:
        settings: by default, those of the environment.
        engine: by default, one on ONNX Runtime for `settings.model`; its loading begins when the app starts.

    Raises:
        StartupError: a setting or the model file is not right.
    """
    chosen = settings or Settings.load()

    def load() -> Engine:
        if engine is not None:
            return engine
        return OnnxEngine(chosen.model, chosen.device, threads=chosen.threads, max_batch=chosen.max_batch)

    metrics = Metrics()
    card = engine.card if engine is not None else read_card(chosen.model)
    batcher = Batcher(
        load,
        _end_process,
        metrics,
        max_batch=chosen.max_batch,
        queue_size=chosen.queue_size,
        queue_bytes=chosen.queue_bytes,
    )
    pipeline = Pipeline(chosen, card, batcher, metrics)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        pipeline.start()
        yield
        pipeline.close()

    app = FastAPI(
        title="segdepth",
        summary="Semantic segmentation and metric depth of rooms.",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.pipeline = pipeline
    app.include_router(router)
    app.include_router(site_router())
    app.add_middleware(CountRequests, metrics=metrics)
    errors.install(app)
    return app


def _end_process(reason: StartupError) -> None:
    """The engine could not be loaded while the server was already up; nothing else would end it with the reason."""
    print(reason, file=sys.stderr, flush=True)
    os._exit(1)
