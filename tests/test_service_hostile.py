"""Clients that mean no good, against a real server: the right 4xx or a clean close, and the next honest request is
answered."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from service_client import check_problem, encode, quadrants
from service_process import Server, start

PICTURE = encode(quadrants())
FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n'


HOSTILE_URL = os.environ.get("HOSTILE_URL")
"""tests/test_container.py gives that of a container with the same settings."""


class At(NamedTuple):
    """As much of a `Server` as these tests use."""

    url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[Server | At]:
    """A server that has little patience; at HOSTILE_URL, or else one of its own."""
    if HOSTILE_URL:
        yield At(HOSTILE_URL)
        return
    settings = {
        "SEGDEPTH_TRANSFER_TIMEOUT_S": "1.5",
        "SEGDEPTH_KEEP_ALIVE_S": "5",
        "SEGDEPTH_QUEUE_BYTES": "4000000",
        "SEGDEPTH_MAX_BYTES": "3000000",
    }
    with start("--model", str(tiny_model), SEGDEPTH_LOG_LEVEL="error", **settings) as running:
        running.wait_ready()
        yield running
        code, output = running.stop()
        assert code == 0
        # Nothing that clients did was an error of the server's.
        assert output == ""


@pytest.fixture(autouse=True)
def _is_alive_afterwards(server: Server) -> Iterator[None]:
    yield
    response = httpx.post(f"{server.url}/predict", content=PICTURE, timeout=20)
    assert response.status_code == 200
    assert [c["id"] for c in response.json()["segmentation"]["classes"]] == [1, 2, 4, 7]


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def connect_narrow(server: Server) -> socket.socket:
    """Nearly all that this client does not read waits with the server."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect(("127.0.0.1", server.port))
    return client


def head(*headers: str, line: str = "POST /predict HTTP/1.1") -> bytes:
    return "\r\n".join([line, "Host: x", *headers, "", ""]).encode("latin-1")


def answer(client: socket.socket) -> tuple[int, bytes]:
    """The status and the body of all that comes until the server closes."""
    received = b"".join(iter(lambda: client.recv(65536), b""))
    first, _, body = received.partition(b"\r\n\r\n")
    return (int(first.split()[1]) if first else 0), body


def first_of(answers: bytes) -> Any:
    """The JSON at the beginning; the answer to another request may follow."""
    return json.JSONDecoder().raw_decode(answers.decode("latin-1"))[0]


def exchange(server: Server, request: bytes) -> tuple[int, bytes]:
    with connect(server) as client:
        client.sendall(request)
        return answer(client)


# --- slow ones


def test_slow_loris_body(server: Server) -> None:
    with connect(server) as client:
        client.sendall(head("Content-Length: 1000"))
        since = time.perf_counter()
        for _ in range(6):  # A byte now and then does not help.
            client.sendall(b"x")
            time.sleep(0.2)
        status, body = answer(client)
        assert 1.3 < time.perf_counter() - since < 9  # It answers, then reads for up to 5 s, then closes.
    assert status == 408
    assert json.loads(body)["type"] == "urn:segdepth:problem:upload-timeout"


@pytest.mark.parametrize("sent", [b"", b"POST /pre", head()[:-2], head()[:-2] + b"X-A: b\r\n"])
def test_slow_loris_headers(server: Server, sent: bytes) -> None:
    since = time.perf_counter()
    status, body = exchange(server, sent)
    assert 1.3 < time.perf_counter() - since < 5
    assert (status, json.loads(body)["status"]) == (408, 408)


@pytest.mark.parametrize("second", [b"garbage\r\n\r\n", head(*["A: b"] * 200), head("A: " + "b" * 70_000)])
def test_what_is_refused_behind_a_request_is_not_its_answer(server: Server, second: bytes) -> None:
    first = head(f"Content-Length: {len(PICTURE)}") + PICTURE
    status, body = exchange(server, first + second)
    assert status == 200
    assert [c["id"] for c in first_of(body)["segmentation"]["classes"]] == [1, 2, 4, 7]


