"""The app factory: `uvicorn --factory service.app:create_app`, or `segdepth serve`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service import errors, kernels, oip, operations
from service.admission import RefuseEarly
from service.auth import ApiKeys, RequireKey
from service.devices import onnx_source
from service.errors import StartupError
from service.metrics import Metrics
from service.middleware import HeadAsGet, Observe
from service.models import Models, Source
from service.operations import reload_on_sighup
from service.routes import router
from service.settings import Settings, kubernetes_variables
from service.site import site_router
from service.tracing import tracing
from service.uploads import LimitUploads
from service.version import __version__

log = logging.getLogger("segdepth")

SWITCH_S = 0.0005


def create_app(settings: Settings | None = None, source: Source | None = None, alone: bool = True) -> FastAPI:
    """The service as an ASGI app.

    Args:
        settings: by default, those of the environment.
        source: by default, `settings.model` on `settings.devices`; its loading begins when the app starts.
        alone: whether a request cannot reach another process instead; without that, there is no `POST /model/reload`.

    Raises:
        StartupError: a setting or the model file is not right.
    """
    chosen = settings or Settings.load()
    metrics = Metrics()
    models = Models(chosen, source or partial(onnx_source, chosen), metrics, _end_process)

    if kernels.compiled is None:
        log.info("loops over pixels are NumPy's, several times as slow: %s", kernels.why_not)
    traces = tracing()
    keys = ApiKeys(chosen.api_keys_file) if chosen.api_keys_file else None
    if ignored := kubernetes_variables():
        log.warning("ignored, they describe a Kubernetes Service and are no settings: %s", ", ".join(ignored))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # A thread that wants the interpreter lets the one that has it go on for so long. The default, 5 ms, is a long
        # time for the event loop to wait while a picture is worked on, and that happens several times a request.
        sys.setswitchinterval(SWITCH_S)
        models.start()
        with reload_on_sighup(models):
            yield
        await models.close()
        if traces:
            await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="segdepth",
        summary="Semantic segmentation and metric depth of rooms.",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        # Relative to the description: a proxy may have put the service under a path.
        servers=[{"url": "./"}],
        docs_url=None,  # In service.site.
        redoc_url=None,
    )
    app.state.models = models
    app.include_router(router)
    app.include_router(oip.router)
    if alone:
        app.include_router(operations.router)
    app.include_router(site_router())
    app.state.has_keys = keys is not None
    # The last one added is the outermost.
    app.add_middleware(LimitUploads, seconds=chosen.transfer_timeout_s, max_bytes=chosen.queue_bytes)
    takes_place = [route for route in (*router.routes, *oip.router.routes) if "POST" in getattr(route, "methods", ())]
    app.add_middleware(RefuseEarly, models=models, routes=takes_place, max_bytes=chosen.max_bytes)
    if keys:
        app.add_middleware(RequireKey, keys=keys)
    if chosen.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin.strip() for origin in chosen.cors_origins.split(",")],
            allow_methods=["GET", "POST"],
            allow_headers=[
                *("Authorization", "Content-Type", "X-API-Key", "X-Request-ID", "X-Request-Timeout-Ms"),
                *(oip.HEADER_LENGTH, "traceparent", "tracestate"),
            ],
            expose_headers=["Retry-After", "Server-Timing", "X-Request-ID", oip.HEADER_LENGTH],
        )
    app.add_middleware(Observe, metrics=metrics, tracing=traces)
    app.add_middleware(HeadAsGet)
    errors.install(app)
    return app


def _end_process(reason: StartupError) -> None:
    """The engine could not be loaded while the server was already up, or every engine is lost; nothing else would end
    the process with the reason."""
    # At once: `print` writes the end of the line by itself, and another thread may log in between.
    sys.stderr.write(f"{reason}\n")
    sys.stderr.flush()
    os._exit(1)
