"""service/tracing.py, with a collector in this process."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from service_client import encode, fake_app, quadrants, serving

from service import tracing
from service.tracing import STAGES


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The spans that a collector on this machine receives."""
    spans: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest()
            request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in request.resource_spans:
                name = "segdepth-of-rooms" if "OTEL_RESOURCE_ATTRIBUTES" in os.environ else "segdepth"
                told = {a.key: a.value.string_value for a in resource.resource.attributes}
                assert told["service.name"] == name
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield spans
        server.shutdown()
        thread.join()


def test_a_request_is_a_span_with_its_stages_inside(collected: list[Any]) -> None:
    trace_id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

    async def run() -> None:
        async with serving(fake_app()) as client:
            headers = {"traceparent": f"00-{trace_id}-{parent}-01", "x-request-id": "r5"}
            response = await client.post("/predict", content=encode(quadrants()), headers=headers)
            assert response.status_code == 200
            await client.get("/health/ready")

    asyncio.run(run())
    assert [span.name for span in collected] == ["decode", "queue", "infer", "encode", "POST /predict"]
    *stages, request = collected
    assert {span.trace_id.hex() for span in collected} == {trace_id}
    assert request.parent_span_id.hex() == parent
    assert {span.parent_span_id for span in stages} == {request.span_id}
    attributes = {a.key: a.value.string_value or a.value.int_value for a in request.attributes}
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "segdepth.request_id": "r5",
    }
    for before, after in itertools.pairwise(stages):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    assert request.start_time_unix_nano <= stages[0].start_time_unix_nano
    assert stages[-1].end_time_unix_nano <= request.end_time_unix_nano


def test_the_stages_of_several_pictures_are_inside_too(collected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,service.name=segdepth-of-rooms")

    async def run() -> None:
        async with serving(fake_app()) as client:
            files = [("files", (f"{n}.png", encode(quadrants()))) for n in range(8)]
            response = await client.post("/predict/batch", files=files)
            timing = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
            assert all(float(timing[stage]) <= float(timing["total"]) for stage in STAGES)
            await client.get("/docs")

    asyncio.run(run())
    spans = {span.name: span for span in collected}
    request = spans["POST /predict/batch"]
    for stage in STAGES:
        assert request.start_time_unix_nano <= spans[stage].start_time_unix_nano
        assert spans[stage].end_time_unix_nano <= request.end_time_unix_nano
    assert "GET /docs" in spans


def test_off_by_default_and_told_when_packages_lack(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert tracing.tracing() is None
    # Ray, for one, brings the SDK without this exporter.
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setenv(tracing.ENDPOINTS[1], "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING):
        assert tracing.tracing() is None
    assert f"{tracing.ENDPOINTS[1]} is set, but segdepth[otel] is not installed" in caplog.text
