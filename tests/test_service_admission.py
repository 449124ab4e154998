"""service/admission.py: while there is no place, pictures are refused at their headers; and service/protocol.py: what
becomes of the bodies."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from service_client import FakeEngine, ask, check_problem, encode, fake_app, quadrants
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service import protocol
from service.protocol import HardenedProtocol
from service.uploads import LimitUploads

PICTURE = encode(quadrants())
OVERLOADED = 'segdepth_requests_total{reason="overloaded",route="%s",status="503"}'


class Full:
    """A real server on a fake engine that is busy with the one picture there is a place for, until `free`."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.app = fake_app(self.engine, queue_size=1)
        config = uvicorn.Config(
            self.app, http=HardenedProtocol, ws="none", log_config=None, access_log=False, timeout_keep_alive=1
        )
        self.server = uvicorn.Server(config)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([self.socket])))
        self.answers: list[int] = []
        self.first = threading.Thread(target=self.hold)

    def start(self) -> None:
        self.thread.start()
        wait_for(lambda: self.server.started and self.app.state.models.current.batcher.ready)
        self.engine.gate.clear()
        self.first.start()
        wait_for(lambda: self.engine.batches)

    def client(self) -> closing[http.client.HTTPConnection]:
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20))

    def hold(self) -> None:
        with self.client() as client:
            self.answers.append(post(client, PICTURE).status)

    def free(self) -> None:
        self.engine.gate.set()
        self.first.join(20)
        assert self.answers == [200]

    def stop(self) -> None:
        self.engine.gate.set()
        self.first.join(20)
        self.server.should_exit = True
        self.thread.join(20)
        self.socket.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def counted(self, route: str = "/predict") -> float:
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics").text
        return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(OVERLOADED % route)), 0.0)


def post(client: http.client.HTTPConnection, body: Any) -> http.client.HTTPResponse:
    client.request("POST", "/predict", body)
    response = client.getresponse()
    response.read()
    return response