@pytest.mark.parametrize("line", [b"\r\n", b"\n", b"\r"])
def test_empty_lines_between_requests_keep_no_connection(server: Server, line: bytes) -> None:
    live = head(line="GET /health/live HTTP/1.1")

    def ask(client: socket.socket, before: bytes = b"") -> None:
        client.sendall(before + live)
        received = b""
        while not received.endswith(b'{"status":"live"}'):
            received += client.recv(1000)

    with connect(server) as client:
        ask(client)
        client.sendall(line)
        time.sleep(0.2)
        if line != b"\r":  # It may be followed by a request, as older clients did.
            ask(client, line)
            client.sendall(line)
        since = time.perf_counter()
        status, _ = answer(client)
        assert 0.9 < time.perf_counter() - since < 4
        assert status == 408


def large_answer(*headers: str) -> bytes:
    """A request whose answer is larger than the buffers on the way."""
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    picture = encode(noise, "JPEG", quality=20)
    return head(*headers, f"Content-Length: {len(picture)}", line="POST /predict?output=overlay HTTP/1.1") + picture


def test_a_client_that_reads_slowly_is_not_cut_off(server: Server) -> None:
    """It takes three times as much as it must, but what it takes comes from the kernel's buffer for a long time."""
    with connect_narrow(server) as client:
        client.sendall(large_answer("Connection: close"))
        since, received = time.perf_counter(), b""
        while (seconds := time.perf_counter() - since) < 6:
            if len(received) < 130_000 * seconds:
                received += client.recv(13_000)
            else:
                time.sleep(0.01)
        assert len(received) > 700_000
        received += b"".join(iter(lambda: client.recv(65536), b""))
    fields, _, body = received.partition(b"\r\n\r\n")
    assert len(body) == int(fields.lower().partition(b"content-length: ")[2].split()[0])


def test_large_answers_that_nobody_takes_are_bounded(server: Server) -> None:
    """One alone may be larger than the bound; the next has to wait until its client has it. Small ones need not."""
    request = large_answer("Connection: close")
    with connect_narrow(server) as client:
        client.sendall(request)
        assert client.recv(12) == b"HTTP/1.1 200"
        status, body = exchange(server, request)
        assert (status, json.loads(body)["type"]) == (503, "urn:segdepth:problem:overloaded")
        assert httpx.post(f"{server.url}/predict", content=PICTURE).status_code == 200
    for _ in range(50):  # Until the server has seen that it is gone.
        status, body = exchange(server, request)
        if status == 200:
            break
        time.sleep(0.1)
    assert status == 200 and len(body) > 6_000_000


def test_answers_to_a_batch_are_bounded_together(server: Server) -> None:
    """Pictures of few bytes and many pixels: their arrays are thousands of times as large."""
    flat = encode(np.zeros((600, 800), np.uint8))
    files = [("files", (f"{k}.png", flat)) for k in range(4)]
    response = httpx.post(f"{server.url}/predict/batch?output=npz", files=files, timeout=60)
    assert response.status_code == 200
    assert len(flat) < 10_000 and 4_000_000 < len(response.content) < 5_000_000
    assert response.content.count(b"The answers are too large together") == 3


def test_a_client_that_stops_reading(server: Server) -> None:
    """The connection is cut."""
    with connect_narrow(server) as client:
        client.sendall(large_answer())
        first = client.recv(1000)
        length = int(first.lower().partition(b"content-length: ")[2].split()[0])
        assert length > 6_000_000  # More than the kernel keeps for it.
        time.sleep(2)
        received = len(first)
        with suppress(ConnectionResetError):
            while data := client.recv(65536):
                received += len(data)
        assert received < length


def test_half_closed(server: Server) -> None:
    """Whoever sends no more is taken for gone; the connection ends at once."""
    for request in [b"", head("Content-Length: 10") + b"abc", head(f"Content-Length: {len(PICTURE)}") + PICTURE]:
        with connect(server) as client:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            since = time.perf_counter()
            status, _ = answer(client)
            assert status in (0, 200)
            assert time.perf_counter() - since < 5


def test_a_thousand_connections_opened_and_dropped(server: Server) -> None:
    starts = [b"", b"POST /pre", head("Content-Length: 1000"), head("Content-Length: 1000") + b"abc", head()]
    for _ in range(5):
        with ExitStack() as stack:
            for k in range(200):
                client = stack.enter_context(connect(server))
                client.sendall(starts[k % len(starts)])
            assert httpx.get(f"{server.url}/health/live", timeout=20).status_code == 200


