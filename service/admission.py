"""Says no to pictures before they are read, while there is no place for them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Overloaded, problem_response
from service.models import Models


class RefuseEarly:
    """ASGI middleware: 503 at a request's headers where the batcher would say it after the upload.

    Under overload most requests are refused, and what that costs is taken from those that are not: here nothing is
    received, parsed or decoded for them. Their connections stay; the server throws away what the clients still send
    (`service.protocol` bounds it). No place is held yet, so that slow uploads keep nobody out.

    Args:
        routes: those whose requests take a place; others pass.
        max_bytes: of a body; one that says it is larger gets its 413 from whoever reads it.
    """

    def __init__(self, app: ASGIApp, models: Models, routes: Sequence[BaseRoute], max_bytes: int) -> None:
        self._app = app
        self._models = models
        self._routes = routes
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            pipeline = self._models.current
            try:
                if pipeline.batcher.ready:
                    pipeline.batcher.require_place(min(_announced(scope), self._max_bytes) + pipeline.canvas_bytes)
            except Overloaded as problem:
                for route in self._routes:
                    if route.matches(scope)[0] is Match.FULL:
                        scope["route"] = route  # For the metrics.
                        await problem_response(problem, scope["path"])(scope, receive, send)
                        return
        await self._app(scope, receive, send)


def _announced(scope: Scope) -> int:
    """The bytes of the body as its header has them, which the server has checked; 0 where nothing is said."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)