def wait_for(done: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[Full]:
    monkeypatch.setattr(HardenedProtocol, "transfer_timeout_s", 1.0)
    server = Full()
    server.start()
    yield server
    server.stop()


def head(*headers: str) -> bytes:
    return "\r\n".join(["POST /predict HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def read_answer(client: socket.socket) -> tuple[int, dict[str, str], Any]:
    """One answer with Content-Length, and nothing behind it."""
    with client.makefile("rb", buffering=0) as file:
        received = b""
        while b"\r\n\r\n" not in received:
            byte = file.read(1)
            assert byte, received
            received += byte
        first, *lines = received.decode().rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = b""
        while len(body) < int(headers["content-length"]):
            body += file.read(int(headers["content-length"]) - len(body)) or b""
    return int(first.split()[1]), headers, json.loads(body)


# --- on the wire


def test_refused_at_the_headers_and_the_connection_stays(full: Full) -> None:
    with full.connect() as client:
        client.sendall(head("Content-Length: 3000000", "X-Request-ID: abc"))
        status, headers, body = read_answer(client)  # Nothing of the body has been sent.
        assert (status, body["type"], body["request_id"]) == (503, "urn:segdepth:problem:overloaded", "abc")
        assert int(headers["retry-after"]) >= 1
        assert (headers["x-request-id"], headers["content-type"]) == ("abc", "application/problem+json")
        assert headers["server-timing"].startswith("total;dur=")
        assert "connection" not in headers
        client.sendall(bytes(3_000_000))
        full.free()
        client.sendall(head(f"Content-Length: {len(PICTURE)}") + PICTURE)
        status, _, body = read_answer(client)
        assert (status, [c["id"] for c in body["segmentation"]["classes"]]) == (200, [1, 2, 4, 7])
    assert full.counted() == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_all_before_it_reads(full: Full, chunked: bool) -> None:
    body = bytes(20_000_000)
    with full.client() as client:
        for _ in range(3):
            response = post(client, iter([body[:100], body[100:]]) if chunked else body)
            assert (response.status, response.headers["retry-after"]) == (503, "1")
            connection = client.sock
            assert connection is not None
        full.free()
        assert post(client, PICTURE).status == 200
        assert client.sock is connection  # The same one all the time.
    assert full.counted() == 3


def test_requests_one_behind_the_other_are_answered_in_order(full: Full) -> None:
    with full.connect() as client:
        live = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
        client.sendall((head(f"Content-Length: {len(PICTURE)}") + PICTURE + live) * 2)
        assert [read_answer(client)[0] for _ in range(4)] == [503, 200, 503, 200]


def test_a_client_that_asks_before_it_sends_is_not_told_to(full: Full) -> None:
    with full.connect() as client:
        client.sendall(head("Content-Length: 3000000", "Expect: 100-continue"))
        assert read_answer(client)[0] == 503
        assert client.recv(1) == b""  # Closed: it might send its body, or something else.


def cut_after(client: socket.socket, data: bytes, pause_s: float) -> int:
    """Send the same again and again; how many bytes went until the connection was cut."""
    sent = 0
    try:
        while sent < 200_000_000:
            client.sendall(data)
            sent += len(data)
            time.sleep(pause_s)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return sent


def test_what_is_thrown_away_is_bounded_in_bytes(full: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_UNREAD_BYTES", 1_000_000)
    with full.connect() as client:
        client.sendall(head("Content-Length: 100000000000"))
        assert read_answer(client)[0] == 503
        assert 1_000_000 < cut_after(client, bytes(100_000), 0.0) < 100_000_000


def test_what_is_thrown_away_is_bounded_in_time(full: Full) -> None:
    with full.connect() as client:
        client.sendall(head("Content-Length: 1000000"))
        assert read_answer(client)[0] == 503
        since = time.monotonic()
        assert 5 < cut_after(client, b"x", 0.05) < 100
        assert 0.8 < time.monotonic() - since < 5


def test_a_kept_connection_is_closed_when_nothing_more_comes(full: Full) -> None:
    """Also after a body that was thrown away."""
    with full.connect() as client:
        client.sendall(head("Content-Length: 1000"))
        assert read_answer(client)[0] == 503
        client.sendall(bytes(1000))
        since = time.monotonic()
        assert client.recv(1) == b""
        assert 0.8 < time.monotonic() - since < 5


def test_every_answer_before_the_body_keeps_the_connection(full: Full) -> None:
    full.free()
    with full.connect() as client:
        client.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n")
        assert read_answer(client)[0] == 404
        time.sleep(0.1)
        client.sendall(bytes(500_000) + head(f"Content-Length: {len(PICTURE)}") + PICTURE)
        assert read_answer(client)[0] == 200


# --- who is refused


def with_place_taken(
    test: Callable[[httpx.AsyncClient, FakeEngine], Any], app: FastAPI | None = None, **settings: Any
) -> None:
    engine = FakeEngine()
    headers = {"x-api-key": "key"}

    async def run(client: httpx.AsyncClient) -> None:
        engine.gate.clear()
        first = asyncio.create_task(client.post("/predict", content=PICTURE, headers=headers))
        while not engine.batches:
            await asyncio.sleep(0.005)
        await test(client, engine)
        engine.gate.set()
        assert (await first).status_code == 200

    ask(run, app or fake_app(engine, **settings))


async def never_read() -> AsyncIterator[bytes]:
    raise AssertionError("the body was read")
    yield b""


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/predict?output=mask", "/predict"),
        ("/predict/batch", "/predict/batch"),
        ("/v2/models/tiny/infer", "/v2/models/{name}/infer"),
        ("/v2/models/tiny/versions/1/infer", "/v2/models/{name}/versions/{version}/infer"),
    ],
)
def test_every_route_that_takes_a_place(path: str, route: str) -> None:
    async def test(client: httpx.AsyncClient, _: FakeEngine) -> None:
        response = await client.post(path, content=never_read())
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        if path.startswith("/v2"):
            assert list(response.json()) == ["error"]
        else:
            assert check_problem(response, 503)["type"] == "urn:segdepth:problem:overloaded"
        assert f"{OVERLOADED % route} 1.0" in (await client.get("/metrics")).text

    with_place_taken(test, queue_size=1)


def test_other_requests_are_answered_as_ever() -> None:
    async def test(client: httpx.AsyncClient, _: FakeEngine) -> None:
        assert (await client.get("/health/ready")).status_code == 200
        assert (await client.get("/model")).status_code == 200
        assert (await client.get("/predict")).status_code == 405
        assert (await client.post("/predict/", content=PICTURE)).status_code == 404
        assert (await client.post("/model/reload")).status_code == 403

    with_place_taken(test, queue_size=1)


def test_keys_go_first(tmp_path: Path) -> None:
    """Whoever may not use the service is not told how busy it is."""
    keys = tmp_path / "keys"
    keys.write_text(f"{hashlib.sha256(b'key').hexdigest()} me\n")

    async def test(client: httpx.AsyncClient, _: FakeEngine) -> None:
        check_problem(await client.post("/predict", content=never_read()), 401)
        check_problem(await client.post("/predict", content=never_read(), headers={"x-api-key": "key"}), 503)

    with_place_taken(test, queue_size=1, api_keys_file=keys)


def test_web_pages_of_allowed_origins_see_the_refusal() -> None:
    async def test(client: httpx.AsyncClient, _: FakeEngine) -> None:
        response = await client.post("/predict", content=never_read(), headers={"origin": "https://a.example"})
        check_problem(response, 503)
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        assert "Retry-After" in response.headers["access-control-expose-headers"]

    with_place_taken(test, queue_size=1, cors_origins="https://a.example")


def test_announced_bytes_that_do_not_fit() -> None:

    async def test(client: httpx.AsyncClient, engine: FakeEngine) -> None:
        canvas_bytes = max(height * width * 3 for height, width in engine.card.input.sizes)
        left = 100_000 - 2 * canvas_bytes - len(PICTURE)
        headers = {"content-length": str(left + 1)}
        check_problem(await client.post("/predict", content=never_read(), headers=headers), 503)
        # What fits is read, and then it is not a picture.
        check_problem(await client.post("/predict", content=b"x" * left), 415)

    with_place_taken(test, queue_bytes=100_000, max_bytes=90_000)


def test_announced_bytes_that_are_never_let_in() -> None:
    """It would be of no use to come back with them."""

    async def test(client: httpx.AsyncClient, _: FakeEngine) -> None:
        check_problem(await client.post("/predict", content=bytes(1001)), 413)

    with_place_taken(test, queue_bytes=100_000, max_bytes=1000)


def test_an_upload_counts_until_its_answer_begins() -> None:
    """How slowly clients take their answers keeps no upload out."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        try:
            await Response(b"an answer")(scope, receive, send)
        finally:
            assert limit._bytes == 0

    limit = LimitUploads(app, seconds=20, max_bytes=100)

    async def test() -> None:
        reading, taken = asyncio.Event(), asyncio.Event()

        async def request(parts: list[bytes], send: Send) -> None:
            messages = [{"type": "http.request", "body": part, "more_body": part != parts[-1]} for part in parts]

            async def receive() -> Message:
                return messages.pop(0)

            await limit({"type": "http"}, receive, send)

        async def slowly(message: Message) -> None:
            if message["type"] == "http.response.body":
                reading.set()
                await taken.wait()

        async def at_once(_: Message) -> None:
            pass

        slow = asyncio.create_task(request([b"x" * 60, b"y" * 30], slowly))
        await asyncio.wait_for(reading.wait(), 20)
        await request([b"x" * 60, b"y" * 30], at_once)
        taken.set()
        await slow

    asyncio.run(test())
