"""What a request knows of itself, wherever its code runs: its id, its deadline, its stages and how it ended.

The middleware makes one context per request; the batcher, the logs and the error answers read it. Threads get it with
`asyncio.to_thread` or `contextvars.copy_context().run`.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class RequestContext:
    """One request."""

    id: str = "-"
    deadline: float = math.inf
    """On `time.perf_counter`'s clock: after it nobody waits for the answer."""
    reason: str = "ok"
    """How it ended, for logs and metrics: `ok`, or the kind of its problem."""
    client: str | None = None
    """The name of the API key that it came with."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds by stage, for `Server-Timing`; see `Metrics.observe_stages`."""


_current: ContextVar[RequestContext] = ContextVar("segdepth_request")


def begin(context: RequestContext) -> None:
    """Make it the context of all that this task does from now on."""
    _current.set(context)


def current() -> RequestContext:
    """The request that is being worked on; outside of one, an empty context that nobody sees."""
    return _current.get(None) or RequestContext()
