"""The ASGI middleware around everything: a context for each request, its headers, its metrics and its log line."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import context, errors
from service.context import RequestContext
from service.metrics import Metrics
from service.tracing import Tracing

log = logging.getLogger("segdepth.access")

REQUEST_ID = "X-Request-ID"
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
PROBES = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics")
"""Asked every few seconds: logged at debug only."""


class Observe:
    """Gives each request its context, and tells of it.

    - `X-Request-ID`: the request's own if it is sane, else a new one; echoed, in logs and in problems.
    - `Server-Timing`: the stages and the total in milliseconds.
    - a trace of the request, where `service.tracing` says so.
    - counts the answer under its route, status and reason, and logs one line.
    - An exception that nobody handled is logged and answered with 500.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request = RequestContext(id=given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex)
        context.begin(request)
        start = time.perf_counter()
        status = 0
        sent = 0

        async def watch(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request.id
                total = time.perf_counter() - start
                stages = [*request.stages.items(), ("total", total)]
                headers["Server-Timing"] = ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in stages)
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except asyncio.CancelledError:
            # Only the server does this to a request: the time for accepted ones is over.
            if status:
                raise
            stopping = errors.problem_response(errors.Stopping("The server is shutting down.", 2.0), scope["path"])
            await stopping(scope, receive, watch)
        except Exception:
            log.exception("unexpected error at %s %s", scope["method"], scope["path"])
            if status:  # Too late to answer otherwise: the connection is closed.
                raise
            response = errors.unexpected_response(scope["path"])
            await response(scope, receive, watch)
        finally:
            # The route, not the path: anyone can ask for any number of paths.
            route = getattr(scope.get("route"), "path", None)
            self._metrics.requests.labels(route or "(none)", str(status), request.reason).inc()
            if self._tracing and scope["path"] not in PROBES:
                attributes = {"http.request.method": scope["method"], "http.response.status_code": status}
                if route:
                    attributes["http.route"] = route
                self._tracing.record(request, Headers(scope=scope), attributes, time.perf_counter() - start)
            level = logging.DEBUG if scope["path"] in PROBES else logging.INFO
            if log.isEnabledFor(level):
                client = scope.get("client")
                fields = {
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "reason": request.reason,
                    "ms": round((time.perf_counter() - start) * 1000, 1),
                    "bytes": sent,
                    "client": client[0] if client else None,
                    "key": request.client,
                }
                text = "{client} {method} {path!r} {status} {reason} {ms} ms {bytes} bytes".format(**fields)
                if request.client:
                    text += f" key {request.client}"
                log.log(level, "%s", text, extra={"fields": fields})


class HeadAsGet:
    """HEAD is answered as GET is, for what watches a service asks so; the server sends no body to it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