def test_many_slow_uploads_together_are_bounded_in_bytes(server: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(4)]
        statuses = []
        for client in clients:
            client.sendall(head("Content-Length: 1600000") + bytes(1_500_000))
            time.sleep(0.1)
        for client in clients:
            statuses.append(int(client.recv(100).split()[1]))
        assert sorted(set(statuses)) == [408, 503]
        assert statuses.count(408) == 2


# --- lying ones


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (head("Content-Length: -1") + PICTURE, 400),
        (head("Content-Length: 0x10") + PICTURE, 400),
        (head("Content-Length: 5", "Content-Length: 6") + b"abcde", 400),
        (head("Content-Length: 99999999999999999999999") + PICTURE, 400),
        (head("Transfer-Encoding: chunked", "Content-Length: 5") + b"5\r\nabcde\r\n0\r\n\r\n", 400),
        (head("Transfer-Encoding: chunked") + b"-5\r\nabcde\r\n0\r\n\r\n", 400),
        (head("Transfer-Encoding: chunked") + b"ffffffffffffffffff\r\nabcde\r\n", 400),
        (head("Transfer-Encoding: gzip") + PICTURE, 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
        (b"GET\r\n\r\n", 400),
        (b"\r\n" * 10 + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (head("Bad Header: x", "Connection: close"), 400),
        (head("Content-Length: 5", "Connection: close") + b"abcdefghij", 415),
    ],
)
def test_broken_http(server: Server, request_: bytes, status: int) -> None:
    found, body = exchange(server, request_)
    assert found == status
    assert json.loads(body)["status"] == status


def test_a_body_that_is_shorter_than_it_says(server: Server) -> None:
    status, _ = exchange(server, head(f"Content-Length: {len(PICTURE) + 10}") + PICTURE)
    assert status == 408


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("text/html", 200),  # The bytes tell what it is.
        ("image/jpeg", 200),
        ("application/json", 200),
        ("multipart/form-data; boundary=", 422),
        ("multipart/form-data; boundary=" + "x" * 5000, 422),
        ("multipart/mixed; boundary=x", 200),
        ("multipart/form-data; boundary=\xff", 422),
        (";;;==", 200),
        ("", 200),
    ],
)
def test_lying_content_types(server: Server, media_type: str, status: int) -> None:
    lines = [f"Content-Length: {len(PICTURE)}", f"Content-Type: {media_type}", "Connection: close"]
    found, body = exchange(server, head(*lines) + PICTURE)
    assert found == status, body[:200]


@pytest.mark.parametrize("depth", ["", "image/png", "multipart/form-data"])
def test_a_compressed_body_is_no_picture(server: Server, depth: str) -> None:
    headers = {"content-encoding": "gzip", "content-type": depth}
    response = httpx.post(f"{server.url}/predict", content=b"\x1f\x8b\x08" + bytes(50), headers=headers)
    assert check_problem(response, 415)["type"] == "urn:segdepth:problem:unsupported-encoding"


# --- forms


def form(body: bytes, server: Server) -> httpx.Response:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    return httpx.post(f"{server.url}/predict", content=body, headers=headers, timeout=20)


def test_nested_multipart(server: Server) -> None:
    inner = b"--y\r\nContent-Disposition: file; filename=a\r\n\r\n" + PICTURE + b"\r\n--y--\r\n"
    head_ = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n'
    nested = head_ + b"Content-Type: multipart/mixed; boundary=y\r\n\r\n" + inner + b"\r\n--x--\r\n"
    check_problem(form(nested, server), 415)


@pytest.mark.parametrize("kind", [b'; filename="a"', b""])
def test_a_thousand_parts(server: Server, kind: bytes) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="file"' + kind + b"\r\n\r\nab\r\n"
    check_problem(form(part * 1000 + b"--x--\r\n", server), 422)


def test_a_part_with_a_thousand_headers(server: Server) -> None:
    many = b"".join(b"X-%d: %s\r\n" % (k, b"y" * 1000) for k in range(1000))
    body = b"--x\r\n" + many + FORM[5:] % b"a" + PICTURE + b"\r\n--x--\r\n"
    assert form(body, server).status_code in (200, 422)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("../../etc/passwd", 200),
        ("/etc/passwd", 200),
        ("C:\\\\windows\\\\system32", 200),
        ("房间.png", 200),
        ("\u202egnp.exe", 200),
        ("\U0001f4f7", 200),
        ("%2e%2e%2f", 200),
        ("a;b='c'", 200),
        ("a\x00b", 200),
        ("x" * 10_000, 422),
    ],
)
def test_file_names_do_not_matter(server: Server, name: str, status: int) -> None:
    response = form(FORM % name.encode() + PICTURE + b"\r\n--x--\r\n", server)
    assert response.status_code == status, response.text[:200]


