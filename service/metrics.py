"""Metrics for Prometheus, in a registry of the app's own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.card import ModelCard

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """`segdepth_requests_total{route,status}`, `segdepth_stage_seconds{stage}` (decode, queue, infer, encode),
    `segdepth_batch_size`, `segdepth_queue_length` and `segdepth_model_info`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "segdepth_requests", "Answers, by route and HTTP status.", ["route", "status"], registry=self._registry
        )
        self.stage_seconds = Histogram(
            "segdepth_stage_seconds",
            "Seconds of a request by stage; infer is that of the whole batch.",
            ["stage"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.batch_size = Histogram(
            "segdepth_batch_size",
            "Pictures the model was given at once.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        self._queue_length = Gauge(
            "segdepth_queue_length", "Pictures that wait for the model.", registry=self._registry
        )
        self._model = Gauge(
            "segdepth_model_info",
            "1, with the model that is served.",
            ["name", "version", "network", "backbone", "provider"],
            registry=self._registry,
        )

    def watch_queue(self, length: Callable[[], int]) -> None:
        self._queue_length.set_function(length)

    def set_model(self, card: ModelCard, provider: str) -> None:
        self._model.labels(card.name, card.version, card.network, card.backbone, provider).set(1)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class CountRequests:
    """ASGI middleware: counts each answer under its route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # An exception that leaves the app is answered with 500 further out.

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            # The route, not the path: anyone can ask for any number of paths.
            route = getattr(scope.get("route"), "path", "(none)")
            self._metrics.requests.labels(route, str(status)).inc()
