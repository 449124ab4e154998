"""Traces by OpenTelemetry, if its packages are installed (`segdepth[otel]`) and OTEL_EXPORTER_OTLP_ENDPOINT is set.

One span per request, a child of the client's (`traceparent`), with the stages as spans inside. All the rest is set by
OpenTelemetry's own variables (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, ...).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

from service.context import RequestContext
from service.errors import StartupError

log = logging.getLogger("segdepth")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
STAGES = ("decode", "queue", "infer", "encode")


class Tracing:
    """Where requests are told to. `record` is called by the middleware, after the answer; it only queues."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create()  # By the variables.
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "segdepth"}))
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("segdepth")

    def record(
        self,
        request: RequestContext,
        headers: Mapping[str, str],
        attributes: Mapping[str, str | int],
        seconds: float,
    ) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        end = time.time_ns()
        begin = end - int(seconds * 1e9)
        parent = TraceContextTextMapPropagator().extract(dict(headers))
        name = " ".join(str(attributes[key]) for key in ("http.request.method", "http.route") if key in attributes)
        span = self._tracer.start_span(name, parent, trace.SpanKind.SERVER, dict(attributes), start_time=begin)
        span.set_attribute("segdepth.request_id", request.id)
        if int(attributes["http.response.status_code"]) >= 500:
            span.set_status(trace.StatusCode.ERROR, request.reason)
        # The stages follow each other and end with the answer; only their lengths are measured. Those of several
        # pictures overlap, and are shortened until they fit.
        inside = trace.set_span_in_context(span)
        whole = sum(request.stages.values())
        scale = 1e9 * min(1.0, seconds / whole) if whole else 0.0
        at = end - int(whole * scale)
        for stage in STAGES:
            if stage in request.stages:
                child = self._tracer.start_span(stage, inside, start_time=at)
                at += int(request.stages[stage] * scale)
                child.end(at)
        span.end(end)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def trace_endpoint() -> str | None:
    """The variable that says where traces go, where one does."""
    return next((name for name in ENDPOINTS if os.environ.get(name)), None)


def tracing() -> Tracing | None:
    """As the environment says.

    Raises:
        StartupError: a variable of OpenTelemetry's is not right.
    """
    if (endpoint := trace_endpoint()) is None:
        return None
    try:
        return Tracing()
    except ImportError:  # Other packages bring some of those that it takes.
        log.warning("no traces: %s is set, but segdepth[otel] is not installed", endpoint)
        return None
    except ValueError as error:
        raise StartupError(f"OpenTelemetry's variables are not right: {error}") from None
