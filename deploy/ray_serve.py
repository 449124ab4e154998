"""The service as replicas of Ray Serve: the same app, routes and answers, on as many machines as the cluster has.

    serve run deploy.ray_serve:build model=/models/rooms.onnx replicas=4
    serve run deploy.ray_serve:build device=cuda replicas=auto

docs/ray.md tells what Ray does then, and what the service.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.app import create_app
from service.errors import Problem, StartupError
from service.models import until_ready
from service.settings import Settings


class Replica:
    """What Ray asks of a replica; `serve.ingress` adds the app."""

    app: FastAPI

    def check_health(self) -> None:
        """Ray replaces a replica that raises three times in a row, as one whose engines have failed does."""
        try:
            self.app.state.models.require_ready()
        except Problem as problem:
            # Ray shows the text of an exception, not its attributes.
            raise RuntimeError(problem.detail) from None


def build(arguments: dict[str, str]) -> Application:
    """The application, for `serve run` and for a Serve config file.

    Args:
        arguments: `replicas` (1, a number, or `auto`) and any setting of the service by its name. The others come from
            the SEGDEPTH_* variables of the process that deploys, not of the machines that serve.

    Raises:
        StartupError: a setting that does not exist or does not fit.
    """
    chosen = dict(arguments)
    replicas = chosen.pop("replicas", "1")
    if replicas != "auto" and not (str(replicas).isdecimal() and int(replicas) > 0):
        raise StartupError(f"replicas={replicas}: a number, or auto")
    if unknown := chosen.keys() - Settings.model_fields.keys():
        raise StartupError(f"unknown setting {min(unknown)}")
    settings = Settings.load(**chosen)
    # Ray counts the cores that it hands out; more threads or processes would be taken from the replica beside it.
    cores = settings.threads or 1
    workers = settings.pixel_workers or 0
    # Replicas have other working directories.
    files = {name: path.absolute() for name in ("model", "api_keys_file") if (path := getattr(settings, name))}
    settings = settings.model_copy(update={"threads": cores, "pixel_workers": workers, **files})

    def app() -> FastAPI:
        logs.configure(settings.log_format, settings.log_level)
        try:
            made = ready_when_started(create_app(settings, alone=False))
        except StartupError as error:
            # As the SystemExit that it is, Ray would take it for a replica's orderly end.
            raise RuntimeError(error.reason) from None
        made.add_middleware(WithoutRequestId)
        return made

    deployment = serve.deployment(
        serve.ingress(app)(Replica),
        name="segdepth",
        num_replicas="auto" if replicas == "auto" else int(replicas),
        # A replica's queue has its own bounds, and its 503 tells when to come again. Ray's must not come before them.
        max_ongoing_requests=2 * settings.queue_size,
        autoscaling_config={"target_ongoing_requests": settings.max_batch} if replicas == "auto" else None,
        graceful_shutdown_timeout_s=settings.grace_s,
        ray_actor_options={"num_cpus": cores + workers, "num_gpus": len(settings.gpus)},
    )
    return deployment.bind()


def ready_when_started(app: FastAPI) -> FastAPI:
    """The app, whose start ends when its model is warm: Ray sends requests to a replica from then on."""
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def warm(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            await until_ready(app.state.models.current.batcher)
            yield

    app.router.lifespan_context = warm
    return app


class WithoutRequestId:
    """Leaves X-Request-ID out of answers: Ray's proxy gives each request the name that the service then takes, and
    adds the header to the answer itself. Twice would be once too often."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def forward(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["X-Request-ID"]
            await send(message)

        await self._app(scope, receive, forward)