# --- headers and paths


@pytest.mark.parametrize(
    "lines",
    [
        [f"X-{k}: y" for k in range(200)],
        ["X-Long: " + "y" * 70_000],
        [f"X-{k}: " + "y" * 2000 for k in range(50)],
    ],
)
def test_header_floods(server: Server, lines: list[str]) -> None:
    status, body = exchange(server, head(*lines, "Content-Length: 0"))
    assert (status, json.loads(body)["status"]) == (431, 431)


def test_a_header_without_end(server: Server) -> None:
    with connect(server) as client:
        client.sendall(head()[:-2] + b"X-Long: ")
        sent = 0
        try:
            while sent < 50_000_000:
                client.sendall(b"y" * 10_000)
                sent += 10_000
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 10_000_000


CHUNKED = head("Transfer-Encoding: chunked", "Content-Type: image/png")


def test_fields_behind_the_body_are_dropped(server: Server) -> None:
    body = b"%x\r\n%s\r\n0\r\n" % (len(PICTURE), PICTURE)
    with connect(server) as client:
        client.sendall(CHUNKED + body + b"X-Request-ID: behind\r\nContent-Encoding: gzip\r\n\r\n")
        received = client.recv(1000)
    assert received.startswith(b"HTTP/1.1 200")
    assert b"x-request-id" in received.lower() and b"behind" not in received


@pytest.mark.parametrize("fields", [b"a:b\r\n" * 2000, b"y" * 10_000], ids=["many", "one"])
def test_fields_behind_the_body_are_bounded(server: Server, fields: bytes) -> None:
    with connect(server) as client:
        client.sendall(CHUNKED + b"1\r\na\r\n0\r\nX-Long: ")
        sent = 0
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 50_000_000:
                client.sendall(fields)
                sent += len(fields)
        assert sent < 10_000_000


def test_small_chunks_are_not_many_fields(server: Server) -> None:
    chunks = b"".join(b"1;from=%x\r\n%c\r\n" % (k, byte) for k, byte in enumerate(PICTURE * 40))
    assert len(chunks) > 80_000  # Of which a fifteenth is the body.
    status, _ = exchange(server, CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + chunks + b"0\r\n\r\n")
    assert status == 200  # What follows a PNG's end is not looked at.


@pytest.mark.parametrize("charset", ["undefined", "punycode", "foo", "utf-8"])
def test_a_form_in_any_charset(server: Server, charset: str) -> None:
    form = (
        FORM % b"a" + PICTURE + b'\r\n--x\r\nContent-Disposition: form-data; name="f\xed\xb2\x80"\r\n\r\nv\r\n--x--\r\n'
    )
    media_type = f"multipart/form-data; boundary=x; charset={charset}"
    response = httpx.post(f"{server.url}/predict", content=form, headers={"Content-Type": media_type})
    if response.status_code != 200:
        assert "form cannot be read" in check_problem(response, 422)["detail"]


@pytest.mark.parametrize(("charset", "name"), [("utf-7", "+2AA-"), ("unicode_escape", "\\ud800")])
def test_names_that_no_utf8_has(server: Server, charset: str, name: str) -> None:
    form = f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\nv\r\n--x--\r\n'.encode()
    media_type = f"multipart/form-data; boundary=x; charset={charset}"
    response = httpx.post(f"{server.url}/predict", content=form, headers={"Content-Type": media_type})
    assert "no field 'file' (it has '\\ud800')" in check_problem(response, 422)["detail"]


def test_a_long_path(server: Server) -> None:
    status, _ = exchange(server, head(line="GET /" + "a" * 70_000 + " HTTP/1.1"))
    assert status == 431


@pytest.mark.parametrize(
    "path",
    ["/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//predict", "/predict/../model/reload", "/predict%00", "/PREDICT"],
)
def test_path_tricks(server: Server, path: str) -> None:
    status, body = exchange(server, head("Connection: close", line=f"GET {path} HTTP/1.1"))
    assert status == 404
    assert json.loads(body)["status"] == 404


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json;q=0, image/png;q=0", 406),
        ("text/html, image/jpeg", 406),
        ("image/png;q=nan", 406),
        ("*/*;q=0", 406),
        ("image/png;q=0, image/png", 200),
        (", ,;q=, */*", 200),
        ("", 200),
        ("application/json;" + "q=1;" * 5000, 200),
    ],
)
def test_contradictory_accept(server: Server, accept: str, status: int) -> None:
    response = httpx.post(f"{server.url}/predict", content=PICTURE, headers={"accept": accept})
    assert response.status_code == status, response.text[:200]


def test_an_upgrade_is_not_taken(server: Server) -> None:
    lines = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: a", "Sec-WebSocket-Version: 13"]
    with connect(server) as client:
        client.sendall(head(*lines, line="GET /health/live HTTP/1.1"))
        assert client.recv(100).split()[1] == b"200"


# As Java's client asks for HTTP/2.
UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
IN_CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PICTURE), PICTURE)


@pytest.mark.parametrize(
    ("framing", "body"),
    [(f"Content-Length: {len(PICTURE)}", PICTURE), ("Transfer-Encoding: chunked", IN_CHUNKS)],
    ids=["length", "chunks"],
)
@pytest.mark.parametrize("pieces", [1, 2, 1000])
def test_a_request_that_asks_for_an_upgrade_keeps_its_body(
    server: Server, framing: str, body: bytes, pieces: int
) -> None:
    first = head(framing, *UPGRADE)
    request = first + body + head("Connection: close", line="GET /health/live HTTP/1.1")
    ends = [len(request)] if pieces == 1 else sorted({len(first), *range(0, len(request), len(request) // pieces + 1)})
    with connect(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin, end in pairwise([0, *ends, len(request)]):
            client.sendall(request[begin:end])
        status, rest = answer(client)
    assert status == 200
    assert [c["id"] for c in first_of(rest)["segmentation"]["classes"]] == [1, 2, 4, 7]
    # And so does the request behind it, which has nothing to do with it.
    assert rest.count(b"HTTP/1.1 ") == 1 and rest.endswith(b'{"status":"live"}')


@pytest.mark.parametrize("line", ["POST /predict HTTP/1.1", "CONNECT x:80 HTTP/1.1"])
def test_a_body_behind_an_upgrade_is_no_request(server: Server, line: str) -> None:
    body = head(line="GET /v2 HTTP/1.1")
    with connect(server) as client:
        client.sendall(head(f"Content-Length: {len(body)}", "Connection: Upgrade, close", "Upgrade: h2c", line=line))
        time.sleep(0.1)
        client.sendall(body)
        status, rest = answer(client)
    assert 400 <= status < 500 and b"HTTP/1.1" not in rest


@pytest.mark.parametrize("hosts", [[], ["Host: x", "Host: y"]])
def test_a_request_has_one_host(server: Server, hosts: list[str]) -> None:
    request = "\r\n".join(["GET /health/live HTTP/1.1", *hosts, "", ""]).encode()
    status, body = exchange(server, request)
    assert (status, json.loads(body)["status"]) == (400, 400)
    assert exchange(server, b"GET /health/live HTTP/1.0\r\n\r\n")[0] == 200


def test_pipelined_requests_are_bounded(server: Server) -> None:
    request = head(line="GET /health/live HTTP/1.1")
    few = [head("Connection: close", line="GET /health/live HTTP/1.1")]
    with connect(server) as client:
        client.sendall(b"".join([request] * 10 + few))
        assert b"".join(iter(lambda: client.recv(65536), b"")).count(b"HTTP/1.1 200") == 11
    with connect(server) as client:
        received = b""
        with suppress(ConnectionError):  # It closes while more is sent.
            client.sendall(request * 50_000)
        with suppress(ConnectionError):
            received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received.count(b"HTTP/1.1 ") < 100


def test_clients_that_go_with_a_request_behind_another(server: Server) -> None:
    """Whoever writes to them later is told by the server's output, which is empty at the end."""
    both = head(f"Content-Length: {len(PICTURE)}") + PICTURE + head(line="GET /v2 HTTP/1.1")
    for pause_s in (0.0, 0.001, 0.003, 0.01) * 5:
        with connect(server) as client:
            client.sendall(both)
            time.sleep(pause_s)
